"""Moves rows from the older layout's keys to `cas/<digest>`, resumable anywhere."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from django.db import connection
from django.db.models import F, Max
from prometheus_client import Counter as Metric

from attachments.maintenance.database import LEGACY_LAYOUT, run_lock
from attachments.maintenance.frame import Output, Run, ending, running
from attachments.maintenance.pacing import Bandwidth, Pace
from attachments.maintenance.pool import Pool
from attachments.maintenance.preflight import check_before_migrating
from attachments.maintenance.rehearsal import Rehearsal
from attachments.maintenance.retry import query
from attachments.maintenance.rows import Blocks, Group, IdRange, unmigrated
from attachments.maintenance.run import ExitStatus, Stop, limited
from attachments.maintenance.summary import RunSummary
from attachments.maintenance.transfer import Acts, RealActs, RowOutcome, RowResult, Transfer
from attachments.models import Attachment
from cas.storage import attachment_store

logger = logging.getLogger(__name__)

MIGRATED_ROWS = Metric(
    "inventory_migrated_rows_total", "Rows a migration finished with, by outcome.", ["outcome"]
)
MIGRATED_BYTES = Metric("inventory_migrated_bytes_total", "Bytes of objects moved to their digest.")


@dataclass(frozen=True, slots=True)
class MigrationOptions:
    """What to migrate and how fast. `bandwidth` in bytes a second, `max_seconds` in seconds.

    `limit` is the number of groups of rows with the same object that are begun. `right_store` goes
    on although the store has none of the rows' objects.
    """

    workers: int = 4
    ids: IdRange = field(default_factory=IdRange)
    limit: int | None = None
    max_failures: int | None = None
    bandwidth: int | None = None
    max_seconds: float | None = None
    dry_run: bool = False
    right_store: bool = False


MENDED_BY_HAND: Final = frozenset({"absent", "corrupt", "size_mismatch", "unknown_key"})
"""Faults of rows that no further run cures: see docs/howto/bad-rows.md."""


@dataclass
class MigrationSummary(RunSummary):
    """Where every planned row went, and every row added meanwhile.

    What was planned and what is left is counted in the table, not by a tally. `newest` is the
    largest id when the run began; `added` are rows with a larger one. `left` is None until the
    rows on old keys were counted again, `staying` those of them that this run is finished with.
    `to_mend` is the first row that a person must mend.
    """

    WOULD_BE = {
        "migrated": "would_be_migrated",
        "deduplicated": "would_be_deduplicated",
        "bytes": "bytes_to_be_stored",
    }

    planned: int = 0
    newest: int = 0
    added: int = 0
    left: int | None = None
    staying: int = 0
    to_mend: int | None = None
    outcomes: Counter[RowOutcome] = field(default_factory=Counter)

    @property
    def items(self) -> int:
        return sum(self.outcomes.values())

    @property
    def deduplicated(self) -> int:
        return self.outcomes[RowOutcome.DEDUPLICATED]

    @property
    def remaining(self) -> int:
        """Rows to be done yet."""
        expected = self.planned + self.added - self.items
        return max(0, expected if self.left is None else self.left - self.staying)

    @property
    def by_others(self) -> int:
        """Rows that left the older layout without this run: moved by another, or deleted.

        Negative if a row was counted twice.
        """
        return self.planned + self.added - self.items - self.remaining

    @property
    def balances(self) -> bool:
        return self.by_others >= 0

    def plan(self, ids: IdRange) -> None:
        """Count the rows to migrate. Raises the database's errors."""
        self.newest = Attachment.objects.aggregate(newest=Max("pk"))["newest"] or 0
        self.planned = unmigrated(ids).filter(pk__lte=self.newest).count()

    def count(self, result: RowResult) -> None:
        self.outcomes[result.outcome] += 1
        self.retries += result.attempts - 1
        if result.outcome is RowOutcome.FAILED and result.error_class in MENDED_BY_HAND:
            self.to_mend = result.id if self.to_mend is None else min(self.to_mend, result.id)
        moves = result.outcome in (RowOutcome.MIGRATED, RowOutcome.DEDUPLICATED)
        stays = result.outcome is RowOutcome.FAILED or (self.dry_run and moves)
        self.staying += stays
        # Those that stay will be among the rows counted at the end.
        self.added += result.id > self.newest and not stays
        if result.outcome is RowOutcome.MIGRATED:
            self.bytes += result.size
        if result.outcome is RowOutcome.FAILED:
            self.fail(
                result.error_class,
                f"row {result.id}, {result.old_key}: {result.error_class}: {result.error}",
            )

    def count_left(self, ids: IdRange) -> None:
        """Count what is still on old keys. Raises the database's errors."""
        left = unmigrated(ids)
        added = left.filter(pk__gt=self.newest).count()
        self.left = left.filter(pk__lte=self.newest).count() + added
        self.added += added

    def judge(self) -> None:
        super().judge()
        over = self.status in (ExitStatus.DONE, ExitStatus.LIMIT_REACHED)
        if over and not self.balances:
            self.status = ExitStatus.ITEMS_FAILED
            self.reason = f"the counts do not balance by {-self.by_others} rows"
        elif self.status is ExitStatus.DONE and self.remaining:
            self.status = ExitStatus.ITEMS_FAILED
            self.reason = (
                f"{self.remaining} rows are still to be done; {self.added} were added meanwhile, "
                "by copies, an import or a process of the older version"
            )

    def counts(self) -> dict[str, Any]:
        """Planned and added together are the sum of the six counts that follow them."""
        outcomes = {str(outcome): self.outcomes[outcome] for outcome in RowOutcome}
        outcomes[RowOutcome.ALREADY_DONE] += max(0, self.by_others)
        return {
            "planned": self.planned,
            "added": self.added,
            **outcomes,
            "remaining": self.remaining,
            "balances": self.balances,
            "by_others": max(0, self.by_others),
            "bytes": self.bytes,
            "retries": self.retries,
        }


