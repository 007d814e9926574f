"""Deleting objects batch by batch, and what it means when the store does not do it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from prometheus_client import Counter

from attachments.maintenance.database import CONNECTION_ERRORS
from attachments.maintenance.frame import Run
from attachments.maintenance.retry import Tries
from attachments.maintenance.run import ExitStatus, Halt, Stop, Stopped
from attachments.maintenance.summary import RunSummary
from cas.storage import attachment_store
from cas.storage.base import BlobStat, BlobStore, Denied, StoreError, Unreachable, Versioning

logger = logging.getLogger(__name__)

_HOPELESS: Final = {
    Denied: "the store denies deleting; check the credentials and their rights",
    Unreachable: "the store does not delete; try again when it answers",
}

KEEPS_VERSIONS: Final = {
    Versioning.KEPT: "stay as old versions of the bucket's objects: nothing is freed",
    Versioning.SUSPENDED: "that were written while the bucket kept versions stay as old ones",
    Versioning.LOCKED: "stay as old versions, which object lock may protect: nothing is freed",
}

FREE_THEM: Final = "; give --delete-versions, or have a lifecycle rule expire old versions"

Outcome = tuple[str, StoreError | None]
Delete = Callable[[Sequence[BlobStat]], Iterable[Outcome]]
"""Deletes objects once, giving each key's outcome, and none for what it left out."""


Metrics = tuple[Counter, Counter]
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
    while not run.stop.requested and (batch := list(islice(objects, at_a_time))):
        sizes = {stat.key: stat.size for stat in batch}
        for key, error in _outcomes(batch, delete, run.stop):
            run.progress.step(0 if error else sizes[key])
            if error is None:
                summary.bytes += sizes[key]
                yield key
            _record(key, sizes[key], error, summary, run, metrics)


def kept_versions(store: BlobStore, run: Run, *, deleted: bool) -> str:
    """What a person must know of the bytes that deleting leaves behind; empty if nothing is left.

    `deleted` if the run deletes old versions too.
    """
    versioning = Tries(run.stop, store).of(store.versioning)
    left = KEEPS_VERSIONS.get(versioning)
    if left is None or (deleted and versioning is not Versioning.LOCKED):
        return ""
    told = f"deleted bytes {left}" + ("" if deleted else FREE_THEM)
    logger.warning("%s", told)
    return told


def would_delete(batch: Sequence[BlobStat]) -> Iterator[Outcome]:
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


def _outcomes(batch: Sequence[BlobStat], delete: Delete, stop: Stop) -> Iterator[Outcome]:
    """Yield each object's outcome as it becomes final; waits while the store does not answer.

    Where it answers about some, the others fail after a few tries. Raises Halt, after the last
    outcome, if the store refused or did not answer for the whole batch: the next one would fare
    no better. A try whose database connection was lost is repeated with its locks taken anew;
    what it had sent is still held for pending then.
    """
    errors: list[StoreError | None] = []
    left = {stat.key: stat for stat in batch}
    tries = Tries(stop)
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
                # It deletes others: it must be asked whether it is away.
                tries.store = attachment_store()
            try:
                tries.failed(next(iter(unanswered.values())))
            except (Halt, Stopped, Unreachable) as end:
                for key, unreachable in unanswered.items():
                    errors.append(unreachable)
                    yield key, unreachable
                if isinstance(end, Halt):
                    raise
                break
    finally:
        tries.close()
    _end_if_hopeless(errors)


def _end_if_hopeless(errors: Sequence[StoreError | None]) -> None:
    for kind, meaning in _HOPELESS.items():
        if errors and all(isinstance(error, kind) for error in errors):
            raise Halt(ExitStatus.UNAVAILABLE, f"{meaning}: {errors[0]}") from errors[0]
