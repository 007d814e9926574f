"""Memory of the commands as rows grow to a million, and listings of a million objects."""

from __future__ import annotations

from pathlib import Path

from benchmarks.installation import Measured, on_s3
from benchmarks.measurement import Row, Table

COUNTS = (1_000, 100_000, 1_000_000)
DISTINCT = 1_000
SIZE = 20
SECONDS = 20


def run(directory: Path, *, quick: bool) -> list[Table]:
    counts = (500, 1_000, 2_000) if quick else COUNTS
    with on_s3(directory, latency=0) as site:
        return [_migrating(site, counts), *_listing(site, counts)]


def _migrating(site: Measured, counts: tuple[int, ...]) -> Table:
    site.control("drop", prefix="")
    site.control("legacy", count=DISTINCT, size=SIZE)
    peaks: dict[str, float] = {}
    for count in counts:
        site.do("rows", str(count), str(SIZE), str(min(count, DISTINCT)))
        migrate = ("command", "migrate_to_cas", "--workers", "8")
        for how in (("--dry-run",), ("--yes-i-am-sure", "--max-duration", f"{SECONDS}s")):
            told = site.do(*migrate, *how)
            if told["status"] not in (0, 6):
                raise RuntimeError(told["output"])
            peaks[f"{count:,} rows, {how[0].removeprefix('--')}, {told['seconds']:.0f} s"] = told[
                "peak"
            ]
    names = list(peaks)
    shown = []
    for position, name in enumerate(names):
        rival = peaks[names[position % 2]]
        last = position >= len(names) - 2
        shown.append(
            Row(
                name,
                f"{peaks[name] / 1024:.0f} MiB",
                rival / peaks[name],
                1 / 1.2 if last else None,
            )
        )
    return Table(
        "Peak memory of migrate_to_cas",
        f"{counts[0]:,} rows",
        shown,
        note=f"The rehearsal goes through all rows; the migration ends after {SECONDS} s. Rows "
        f"share {DISTINCT} objects, because a million would be mostly waiting for them.",
    )


def _listing(site: Measured, counts: tuple[int, ...]) -> list[Table]:
    tables = []
    peaks: dict[str, list[tuple[int, float, float]]] = {}
    for count in counts:
        site.control("drop", prefix="")
        site.control("blobs", count=count, size=SIZE)
        site.do("rows", "0", str(SIZE), "1")
        site.do("blobs", str(count), str(SIZE))
        for task in (
            ("cleanup_legacy_blobs", "--dry-run"),
            ("collect_garbage", "--dry-run"),
            ("migration_status", "--check-objects"),
        ):
            told = site.do("command", *task)
            if told["status"]:
                raise RuntimeError(told["output"])
            peaks.setdefault(" ".join(task), []).append((count, told["peak"], told["seconds"]))
    for name, found in peaks.items():
        first = found[0][1]
        shown = [
            Row(
                f"{count:,} objects and rows",
                f"{peak / 1024:.0f} MiB, {seconds:.1f} s, {count / seconds:,.0f}/s",
                first / peak,
                1 / 1.2 if count == counts[-1] else None,
            )
            for count, peak, seconds in found
        ]
        tables.append(
            Table(f"{name}: memory and speed", f"{counts[0]:,} objects", shown, f"manage.py {name}")
        )
    return tables
