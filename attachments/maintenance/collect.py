"""Deletes blobs that no row references or holds, while uploads go on.

Nothing is deleted because of the listing alone. A first listing counts what is unreferenced, and
finds every reason not to go on; it is the plan. A second listing passes it, batch by batch, to
`references.collecting`, which locks each digest against uploads and looks for references again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, islice
from typing import Any, Final

from django.db import connection
from django.utils import timezone
from prometheus_client import Counter as Metric

from attachments import references
from attachments.locks import CONNECTION_ERRORS, remove_expired_deletions, require_lock, run_lock
from attachments.maintenance.listing import LOST, Entry, survey, wrong_store
from attachments.maintenance.report import RunSummary
from attachments.maintenance.retry import Retry, listed
from attachments.maintenance.runner import Cancelled, CancelToken, Output, Run, maintenance_run
from cas.digest import CAS_PREFIX, Digest, is_cas_key
from cas.exit_status import ExitStatus, RunAborted
from cas.storage import attachment_store
from cas.storage.base import BlobStat, BlobStore, Denied, StoreError, Unreachable, Versioning
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

MOST_APART: Final = timedelta(minutes=5)
"""How much the clocks of store and database may differ: a grace period depends on both."""

SLOWEST_UPLOAD: Final = timedelta(days=1)
"""A temporary file or multipart upload that is younger may be of an upload still going on; the
grace period does not apply to these."""


@dataclass(frozen=True, slots=True)
class CollectOptions:
    """`grace` is how old a blob must be, in seconds; `max_delete_percent` the largest share of all
    blobs, if given. `delete_versions` as in `CleanupOptions`.
    """

    grace: float
    max_delete_percent: float | None = None
    dry_run: bool = False
    delete_versions: bool = False


@dataclass(slots=True)
class CollectPlan:
    """What one listing of `cas/` found.

    `unreferenced` blobs are those to be collected, the younger ones are `in_grace`. `held` blobs
    are named by nothing but holds, such as rows of an older installation. `other_keys` are no
    blob's keys.
    """

    blobs: int = 0
    referenced: int = 0
    held: int = 0
    unreferenced: int = 0
    unreferenced_bytes: int = 0
    in_grace: int = 0
    other_keys: int = 0


@dataclass
class CollectSummary(RunSummary):
    """The plan, and what became of it.

    `in_use` blobs came to be referenced, or were being uploaded, while the run went on.
    """

    WOULD_BE = {
        "collected": "would_be_collected",
        "collected_bytes": "bytes_to_be_collected",
        "abandoned_uploads": "abandoned_uploads_to_go",
    }

    plan: CollectPlan = field(default_factory=CollectPlan)
    in_use: int = 0
    collected: int = 0
    abandoned: int = 0
    old_versions: str = ""

    @property
    def items(self) -> int:
        return self.collected + self.in_use + self.failures.total()

    def counts(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "blobs": plan.blobs,
            "referenced": plan.referenced,
            "held": plan.held,
            "unreferenced": plan.unreferenced,
            "unreferenced_bytes": plan.unreferenced_bytes,
            "in_grace_period": plan.in_grace,
            "in_use": self.in_use,
            "collected": self.collected,
            "collected_bytes": self.bytes,
            "old_versions": self.old_versions,
            "other_keys_left_alone": plan.other_keys,
            "abandoned_uploads": self.abandoned,
        }


def collect(options: CollectOptions, output: Output) -> CollectSummary:
    """Collect, or with `dry_run` only plan. Raises RunAborted if there can be no report."""
    store = attachment_store()
    summary = CollectSummary(dry_run=options.dry_run)
    with (
        maintenance_run(summary, output) as run,
        # Each batch looks for references again under its digests' locks, whoever ran meanwhile.
        run_lock(RUN, taken_again=True, retry=run.query),
    ):
        if not options.dry_run:
            Retry(run.cancel).call(partial(check_clocks, store))
            run.query(remove_expired_deletions)
        now = run.query(database_now)
        older_than = now - timedelta(seconds=options.grace)
        make_plan(summary.plan, store, older_than, now, run)
        refuse_abnormal_share(summary.plan, options.max_delete_percent)
        summary.old_versions = kept_versions(store, run, deleted=options.delete_versions)
        _collect(store, older_than, options, summary, run)
        run.cancel.check()
        _remove_abandoned(store, min(older_than, now - SLOWEST_UPLOAD), summary, run)
    return summary


def make_plan(
    plan: CollectPlan, store: BlobStore, older_than: datetime, now: datetime, run: Run
) -> None:
    """Count everything before anything is deleted.

    Raises RunAborted if a referenced object is missing, StoreError if the listing is cut short.
    """
    missing: Entry | None = None
    count = 0
    for entry in run.watch("listed", survey(store, CAS_PREFIX, run.cancel)):
        if entry.stat is None:
            missing = missing or entry
            count += 1
        else:
            _count(plan, entry, entry.stat, older_than)
            if entry.unreferenced and entry.stat.modified > now + MOST_APART:
                # The clocks agree, so its time is wrong; it counts as younger than any other.
                logger.warning("%s is dated in the future: %s", entry.key, entry.stat.modified)
        if missing is not None and plan.referenced:
            raise RunAborted(
                ExitStatus.DAMAGE_FOUND,
                f"{missing.key} is missing, which row {missing.row} references. Nothing was "
                "deleted; run verify_cas --repair first",
            )
    if missing is not None:
        raise wrong_store(store, count, missing.key, command=LOST)


def _count(plan: CollectPlan, entry: Entry, stat: BlobStat, older_than: datetime) -> None:
    plan.blobs += 1
    if not entry.unreferenced:
        plan.referenced += entry.referenced
        plan.held += entry.held
        return
    if not is_cas_key(entry.key):
        plan.other_keys += 1
        logger.warning("not a blob's key, left alone: %s", entry.key)
    elif stat.modified >= older_than:
        plan.in_grace += 1
    else:
        plan.unreferenced += 1
        plan.unreferenced_bytes += stat.size


def refuse_abnormal_share(plan: CollectPlan, max_percent: float | None) -> None:
    """Raises RunAborted if the plan deletes a larger share of all blobs than is allowed."""
    if plan.unreferenced and not plan.referenced and max_percent != 100:
        raise RunAborted(
            ExitStatus.REFUSED,
            f"no row references any of the {plan.blobs} blobs. If this is the right database, "
            "allow it with --max-delete-percent 100",
            first="Make sure that this is the right database",
            changed={"dry_run": True, "max_delete_percent": 100},
        )
    most = MOST_PERCENT if max_percent is None else max_percent
    share = 100 * plan.unreferenced / max(1, plan.blobs)
    if share > most and (max_percent is not None or plan.unreferenced > FEW):
        raise RunAborted(
            ExitStatus.REFUSED,
            f"{plan.unreferenced} of {plan.blobs} blobs ({share:.1f} %) are unreferenced, more "
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
    """Delete what was planned, and no more: a blob unreferenced since has not been counted."""
    candidates = islice(_candidates(store, older_than, run), summary.plan.unreferenced)

    def delete(batch: Sequence[BlobStat]) -> Iterator[Deletion]:
        run.query(partial(require_lock, RUN))
        digests = {Digest.from_key(stat.key) for stat in batch}
        with references.collecting(store, digests) as lock:
            summary.in_use += len(digests - lock.removable)
            keys = [digest.key for digest in lock.removable]
            yield from lock.remove_many(keys, versions=options.delete_versions)

    phase = "would be deleted" if summary.dry_run else "deleted"
    run.progress.begin(phase, summary.plan.unreferenced)
    executed = would_delete if summary.dry_run else delete
    for _ in deletions(candidates, BATCH, executed, summary, run, (COLLECTED, COLLECTED_BYTES)):
        summary.collected += 1


def _candidates(store: BlobStore, older_than: datetime, run: Run) -> Iterator[BlobStat]:
    """Old blobs that no row seems to reference, read without locks, to lock only those."""
    stats = listed(store, CAS_PREFIX, run.cancel)
    old = (stat for stat in stats if is_cas_key(stat.key) and stat.modified < older_than)
    while batch := {Digest.from_key(stat.key): stat for stat in islice(old, BATCH)}:
        run.cancel.check()
        run.progress.show_if_due()
        named = run.query(partial(references.referenced, set(batch))) | {references.TEST_OBJECT}
        yield from (stat for digest, stat in batch.items() if digest not in named)


def _remove_abandoned(
    store: BlobStore, older_than: datetime, summary: CollectSummary, run: Run
) -> None:
    dry_run = summary.dry_run

    def remove() -> None:
        unused = remove_unused_staging(store.staging_dir, dry_run=dry_run)
        found = chain(unused, store.remove_abandoned(older_than, dry_run=dry_run))
        # On another try what was named before is gone, but not in a dry run.
        for description in islice(found, summary.abandoned if dry_run else 0, None):
            summary.abandoned += 1
            logger.info("%s: %s", "would be removed" if dry_run else "removed", description)
            run.report.write({"abandoned": description})

    Retry(run.cancel, store).call(remove)


_ABORTS_IF_ALL: Final = {
    Denied: "the store denies deleting; check the credentials and their rights",
    Unreachable: "the store does not delete; try again when it answers",
}

KEEPS_VERSIONS: Final = {
    Versioning.KEPT: "stay as old versions of the bucket's objects: nothing is freed",
    Versioning.SUSPENDED: "that were written while the bucket kept versions stay as old ones",
    Versioning.LOCKED: "stay as old versions, which object lock may protect: nothing is freed",
}

FREE_THEM: Final = "; give --delete-versions, or have a lifecycle rule expire old versions"

Deletion = tuple[str, StoreError | None]
Delete = Callable[[Sequence[BlobStat]], Iterable[Deletion]]
"""Deletes objects once, giving each key's outcome, and none for what it left out."""

