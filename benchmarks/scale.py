"""Memory of the commands as rows and objects grow to a million, and what deleting some takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.installation import Control, Measured, on_s3
from benchmarks.measurement import Row, Table

COUNTS = (1_000, 100_000, 1_000_000)
SIZE = 20
SECONDS = 60
SHARE = 50
"""One object in so many is unreferenced, and there is a legacy object for one in so many."""

AT_MOST = 1 / 1.2
"""The target for memory: at the largest count no more than 1.2 times that at the smallest."""

CLEANUP = ("cleanup_legacy_blobs",)
COLLECTION = ("collect_garbage", "--grace", "0s")
SURE = "--yes-i-am-sure"


@dataclass(frozen=True, slots=True)
class Peak:
    """What one run took, in KiB and seconds, and what it went through."""

    contender: str
    kibibytes: int
    seconds: float
    figure: str = ""

    def row(self, first: Peak, *, last: bool) -> Row:
        figure = f"{self.kibibytes / 1024:.0f} MiB, {self.seconds:.1f} s{self.figure}"
        ratio = first.kibibytes / self.kibibytes
        return Row(self.contender, figure, ratio, AT_MOST if last else None)


def run(directory: Path, *, quick: bool) -> list[Table]:
    counts, seconds = ((500, 1_000, 2_000), 5) if quick else (COUNTS, SECONDS)
    with on_s3(directory, latency=0) as site:
        assert site.control
        return [
            *_migrating(site, site.control, counts, seconds),
            *_listing(site, site.control, counts),
        ]


def _migrating(
    site: Measured, control: Control, counts: tuple[int, ...], seconds: int
) -> list[Table]:
    """As many distinct objects as rows, so that what grows with either is seen."""
    peaks: dict[str, list[Peak]] = {"--dry-run": [], SURE: []}
    for count in counts:
        control("drop", prefix="")
        control("legacy", count=count, size=SIZE)
        site.do("rows", str(count), str(SIZE), str(count))
        for how, found in peaks.items():
            limits = ("--workers", "8", "--max-duration", f"{seconds}s")
            told = _run(site, "migrate_to_cas", how, *limits, allowed=(0, 6))
            moved = told["summary"]["migrated"] + told["summary"]["deduplicated"]
            gone_through = f", {moved:,} objects, {moved / told['seconds']:,.0f}/s"
            found.append(Peak(f"{count:,} rows", told["peak"], told["seconds"], gone_through))
    note = f"Each row has an object of its own. A run ends after {seconds} s at the latest."
    return [
        _table(f"Peak memory of migrate_to_cas {how}", f"{counts[0]:,} rows", found, note)
        for how, found in peaks.items()
    ]


def _listing(site: Measured, control: Control, counts: tuple[int, ...]) -> list[Table]:
    """Dry runs, and runs that delete one object in so many."""
    runs = {
        "cleanup_legacy_blobs --dry-run": ((*CLEANUP, "--dry-run"), ""),
        "cleanup_legacy_blobs": ((*CLEANUP, SURE), "deleted"),
        "collect_garbage --dry-run": ((*COLLECTION, "--dry-run"), ""),
        "collect_garbage": ((*COLLECTION, SURE), "collected"),
        "migration_status --check-objects": (("migration_status", "--check-objects"), ""),
    }
    peaks: dict[str, list[Peak]] = {name: [] for name in runs}
    for count in counts:
        share = count // SHARE
        control("drop", prefix="")
        control("blobs", count=count, size=SIZE)
        control("legacy", count=share, size=SIZE)
        site.do("blobs", str(count - share), str(SIZE))
        for name, (arguments, deleted) in runs.items():
            told = _run(site, *arguments)
            listed = f", {count / told['seconds']:,.0f}/s"
            contender = f"{count:,} objects listed"
            if deleted:
                if told["summary"][deleted] != share:
                    raise RuntimeError(f"{told['summary']}, not {share} deleted")
                contender += f", {share:,} deleted"
            peaks[name].append(Peak(contender, told["peak"], told["seconds"], listed))
    note = (
        f"One object in {SHARE} is unreferenced, and beside {SHARE} blobs there is one object of "
        "the older layout; a dry run leaves both to the run after it."
    )
    return [
        _table(f"{name}: memory and speed", f"{counts[0]:,} objects", found, note)
        for name, found in peaks.items()
    ]


def _run(site: Measured, *arguments: str, allowed: tuple[int, ...] = (0,)) -> dict[str, Any]:
    told = site.do("command", *arguments)
    if told["status"] not in allowed:
        raise RuntimeError(told["output"])
    return told


def _table(title: str, rival: str, found: list[Peak], note: str) -> Table:
    shown = [peak.row(found[0], last=peak is found[-1]) for peak in found]
    return Table(title, rival, shown, note=note)
