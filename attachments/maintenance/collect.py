"""Garbage collection: deletes blobs that no row references or holds, while uploads go on.

Nothing is deleted on the word of the listing alone. A survey finds how much garbage there is and
every reason not to go on; then a second listing hands it, batch by batch, to
`references.collecting`, which locks each digest against uploads and looks for references again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, islice
from typing import Any, Final

from prometheus_client import Counter as Metric

from attachments import references
from attachments.locks import forget_condemned
from attachments.maintenance.clocks import MOST_APART, check_clocks, database_now
from attachments.maintenance.database import require_lock, run_lock
from attachments.maintenance.deleting import Outcome, deletions, kept_versions, would_delete
from attachments.maintenance.frame import Output, Run, running
from attachments.maintenance.preflight import PROBE, wrong_store
from attachments.maintenance.retry import Tries, listed
from attachments.maintenance.run import ExitStatus, Halt
from attachments.maintenance.summary import RunSummary
from attachments.maintenance.survey import Entry, survey
from cas.digest import CAS_PREFIX, Digest, is_cas_key
from cas.storage import attachment_store
from cas.storage.base import BlobStat, BlobStore
from cas.storage.staging import remove_unused_staging

logger = logging.getLogger(__name__)

COLLECTED = Metric("inventory_collected_blobs_total", "Blobs a collection dealt with.", ["outcome"])
COLLECTED_BYTES = Metric("inventory_collected_bytes_total", "Bytes of collected blobs.")

RUN: Final = "collect"
"""The lock that only one collection holds."""

BATCH: Final = 200
"""Digests locked at a time: few enough for PostgreSQL's lock table and for waiting uploads."""

MOST_PERCENT: Final = 10.0
"""The largest share of all blobs that is collected unless the operator allows another."""

FEW: Final = 20
"""So many may be collected whatever their share, unless the operator says which is allowed: in a
small store any number is a large share."""

SLOWEST_UPLOAD: Final = timedelta(days=1)
"""A temporary file or multipart upload that is younger may be of an upload still going on, which
no grace period for blobs says anything about."""


@dataclass(frozen=True, slots=True)
class CollectOptions:
    """`grace` is how old a blob must be; `max_percent` the largest share of all blobs, if said."""

    grace: timedelta
    max_percent: float | None = None
    dry_run: bool = False
    versions: bool = False


@dataclass
class CollectSummary(RunSummary):
    """`held` blobs are named by nothing but holds, such as rows of an older installation.

    `in_use` blobs came to be referenced, or were being uploaded, while the run went on.
    """

    WOULD_BE = {
        "collected": "would_be_collected",
        "collected_bytes": "bytes_to_be_collected",
        "abandoned_uploads": "abandoned_uploads_to_go",
    }

    blobs: int = 0
    referenced: int = 0
    held: int = 0
    garbage: int = 0
    garbage_bytes: int = 0
    in_grace: int = 0
    in_use: int = 0
    collected: int = 0
    strays: int = 0
    abandoned: int = 0
    old_versions: str = ""

    @property
    def items(self) -> int:
        return self.collected + self.in_use + self.failures.total()

    def counts(self) -> dict[str, Any]:
        return {
            "blobs": self.blobs,
            "referenced": self.referenced,
            "held": self.held,
            "garbage": self.garbage,
            "garbage_bytes": self.garbage_bytes,
            "in_grace_period": self.in_grace,
            "in_use": self.in_use,
            "collected": self.collected,
            "collected_bytes": self.bytes,
            "old_versions": self.old_versions,
            "strays_left_alone": self.strays,
            "abandoned_uploads": self.abandoned,
        }


def collect(options: CollectOptions, output: Output) -> CollectSummary:
    """Collect, or with `dry_run` only find. Raises Halt if there can be no report."""
    store = attachment_store()
    summary = CollectSummary(dry_run=options.dry_run)
    with (
        running(summary, output) as run,
        # Each batch looks for references again under its digests' locks, whoever ran meanwhile.
        run_lock(RUN, taken_again=True, retry=run.query),
    ):
        if not options.dry_run:
            Tries(run.stop).of(partial(check_clocks, store))
            run.query(forget_condemned)
        now = run.query(database_now)
        older_than = now - options.grace
        _plan(store, older_than, now, summary, run)
        _refuse_abnormal_share(options, summary)
        summary.old_versions = kept_versions(store, run, deleted=options.versions)
        _collect(store, older_than, options, summary, run)
        run.stop.check()
        _abandoned(store, min(older_than, now - SLOWEST_UPLOAD), summary, run)
    return summary