Metrics = tuple[Metric, Metric]
"""Of objects, by outcome, and of bytes."""


def deletions(
    objects: Iterator[BlobStat],
    at_a_time: int,
    delete: Delete,
    summary: RunSummary,
    run: Run,
    metrics: Metrics,
) -> Iterator[str]:
    """Delete the objects, yielding each key that is gone, or would be if the run is a dry one.

    Failures and bytes are counted in the summary, and everything is logged and reported.
    """
    while not run.cancel.requested and (batch := list(islice(objects, at_a_time))):
        sizes = {stat.key: stat.size for stat in batch}
        for key, error in _outcomes(batch, delete, run.cancel):
            run.progress.step(0 if error else sizes[key])
            if error is None:
                summary.bytes += sizes[key]
                yield key
            _record(key, sizes[key], error, summary, run, metrics)


def kept_versions(store: BlobStore, run: Run, *, deleted: bool) -> str:
    """What is to be said of the bytes that stay as old versions; empty if none do.

    `deleted` if the run deletes old versions too.
    """
    versioning = Retry(run.cancel, store).call(store.versioning)
    left = KEEPS_VERSIONS.get(versioning)
    if left is None or (deleted and versioning is not Versioning.LOCKED):
        return ""
    warning = f"deleted bytes {left}" + ("" if deleted else FREE_THEM)
    logger.warning("%s", warning)
    return warning


