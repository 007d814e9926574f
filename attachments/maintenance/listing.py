"""What the store holds, merged with what rows reference: two ordered streams.

One listing and one ordered pass over the rows answer for every object whether it is referenced,
there, and of the right size, in flat memory and without a request for each object.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Final, NamedTuple

from django.db.models import BigIntegerField, BooleanField, Q, QuerySet, Value

from attachments.maintenance.retry import ROWS_AT_A_TIME, Retry, listed, query
from attachments.maintenance.runner import CancelToken
from attachments.object_keys import KeyKind
from attachments.references import TEST_OBJECT, KeyColumn, key_columns
from cas.exit_status import ExitStatus, RunAborted
from cas.storage.base import Absent, BlobStat, BlobStore

SIZE_COLUMN: Final = "file_size"
"""Where a model that references blobs records their size in bytes, if it does."""

LOST: Final = "manage.py verify_cas --right-store"
"""What names every lost object, for commands that delete and so do not go on without them."""


class Reference(NamedTuple):
    """What one row names; `size` in bytes, None where the row does not say.

    A `hold` only keeps the object from being deleted.
    """

    key: str
    row: int
    size: int | None
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One key: the object there, if any, and who references it.

    `row` is the first referencing row; `size_conflict` is the first one whose size is not the
    object's. `holds` is how many rows only hold it, which are not among `rows`.
    """

    key: str
    stat: BlobStat | None
    rows: int
    row: int | None
    size_conflict: Reference | None
    holds: int = 0

    @property
    def missing(self) -> bool:
        return self.rows > 0 and self.stat is None

    @property
    def wrong_size(self) -> bool:
        return self.stat is not None and self.size_conflict is not None

    @property
    def referenced(self) -> bool:
        return self.rows > 0

    @property
    def held(self) -> bool:
        """Whether holds are all that names it."""
        return self.rows == 0 and self.holds > 0

    @property
    def unreferenced(self) -> bool:
        """Whether nothing names it."""
        return self.rows == 0 and self.holds == 0


def survey(store: BlobStore, prefix: str, cancel: CancelToken) -> Iterator[Entry]:
    """Every key below `prefix` that the store holds or a row references, in byte-wise order.

    What rows only hold is among them if it is there. Listing and rows are read while others
    write. An entry that is missing or of the wrong size is therefore read again by its key before
    it is given; an unreferenced object is only a candidate, for which references must be looked
    up again under its lock before it is deleted.

    Both streams continue after their last key when store or database were away meanwhile. Raises
    StoreError if the listing cannot be completed: only a survey that ended without an error has
    seen everything.
    """
    for entry in _merged(store, prefix, cancel):
        if not (entry.missing or entry.wrong_size):
            yield entry
        elif again := entry_at(store, entry.key, cancel):
            yield again


def entry_at(store: BlobStore, key: str, cancel: CancelToken) -> Entry | None:
    """What is at this key and who references it now; None if neither is so. Raises StoreError."""
    found: list[BlobStat | Reference] = [*query(partial(_references_to, key), cancel)]
    with suppress(Absent):
        found.insert(0, Retry(cancel, store).call(partial(store.stat, key)))
    entry = _entry(key, found)
    return entry if entry.referenced or entry.stat else None


def _references_to(key: str) -> list[Reference]:
    return [
        Reference(*found)
        for source in _sources()
        for found in source.named(
            source.registered.rows().filter(**{source.column: key}).order_by(source.column, "pk")
        )
    ]


def _merged(store: BlobStore, prefix: str, cancel: CancelToken) -> Iterator[Entry]:
    stats = (s for s in _ascending(listed(store, prefix, cancel)) if s.key != TEST_OBJECT.key)
    by_key = attrgetter("key")
    # Of equal keys the first stream's comes first: the object, then the rows that name it.
    streams: tuple[Iterator[BlobStat | Reference], ...] = (stats, references_below(prefix, cancel))
    both = heapq.merge(*streams, key=by_key)
    for key, found in itertools.groupby(both, key=by_key):
        entry = _entry(key, found)
        if entry.stat or entry.referenced:
            yield entry


