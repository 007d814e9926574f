"""The lock of a digest, shared by who adds references and exclusive to who removes the blob.

On PostgreSQL it is an advisory lock. Shared, it falls with the transaction that adds the row or,
where a migration holds it for longer, with its connection; exclusive, it is always a
connection's, because a transaction that idles while a store deletes may be ended by the server.
On SQLite it is the database's one write lock, which every transaction takes when it begins
(`transaction_mode: IMMEDIATE`).

A lock falls when its owner dies, but a delete the owner has sent to a store may be carried out
after that. So a digest is also condemned, in a row that is committed before the first request is
sent and taken back when the last is known to be over. Whoever gets the lock and finds such a row
knows that a delete may still be on its way. The row counts for `LONGEST_REQUEST`; then no
request can be left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from attachments.models import CondemnedBlob
from cas.digest import Digest
from cas.storage.base import BlobStore, StoreError, Unreachable

LONGEST_REQUEST: Final = timedelta(minutes=15)
"""How long after a batch was condemned one of its deletes may still be carried out.

Four attempts of a minute each with their pauses, which is what the store on S3 makes of one
request, and ten minutes for the service to act on what it received.
"""

_CONDEMNED: Final = (
    "SELECT true FROM condemned_blobs"
    " WHERE digest = %s AND since > statement_timestamp() - make_interval(secs => %s)"
)
"""As `_condemned` does, for one digest and without putting the statement together anew."""

_KEEP: Final = "set_config('idle_session_timeout', '0', false)"


def hold_shared(digests: Collection[Digest]) -> None:
    """Hold these digests' locks, shared, until the transaction ends; waits for a collector.

    Raises Unreachable if one of them may still be on its way to be deleted.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("a digest is held inside a transaction")
    if connection.vendor == "postgresql":
        _call("pg_advisory_xact_lock_shared", digests)
    refuse_condemned(digests)


class Hold:
    """A digest's lock, shared, held by this thread's connection rather than by a transaction.

    Taken before its blob is looked at or stored, it keeps a collector away until rows point at
    the blob, with no transaction open meanwhile. It is lost with the connection, and SQLite has
    none: `stands_for` tells.
    """

    def __init__(self) -> None:
        self._digest: Digest | None = None
        self._session: object = None

    def take(self, digest: Digest) -> None:
        """Hold this digest and no other any more; waits for a collector. Raises Unreachable."""
        self.release()
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                # In one round trip, as a migration does this for every object. They remain two
                # statements: the second sees what was committed while the first one waited.
                cursor.execute(
                    f"SELECT {_KEEP}, pg_advisory_lock_shared(%s); {_CONDEMNED}",
                    [_lock_number(digest), digest.hex, LONGEST_REQUEST.total_seconds()],
                )
                cursor.nextset()
                condemned = cursor.fetchone()
            connection.close_at = None
            self._digest, self._session = digest, connection.connection
            if condemned:
                self.release()
                raise _may_be_deleted(digest)

    def stands_for(self, digest: Digest) -> bool:
        """Whether the digest has been held, without a break, since it was taken."""
        return digest == self._digest and self._session is connection.connection

    def release(self) -> None:
        digest, self._digest = self._digest, None
        if digest is not None and self._session is connection.connection:
            _unlock("pg_advisory_unlock_shared", [digest])


def refuse_condemned(digests: Collection[Digest]) -> None:
    """Raises Unreachable if a delete of one of these blobs may still be on its way.

    For who has the lock; a statement of its own, as one that waits for the lock would not see
    what was committed meanwhile.
    """
    for digest in _condemned(digests).values_list("digest", flat=True)[:1]:
        raise _may_be_deleted(Digest(digest))


def _may_be_deleted(digest: Digest) -> Unreachable:
    return Unreachable(
        "a collection that was cut off may still be deleting this blob", key=digest.key
    )


@contextmanager
def storing(digest: Digest) -> Iterator[None]:
    """Keep a collector from this digest's blob while the block stores and uses it for itself."""
    if connection.vendor != "postgresql":
        with transaction.atomic():
            hold_shared([digest])
            yield
        return
    held = Hold()
    held.take(digest)
    try:
        yield
    finally:
        held.release()


