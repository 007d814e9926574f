"""Garbage collection: deletes blobs that no row references, while uploads go on.

Nothing is deleted on the word of the listing alone. A survey finds how much garbage there is and
every reason not to go on; then a second listing hands it, batch by batch, to
`references.collecting`, which locks each digest against uploads and looks for references again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

from django.core.management.base import OutputWrapper
from django.db import connection
from prometheus_client import Counter as Metric

from attachments import references
from attachments.maintenance.clocks import MOST_APART, check_clocks, database_now, refuse_apart
from attachments.maintenance.database import run_lock
from attachments.maintenance.progress import Progress
from attachments.maintenance.report import Report
from attachments.maintenance.run import ExitStatus, Halt, Stop, stopped_by_signals
from attachments.maintenance.survey import survey
from cas.digest import CAS_PREFIX, Digest, is_cas_key
from cas.storage import attachment_store
from cas.storage.base import BlobStat, BlobStore, StoreError

logger = logging.getLogger(__name__)

COLLECTED = Metric("inventory_collected_blobs_total", "Blobs a collection dealt with.", ["outcome"])
COLLECTED_BYTES = Metric("inventory_collected_bytes_total", "Bytes of collected blobs.")

BATCH: Final = 200
"""Digests locked at a time: few enough for PostgreSQL's lock table and for waiting uploads."""

FEW: Final = 20
"""So many blobs may always be collected: in a small store any number is a large share."""

SLOWEST_UPLOAD: Final = timedelta(days=1)
"""A temporary file or multipart upload that is younger may be of an upload still going on, which
no grace period for blobs says anything about."""

SAMPLES: Final = 5


@dataclass(frozen=True, slots=True)
class CollectOptions:
    """`grace` is how old a blob must be; `max_percent` the largest share of all blobs."""

    grace: timedelta
    max_percent: float
    dry_run: bool = False
    report: Path | None = None
    as_json: bool = False


@dataclass(slots=True)
class CollectSummary:
    """`in_use` blobs came to be referenced, or were being uploaded, while the run went on."""

    dry_run: bool
    status: ExitStatus = ExitStatus.DONE
    reason: str = ""
    blobs: int = 0
    garbage: int = 0
    garbage_bytes: int = 0
    in_grace: int = 0
    in_use: int = 0
    collected: int = 0
    collected_bytes: int = 0
    strays: int = 0
    abandoned: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        return {
            "status": self.status.name.lower(),
            "reason": self.reason,
            "dry_run": self.dry_run,
            "blobs": self.blobs,
            "garbage": self.garbage,
            "garbage_bytes": self.garbage_bytes,
            "in_grace_period": self.in_grace,
            "in_use": self.in_use,
            "collected": self.collected,
            "collected_bytes": self.collected_bytes,
            "strays_left_alone": self.strays,
            "abandoned_uploads": self.abandoned,
            "failures": dict(self.failures),
        }


def collect(options: CollectOptions, stream: OutputWrapper) -> CollectSummary:
    """Collect, or with `dry_run` only find. Raises Halt if a safety check refuses."""
    store = attachment_store()
    stop = Stop()
    summary = CollectSummary(options.dry_run)
    with run_lock("collect"), stopped_by_signals(stop), Report(options.report) as report:
        if not options.dry_run:
            check_clocks(store)
        now = database_now()
        older_than = now - options.grace
        _plan(store, older_than, now, summary, stop)
        if not stop.requested:
            _refuse_abnormal_share(options, summary)
            progress = Progress(summary.garbage, stream, as_json=options.as_json)
            _collect(store, older_than, summary, report, progress, stop)
            progress.clear()
        if not stop.requested:
            _abandoned(store, min(older_than, now - SLOWEST_UPLOAD), summary, report)
    if stop.status is not None:
        summary.status, summary.reason = stop.status, stop.reason
    elif summary.failures:
        summary.status = ExitStatus.ITEMS_FAILED
    return summary