def references_below(prefix: str, cancel: CancelToken) -> Iterator[Reference]:
    """Every row's reference or hold below `prefix`, from every registered column, by key."""
    walks = (_walk(source, prefix, cancel) for source in _sources())
    return heapq.merge(*walks, key=attrgetter("key"))


class _Source(NamedTuple):
    """A registered column, and the one that holds its objects' size, or an expression for none."""

    registered: KeyColumn
    size: Any

    @property
    def column(self) -> str:
        return self.registered.name

    def named(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """The rows as `Reference`s, in tuples."""
        hold = self.registered.field.kind is KeyKind.HOLD
        return rows.values_list(self.column, "pk", self.size, Value(hold, BooleanField()))


def _sources() -> Iterator[_Source]:
    for column in key_columns():
        names = {field.name for field in column.model._meta.get_fields()}
        # A hold does not require its object, nor a size of it.
        sized = SIZE_COLUMN in names and column.field.kind is KeyKind.REFERENCE
        yield _Source(column, SIZE_COLUMN if sized else Value(None, BigIntegerField()))


def _walk(source: _Source, prefix: str, cancel: CancelToken) -> Iterator[Reference]:
    """Portions along the column's index, which compares bytes on both databases.

    No statement stays open between two of them. On SQLite it would pin the connection to an old
    state of the database, from which it could not begin to write. On PostgreSQL it would be a
    server-side cursor: one that is closed by garbage collection while another statement of the
    connection is executed waits for that statement for ever.
    """
    column = source.column
    # The first string behind all that start with the prefix: its last character, one further.
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    below = Q(**{f"{column}__gte": prefix, f"{column}__lt": end})
    named = source.named(source.registered.rows().filter(below).order_by(column, "pk"))
    portion: list[Any] = query(partial(list, named[:ROWS_AT_A_TIME]), cancel)
    while portion:
        for found in portion:
            yield Reference(*found)
        key, row, _size, _hold = portion[-1]
        behind = Q(**{f"{column}__gt": key}) | Q(**{column: key, "pk__gt": row})
        portion = query(partial(list, named.filter(behind)[:ROWS_AT_A_TIME]), cancel)


def _entry(key: str, found: Iterable[BlobStat | Reference]) -> Entry:
    """What was found at a key: first the object, if it is there, then the rows that name it."""
    stat: BlobStat | None = None
    rows = holds = 0
    first: int | None = None
    size_conflict: Reference | None = None
    for each in found:
        if isinstance(each, BlobStat):
            stat = each
        elif each.hold:
            holds += 1
        else:
            rows += 1
            first = each.row if first is None else first
            if size_conflict is None and stat is not None and each.size not in (None, stat.size):
                size_conflict = each
    return Entry(key, stat, rows, first, size_conflict, holds)


def _ascending(stats: Iterator[BlobStat]) -> Iterator[BlobStat]:
    last = b""
    for stat in stats:
        key = stat.key.encode(errors="surrogateescape")
        if key <= last:
            # A merge with such a listing would take objects that are there for missing.
            raise RunAborted(ExitStatus.UNAVAILABLE, f"the store listed {key!r} after {last!r}")
        last = key
        yield stat


def wrong_store(store: BlobStore, count: int, key: str, **again: Any) -> RunAborted:
    """The end of a run that finds nothing of what rows reference: `count` objects, `key` is one.

    A lost store has the same effect, but a wrong name in the settings is far more often the reason.
    A person who knows that it is lost says so with `--right-store`, to see what is missing.
    """
    name = getattr(store, "identity", "the store")
    return RunAborted(
        ExitStatus.REFUSED,
        f"{name} has none of the {count} objects that rows name, such as {key}. "
        "Is it the right bucket or directory?",
        first="Make sure that CAS_S3_BUCKET or INVENTORY_DATA_DIR names the right store. If it "
        "does, and the objects are lost",
        **(again or {"changed": {"right_store": True}}),
    )
