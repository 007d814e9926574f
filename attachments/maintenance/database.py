"""How maintenance runs share one database: turns, faults, and locks that die with their process.

On PostgreSQL the locks are session advisory locks of the two-integer space (single digests use
the one-bigint space, which is apart). They hold no transaction open, need no clean-up after a
crash, and have no time limit to expire under a live owner. They belong to a connection, so the
commands must reach the database directly or through a pooler in session mode; a run that finds
itself behind another one refuses to begin.

SQLite has one writer. There a run is alone, by a file lock beside the database, which also dies
with its process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import psycopg
from django.db import InterfaceError, InternalError, OperationalError, connection
from django.db.backends.base.base import BaseDatabaseWrapper

from attachments.locks import keep_session
from attachments.maintenance.run import ExitStatus, Halt

Value = TypeVar("Value")

LOCK_SPACE: Final = 0x1A77AC4
"""First integer of the advisory locks that name whole runs."""

BLOCK_SPACE: Final = 0x1A77AC5
"""First integer of the advisory locks that claim a block of rows."""

LEGACY_LAYOUT: Final = "legacy-layout"
"""The lock of everything that relies on what lies under the older layout's keys."""

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

# PostgreSQL ends a session that idles in a transaction with an InternalError.
CONNECTION_ERRORS: Final = (OperationalError, InterfaceError, InternalError)

_writer = threading.Lock()


class _Held(threading.local):
    """What this thread's connection holds and may take again on a new one.

    `session` is the connection that holds it; `locks` says of each run's lock whether it is
    shared.
    """

    def __init__(self) -> None:
        self.session: object = None
        self.locks: dict[str, bool] = {}
        self.blocks: set[int] = set()


_held = _Held()


def turn() -> AbstractContextManager[object]:
    """On SQLite, this process's turn at the database; elsewhere nothing to wait for.

    SQLite's own waiting polls with growing pauses and is unfair: with many threads the unlucky
    one runs into its timeout. A lock hands the one write lock on at once.
    """
    return contextlib.nullcontext() if connection.vendor == "postgresql" else _writer


def in_turn(operation: Callable[[], Value]) -> Value:
    """The operation's value, with this run's locks held by whatever connection serves it.

    Raises the database's errors, Halt when another run has begun since the connection was lost.
    """
    with turn():
        _take_again()
        return operation()


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


class LockLost(Halt):
    """The connection that held the run's lock is gone, and another run may have begun since."""


@contextmanager
def run_lock(
    name: str,
    *,
    shared: bool = False,
    taken_again: bool = False,
    retry: Callable[[Callable[[], None]], None] = in_turn,
) -> Iterator[None]:
    """Hold a run's lock without waiting for it. Raises Halt if another run holds it.

    `retry` calls what it is given, until the database answers.

    A lock that is lost with its connection is taken again by the next `in_turn` if it is shared,
    or where the run says that what it relies on is looked at anew for each thing it does.
    Otherwise `require_lock` ends the run.
    """
    if connection.vendor == "postgresql":
        retry(partial(_begin, name, shared=shared))
        held = _hold_in_postgresql(name, shared, taken_again or shared)
    else:
        held = _hold_beside_sqlite(name)
    with held:
        yield


@contextmanager
def _hold_in_postgresql(name: str, shared: bool, taken_again: bool) -> Iterator[None]:
    if taken_again:
        _held.locks[name] = shared
    try:
        yield
    finally:
        _held.locks.pop(name, None)
        # A connection that is gone has let go of the lock already.
        with contextlib.suppress(*CONNECTION_ERRORS):
            if connection.connection is not None and _holds(name, shared=shared):
                _lock_call(
                    f"pg_advisory_unlock{'_shared' if shared else ''}", LOCK_SPACE, _number(name)
                )


def _begin(name: str, *, shared: bool) -> None:
    _refuse_lent_sessions()
    _take(name, shared=shared)


def _take(name: str, *, shared: bool) -> None:
    keep_session()
    function = f"pg_try_advisory_lock{'_shared' if shared else ''}"
    if not _lock_call(function, LOCK_SPACE, _number(name)):
        raise _locked(name)
    _held.session = connection.connection


def _take_again() -> None:
    """On a new connection, take the locks and the claims of the one that was lost.

    A claim that another process has taken since is given up; it only saves work.
    """
    if not (_held.locks or _held.blocks):
        return
    connection.ensure_connection()
    if connection.connection is _held.session:
        return
    for name, shared in _held.locks.items():
        _take(name, shared=shared)
    _held.session = connection.connection
    lost, _held.blocks = _held.blocks, set()
    for number in lost:
        claim_block(number)


def _refuse_lent_sessions() -> None:
    """Raises Halt if a pooler lends us a session for one transaction at a time.

    Such a pooler gives the transaction of a second connection the session that served the
    first one's last statement, or else another session to the first one's next statement.
    """
    other = connection.copy()
    try:
        other.set_autocommit(False)
        ours = _session_of(connection)
        if _session_of(other) == ours or _session_of(connection) != ours:
            raise Halt(
                ExitStatus.REFUSED,
                "the database is reached through a pooler that lends sessions for a transaction "
                "at a time, so locks would not hold. Reach it directly, or pool by session",
                first="Reach the database directly, or pool by session",
            )
    finally:
        other.close()


def _session_of(through: BaseDatabaseWrapper) -> int:
    with through.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        number: int = cursor.fetchone()[0]
        return number


def require_lock(name: str) -> None:
    """Raises LockLost unless this run still holds its exclusive lock.

    For right before what cannot be undone: the lock fell if the connection was lost since, and
    another run may have begun.
    """
    if connection.vendor == "postgresql" and not _holds(name, shared=False):
        raise LockLost(
            ExitStatus.UNAVAILABLE,
            f"the database connection was lost, and the lock '{name}' with it. Nothing was "
            "deleted since",
        )


def _holds(name: str, *, shared: bool) -> bool:
    """Whether this session holds the run's lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND mode = %s AND pid = pg_backend_pid()"
            " AND classid = %s AND objid = %s AND objsubid = 2)",
            ["ShareLock" if shared else "ExclusiveLock", LOCK_SPACE, _number(name)],
        )
        return bool(cursor.fetchone()[0])


def _number(name: str) -> int:
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


@contextmanager
def _hold_beside_sqlite(name: str) -> Iterator[None]:
    database = str(connection.settings_dict["NAME"])
    if ":memory:" in database or "mode=memory" in database:
        # No second process can open a database in memory.
        yield
        return
    path = Path(f"{database}.{name}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _locked(name) from error
        yield
    finally:
        os.close(descriptor)


def _locked(name: str) -> Halt:
    return Halt(
        ExitStatus.LOCKED,
        f"another maintenance run holds the lock '{name}'; try again when it has ended",
        first="Wait until the other run has ended",
    )


def claim_block(number: int) -> bool:
    """Claim a block of rows for this session. On SQLite a run is alone and always gets it."""
    if connection.vendor != "postgresql":
        return True
    claimed = _lock_call("pg_try_advisory_lock", BLOCK_SPACE, number & 0x7FFFFFFF)
    if claimed:
        _held.blocks.add(number)
        _held.session = connection.connection
    return claimed


def release_block(number: int) -> None:
    _held.blocks.discard(number)
    if connection.vendor == "postgresql":
        _lock_call("pg_advisory_unlock", BLOCK_SPACE, number & 0x7FFFFFFF)


def _lock_call(function: str, space: int, number: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {function}(%s, %s)", [space, number])
        return bool(cursor.fetchone()[0])
