"""Every lock of this application: of a digest, of a whole run, of a block of rows, of rows.

The lock of a digest makes it safe that rows share a blob. Whoever adds a reference holds it
shared:

1. Take the digest's lock, shared. This waits for a run that is deleting the blob.
2. Look for a pending deletion of the digest. If there is one, fail as if the store were away.
3. Look at the object, or store it.
4. Commit the row, and release the lock.

Whoever deletes a blob holds it exclusively:

1. Try to take the digest's lock, exclusive, without waiting. A digest in use is left out.
2. Commit a pending deletion of each digest. The commit proves that the lock was still held.
3. Look for references. None can be added while the lock is held.
4. Send the deletes to the store.
5. Remove the pending deletions of those that the store has answered.
6. Release the lock.

A pending deletion is needed because a lock is released when its owner dies, but a delete that the
owner has sent may be carried out later. It counts for `LONGEST_REQUEST`; then no request can be
left.

On PostgreSQL all locks are advisory locks. Those of digests are in the one-bigint space; those of
runs and blocks are in the two-integer space, which is separate. A shared lock belongs to the
transaction that adds the row or, in a migration, to the connection. Exclusive locks and those of
runs always belong to a connection, because the server may end a transaction that is idle while a
store deletes. They need no clean-up after a crash, and have no time limit that could expire while
their owner lives. The commands must therefore reach the database directly or through a pooler in
session mode; a run that finds another kind of pooler refuses to begin.

SQLite has one write lock, which every transaction takes when it begins (`transaction_mode:
IMMEDIATE`). It is the lock of all digests; there, steps 1 and 2 of a deletion change places. Runs
exclude each other by a file lock beside the database, which ends with its process.

Writes of people lock the rows that they are about to change before they read them (`lock_rows`), in
one order: the digests of blobs, parts by id, their attachments by id, types, tags by name. Nothing
of these but digests is locked while bytes travel. What is deadlocked all the same is tried again
(`retried`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import partial, wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from django.db import (
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    connection,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model, QuerySet
from django.db.models.functions import Now

from attachments.models import PendingDeletion
from cas.digest import Digest
from cas.exit_status import ExitStatus, RunAborted
from cas.storage.base import BlobStore, StoreError, Unreachable

Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")

# PostgreSQL ends a session that idles in a transaction with an InternalError.
CONNECTION_ERRORS: Final = (OperationalError, InterfaceError, InternalError)

ATTEMPTS: Final = 4

DEADLOCKS: Final = ("40P01", "40001")
"""PostgreSQL's codes for a deadlock and for a serialization failure."""

DISK_FULL: Final = "53100"

READ_ONLY: Final = "25006"

FOREIGN_KEY: Final = "23503"
"""Its code for a row that refers to one which was deleted meanwhile."""

LONGEST_REQUEST: Final = timedelta(minutes=15)
"""How long after its pending deletion was committed a delete may still be carried out.

Four attempts of a minute each with their pauses, which is what the store on S3 makes of one
request, and ten minutes for the service to act on what it received.
"""

_PENDING: Final = (
    "SELECT true FROM pending_deletions"
    " WHERE digest = %s AND since > statement_timestamp() - make_interval(secs => %s)"
)
"""As `_pending` does, for one digest and without composing the statement again."""

_KEEP: Final = "set_config('idle_session_timeout', '0', false)"

LOCK_SPACE: Final = 0x1A77AC4
"""First integer of the advisory locks of whole runs."""

BLOCK_SPACE: Final = 0x1A77AC5
"""First integer of the advisory locks that claim a block of rows."""

LEGACY_LAYOUT: Final = "legacy-layout"
"""The lock of everything that relies on what lies under the older layout's keys."""