def _plan(
    store: BlobStore, older_than: datetime, now: datetime, summary: CollectSummary, run: Run
) -> None:
    """Survey everything before anything is deleted: a listing cut short raises in here."""
    missing: Entry | None = None
    count = 0
    for entry in run.watch("listed", survey(store, CAS_PREFIX, run.stop)):
        if entry.stat is None:
            missing = missing or entry
            count += 1
            if summary.referenced:
                _refuse_missing(missing)
            continue
        summary.blobs += 1
        if missing is not None and entry.referenced:
            _refuse_missing(missing)
        if not entry.unreferenced:
            summary.referenced += entry.referenced
            summary.held += entry.held
            continue
        if entry.stat.modified > now + MOST_APART:
            # The clocks agree, so the object's time is made up; it is as young as can be.
            logger.warning("%s is of the future: %s", entry.key, entry.stat.modified)
        if not is_cas_key(entry.key):
            summary.strays += 1
            logger.warning("not a blob's key, left alone: %s", entry.key)
        elif entry.stat.modified >= older_than:
            summary.in_grace += 1
        else:
            summary.garbage += 1
            summary.garbage_bytes += entry.stat.size
    if missing is not None:
        raise wrong_store(store, count, missing.key)


def _refuse_missing(missing: Entry) -> None:
    raise Halt(
        ExitStatus.DAMAGE_FOUND,
        f"{missing.key} is missing, which row {missing.row} references. Nothing was deleted; "
        "run verify_cas --repair first",
    )


def _refuse_abnormal_share(options: CollectOptions, summary: CollectSummary) -> None:
    if summary.garbage and not summary.referenced and options.max_percent != 100:
        raise Halt(
            ExitStatus.REFUSED,
            f"no row references any of the {summary.blobs} blobs. If this is the right database, "
            "allow it with --max-delete-percent 100",
            first="Make sure that this is the right database",
            changed={"dry_run": True, "max_delete_percent": 100},
        )
    most = MOST_PERCENT if options.max_percent is None else options.max_percent
    share = 100 * summary.garbage / max(1, summary.blobs)
    if share > most and (options.max_percent is not None or summary.garbage > FEW):
        raise Halt(
            ExitStatus.REFUSED,
            f"{summary.garbage} of {summary.blobs} blobs ({share:.1f} %) are unreferenced, more "
            f"than the {most:g} % allowed. If that is right, allow it with --max-delete-percent",
            first="Make sure that so many are left over",
            changed={"dry_run": True, "max_delete_percent": math.ceil(share)},
        )


def _collect(
    store: BlobStore,
    older_than: datetime,
    options: CollectOptions,
    summary: CollectSummary,
    run: Run,
) -> None:
    # No more than was planned: what has become garbage since has not been weighed.
    candidates = islice(_candidates(store, older_than, run), summary.garbage)
    run.progress.begin("would be deleted" if summary.dry_run else "deleted", summary.garbage)
    delete = would_delete if summary.dry_run else partial(_delete, store, options, summary, run)
    for _ in deletions(candidates, BATCH, delete, summary, run, (COLLECTED, COLLECTED_BYTES)):
        summary.collected += 1


def _candidates(store: BlobStore, older_than: datetime, run: Run) -> Iterator[BlobStat]:
    """Old blobs that no row seems to reference: a look without locks, to lock only those."""
    stats = listed(store, CAS_PREFIX, run.stop)
    old = (stat for stat in stats if is_cas_key(stat.key) and stat.modified < older_than)
    while batch := {Digest.from_key(stat.key): stat for stat in islice(old, BATCH)}:
        run.stop.check()
        run.progress.show_if_due()
        referenced = run.query(partial(references.referenced, set(batch))) | {PROBE}
        yield from (stat for digest, stat in batch.items() if digest not in referenced)


def _delete(
    store: BlobStore,
    options: CollectOptions,
    summary: CollectSummary,
    run: Run,
    batch: Sequence[BlobStat],
) -> Iterator[Outcome]:
    """Delete what of the batch is garbage once its digests are locked."""
    run.query(partial(require_lock, RUN))
    digests = {Digest.from_key(stat.key) for stat in batch}
    with references.collecting(store, digests) as exclusion:
        summary.in_use += len(digests - exclusion.removable)
        keys = [digest.key for digest in exclusion.removable]
        yield from exclusion.remove_many(keys, versions=options.versions)


def _abandoned(store: BlobStore, older_than: datetime, summary: CollectSummary, run: Run) -> None:
    dry_run = summary.dry_run

    def remove() -> None:
        unused = remove_unused_staging(store.staging_dir, dry_run=dry_run)
        found = chain(unused, store.remove_abandoned(older_than, dry_run=dry_run))
        # On another try what was named is gone, but not in a dry run.
        for description in islice(found, summary.abandoned if dry_run else 0, None):
            summary.abandoned += 1
            logger.info("%s: %s", "would be removed" if dry_run else "removed", description)
            run.report.write({"abandoned": description})

    Tries(run.stop, store).of(remove)
