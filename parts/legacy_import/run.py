"""Brings the rows of an older installation in: read, plan, check, and only then write.

A rehearsal is the same without the last step, so it cannot foretell something else.
"""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from attachments.maintenance.database import LEGACY_LAYOUT, run_lock
from attachments.maintenance.frame import Output, Run, running
from attachments.maintenance.report import Report
from attachments.maintenance.run import ExitStatus, Halt, Stop
from cas.storage import attachment_store
from parts.legacy_import import plan
from parts.legacy_import.ids import reserve_ids
from parts.legacy_import.loads import PlannedPart, loads
from parts.legacy_import.objects import check_objects, digest_of
from parts.legacy_import.reading import read_rows_here, read_source
from parts.legacy_import.scratch import scratch
from parts.legacy_import.sources import Opening, Table
from parts.legacy_import.summary import ImportSummary
from parts.legacy_import.writing import Written, rehearsed, write

logger = logging.getLogger(__name__)

IMPORT: Final = "import"
"""The lock of an import. Two at once would each find that the other's rows are not here yet."""

# What the plan alone decides: every row but those that are still to be written.
DECIDED: Final = """
SELECT number, id, {name} AS name, fault, reason, target, {lost_cover} AS lost_cover
FROM {table} WHERE fault IS NOT NULL OR target IS NOT NULL OR {lost_cover}
ORDER BY number
"""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """`without` names tables of names that are left out although rows refer to them."""

    without: frozenset[Table] = frozenset()
    dry_run: bool = False


def import_rows(opening: Opening, options: ImportOptions, output: Output) -> ImportSummary:
    """Import what is not here yet, or rehearse it. Raises Halt if there can be no report.

    An error of the database ends the run where it is; the next one finds what was written.
    """
    summary = ImportSummary(dry_run=options.dry_run)
    # The second lock keeps cleanups away: rows are about to name objects of the older layout.
    with (
        running(summary, output) as run,
        run_lock(IMPORT),
        run_lock(LEGACY_LAYOUT, shared=True),
        scratch() as database,
    ):
        run.progress.begin("planned")
        _plan(database, opening, options, summary, run.stop)
        _report_decided(database, summary, run.report)
        _write(database, summary, run)
    return summary


def _plan(
    database: sqlite3.Connection,
    opening: Opening,
    options: ImportOptions,
    summary: ImportSummary,
    stop: Stop,
) -> None:
    """Decide about every row; nothing here is changed. Raises Halt, StoreError, Stopped."""
    with opening as source:
        for table in (Table.PARTS, Table.ATTACHMENTS):
            if not source.has(table):
                raise Halt(ExitStatus.REFUSED, f"there is no table {table}. Nothing was imported")
        summary.unknown_columns = read_source(database, source, options.without, stop)
    read_rows_here(database)
    store = attachment_store()
    plan.match(database)
    plan.match_by_content(database, partial(digest_of, store, stop))
    check_objects(database, store, stop)
    for table, planned in plan.settle(database).items():
        summary.plan(table, planned)


def _report_decided(database: sqlite3.Connection, summary: ImportSummary, report: Report) -> None:
    """Tell of the rows that the plan refused or found here, and of covers that are lost."""
    for table, name in plan.SCRATCH_TABLES.items():
        parts = table is Table.PARTS
        query = DECIDED.format(
            name="key" if parts else "coalesce(s3_key, url)",
            lost_cover="lost_cover" if parts else "0",
            table=name,
        )
        for row in database.execute(query):
            if row["lost_cover"]:
                summary.lost_covers += 1
                logger.warning("the cover of part %s is not imported", row["name"])
            if row["fault"] is not None:
                _blame(summary, table, row["number"], row["name"], row["fault"], row["reason"])
            if row["fault"] is not None or row["target"] is not None:
                report.write(
                    {
                        "table": str(table),
                        "row": row["number"],
                        "id": row["id"],
                        "name": row["name"],
                        "outcome": "already_here" if row["fault"] is None else "failed",
                        "new_id": row["target"],
                        "dry_run": summary.dry_run,
                        "error_class": row["fault"],
                        "error": row["reason"],
                    }
                )


def _write(database: sqlite3.Connection, summary: ImportSummary, run: Run) -> None:
    """Write what the plan left to be written, or say so. Raises StoreError."""
    if not summary.dry_run:
        reserve_ids(database)
    run.progress.begin("imported", summary.remaining)
    for portion in loads(database):
        if run.stop.requested:
            break
        for written in rehearsed(portion) if summary.dry_run else write(portion):
            _record(written, summary, run.report)
            run.progress.step(0 if written.fault else written.size)


def _record(written: Written, summary: ImportSummary, report: Report) -> None:
    planned = written.planned
    record: Any = planned.record
    name = record.key if isinstance(planned, PlannedPart) else record.s3_key or record.url
    summary.count(written.table, written.fault, written.size)
    if written.fault:
        _blame(summary, written.table, planned.number, name, written.fault, written.reason)
    else:
        verb = "would import" if summary.dry_run else "imported"
        logger.info("%s %s, row %d (%s)", verb, written.table, planned.number, name)
    report.write(
        {
            "table": str(written.table),
            "row": planned.number,
            "id": record.source_id,
            "name": name,
            "outcome": "failed" if written.fault else "imported",
            "new_id": written.new_id,
            "dry_run": summary.dry_run,
            "error_class": written.fault or None,
            "error": written.reason or None,
        }
    )


def _blame(
    summary: ImportSummary, table: Table, number: int, name: str | None, fault: str, reason: str
) -> None:
    summary.blame(table, number, name or "unnamed", fault, reason)
    logger.error("%s, row %d (%s) is not imported: %s: %s", table, number, name, fault, reason)
