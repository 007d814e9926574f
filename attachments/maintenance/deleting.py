"""Deleting a batch of objects, and what it means when the store does not do it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from attachments.maintenance.pacing import backoff
from attachments.maintenance.run import ExitStatus, Halt, Stop, Stopped
from cas.storage.base import BlobStat, Denied, StoreError, Unreachable

ATTEMPTS: Final = 5
"""Tries of one batch before what is left of it counts as failed."""

_HOPELESS: Final = {
    Denied: "the store denies deleting; check the credentials and their rights",
    Unreachable: "the store does not delete; try again when it answers",
}

Outcome = tuple[str, StoreError | None]
Delete = Callable[[Sequence[BlobStat]], Iterable[Outcome]]
"""Deletes objects once, giving each key's outcome, and none for what it left out."""


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