def lock_shared(digests: Collection[Digest]) -> None:
    """Hold these digests' locks, shared, until the transaction ends; waits for a deletion.

    Raises Unreachable if a delete of one of them may still be carried out.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("a digest is locked inside a transaction")
    if connection.vendor == "postgresql":
        _call("pg_advisory_xact_lock_shared", digests)
    refuse_pending_deletion(digests)


class SharedLock:
    """A digest's lock, shared, held by this thread's connection rather than by a transaction.

    Taken before its blob is examined or stored, it prevents a deletion until rows point at the
    blob, with no transaction open meanwhile. It is lost with the connection, and SQLite has
    none: `is_held` tells.
    """

    def __init__(self) -> None:
        self._digest: Digest | None = None
        self._session: object = None

    def take(self, digest: Digest) -> None:
        """Hold this digest's lock and no other; waits for a deletion. Raises Unreachable."""
        self.release()
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                # In one round trip, as a migration does this for every object. They remain two
                # statements: the second sees what was committed while the first one waited.
                cursor.execute(
                    f"SELECT {_KEEP}, pg_advisory_lock_shared(%s); {_PENDING}",
                    [_lock_number(digest), digest.hex, LONGEST_REQUEST.total_seconds()],
                )
                cursor.nextset()
                pending = cursor.fetchone()
            connection.close_at = None
            self._digest, self._session = digest, connection.connection
            if pending:
                self.release()
                raise _may_be_deleted(digest)

    def is_held(self, digest: Digest) -> bool:
        """Whether the digest's lock has been held, without a break, since it was taken."""
        return digest == self._digest and self._session is connection.connection

    def release(self) -> None:
        digest, self._digest = self._digest, None
        if digest is not None and self._session is connection.connection:
            _unlock("pg_advisory_unlock_shared", [digest])


@contextmanager
def shared_lock(digest: Digest) -> Iterator[None]:
    """Hold a digest's lock, shared, while the block stores its blob and uses it."""
    if connection.vendor != "postgresql":
        with transaction.atomic():
            lock_shared([digest])
            yield
        return
    lock = SharedLock()
    lock.take(digest)
    try:
        yield
    finally:
        lock.release()


def refuse_pending_deletion(digests: Collection[Digest]) -> None:
    """Raises Unreachable if a delete of one of these blobs may still be carried out.

    For a caller that has the lock. It is a statement of its own, because one that waits for the
    lock would not see what was committed meanwhile.
    """
    for digest in _pending(digests).values_list("digest", flat=True)[:1]:
        raise _may_be_deleted(Digest(digest))


def _may_be_deleted(digest: Digest) -> Unreachable:
    return Unreachable(
        "a collection that was cut off may still be deleting this blob", key=digest.key
    )


class ExclusiveLock:
    """Digests to which nobody can add a reference, each with a pending deletion.

    `removable` is which of them may still be deleted, each once; the caller takes out those that
    are referenced. Of `unconfirmed` ones an earlier run may have sent a delete that is not over.
    """

    def __init__(
        self, store: BlobStore, digests: Iterable[Digest], unconfirmed: Iterable[Digest]
    ) -> None:
        self.removable = set(digests)
        self._store = store
        self._pending = frozenset(self.removable)
        self._unconfirmed = set(unconfirmed)

    def remove_many(
        self, keys: Iterable[str], *, versions: bool = False
    ) -> Iterator[tuple[str, StoreError | None]]:
        """Delete blobs in batches, yielding each key's own outcome, as a store does.

        Not twice within one lock: a pending deletion counts for one request's time.
        """
        digests = {Digest.from_key(key) for key in keys}
        if not digests <= self.removable:
            raise ValueError("only what the lock was obtained for is deleted, and once")
        self.removable -= digests
        in_flight = digests - self._unconfirmed
        self._unconfirmed |= in_flight
        requested = [digest.key for digest in sorted(digests)]
        options = {"versions": True} if versions else {}
        for key, error in self._store.remove_many(requested, **options):
            # A request that was not answered may be carried out later.
            if not isinstance(error, Unreachable):
                self._unconfirmed -= in_flight & {Digest.from_key(key)}
            yield key, error

    def clear(self) -> None:
        """Remove the pending deletions, except where a delete may still be carried out."""
        over = [digest.hex for digest in self._pending - self._unconfirmed]
        PendingDeletion.objects.filter(digest__in=over).delete()


@contextmanager
def exclusive_lock(store: BlobStore, digests: Collection[Digest]) -> Iterator[ExclusiveLock]:
    """Lock those digests to which nobody is adding a reference; nobody can while the block runs.

    A digest that is in use at this moment is left out, not waited for. Keep batches to a few
    hundred: each digest takes a slot of PostgreSQL's shared lock table. If the block raises,
    all pending deletions stay: which deletes it had sent is not known.
    """
    with _exclusive(digests) as (held, unconfirmed):
        lock = ExclusiveLock(store, held, unconfirmed)
        yield lock
        lock.clear()


