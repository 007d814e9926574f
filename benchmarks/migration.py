"""Rows and bytes a second of a migration, many small objects and few large ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.installation import Measured, on_disk, on_s3
from benchmarks.measurement import Contest, Table, megabytes, per_second, rows

SMALL, LARGE = 20_000, 100_000_000
LATENCY = 0.010
SERIAL, LIMIT = "serial loop", "the machine's limit"
LIMIT_NOTE = {
    "s3": "The limit downloads and hashes each object and has it copied, {cores} processes with "
    "{threads} at a time each, and does nothing else.",
    "disk": "The limit hashes, copies and fsyncs each file, {cores} processes with {threads} at a "
    "time each, and does nothing else.",
}
STAND_IN = (
    "S3 is an in-memory stand-in in Python on the same machine, which answers each request after "
    "10 ms. It, PostgreSQL and the migration share {cores} cores."
)


COMMAND = "manage.py migrate_to_cas --yes-i-am-sure --workers N"
CORES = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Size:
    """`count` objects of `size` bytes; the serial loop goes through `few` of them.

    `workers` of one process, then `processes` of so many workers each. `limit_threads` is how
    many objects at a time each of the processes takes that show the machine's own limit.
    """

    title: str
    size: int
    few: int
    count: int
    workers: tuple[int, ...]
    processes: tuple[tuple[int, int], ...]
    limit_threads: int


def run(directory: Path, *, quick: bool) -> list[Table]:
    few, many, more, large, rounds = (20, 40, 40, 4, 1) if quick else (300, 1000, 4000, 16, 2)
    note = STAND_IN.format(cores=CORES)
    on_processes = ((2, 16), (4, 8), (4, 16))
    s3 = Size("20 KB, S3 with 10 ms", SMALL, few, more, (1, 4, 16, 64), on_processes, 16)
    disk = Size("20 KB, disk", SMALL, many, many, (1, 4, 16, 64), on_processes, 16)
    large_s3 = Size("100 MB, S3 with 10 ms", LARGE, 2, large, (1, 4, 16), ((2, 4),), 1)
    large_disk = replace(large_s3, title="100 MB, disk")
    with on_s3(directory, latency=LATENCY) as site:
        tables = [
            _measured(site, s3, "s3", SERIAL, 10.0, rounds, note),
            _measured(site, large_s3, "s3", LIMIT, 0.8, rounds, note),
        ]
    with on_disk(directory) as site:
        return [
            *tables,
            _measured(site, disk, "disk", SERIAL, None, rounds, ""),
            _measured(site, large_disk, "disk", LIMIT, 0.8, rounds, ""),
        ]


def _measured(
    site: Measured,
    size: Size,
    where: str,
    rival: str,
    target: float | None,
    rounds: int,
    note: str,
) -> Table:
    """Serial loop, limit and migrations in turns; `target` is for the best of the migrations."""

    def rate(count: int, *tasks: Sequence[str]) -> Callable[[], float]:
        def measure() -> float:
            site.again(count, size.size)
            return count / _slowest(site, tasks)

        return measure

    limit = [
        (f"limit_{where}", str(share), str(CORES), str(size.limit_threads))
        for share in range(CORES)
    ]
    serial = {SERIAL: rate(size.few, (f"serial_{where}",))}
    ours = {}
    for workers in size.workers:
        count = size.few if workers < 4 else size.count
        ours[f"{workers} workers"] = rate(count, _migrate(workers))
    for processes, workers in size.processes:
        name = f"{processes} processes of {workers} workers"
        ours[name] = rate(size.count, *[_migrate(workers)] * processes)
    site.fill(size.count, size.size)
    rates = Contest({**serial, LIMIT: rate(size.count, *limit), **ours}, rounds).run()
    best = max(ours, key=lambda name: rates[name])
    if size.size == LARGE:
        rates, show = {name: rate * LARGE for name, rate in rates.items()}, megabytes
    else:
        show = per_second
    return Table(
        f"Objects of {size.title}",
        rival,
        rows(rates, rival, show, {best: target} if target else {}),
        COMMAND,
        f"{LIMIT_NOTE[where].format(cores=CORES, threads=size.limit_threads)} {note}".strip(),
    )


def _migrate(workers: int) -> tuple[str, ...]:
    return ("command", "migrate_to_cas", "--yes-i-am-sure", "--workers", str(workers))


def _slowest(site: Measured, tasks: Sequence[Sequence[str]]) -> float:
    """Seconds until all of the tasks had ended, each of them well."""
    told = site.together(tasks)
    for each in told:
        if each.get("status", 0):
            raise RuntimeError(each["output"])
    return max(float(each["seconds"]) for each in told)
