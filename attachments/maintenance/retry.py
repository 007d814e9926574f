"""The one way to try again: what is worth it, how long, and what ends the whole run at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, TypeVar

from django.db import connection

from attachments.maintenance.database import (
    CONNECTION_ERRORS,
    LockLost,
    in_turn,
    is_missing_table,
    is_outage,
    lasting_fault,
)
from attachments.maintenance.pacing import Pace, backoff
from attachments.maintenance.progress import human_seconds
from attachments.maintenance.run import ExitStatus, Halt, Outage, Stop, one_line
from attachments.models import LEGACY_PREFIX
from cas.storage.base import (
    BlobStat,
    BlobStore,
    Changed,
    Corrupt,
    Denied,
    StoreError,
    StoreFull,
    Unreachable,
)

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

ATTEMPTS: Final = 5
"""Tries of one object, in a store that answers otherwise, before the object counts as failed."""

RETRIED: Final = (StoreError, *CONNECTION_ERRORS)


class Tries:
    """The tries of one operation that is safe to repeat.

    A store or a database that does not answer is waited for as long as the run is patient, and
    ends the run then. Refused credentials, missing tables and a full disk end it at once. What
    fails while the store answers is the item's own fault after a few tries. `store` is asked
    whether it answers at all; without one, the operation itself tells.
    """

    def __init__(
        self, stop: Stop, store: BlobStore | None = None, pace: Pace | None = None
    ) -> None:
        self._stop = stop
        self.store = store
        self._pace = pace
        self._repeated = 0
        self._begin()

    def _begin(self) -> None:
        self._failures = 0
        self._was_away = False
        self._since = 0.0

    def taken(self) -> int:
        """Tries since this was last asked, so that a shared transfer's count with one row."""
        taken, self._repeated = 1 + self._repeated, 0
        return taken

    def of(self, operation: Callable[[], Value]) -> Value:
        """The operation's value. Raises its last error, Halt, Stopped."""
        try:
            while True:
                try:
                    value = operation()
                except RETRIED as error:
                    self.failed(error)
                else:
                    self.succeeded()
                    return value
        finally:
            self.close()

    def close(self) -> None:
        """Nobody waits any more."""
        self._stop.outages.pop(id(self), None)

    def succeeded(self) -> None:
        """The operation went on: what fails from now on is another outage."""
        if self._failures:
            self.close()
            self._begin()
        if self._pace is not None:
            self._pace.succeeded()

    def failed(self, error: Exception) -> None:
        """Wait for the next try.

        Raises the error if the item is to blame, Halt if the run cannot go on, Stopped.
        """
        if not self._failures:
            self._since = time.monotonic()
        self._failures += 1
        self._repeated += 1
        if isinstance(error, CONNECTION_ERRORS):
            self._database_failed(error)
        elif isinstance(error, LockLost):
            self._wait_for("the run's lock", error)
        else:
            self._store_failed(error)

    def _database_failed(self, error: Exception) -> None:
        if end := lasting_end(error):
            raise end from error
        if not is_outage(error):
            raise error
        connection.close()
        self._wait_for("the database", error)

    def _store_failed(self, error: Exception) -> None:
        if isinstance(error, Denied):
            cure = "" if error.cure else ". Check the credentials and their rights"
            raise Halt(
                ExitStatus.UNAVAILABLE,
                f"the store denies access: {error}{cure}",
                first=error.cure or "Give the store's credentials the rights they need",
            ) from error
        if isinstance(error, StoreFull):
            raise Halt(
                ExitStatus.UNAVAILABLE,
                f"the store is full: {error}",
                first=error.cure or "Make room in the store",
            ) from error
        if isinstance(error, Unreachable):
            self._unanswered(error)
        elif isinstance(error, Changed | Corrupt) and self._failures < ATTEMPTS:
            # Bytes damaged on their way arrive sound the next time.
            self._stop.sleep(backoff(self._failures))
        else:
            raise error

    def _unanswered(self, error: Unreachable) -> None:
        """Tell an object that never answers, which fails, from a store that is away."""
        if self._pace is not None:
            self._pace.overloaded()
        due = self._failures >= ATTEMPTS or self._left() <= 0
        if self.store is None or not due or not _answers(self.store):
            self._was_away = due
            self._wait_for("the store", error)
            return
        if self._was_away:
            # It has come back this moment: the item has its tries before it.
            self._begin()
            self._failures, self._since = 1, time.monotonic()
        elif self._failures >= ATTEMPTS:
            raise error
        self._stop.sleep(backoff(self._failures))

    def _left(self) -> float:
        return self._since + self._stop.patience - time.monotonic()

    def _wait_for(self, what: str, error: Exception) -> None:
        if (left := self._left()) <= 0:
            raise Halt(
                ExitStatus.UNAVAILABLE,
                f"{what} cannot be used, and was waited for "
                f"{human_seconds(round(self._stop.patience))}: {one_line(error)}",
                first=f"See to it that {what} answers",
            ) from error
        self._stop.outages[id(self)] = Outage(what, self._since, self._since + self._stop.patience)
        log = logger.warning if self._failures == 1 else logger.info
        log("%s does not answer (try %d): %s", what, self._failures, one_line(error))
        self._stop.sleep(min(backoff(self._failures), left))


def lasting_end(error: Exception) -> Halt | None:
    """The end of the run, if waiting does not cure what the database raised."""
    text = " ".join(str(error).split())
    if is_missing_table(error):
        return Halt(
            ExitStatus.UNAVAILABLE,
            f"the database lacks a table or column of this version: {text}. Run manage.py migrate",
            command="manage.py migrate",
        )
    if cure := lasting_fault(error):
        reason = f"the database cannot be used: {text}. {cure}"
        return Halt(ExitStatus.UNAVAILABLE, reason, first=cure)
    return None


def _answers(store: BlobStore) -> bool:
    try:
        next(store.scan(LEGACY_PREFIX), None)
    except StoreError:
        return False
    return True


def query(operation: Callable[[], Value], stop: Stop) -> Value:
    """A database operation's value, tried again on a new connection when the database went away.

    The operation must be safe to repeat. Raises Halt also when another run has begun meanwhile
    that this one must not share with.
    """
    return Tries(stop).of(partial(in_turn, operation))


def listed(store: BlobStore, prefix: str, stop: Stop, *, after: str = "") -> Iterator[BlobStat]:
    """`store.scan`, going on behind the last key it gave when the store was away meanwhile."""
    tries = Tries(stop)
    try:
        while True:
            try:
                for stat in store.scan(prefix, after=after):
                    tries.succeeded()
                    after = stat.key
                    yield stat
            except StoreError as error:
                tries.failed(error)
            else:
                return
    finally:
        tries.close()