def _plan(
    store: BlobStore, older_than: datetime, now: datetime, summary: CollectSummary, stop: Stop
) -> None:
    """Survey everything before anything is deleted: a listing cut short raises in here."""
    for entry in survey(store, CAS_PREFIX):
        if stop.requested:
            return
        if entry.stat is None:
            raise Halt(
                ExitStatus.DAMAGE_FOUND,
                f"{entry.key} is missing, which row {entry.row} references. Nothing was deleted; "
                "run verify_cas --repair first",
            )
        summary.blobs += 1
        if entry.stat.modified > now + MOST_APART:
            refuse_apart(entry.stat.modified, now)
        if not entry.unreferenced:
            continue
        if not is_cas_key(entry.key):
            summary.strays += 1
            logger.warning("not a blob's key, left alone: %s", entry.key)
        elif entry.stat.modified >= older_than:
            summary.in_grace += 1
        else:
            summary.garbage += 1
            summary.garbage_bytes += entry.stat.size


def _refuse_abnormal_share(options: CollectOptions, summary: CollectSummary) -> None:
    share = 100 * summary.garbage / max(1, summary.blobs)
    if summary.garbage > FEW and share > options.max_percent:
        raise Halt(
            ExitStatus.REFUSED,
            f"{summary.garbage} of {summary.blobs} blobs ({share:.1f} %) are unreferenced, more "
            f"than the {options.max_percent:g} % allowed. If that is right, allow it with "
            "--max-delete-percent",
        )


def _collect(
    store: BlobStore,
    older_than: datetime,
    summary: CollectSummary,
    report: Report,
    progress: Progress,
    stop: Stop,
) -> None:
    # No more than was planned: what has become garbage since has not been weighed.
    candidates = islice(_candidates(store, older_than), summary.garbage)
    while not stop.requested and (batch := list(islice(candidates, BATCH))):
        stats = {Digest.from_key(stat.key): stat for stat in batch}
        with references.collecting(list(stats)) as free:
            summary.in_use += len(stats) - len(free)
            keys = sorted(digest.key for digest in free)
            _delete(store, keys, {s.key: s for s in batch}, summary, report)
        progress.done += len(batch)
        progress.bytes = summary.collected_bytes
        progress.failures = summary.failures
        progress.show_if_due()


def _candidates(store: BlobStore, older_than: datetime) -> Iterator[BlobStat]:
    """Old blobs that no row seems to reference: a look without locks, to lock only those."""
    listed = (s for s in store.scan(CAS_PREFIX) if is_cas_key(s.key) and s.modified < older_than)
    while batch := {Digest.from_key(stat.key): stat for stat in islice(listed, BATCH)}:
        referenced = references.referenced(set(batch))
        yield from (stat for digest, stat in batch.items() if digest not in referenced)


def _delete(
    store: BlobStore,
    keys: list[str],
    stats: dict[str, BlobStat],
    summary: CollectSummary,
    report: Report,
) -> None:
    if summary.dry_run:
        outcomes: Iterator[tuple[str, StoreError | None]] = ((key, None) for key in keys)
    else:
        _still_locked()
        outcomes = store.remove_many(keys)
    for key, error in outcomes:
        size = stats[key].size
        record: dict[str, Any] = {"key": key, "bytes": size}
        if error is not None:
            summary.failures[error.code] += 1
            if len(summary.samples) < SAMPLES:
                summary.samples.append(f"{key}: {error}")
            COLLECTED.labels("failed").inc()
            logger.warning("%s could not be deleted: %s", key, error)
            report.write({**record, "outcome": "failed", "error": str(error)})
            continue
        summary.collected += 1
        summary.collected_bytes += size
        if summary.dry_run:
            report.write({**record, "outcome": "would_delete"})
            continue
        COLLECTED.labels("deleted").inc()
        COLLECTED_BYTES.inc(size)
        logger.info("deleted %s, %d bytes", key, size)
        report.write({**record, "outcome": "deleted"})


def _still_locked() -> None:
    """The locks fall with the connection: see that it lives, right before deleting."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _abandoned(
    store: BlobStore, older_than: datetime, summary: CollectSummary, report: Report
) -> None:
    for description in store.remove_abandoned(older_than, dry_run=summary.dry_run):
        summary.abandoned += 1
        logger.info("%s: %s", "would remove" if summary.dry_run else "removed", description)
        report.write({"abandoned": description})
