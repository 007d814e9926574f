"""Brings the rows of an older installation in: read, plan, check, record, and only then write.

A dry run is the same without the last two steps.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from attachments.locks import LEGACY_LAYOUT, run_lock
from attachments.maintenance.report import RunSummary
from attachments.maintenance.runner import Output, Run, maintenance_run
from cas.exit_status import ExitStatus, RunAborted
from cas.storage import attachment_store
from parts.legacy_import import plan
from parts.legacy_import.plan import Planned
from parts.legacy_import.read import TABLES, Reader, read_rows_here, scratch
from parts.legacy_import.source_rows import IMPORT, SourceRows
from parts.legacy_import.sources import Opening, Shape, Table
from parts.legacy_import.write import (
    PlannedPart,
    Writer,
    Written,
    check_objects,
    check_same_bytes,
    loads,
    prove_blobs,
    reserve_ids,
    would_be_written,
)

COVERS_NAMED: Final = 20
"""Parts without their cover that a summary names; the report has them all."""


@dataclass(slots=True)
class Tally:
    """A table's rows: those read are the sum of the others.

    `deleted_here` were imported before and deleted here since, `forgotten` by name; `left_out`
    belong to what is not imported at all.
    """

    read: int = 0
    imported: int = 0
    already_here: int = 0
    deleted_here: int = 0
    forgotten: int = 0
    left_out: int = 0
    failed: int = 0
    remaining: int = 0

    @property
    def balances(self) -> bool:
        parts = asdict(self)
        read: int = parts.pop("read")
        return bool(min(parts.values()) >= 0 and read == sum(parts.values()))


@dataclass
class ImportSummary(RunSummary):
    """`bytes` are those of the objects that imported rows name.

    `lost_covers` counts the parts whose cover could not be brought over; `covers` has why, by the
    keys of some of them.
    `left_out` counts, by name, what the source has and an import does not bring.
    """

    source: str = ""
    tallies: dict[str, Tally] = field(default_factory=dict)
    lost_covers: int = 0
    covers: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def items(self) -> int:
        return sum(tally.read - tally.remaining for tally in self.tallies.values())

    @property
    def failed(self) -> int:
        return sum(tally.failed for tally in self.tallies.values())

    @property
    def remaining(self) -> int:
        return sum(tally.remaining for tally in self.tallies.values())

    @property
    def balances(self) -> bool:
        return all(tally.balances for tally in self.tallies.values())

    def plan(self, table: str, planned: Planned) -> None:
        """Take over what the plan decided; what is to be imported remains for now."""
        self.tallies[table] = Tally(
            read=planned.read,
            already_here=planned.already_here,
            deleted_here=planned.deleted_here,
            forgotten=planned.forgotten,
            left_out=planned.left_out,
            failed=planned.failed,
            remaining=planned.to_import,
        )

    def lose_cover(self, part: str, reason: str) -> None:
        self.lost_covers += 1
        if len(self.covers) < COVERS_NAMED:
            self.covers[part] = reason

    def count(self, table: str, fault: str, size: int) -> None:
        """One of the rows that remained is over."""
        tally = self.tallies[table]
        tally.remaining -= 1
        if fault:
            tally.failed += 1
        else:
            tally.imported += 1
            self.bytes += size

    def judge(self) -> None:
        super().judge()
        if self.status is ExitStatus.DONE and not self.balances:
            self.status = ExitStatus.ITEMS_FAILED
            self.reason = "the counts do not balance"

    def blame(self, table: str, row_id: str, name: str, fault: str, reason: str) -> None:
        """A row that failed, for the classes by count and the samples."""
        self.fail(fault, f"{table}/{row_id} ({name}): {fault}: {reason}")

    def counts(self) -> dict[str, Any]:
        return {
            "source": self.source,
            **{table: asdict(tally) for table, tally in self.tallies.items()},
            "balances": self.balances,
            "bytes": self.bytes,
            "lost_covers": self.lost_covers,
            "covers": {key: [reason] for key, reason in self.covers.items()},
            "left_out": {name: count for name, count in sorted(self.left_out.items()) if count},
        }


logger = logging.getLogger(__name__)

# What the plan alone decides: every row but those that are still to be written.
DECIDED: Final = """
SELECT number, id, map_id, {name} AS name, fault, reason, target, {lost_cover} AS lost_cover,
    coalesce(outcome, CASE WHEN fault IS NOT NULL THEN 'failed' END) AS outcome
