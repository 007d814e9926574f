"""How maintenance runs share one database: turns, retries, and locks that die with their process.

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
import logging
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from django.db import InterfaceError, InternalError, OperationalError, connection
from django.db.backends.base.base import BaseDatabaseWrapper

from attachments.locks import keep_session
from attachments.maintenance.pacing import backoff
from attachments.maintenance.run import ExitStatus, Halt, Stop

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

ATTEMPTS: Final = 8
"""Tries of one database operation: a server that restarts has about twenty seconds for it."""

LOCK_SPACE: Final = 0x1A77AC4
"""First integer of the advisory locks that name whole runs."""

BLOCK_SPACE: Final = 0x1A77AC5
"""First integer of the advisory locks that claim a block of rows."""

LEGACY_LAYOUT: Final = "legacy-layout"
"""The lock of everything that relies on what lies under the older layout's keys."""

# PostgreSQL ends a session that idles in a transaction with an InternalError.
CONNECTION_ERRORS: Final = (OperationalError, InterfaceError, InternalError)

_writer = threading.Lock()


class _Held(threading.local):
    """What this thread's connection holds and may take again on a new one."""

    def __init__(self) -> None:
        self.shared: list[str] = []
        self.blocks: set[int] = set()


_held = _Held()


def turn() -> AbstractContextManager[object]:
    """On SQLite, this process's turn at the database; elsewhere nothing to wait for.

    SQLite's own waiting polls with growing pauses and is unfair: with many threads the unlucky
    one runs into its timeout. A lock hands the one write lock on at once.
    """
    return contextlib.nullcontext() if connection.vendor == "postgresql" else _writer


def patiently(operation: Callable[[], Value], stop: Stop) -> Value:
    """The operation's value, tried again on a new connection when the database went away.

    The operation must be safe to repeat. Raises Halt when the database stays away, or when
    another run has begun meanwhile that this one must not share with, Stopped.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with turn():
                if attempt > 1:
                    _take_again()
                return operation()
        except CONNECTION_ERRORS as error:
            connection.close()
            if attempt == ATTEMPTS:
                raise Halt(
                    ExitStatus.UNAVAILABLE, f"the database cannot be used: {error}"
                ) from error
            logger.warning("database error, attempt %d of %d: %s", attempt, ATTEMPTS, error)
            stop.sleep(backoff(attempt))
    raise AssertionError("unreachable")


@contextmanager
def run_lock(name: str, *, shared: bool = False) -> Iterator[None]:
    """Hold a run's lock without waiting for it. Raises Halt if another run holds it."""
    if connection.vendor == "postgresql":
        held = _hold_in_postgresql(name, shared)
    else:
        held = _hold_beside_sqlite(name)
    with held:
        yield


@contextmanager
def _hold_in_postgresql(name: str, shared: bool) -> Iterator[None]:
    _refuse_lent_sessions()
    _take(name, shared=shared)
    if shared:
        _held.shared.append(name)
    try:
        yield
    finally:
        if shared:
            _held.shared.remove(name)
        # A connection that is gone has let go of the lock already.
        with contextlib.suppress(*CONNECTION_ERRORS):
            _lock_call(
                f"pg_advisory_unlock{'_shared' if shared else ''}", LOCK_SPACE, _number(name)
            )


def _take(name: str, *, shared: bool) -> None:
    keep_session()
    function = f"pg_try_advisory_lock{'_shared' if shared else ''}"
    if not _lock_call(function, LOCK_SPACE, _number(name)):
        raise _locked(name)


def _take_again() -> None:
    """On a new connection, take the shared locks and the claims of the one that was lost.

    Not what was held alone: others may have begun and ended since, so `require_lock` ends the
    run. A claim that another process has taken since is given up; it only saves work.
    """
    for name in _held.shared:
        _take(name, shared=True)
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
            )
    finally:
        other.close()


def _session_of(through: BaseDatabaseWrapper) -> int:
    with through.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        number: int = cursor.fetchone()[0]
        return number


def require_lock(name: str) -> None:
    """Raises Halt unless this run still holds its exclusive lock.

    For right before what cannot be undone: the lock fell if the connection was lost since, and
    another run may have begun.
    """
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND mode = 'ExclusiveLock' AND pid = pg_backend_pid()"
            " AND classid = %s AND objid = %s AND objsubid = 2)",
            [LOCK_SPACE, _number(name)],
        )
        if not cursor.fetchone()[0]:
            raise Halt(
                ExitStatus.UNAVAILABLE,
                f"the database connection was lost, and the lock '{name}' with it. Nothing was "
                "deleted since; start the command again",
            )


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
    )


def claim_block(number: int) -> bool:
    """Claim a block of rows for this session. On SQLite a run is alone and always gets it."""
    if connection.vendor != "postgresql":
        return True
    claimed = _lock_call("pg_try_advisory_lock", BLOCK_SPACE, number & 0x7FFFFFFF)
    if claimed:
        _held.blocks.add(number)
    return claimed


def release_block(number: int) -> None:
    _held.blocks.discard(number)
    if connection.vendor == "postgresql":
        _lock_call("pg_advisory_unlock", BLOCK_SPACE, number & 0x7FFFFFFF)


def _lock_call(function: str, space: int, number: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {function}(%s, %s)", [space, number])
        return bool(cursor.fetchone()[0])