class Exclusion:
    """Digests that nobody adds a reference to meanwhile, and that are condemned.

    `removable` is what of them may still be deleted, each once; it may be narrowed.
    """

    def __init__(
        self, store: BlobStore, digests: Iterable[Digest], doubtful: Iterable[Digest]
    ) -> None:
        self.removable = set(digests)
        self._store = store
        self._condemned = frozenset(self.removable)
        self._doubtful = frozenset(doubtful)
        self._in_flight: set[Digest] = set()

    def remove_many(
        self, keys: Iterable[str], *, versions: bool = False
    ) -> Iterator[tuple[str, StoreError | None]]:
        """Delete blobs in batches, yielding each key's own outcome, as a store does.

        Not again within one exclusion: what is condemned is so for one request's time.
        """
        digests = {Digest.from_key(key) for key in keys}
        if not digests <= self.removable:
            raise ValueError("only what the lock was obtained for is deleted, and once")
        self.removable -= digests
        self._in_flight |= digests
        requested = [digest.key for digest in sorted(digests)]
        options = {"versions": True} if versions else {}
        for key, error in self._store.remove_many(requested, **options):
            # A request that was not answered may be carried out later.
            if not isinstance(error, Unreachable):
                self._in_flight.remove(Digest.from_key(key))
            yield key, error

    def acquit(self) -> None:
        """Let the digests be stored again, save where a delete may be on its way."""
        over = [digest.hex for digest in self._condemned - self._in_flight - self._doubtful]
        CondemnedBlob.objects.filter(digest__in=over).delete()


@contextmanager
def excluding(store: BlobStore, digests: Collection[Digest]) -> Iterator[Exclusion]:
    """Those digests that nobody is adding a reference to, nor can while the block runs.

    A digest that is in use at this moment is left out, not waited for. Keep batches to a few
    hundred: each digest takes a slot of PostgreSQL's shared lock table. If the block raises,
    they all stay condemned: what it had sent is not known.
    """
    with _exclusive(digests) as (held, doubtful):
        exclusion = Exclusion(store, held, doubtful)
        yield exclusion
        exclusion.acquit()


@contextmanager
def _exclusive(digests: Collection[Digest]) -> Iterator[tuple[Collection[Digest], set[Digest]]]:
    """The digests whose lock is ours, and those a delete may be on its way to already."""
    if connection.vendor != "postgresql":
        # Before the lock, as the transaction that is the lock commits only at the end.
        doubtful = _condemn(digests)
        with transaction.atomic(durable=True):
            yield digests, doubtful
        return
    if connection.in_atomic_block:
        raise transaction.TransactionManagementError("a blob is removed outside transactions")
    held = _try_exclusive(digests)
    session = connection.connection
    try:
        # That this is committed proves that the lock had not fallen by then. If it falls now,
        # whoever gets it next finds the digest condemned.
        yield held, _condemn(held)
    finally:
        if session is connection.connection:
            _unlock("pg_advisory_unlock", held)


def keep_session() -> None:
    """Have nobody end this session, and its locks with it: neither the server, for being idle,
    nor Django, for being older than CONN_MAX_AGE.
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


def _condemn(digests: Collection[Digest]) -> set[Digest]:
    """Condemn them, and return those that were: what an earlier run sent may not be over."""
    before = {Digest(row) for row in _condemned(digests).values_list("digest", flat=True)}
    CondemnedBlob.objects.bulk_create(
        [CondemnedBlob(digest=digest.hex, since=Now()) for digest in digests],
        update_conflicts=True,
        unique_fields=["digest"],
        update_fields=["since"],
    )
    return before


def _condemned(digests: Collection[Digest]) -> QuerySet[CondemnedBlob]:
    rows = CondemnedBlob.objects.filter(since__gt=Now() - LONGEST_REQUEST)
    return rows.filter(digest__in=[digest.hex for digest in digests])


def forget_condemned() -> None:
    """Drop the rows that no longer count."""
    CondemnedBlob.objects.filter(since__lte=Now() - LONGEST_REQUEST).delete()


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
        # The locks must not outlive their owner's work; a session that ends lets go of them.
        connection.close()
