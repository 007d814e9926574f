"""What the store holds beside what rows reference: two ordered streams, merged.

One listing and one ordered pass over the rows answer for every object whether it is referenced,
there, and of the right size, in flat memory and without asking the store about each.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Final, NamedTuple

from django.db.models import BigIntegerField, BooleanField, Q, QuerySet, Value

from attachments.maintenance.preflight import PROBE
from attachments.maintenance.retry import Tries, listed, query
from attachments.maintenance.run import ExitStatus, Halt, Stop
from attachments.object_keys import KeyKind
from attachments.references import KeyColumn, key_columns
from cas.storage.base import Absent, BlobStat, BlobStore

ROWS_AT_A_TIME: Final = 2000

SIZE_COLUMN: Final = "file_size"
"""Where a model that references blobs records their size in bytes, if it does."""


class Reference(NamedTuple):
    """One row's claim on an object; `size` in bytes, None where the row does not say.

    A `hold` only keeps the object from being deleted.
    """

    key: str
    row: int
    size: int | None
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One key: the object there, if any, and who references it.

    `row` is the first referencing row; `misfit` the first one whose size is not the object's.
    `holds` is how many rows only hold it, which are not among `rows`.
    """

    key: str
    stat: BlobStat | None
    rows: int
    row: int | None
    misfit: Reference | None
    holds: int = 0

    @property
    def missing(self) -> bool:
        return self.rows > 0 and self.stat is None

    @property
    def wrong_size(self) -> bool:
        return self.stat is not None and self.misfit is not None

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


def survey(store: BlobStore, prefix: str, stop: Stop) -> Iterator[Entry]:
    """Every key below `prefix` that the store holds or a row references, in byte-wise order.

    What rows only hold is among them if it is there.
    Listing and rows are read while others write. What looks missing or of the wrong size is
    therefore looked at once more, directly, before it is called so; an unreferenced object is
    only a candidate, which whoever deletes must look at again under its lock.

    Both go on behind what they had given when store or database were away meanwhile. Raises
    StoreError if the listing cannot be completed: only a survey that ended without an error has
    seen everything.
    """
    for entry in _merged(store, prefix, stop):
        if not (entry.missing or entry.wrong_size):
            yield entry
        elif again := look(store, entry.key, stop):
            yield again


def look(store: BlobStore, key: str, stop: Stop) -> Entry | None:
    """What is at this key and who references it now; None if neither is so. Raises StoreError."""
    claims = query(partial(_claims_of, key), stop)
    try:
        stat = Tries(stop, store).of(partial(store.stat, key))
    except Absent:
        stat = None
    entry = _entry(key, stat, claims)
    return entry if entry.referenced or stat else None


def _claims_of(key: str) -> list[Reference]:
    return [claim for source in _sources() for claim in _claims(source, {source.column: key})]


def _merged(store: BlobStore, prefix: str, stop: Stop) -> Iterator[Entry]:
    found = _ascending(listed(store, prefix, stop))
    stats = (stat for stat in found if stat.key != PROBE.key)
    stat = next(stats, None)
    for key, claims in itertools.groupby(references_below(prefix, stop), key=attrgetter("key")):
        while stat is not None and stat.key < key:
            yield Entry(stat.key, stat, 0, None, None)
            stat = next(stats, None)
        if stat is not None and stat.key == key:
            yield _entry(key, stat, claims)
            stat = next(stats, None)
        elif (entry := _entry(key, None, claims)).referenced:
            yield entry
    while stat is not None:
        yield Entry(stat.key, stat, 0, None, None)
        stat = next(stats, None)


def references_below(prefix: str, stop: Stop) -> Iterator[Reference]:
    """Every row's reference or hold below `prefix`, from every registered column, by key."""
    walks = (_walk(source, prefix, stop) for source in _sources())
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
        # A hold vouches for nothing, so it cannot be wrong about a size either.
        sized = SIZE_COLUMN in names and column.field.kind is KeyKind.REFERENCE
        yield _Source(column, SIZE_COLUMN if sized else Value(None, BigIntegerField()))


def _claims(source: _Source, condition: dict[str, Any]) -> Iterator[Reference]:
    rows = source.registered.rows().filter(**condition).order_by(source.column, "pk")
    for found in source.named(rows):
        yield Reference(*found)


def _walk(source: _Source, prefix: str, stop: Stop) -> Iterator[Reference]:
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
    portion: list[Any] = query(partial(list, named[:ROWS_AT_A_TIME]), stop)
    while portion:
        for found in portion:
            yield Reference(*found)
        key, row, _size, _hold = portion[-1]
        behind = Q(**{f"{column}__gt": key}) | Q(**{column: key, "pk__gt": row})
        portion = query(partial(list, named.filter(behind)[:ROWS_AT_A_TIME]), stop)


def _entry(key: str, stat: BlobStat | None, claims: Iterable[Reference]) -> Entry:
    rows = holds = 0
    first: int | None = None
    misfit: Reference | None = None
    for claim in claims:
        if claim.hold:
            holds += 1
            continue
        rows += 1
        first = claim.row if first is None else first
        if misfit is None and stat is not None and claim.size not in (None, stat.size):
            misfit = claim
    return Entry(key, stat, rows, first, misfit, holds)


def _ascending(stats: Iterator[BlobStat]) -> Iterator[BlobStat]:
    last = b""
    for stat in stats:
        key = stat.key.encode(errors="surrogateescape")
        if key <= last:
            # A merge with such a listing would take objects that are there for missing.
            raise Halt(ExitStatus.UNAVAILABLE, f"the store listed {key!r} after {last!r}")
        last = key
        yield stat