FROM {table} WHERE fault IS NOT NULL OR outcome IS NOT NULL OR {lost_cover} IS NOT NULL
ORDER BY number
"""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """`source` names the older installation in the table of source rows.

    `without` names tables of names that are left out although rows refer to them.
    """

    source: str
    without: frozenset[Table] = frozenset()
    dry_run: bool = False


def import_rows(opening: Opening, options: ImportOptions, output: Output) -> ImportSummary:
    """Import what is not here yet, or only plan it. Raises RunAborted if there can be no report.

    An error of the database ends the run where it is; the next one finds what was written.
    """
    summary = ImportSummary(dry_run=options.dry_run, source=options.source)
    # The second lock keeps cleanups away: rows are about to name objects of the older layout.
    with (
        maintenance_run(summary, output) as run,
        run_lock(IMPORT, retry=run.query),
        run_lock(LEGACY_LAYOUT, shared=True, retry=run.query),
        scratch() as database,
    ):
        with opening as source:
            reader = Reader(database, source, options.without, run)
            reader.read()
            summary.left_out = reader.left_out
        if not any(reader.rows.values()):
            raise RunAborted(
                ExitStatus.REFUSED,
                "the source has no parts and no attachments; nothing was imported. Check that it "
                "is the right one: nothing that belongs to an older installation may be cleaned "
                "up before its rows are imported",
            )
        shape = reader.shape
        source_rows = SourceRows(options.source, shape)
        read_rows_here(database, options.source, shape, run.cancel)
        plan.identify(database, shape)
        plan.check_same_source(database, options.source)
        if not options.dry_run:
            for recorded in run.watch("recorded", source_rows.record(database)):
                run.progress.done += recorded - 1
        _plan(database, shape, summary, run)
        if not options.dry_run:
            source_rows.settle_decided(database)
        _report_decided(database, shape, summary, run)
        _write(database, shape, Writer(source_rows), summary, run)
    return summary


def _plan(database: sqlite3.Connection, shape: Shape, summary: ImportSummary, run: Run) -> None:
    """Decide about every row; nothing here is changed. Raises StoreError, Cancelled."""
    run.progress.begin("planned")
    plan.match(database)
    store = attachment_store()
    check_same_bytes(database, store, run.cancel)
    check_objects(database, store, run.cancel)
    for name, planned in plan.settle(database).items():
        summary.plan(_table(name, shape), planned)


def _table(name: str, shape: Shape) -> str:
    """The source's table that a scratch table holds the rows of."""
    return str(Table.PARTS if name == "part" else shape.attachments)


def _report_decided(
    database: sqlite3.Connection, shape: Shape, summary: ImportSummary, run: Run
) -> None:
    """Tell of the rows that the plan refused or found here, and of covers that are lost."""
    for name in TABLES:
        parts, table = name == "part", _table(name, shape)
        query = DECIDED.format(
            name="key" if parts else "coalesce(s3_key, url)",
            lost_cover="lost_cover" if parts else "NULL",
            table=name,
        )
        for row in database.execute(query):
            if row["lost_cover"]:
                _lose_cover(summary, row["name"], row["lost_cover"], run)
            if row["outcome"] is None:
                continue
            failed = row["outcome"] == "failed"
            if failed:
                _blame(summary, table, row["map_id"], row["name"], row["fault"], row["reason"])
            run.report.write(
                {
                    "table": table,
                    "row": row["number"],
                    "id": row["id"],
                    "forget_as": f"{table}/{row['map_id']}",
                    "name": row["name"],
                    "outcome": row["outcome"],
                    "new_id": row["target"],
                    "dry_run": summary.dry_run,
                    "error_class": row["fault"] if failed or row["target"] is None else None,
                    "error": row["reason"] if failed or row["target"] is None else None,
                }
            )


def _write(
    database: sqlite3.Connection, shape: Shape, writer: Writer, summary: ImportSummary, run: Run
) -> None:
    """Write what the plan left to be written, or say so. Raises StoreError, Cancelled."""
    if not summary.dry_run:
        reserve_ids(database)
    store = attachment_store()
    run.progress.begin("imported", summary.remaining)
    for portion in loads(database):
        run.cancel.check()
        if not summary.dry_run:
            prove_blobs(store, portion, run.cancel)
        for written in would_be_written(portion) if summary.dry_run else writer.write(portion):
            _record(written, shape, summary, run)
            run.progress.step(0 if written.fault else written.size)


def _record(written: Written, shape: Shape, summary: ImportSummary, run: Run) -> None:
    planned, table = written.planned, _table(written.table, shape)
    if isinstance(planned, PlannedPart):
        name: str | None = planned.key
        source_id = planned.source_id
    else:
        name = planned.record.s3_key or planned.record.url
        source_id = planned.record.source_id
        if planned.is_cover and (written.fault or not planned.record.has_picture):
            why = "it is not imported" if written.fault else "its bytes are no picture"
            _lose_cover(summary, planned.part_key, why, run)
    summary.count(table, written.fault, written.size)
    if written.fault:
        _blame(summary, table, planned.map_id, name, written.fault, written.reason)
    else:
        verb = "would import" if summary.dry_run else "imported"
        logger.info("%s %s/%s (%s)", verb, table, planned.map_id, name)
    run.report.write(
        {
            "table": table,
            "row": planned.number,
            "id": source_id,
            "forget_as": f"{table}/{planned.map_id}",
            "name": name,
            "outcome": "failed" if written.fault else "imported",
            "new_id": written.new_id,
            "dry_run": summary.dry_run,
            "error_class": written.fault or None,
            "error": written.reason or None,
        }
    )


def _lose_cover(summary: ImportSummary, part: str, reason: str, run: Run) -> None:
    summary.lose_cover(part, reason)
    logger.warning("the cover of part %s is not imported: %s", part, reason)
    run.report.write({"part": part, "outcome": "cover_lost", "error": reason})


def _blame(
    summary: ImportSummary, table: str, row_id: str, name: str | None, fault: str, reason: str
) -> None:
    summary.blame(table, row_id, name or "unnamed", fault, reason)
    logger.error("%s/%s (%s) is not imported: %s: %s", table, row_id, name, fault, reason)
