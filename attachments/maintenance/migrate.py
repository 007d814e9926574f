"""Moves rows from the older layout's keys to `cas/<digest>`, resumable anywhere."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.core.management.base import OutputWrapper
from django.db import connection
from prometheus_client import Counter as Metric

from attachments.maintenance.database import LEGACY_LAYOUT, patiently, run_lock
from attachments.maintenance.pacing import Bandwidth, Pace
from attachments.maintenance.preflight import check_before_migrating
from attachments.maintenance.progress import Progress
from attachments.maintenance.rehearsal import Rehearsal
from attachments.maintenance.report import Report
from attachments.maintenance.rows import Blocks, Group, IdRange, unmigrated
from attachments.maintenance.run import ExitStatus, Halt, Pool, Stop, stopped_by_signals
from attachments.maintenance.transfer import Acts, RealActs, RowOutcome, RowResult, Transfer
from cas.storage import attachment_store

logger = logging.getLogger(__name__)

MIGRATED_ROWS = Metric(
    "inventory_migrated_rows_total", "Rows a migration finished with, by outcome.", ["outcome"]
)
MIGRATED_BYTES = Metric("inventory_migrated_bytes_total", "Bytes of objects moved to their digest.")

SAMPLES = 5


@dataclass(frozen=True, slots=True)
class MigrationOptions:
    """What to migrate and how fast. `bandwidth` in bytes a second, `max_seconds` in seconds.

    `limit` is the number of groups of rows with the same object that are begun.
    """

    workers: int = 4
    ids: IdRange = field(default_factory=IdRange)
    limit: int | None = None
    max_failures: int | None = None
    bandwidth: int | None = None
    max_seconds: float | None = None
    report: Path | None = None
    dry_run: bool = False
    as_json: bool = False


@dataclass(slots=True)
class MigrationSummary:
    """Where every planned row went. `remaining` comes from the table, not from a tally."""

    planned: int
    dry_run: bool
    status: ExitStatus = ExitStatus.DONE
    reason: str = ""
    outcomes: Counter[RowOutcome] = field(default_factory=Counter)
    bytes: int = 0
    retries: int = 0
    remaining: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    samples: list[RowResult] = field(default_factory=list)

    @property
    def elsewhere(self) -> int:
        """Planned rows that this run did not touch and that are gone from the old layout."""
        return self.planned - sum(self.outcomes.values()) - self.remaining

    @property
    def balances(self) -> bool:
        return self.elsewhere >= 0

    def count(self, result: RowResult) -> None:
        self.outcomes[result.outcome] += 1
        self.retries += result.attempts - 1
        if result.outcome is RowOutcome.MIGRATED:
            self.bytes += result.size
        if result.outcome is RowOutcome.FAILED:
            self.failures[result.error_class] += 1
            if len(self.samples) < SAMPLES:
                self.samples.append(result)

    def figures(self) -> dict[str, Any]:
        """The summary as plain data; planned is the sum of the six counts that follow it."""
        counts = {str(outcome): self.outcomes[outcome] for outcome in RowOutcome}
        counts[RowOutcome.ALREADY_DONE] += max(0, self.elsewhere)
        return {
            "status": self.status.name.lower(),
            "reason": self.reason,
            "dry_run": self.dry_run,
            "planned": self.planned,
            **counts,
            "remaining": self.remaining,
            "balances": self.balances,
            "bytes": self.bytes,
            "retries": self.retries,
            "failures": dict(self.failures),
        }


def migrate(options: MigrationOptions, progress_stream: OutputWrapper) -> MigrationSummary:
    """Migrate what is left, or rehearse it. Raises Halt if the run cannot begin."""
    stop = Stop(max_seconds=options.max_seconds)
    # On PostgreSQL several migrations share the work; a cleanup waits until all have ended.
    with run_lock(LEGACY_LAYOUT, shared=True), stopped_by_signals(stop):
        check_before_migrating(attachment_store(), stop, write=not options.dry_run)
        planned = patiently(unmigrated(options.ids).count, stop)
        summary = MigrationSummary(planned, options.dry_run)
        try:
            _run(options, summary, stop, progress_stream)
        except Halt as halt:
            stop.request(halt.status, str(halt))
        _conclude(options, summary, stop)
    return summary


def _run(
    options: MigrationOptions, summary: MigrationSummary, stop: Stop, stream: OutputWrapper
) -> None:
    store = attachment_store()
    pace = Pace(options.workers)
    blocks = Blocks(options.ids, stop)
    with Rehearsal(store) as rehearsal, Report(options.report) as report:
        acts: Acts = rehearsal if options.dry_run else RealActs(store)
        transfer = Transfer(
            acts,
            store,
            ids=options.ids,
            pace=pace,
            bandwidth=Bandwidth(options.bandwidth),
            stop=stop,
        )
        pool = Pool[Group, RowResult](
            transfer.results, pace=pace, stop=stop, finished=blocks.finished
        )
        progress = Progress(summary.planned, stream, as_json=options.as_json)
        try:
            for result in pool.run(_limited(blocks, options.limit, stop)):
                if result is not None:
                    _record(result, summary, report, progress)
                    _stop_at_failures(options.max_failures, summary, stop)
                progress.show_if_due()
        finally:
            progress.clear()
            blocks.close()


def _limited(blocks: Blocks, limit: int | None, stop: Stop) -> Iterator[Group | None]:
    begun = 0
    for group in blocks.groups():
        if group is not None:
            if begun == limit:
                stop.request(ExitStatus.LIMIT_REACHED, f"{limit} objects were the limit")
                return
            begun += 1
        yield group


def _record(
    result: RowResult, summary: MigrationSummary, report: Report, progress: Progress
) -> None:
    summary.count(result)
    if not summary.dry_run:
        MIGRATED_ROWS.labels(str(result.outcome)).inc()
        if result.outcome is RowOutcome.MIGRATED:
            MIGRATED_BYTES.inc(result.size)
    progress.done += 1
    progress.bytes = summary.bytes
    progress.deduplicated = summary.outcomes[RowOutcome.DEDUPLICATED]
    progress.retries = summary.retries
    progress.failures = summary.failures
    report.write(
        {
            "id": result.id,
            "old_key": result.old_key,
            "new_key": result.digest.key if result.digest else None,
            "digest": str(result.digest) if result.digest else None,
            "bytes": result.size,
            "outcome": str(result.outcome),
            "dry_run": summary.dry_run,
            "attempts": result.attempts,
            "error_class": result.error_class or None,
            "error": result.error or None,
        }
    )


def _stop_at_failures(limit: int | None, summary: MigrationSummary, stop: Stop) -> None:
    if limit is not None and summary.outcomes[RowOutcome.FAILED] >= limit:
        stop.request(ExitStatus.ITEMS_FAILED, f"{limit} rows failed, as many as are allowed")


def _conclude(options: MigrationOptions, summary: MigrationSummary, stop: Stop) -> None:
    """Count what is left in the table and decide how the run ended."""
    failed = summary.outcomes[RowOutcome.FAILED]
    if options.dry_run:
        # Nothing moved: what was not looked at is what remains of the plan.
        summary.remaining = max(0, summary.planned - sum(summary.outcomes.values()))
    else:
        connection.close_if_unusable_or_obsolete()
        left = patiently(unmigrated(options.ids).count, Stop())
        summary.remaining = max(0, left - failed)
    if stop.status is not None:
        summary.status, summary.reason = stop.status, stop.reason
    if summary.status in (ExitStatus.DONE, ExitStatus.LIMIT_REACHED) and (
        failed or not summary.balances
    ):
        summary.status = ExitStatus.ITEMS_FAILED
    elif summary.status is ExitStatus.DONE and summary.remaining:
        summary.status = ExitStatus.ITEMS_FAILED
        summary.reason = "rows were added on old keys while the run went on, or were not reached"
    if not summary.balances:
        summary.reason = f"the counts do not balance by {-summary.elsewhere} rows"