@contextmanager
def _exclusive(digests: Collection[Digest]) -> Iterator[tuple[Collection[Digest], set[Digest]]]:
    """The digests whose lock was obtained, and those that had a pending deletion before."""
    if connection.vendor != "postgresql":
        # Before the lock, as the transaction that is the lock commits only at the end.
        unconfirmed = _record_pending(digests)
        with transaction.atomic(durable=True):
            yield digests, unconfirmed
        return
    if connection.in_atomic_block:
        raise transaction.TransactionManagementError("a blob is removed outside transactions")
    held = _try_exclusive(digests)
    session = connection.connection
    try:
        # That this is committed proves that the lock was held until then. If it is lost now,
        # whoever takes it next finds the pending deletion.
        yield held, _record_pending(held)
    finally:
        if session is connection.connection:
            _unlock("pg_advisory_unlock", held)


def keep_session() -> None:
    """Prevent that this session, and its locks with it, is ended by the server for being idle,
    or by Django for being older than CONN_MAX_AGE.
    """
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {_KEEP}")
    connection.close_at = None


def _try_exclusive(digests: Collection[Digest]) -> set[Digest]:
    keep_session()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT n FROM unnest(%s::bigint[]) AS n WHERE pg_try_advisory_lock(n)",
            [_lock_numbers(digests)],
        )
        obtained = {row[0] for row in cursor.fetchall()}
    return {digest for digest in digests if _lock_number(digest) in obtained}


def _record_pending(digests: Collection[Digest]) -> set[Digest]:
    """Record pending deletions, and return the digests that had one that still counts."""
    before = {Digest(row) for row in _pending(digests).values_list("digest", flat=True)}
    PendingDeletion.objects.bulk_create(
        [PendingDeletion(digest=digest.hex, since=Now()) for digest in digests],
        update_conflicts=True,
        unique_fields=["digest"],
        update_fields=["since"],
    )
    return before


def _pending(digests: Collection[Digest]) -> QuerySet[PendingDeletion]:
    rows = PendingDeletion.objects.filter(since__gt=Now() - LONGEST_REQUEST)
    return rows.filter(digest__in=[digest.hex for digest in digests])


def remove_expired_deletions() -> None:
    """Remove the pending deletions that no longer count."""
    PendingDeletion.objects.filter(since__lte=Now() - LONGEST_REQUEST).delete()


def _lock_number(digest: Digest) -> int:
    """The digest's advisory lock, in the single-bigint space.

    Two digests that share these 64 bits merely wait for each other.
    """
    return int.from_bytes(digest.raw[:8], "big", signed=True)


def _lock_numbers(digests: Collection[Digest]) -> list[int]:
    return sorted({_lock_number(digest) for digest in digests})


def _call(function: str, digests: Collection[Digest]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {function}(n) FROM unnest(%s::bigint[]) AS n",  # noqa: S608 - our own names
            [_lock_numbers(digests)],
        )


def _unlock(function: str, digests: Collection[Digest]) -> None:
    try:
        _call(function, digests)
    except (OperationalError, InterfaceError):
        # The locks must not outlive their owner's work; a session that ends releases them.
        connection.close()


class LockLost(RunAborted):
    """The connection that held the run's lock is gone, and another run may have begun since."""


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
_writer = threading.Lock()


def serialized() -> AbstractContextManager[object]:
    """On SQLite, one thread of this process at a time; on PostgreSQL no restriction.

    SQLite's own waiting polls with growing pauses and is unfair: with many threads the unlucky
    one runs into its timeout. A lock passes the one write lock on at once.
    """
    return contextlib.nullcontext() if connection.vendor == "postgresql" else _writer


def with_run_locks(operation: Callable[[], Value]) -> Value:
    """The operation's value, with this run's locks held by the connection that serves it.

    Raises the database's errors, RunAborted when another run has begun since the connection was
    lost.
    """
    with serialized():
        _take_again()
        return operation()


