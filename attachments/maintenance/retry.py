"""Trying again: which errors are worth it, how long, and which ones end the whole run at once."""

from __future__ import annotations

import logging
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
from django.db import connection
from django.db.models import QuerySet

from attachments.locks import CONNECTION_ERRORS, LockLost, with_run_locks
from attachments.maintenance.report import human_seconds
from attachments.models import LEGACY_PREFIX
from cas.exit_status import ExitStatus, RunAborted
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

if TYPE_CHECKING:
    from attachments.maintenance.runner import CancelToken
    from attachments.maintenance.workers import Pace

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

ROWS_AT_A_TIME: Final = 2000

ATTEMPTS: Final = 5
"""Tries of one object, in a store that answers otherwise, before the object counts as failed."""

RETRIED: Final = (StoreError, *CONNECTION_ERRORS)

FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 20.0

_PASSING_CODES: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PROTOCOL,
}

_PASSING_STATES: Final = {"08", "25", "40", "53", "55", "57", "58"}
"""Classes of SQLSTATE: connections, transactions, resources, locks, operators and the system."""

_MAKE_ROOM: Final = "Make room for the database"
_MAKE_WRITABLE: Final = "Make the database writable"
_CHECK_URL: Final = "Check DATABASE_URL and what the server allows"

_LASTING_CODES: Final = {
    sqlite3.SQLITE_CANTOPEN: "Make sure that the database's directory is there and writable",
    sqlite3.SQLITE_CORRUPT: "Restore the database from a backup",
    sqlite3.SQLITE_FULL: _MAKE_ROOM,
    sqlite3.SQLITE_NOTADB: "Check DATABASE_URL and INVENTORY_DATA_DIR",
    sqlite3.SQLITE_READONLY: _MAKE_WRITABLE,
}

_LASTING_STATES: Final = (
    ("28", _CHECK_URL),
    ("3D", _CHECK_URL),
    ("42501", "Grant the database user the right"),
    ("53100", _MAKE_ROOM),
)

_REFUSALS: Final = (
    ("authentication failed", _CHECK_URL),
    ("no password supplied", _CHECK_URL),
    ("no pg_hba.conf entry", _CHECK_URL),
    ("does not exist", _CHECK_URL),
)


@dataclass(frozen=True, slots=True)
class Outage:
    """What does not answer, since when and until when it is waited for (`time.monotonic()`)."""

    what: str
    since: float
    until: float


