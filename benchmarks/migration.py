"""Rows and bytes a second of a migration, many small objects and few large ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.installation import Measured, on_disk, on_s3
from benchmarks.measurement import Contest, Table, megabytes, per_second, rows

SMALL, LARGE = 20_000, 100_000_000
LATENCY = 0.010
SERIAL, LIMIT = "serial loop", "the machine's limit"
STAND_IN = (
    "S3 is an in-memory stand-in in Python on the same machine, which answers each request after "
    "10 ms. It, PostgreSQL and the migration share {cores} cores."
)


def run(directory: Path, *, quick: bool) -> list[Table]:
    few, many, large, rounds = (40, 80, 2, 1) if quick else (300, 1000, 8, 2)
    most = 80 if quick else 4000
    note = STAND_IN.format(cores=os.cpu_count())
    with on_s3(directory, latency=LATENCY) as site:
        tables = [
            _small(site, "S3 with 10 ms", "serial_s3", few, most, rounds, note),
            _large(site, "S3 with 10 ms", "limit_s3", large, rounds, note),
        ]
    with on_disk(directory) as site:
        return [
            *tables,
            _small(site, "disk", "serial_disk", many, many, rounds, ""),
            _large(site, "disk", "limit_disk", large, rounds, ""),
        ]


def _small(
    site: Measured, where: str, serial: str, few: int, many: int, rounds: int, note: str
) -> Table:
    def rate(count: int, *tasks: tuple[str, ...]) -> Callable[[], float]:
        def measure() -> float:
            site.again(count, SMALL)
            return count / _slowest(site, tasks)

        return measure

    site.fill(many, SMALL)
    measures = {SERIAL: rate(few, (serial,))}
    for workers in (1, 4, 16, 64):
        measures[f"{workers} workers"] = rate(few if workers < 16 else many, _migrate(workers))
    for processes in (2, 4):
        measures[f"{processes} processes of 16 workers"] = rate(many, *[_migrate(16)] * processes)
    rates = Contest(measures, rounds).run()
    best = max(rates, key=lambda name: rates[name])
    targets = {best: 10.0} if "S3" in where else {}
    return Table(
        f"Objects of 20 KB, {where}",
        SERIAL,
        rows(rates, SERIAL, per_second, targets),
        "manage.py migrate_to_cas --yes-i-am-sure --workers N",
        note,
    )


def _large(site: Measured, where: str, limit: str, count: int, rounds: int, note: str) -> Table:
    def rate(*task: str) -> Callable[[], float]:
        def measure() -> float:
            site.again(count, LARGE)
            return count * LARGE / _slowest(site, [task])

        return measure

    site.fill(count, LARGE)
    measures = {LIMIT: rate(limit)}
    for workers in (1, 4):
        measures[f"{workers} workers"] = rate(*_migrate(workers))
    rates = Contest(measures, rounds).run()
    return Table(
        f"Objects of 100 MB, {where}",
        LIMIT,
        rows(rates, LIMIT, megabytes, {"4 workers": 0.8}),
        "manage.py migrate_to_cas --yes-i-am-sure --workers N",
        note or "The limit hashes, copies and fsyncs each file, one a core.",
    )


def _migrate(workers: int) -> tuple[str, ...]:
    return ("command", "migrate_to_cas", "--yes-i-am-sure", "--workers", str(workers))


def _slowest(site: Measured, tasks: object) -> float:
    """Seconds until all of the tasks had ended, each of them well."""
    told = site.together(tasks)  # type: ignore[arg-type]
    for each in told:
        if each.get("status", 0):
            raise RuntimeError(each["output"])
    return max(float(each["seconds"]) for each in told)