@contextmanager
def run_lock(
    name: str,
    *,
    shared: bool = False,
    taken_again: bool = False,
    retry: Callable[[Callable[[], None]], None] = with_run_locks,
) -> Iterator[None]:
    """Hold a run's lock without waiting for it. Raises RunAborted if another run holds it.

    `retry` calls what it is given, until the database answers.

    A lock that is lost with its connection is taken again by the next `with_run_locks` if it is
    shared, or with `taken_again`: for a run that checks what it relies on before each single
    change. Otherwise `require_lock` ends the run.
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
        # A connection that is gone has released the lock already.
        with contextlib.suppress(*CONNECTION_ERRORS):
            if connection.connection is not None and _holds(name, shared=shared):
                _lock_call(
                    f"pg_advisory_unlock{'_shared' if shared else ''}", LOCK_SPACE, _number(name)
                )


def _begin(name: str, *, shared: bool) -> None:
    _refuse_transaction_pooler()
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


def _refuse_transaction_pooler() -> None:
    """Raises RunAborted if a pooler gives us a session for one transaction at a time.

    Such a pooler gives the transaction of a second connection the session that served the
    first one's last statement, or else another session to the first one's next statement.
    """
    other = connection.copy()
    try:
        other.set_autocommit(False)
        ours = _session_of(connection)
        if _session_of(other) == ours or _session_of(connection) != ours:
            raise RunAborted(
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

    To be called right before what cannot be undone: the lock is lost if the connection was lost
    since, and another run may have begun.
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


def runs_holding(name: str) -> int | None:
    """How many runs hold this lock, shared, at this moment; None where the database cannot tell."""
    if connection.vendor != "postgresql":
        return None
    with connection.cursor() as cursor:
        cursor.execute(
            # objsubid 2 marks the two-integer space; another database's locks are not ours.
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND classid = %s AND objid = %s AND objsubid = 2 AND mode = 'ShareLock'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            [LOCK_SPACE, _number(name)],
        )
        return int(cursor.fetchone()[0])


def _number(name: str) -> int:
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


@contextmanager
def _hold_beside_sqlite(name: str) -> Iterator[None]:
    database = str(connection.settings_dict["NAME"])
    if ":memory:" in database or "mode=memory" in database:
        # No second process can open a database in memory.
        yield
        return
    # Beside the file itself, so that whatever path leads to it leads to the same lock.
    path = Path(f"{os.path.realpath(database)}.{name}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _locked(name) from error
        yield
    finally:
        os.close(descriptor)


def _locked(name: str) -> RunAborted:
    return RunAborted(
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


def lock_rows(model: type[Model], ids: Any) -> list[int]:
    """Lock rows, by their ids or a query for these, until the transaction ends.

    Returns the ids of those that are there. Other rows may still come to refer to them. What was
    read of them before is of no use: another transaction may have been waited for.
    """
    rows = model._base_manager.select_for_update(no_key=True).filter(pk__in=ids).order_by("pk")
    return list(rows.values_list("pk", flat=True))


def _sqlstate(error: BaseException) -> str:
    return getattr(error.__cause__, "sqlstate", None) or ""


def is_busy(error: BaseException) -> bool:
    """Whether it is other writers that are in the way, not the database that is away."""
    return _sqlstate(error) in DEADLOCKS or "database is locked" in str(error)


def is_full(error: BaseException) -> bool:
    """Whether the database's disk has no room left."""
    return _sqlstate(error) == DISK_FULL or "database or disk is full" in str(error)


def is_read_only(error: BaseException) -> bool:
    """Whether the database answers and takes no changes: a standby, a read-only file system."""
    return _sqlstate(error) == READ_ONLY or "readonly database" in str(error)


def retried(function: Callable[Arguments, Value]) -> Callable[Arguments, Value]:
    """Call a function again whose transaction another one's changes have ended.

    That is a deadlock, or a row that was deleted when this one was about to refer to it. Within
    another transaction it is called once.
    """

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Value:
        for _ in range(ATTEMPTS - 1):
            try:
                return function(*args, **kwargs)
            except (OperationalError, IntegrityError) as error:
                if connection.in_atomic_block or _sqlstate(error) not in (*DEADLOCKS, FOREIGN_KEY):
                    raise
        return function(*args, **kwargs)

    return call