class Retry:
    """Repeats one operation that is safe to repeat.

    A store or a database that does not answer is waited for until the run's patience is over; then
    the run ends. Refused credentials, missing tables and a full disk end it at once. What fails
    while the store answers is the item's own fault after `ATTEMPTS`. `store` is listed to find out
    whether it answers at all; without one, any failure counts as the store's.
    """

    def __init__(
        self, cancel: CancelToken, store: BlobStore | None = None, pace: Pace | None = None
    ) -> None:
        self._cancel = cancel
        self.store = store
        self._pace = pace
        self._repeated = 0
        self._begin()

    def _begin(self) -> None:
        self._failures = 0
        self._was_away = False
        self._since = 0.0

    def taken(self) -> int:
        """Tries since this was last called: those of a shared transfer count with one row."""
        taken, self._repeated = 1 + self._repeated, 0
        return taken

    def call(self, operation: Callable[[], Value]) -> Value:
        """The operation's value. Raises its last error, RunAborted, Cancelled."""
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
        """This operation does not wait any more."""
        self._cancel.outages.pop(id(self), None)

    def succeeded(self) -> None:
        """The operation made progress: what fails from now on is another outage."""
        if self._failures:
            self.close()
            self._begin()
        if self._pace is not None:
            self._pace.succeeded()

    def failed(self, error: Exception) -> None:
        """Wait for the next try.

        Raises the error if the item is to blame, RunAborted if the run cannot go on, Cancelled.
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
        if end := lasting_abort(error):
            raise end from error
        if not is_outage(error):
            raise error
        connection.close()
        self._wait_for("the database", error)

    def _store_failed(self, error: Exception) -> None:
        if isinstance(error, Denied):
            cure = "" if error.cure else ". Check the credentials and their rights"
            raise RunAborted(
                ExitStatus.UNAVAILABLE,
                f"the store denies access: {error}{cure}",
                first=error.cure or "Give the store's credentials the rights they need",
            ) from error
        if isinstance(error, StoreFull):
            raise RunAborted(
                ExitStatus.UNAVAILABLE,
                f"the store is full: {error}",
                first=error.cure or "Make room in the store",
            ) from error
        if isinstance(error, Unreachable):
            self._unanswered(error)
        elif isinstance(error, Changed | Corrupt) and self._failures < ATTEMPTS:
            # Bytes damaged on their way arrive sound the next time.
            self._cancel.sleep(backoff(self._failures))
        else:
            raise error

    def _unanswered(self, error: Unreachable) -> None:
        """Distinguish an object that never answers, which fails, from a store that is away."""
        if self._pace is not None:
            self._pace.overloaded()
        due = self._failures >= ATTEMPTS or self._left() <= 0
        if self.store is None or not due or not _answers(self.store):
            self._was_away = due
            self._wait_for("the store", error)
            return
        if self._was_away:
            # The store has just come back: the item gets all its tries again.
            self._begin()
            self._failures, self._since = 1, time.monotonic()
        elif self._failures >= ATTEMPTS:
            raise error
        self._cancel.sleep(backoff(self._failures))

    def _left(self) -> float:
        return self._since + self._cancel.patience - time.monotonic()

    def _wait_for(self, what: str, error: Exception) -> None:
        if (left := self._left()) <= 0:
            raise RunAborted(
                ExitStatus.UNAVAILABLE,
                f"{what} cannot be used, and was waited for "
                f"{human_seconds(round(self._cancel.patience))}: {one_line(error)}",
                first=f"See to it that {what} answers",
            ) from error
        until = self._since + self._cancel.patience
        self._cancel.outages[id(self)] = Outage(what, self._since, until)
        log = logger.warning if self._failures == 1 else logger.info
        log("%s does not answer (try %d): %s", what, self._failures, one_line(error))
        self._cancel.sleep(min(backoff(self._failures), left))


def _answers(store: BlobStore) -> bool:
    try:
        next(store.scan(LEGACY_PREFIX), None)
    except StoreError:
        return False
    return True


def query(operation: Callable[[], Value], cancel: CancelToken) -> Value:
    """A database operation's value, tried again on a new connection when the database went away.

    The operation must be safe to repeat. Raises RunAborted also when another run has begun
    meanwhile whose lock excludes this one.
    """
    return Retry(cancel).call(partial(with_run_locks, operation))


def by_id(rows: QuerySet[Any, tuple[Any, ...]], cancel: CancelToken) -> Iterator[tuple[Any, ...]]:
    """The rows of a `values_list` that begins with `pk`, by id, with no statement left open.

    An open one would pin an SQLite connection to an old state of the database, and on PostgreSQL
    it would be a server-side cursor, which does not outlive a lost connection.
    """
    last = 0
    portion: list[tuple[Any, ...]]
    rows = rows.order_by("pk")
    while portion := query(partial(list, rows.filter(pk__gt=last)[:ROWS_AT_A_TIME]), cancel):
        yield from portion
        last = portion[-1][0]


def listed(
    store: BlobStore, prefix: str, cancel: CancelToken, *, after: str = ""
) -> Iterator[BlobStat]:
    """`store.scan`, continued after its last key when the store was away meanwhile."""
    tries = Retry(cancel)
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


def backoff(attempt: int) -> float:
    """Seconds to wait after failed attempt `attempt` (from 1).

    It doubles, and half of it is random, so that workers that failed together try at different
    times.
    """
    longest: float = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(attempt - 1, 20))
    return longest * (0.5 + random.random() / 2)  # noqa: S311 - nothing secret about it


def lasting_abort(error: Exception) -> RunAborted | None:
    """How the run must end, if waiting does not cure what the database raised."""
    text = " ".join(str(error).split())
    if is_missing_table(error):
        return RunAborted(
            ExitStatus.UNAVAILABLE,
            f"the database lacks a table or column of this version: {text}. Run manage.py migrate",
            command="manage.py migrate",
        )
    if cure := lasting_fault(error):
        reason = f"the database cannot be used: {text}. {cure}"
        return RunAborted(ExitStatus.UNAVAILABLE, reason, first=cure)
    return None


def is_outage(error: Exception) -> bool:
    """Whether the database may do on another try what it did not do now.

    What it refuses because of a row's own values, or by a trigger, it refuses again.
    """
    cause = error.__cause__
    if isinstance(cause, sqlite3.Error):
        return (getattr(cause, "sqlite_errorcode", 0) & 0xFF) in _PASSING_CODES
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        return str(state)[:2] in _PASSING_STATES
    return isinstance(error, CONNECTION_ERRORS)


def lasting_fault(error: BaseException) -> str:
    """What a person must do before the database can be used at all; empty if nothing is known.

    Of the driver's errors or Django's.
    """
    cause = error.__cause__ or error
    text = " ".join(str(error).split())
    code = getattr(cause, "sqlite_errorcode", None)
    if isinstance(cause, sqlite3.Error) and code is not None:
        return _LASTING_CODES.get(code & 0xFF, "")
    if (state := getattr(cause, "sqlstate", None)) is not None:
        return next((cure for start, cure in _LASTING_STATES if state.startswith(start)), "")
    if isinstance(cause, psycopg.OperationalError):
        # A connection that is refused has no state, only the server's words.
        return next((cure for words, cure in _REFUSALS if words in text), "")
    return ""


def is_missing_table(error: BaseException) -> bool:
    """Whether a table or a column is missing that a migration would have made."""
    cause = error.__cause__ or error
    if isinstance(cause, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
        return True
    return isinstance(cause, sqlite3.OperationalError) and bool(
        re.match("no such (table|column)|.* has no column named ", str(cause))
    )


def one_line(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
