"""Deleting objects batch by batch, and what it means when the store does not do it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final

from prometheus_client import Counter

from attachments.maintenance.frame import Run
from attachments.maintenance.pacing import backoff
from attachments.maintenance.run import ExitStatus, Halt, Stop, Stopped
from attachments.maintenance.summary import RunSummary
from cas.storage.base import BlobStat, Denied, StoreError, Unreachable

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 5
"""Tries of one batch before what is left of it counts as failed."""

_HOPELESS: Final = {
    Denied: "the store denies deleting; check the credentials and their rights",
    Unreachable: "the store does not delete; try again when it answers",
}

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
        for key, error in delete_patiently(batch, delete, run.stop):
            run.progress.step(0 if error else sizes[key])
            if error is None:
                summary.bytes += sizes[key]
                yield key
            _record(key, sizes[key], error, summary, run, metrics)


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
        run.report.write({**record, "outcome": "would_delete"})
        return
    counted.labels("deleted").inc()
    counted_bytes.inc(size)
    logger.info("deleted %s, %d bytes", key, size)
    run.report.write({**record, "outcome": "deleted"})


def delete_patiently(batch: Sequence[BlobStat], delete: Delete, stop: Stop) -> Iterator[Outcome]:
    """Yield each object's outcome as it becomes final; pauses while the store asks for time.

    Raises Halt, after the last outcome, if the store refused or did not answer for the whole
    batch: the next one would fare no better.
    """
    errors: list[StoreError | None] = []
    left = batch
    for attempt in range(1, ATTEMPTS + 1):
        last = attempt == ATTEMPTS or stop.requested
        again: set[str] = set()
        for key, error in delete(left):
            if isinstance(error, Unreachable) and not last:
                again.add(key)
                continue
            errors.append(error)
            yield key, error
        left = [stat for stat in left if stat.key in again]
        if not left:
            break
        with suppress(Stopped):
            stop.sleep(backoff(attempt))
    _end_if_hopeless(errors)


def _end_if_hopeless(errors: Sequence[StoreError | None]) -> None:
    for kind, meaning in _HOPELESS.items():
        if errors and all(isinstance(error, kind) for error in errors):
            raise Halt(ExitStatus.UNAVAILABLE, f"{meaning}: {errors[0]}") from errors[0]
