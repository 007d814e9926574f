"""Which store errors are worth another try, and what they mean when tries run out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from attachments.maintenance.pacing import Pace, backoff
from attachments.maintenance.run import ExitStatus, Halt, Stop
from attachments.models import LEGACY_PREFIX
from cas.storage.base import BlobStore, Changed, Corrupt, Denied, StoreError, StoreFull, Unreachable

Value = TypeVar("Value")

ATTEMPTS: Final = 5
"""Tries of one object before it counts as failed, or the store as unavailable."""


class Attempts:
    """The tries of one item.

    Refused credentials and a full store end the run at once, and no item is to blame.
    """

    def __init__(self, pace: Pace, stop: Stop, store: BlobStore) -> None:
        self._pace = pace
        self._stop = stop
        self._store = store
        self._repeated = 0

    def taken(self) -> int:
        """Tries since this was last asked, so that a shared transfer's count with one row."""
        taken, self._repeated = 1 + self._repeated, 0
        return taken

    def of(self, operation: Callable[[], Value]) -> Value:
        """The operation's value. Raises its last StoreError, Halt, Stopped."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                value = operation()
            except Denied as error:
                raise Halt(
                    ExitStatus.UNAVAILABLE,
                    f"the store denies access: {error}. Check the credentials and their rights",
                ) from error
            except StoreFull as error:
                raise Halt(ExitStatus.UNAVAILABLE, f"the store is full: {error}") from error
            except Unreachable as error:
                self._pace.overloaded()
                if attempt == ATTEMPTS:
                    self._check_store(error)
                    raise
            except (Changed, Corrupt):
                # Bytes damaged on their way arrive sound the next time.
                if attempt == ATTEMPTS:
                    raise
            else:
                self._pace.succeeded()
                return value
            self._repeated += 1
            self._stop.sleep(backoff(attempt))
        raise AssertionError("unreachable")

    def _check_store(self, error: Unreachable) -> None:
        """One object that never answers is a failed row; a store that does not is the end."""
        try:
            next(self._store.scan(LEGACY_PREFIX), None)
        except StoreError as also:
            raise Halt(ExitStatus.UNAVAILABLE, f"the store cannot be reached: {error}") from also