def migrate(options: MigrationOptions, output: Output) -> MigrationSummary:
    """Migrate what is left, or rehearse it. Raises Halt if the report cannot be opened."""
    summary = MigrationSummary(dry_run=options.dry_run)
    # On PostgreSQL several migrations share the work; a cleanup waits until all have ended.
    with (
        running(summary, output) as run,
        run_lock(LEGACY_LAYOUT, shared=True, retry=run.query),
    ):
        run.stop.after(options.max_seconds)
        check_before_migrating(
            attachment_store(),
            run.stop,
            write=not options.dry_run,
            right_store=options.right_store,
        )
        if not options.dry_run:
            run.query(_try_to_write)
        run.query(partial(summary.plan, options.ids))
        with ending(run.stop):
            _transfer(options, summary, run)
        # A run that is asked to end waits for nothing any more.
        patience = 0 if run.stop.requested else run.stop.patience
        query(partial(_count_left, summary, options.ids), Stop(patience))
    return summary


def _count_left(summary: MigrationSummary, ids: IdRange) -> None:
    if connection.connection is not None and not connection.is_usable():
        connection.close()
    summary.count_left(ids)


def _try_to_write() -> None:
    """Raises the database's error if it does not let us: one error, not one for every row."""
    Attachment.objects.filter(pk=0).update(s3_key=F("s3_key"))


def _transfer(options: MigrationOptions, summary: MigrationSummary, run: Run) -> None:
    store = attachment_store()
    pace = Pace(options.workers)
    blocks = Blocks(options.ids, run.stop)
    with Rehearsal(store) as rehearsal:
        acts: Acts = rehearsal if options.dry_run else RealActs(store, run.stop)
        transfer = Transfer(
            acts,
            store,
            ids=options.ids,
            pace=pace,
            bandwidth=Bandwidth(options.bandwidth, run.stop),
            stop=run.stop,
        )
        pool = Pool[Group, RowResult](
            transfer.results, pace=pace, stop=run.stop, finished=blocks.finished
        )
        phase = "would be migrated" if summary.dry_run else "rows"
        run.progress.begin(phase, summary.planned)
        try:
            for result in pool.run(limited(blocks.groups(), options.limit, run.stop, "objects")):
                if result is not None:
                    _record(result, summary, run)
                    _stop_at_failures(options.max_failures, summary, run.stop)
                run.progress.show_if_due()
        finally:
            blocks.close()


def _record(result: RowResult, summary: MigrationSummary, run: Run) -> None:
    summary.count(result)
    if not summary.dry_run:
        MIGRATED_ROWS.labels(str(result.outcome)).inc()
        if result.outcome is RowOutcome.MIGRATED:
            MIGRATED_BYTES.inc(result.size)
    run.progress.step(result.size if result.outcome is RowOutcome.MIGRATED else 0)
    run.report.write(
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