def would_delete(batch: Sequence[BlobStat]) -> Iterator[Deletion]:
    """The `Delete` of a dry run."""
    return ((stat.key, None) for stat in batch)


def _record(
    key: str,
    size: int,
    error: StoreError | None,
    summary: RunSummary,
    run: Run,
    metrics: Metrics,
) -> None:
    counted, counted_bytes = metrics
    record: dict[str, Any] = {"key": key, "bytes": size}
    if error is not None:
        summary.fail(error.code, f"{key}: {error}")
        counted.labels("failed").inc()
        logger.warning("%s could not be deleted: %s", key, error)
        run.report.write({**record, "outcome": "failed", "error": str(error)})
        return
    if summary.dry_run:
        logger.info("would be deleted: %s, %d bytes", key, size)
        run.report.write({**record, "outcome": "would_delete"})
        return
    counted.labels("deleted").inc()
    counted_bytes.inc(size)
    logger.info("deleted %s, %d bytes", key, size)
    run.report.write({**record, "outcome": "deleted"})


def _outcomes(batch: Sequence[BlobStat], delete: Delete, cancel: CancelToken) -> Iterator[Deletion]:
    """Yield each object's outcome as it becomes final; waits while the store does not answer.

    Where it answers about some, the others fail after a few tries. Raises RunAborted, after the
    last outcome, if the store refused or did not answer for the whole batch, as the next one would
    fail likewise. A try whose database connection was lost is repeated, with its locks taken
    again; the pending deletions of what it had sent are still there.
    """
    errors: list[StoreError | None] = []
    left = {stat.key: stat for stat in batch}
    tries = Retry(cancel)
    try:
        while left:
            unanswered: dict[str, Unreachable] = {}
            try:
                for key, error in delete(list(left.values())):
                    if isinstance(error, Unreachable):
                        unanswered[key] = error
                        continue
                    del left[key]
                    errors.append(error)
                    yield key, error
            except CONNECTION_ERRORS as lost:
                tries.failed(lost)
                continue
            # What has no outcome was left out: it is in use.
            left = {key: left[key] for key in unanswered}
            if not left:
                break
            if errors:
                # It answers about others, so listing it shows whether it is away.
                tries.store = attachment_store()
            try:
                tries.failed(next(iter(unanswered.values())))
            except (RunAborted, Cancelled, Unreachable) as end:
                for key, unreachable in unanswered.items():
                    errors.append(unreachable)
                    yield key, unreachable
                if isinstance(end, RunAborted):
                    raise
                break
    finally:
        tries.close()
    _abort_if_all_failed(errors)


def _abort_if_all_failed(errors: Sequence[StoreError | None]) -> None:
    for kind, meaning in _ABORTS_IF_ALL.items():
        if errors and all(isinstance(error, kind) for error in errors):
            raise RunAborted(ExitStatus.UNAVAILABLE, f"{meaning}: {errors[0]}") from errors[0]


def database_now() -> datetime:
    """The database server's clock; SQLite has this machine's."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now.astimezone(UTC)


def check_clocks(store: BlobStore) -> None:
    """Compare the time of an object written now with the database's.

    Raises RunAborted if they are too far apart, StoreError.
    """
    with references.stored_test_object(store, fresh=True) as stored:
        apart = abs(store.stat(stored.key).modified - database_now())
    if apart > MOST_APART:
        raise RunAborted(
            ExitStatus.REFUSED,
            f"the clocks of store and database are {apart.total_seconds():.0f} seconds apart; an "
            "object's age cannot be told. Set the clocks right first",
            first="Set the clocks right",
        )
