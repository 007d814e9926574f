"""What the store holds beside what rows reference: two ordered streams, merged.

One listing and one ordered pass over the rows answer for every object whether it is referenced,
there, and of the right size, in flat memory and without asking the store about each.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, NamedTuple

from django.apps import apps
from django.db import connection
from django.db.models import Q, Value
from django.db.models.functions import Collate

from attachments.maintenance.preflight import PROBE
from attachments.maintenance.run import ExitStatus, Halt
from attachments.references import REFERENCE_COLUMNS
from cas.storage.base import Absent, BlobStat, BlobStore

ROWS_AT_A_TIME: Final = 2000

SIZE_COLUMN: Final = "file_size"
"""Where a model that references blobs records their size in bytes, if it does."""


class Reference(NamedTuple):
    """One row's claim on an object; `size` in bytes, None where the row does not say."""

    key: str
    row: int
    size: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One key: the object there, if any, and who references it.

    `row` is the first referencing row; `misfit` the first one whose size is not the object's.
    """

    key: str
    stat: BlobStat | None
    rows: int
    row: int | None
    misfit: Reference | None

    @property
    def missing(self) -> bool:
        return self.rows > 0 and self.stat is None

    @property
    def wrong_size(self) -> bool:
        return self.stat is not None and self.misfit is not None

    @property
    def unreferenced(self) -> bool:
        return self.rows == 0


def survey(store: BlobStore, prefix: str) -> Iterator[Entry]:
    """Every key below `prefix` that the store holds or a row references, in byte-wise order.

    Listing and rows are read while others write. What looks missing or of the wrong size is
    therefore looked at once more, directly, before it is called so; an unreferenced object is
    only a candidate, which whoever deletes must look at again under its lock.

    Raises StoreError if the listing cannot be completed: only a survey that ended without an
    error has seen everything.
    """
    for entry in _merged(store, prefix):
        if not (entry.missing or entry.wrong_size):
            yield entry
        elif again := look(store, entry.key):
            yield again


def look(store: BlobStore, key: str) -> Entry | None:
    """What is at this key and who references it now; None if neither is so. Raises StoreError."""
    claims = list(heapq.merge(*(_claims(source, {source.column: key}) for source in _sources())))
    try:
        stat = store.stat(key)
    except Absent:
        stat = None
    return _entry(key, stat, claims) if claims or stat else None


def _merged(store: BlobStore, prefix: str) -> Iterator[Entry]:
    stats = (stat for stat in _ascending(store.scan(prefix)) if stat.key != PROBE.key)
    stat = next(stats, None)
    for key, claims in itertools.groupby(references_below(prefix), key=attrgetter("key")):
        while stat is not None and stat.key < key:
            yield Entry(stat.key, stat, 0, None, None)
            stat = next(stats, None)
        if stat is not None and stat.key == key:
            yield _entry(key, stat, claims)
            stat = next(stats, None)
        else:
            yield _entry(key, None, claims)
    while stat is not None:
        yield Entry(stat.key, stat, 0, None, None)
        stat = next(stats, None)


def references_below(prefix: str) -> Iterator[Reference]:
    """Every row's reference below `prefix`, from every registered column, ordered by key."""
    walk = _walk_postgresql if connection.vendor == "postgresql" else _walk_sqlite
    return heapq.merge(*(walk(source, prefix) for source in _sources()))


class _Source(NamedTuple):
    """A registered column, and the one that holds its objects' size, or an expression for none."""

    model: Any
    column: str
    size: Any


def _sources() -> Iterator[_Source]:
    for label, column in REFERENCE_COLUMNS:
        model = apps.get_model(label)
        names = {field.name for field in model._meta.get_fields()}
        yield _Source(model, column, SIZE_COLUMN if SIZE_COLUMN in names else Value(None))


def _claims(source: _Source, condition: dict[str, Any]) -> Iterator[Reference]:
    rows = source.model._default_manager.filter(**condition).order_by(source.column, "pk")
    for found in rows.values_list(source.column, "pk", source.size):
        yield Reference(*found)


def _walk_postgresql(source: _Source, prefix: str) -> Iterator[Reference]:
    """One pass by a server-side cursor: the server sorts once, on its disk if need be.

    Object stores list keys by their bytes. The database sorts by its language unless told
    otherwise, and the merge would then pass keys by.
    """
    rows = source.model._default_manager.filter(**{f"{source.column}__startswith": prefix})
    ordered = rows.order_by(Collate(source.column, "C"), "pk")
    named = ordered.values_list(source.column, "pk", source.size)
    for found in named.iterator(chunk_size=ROWS_AT_A_TIME):
        yield Reference(*found)


def _walk_sqlite(source: _Source, prefix: str) -> Iterator[Reference]:
    """Portions along the column's index, which compares bytes.

    No statement may stay open between two of them: it would pin the connection to an old state
    of the database, from which it could not begin to write.
    """
    column = source.column
    # The first string behind all that start with the prefix: its last character, one further.
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    below = Q(**{f"{column}__gte": prefix, f"{column}__lt": end})
    rows = source.model._default_manager.filter(below).order_by(column, "pk")
    named = rows.values_list(column, "pk", source.size)
    portion = list(named[:ROWS_AT_A_TIME])
    while portion:
        for found in portion:
            yield Reference(*found)
        key, row, _size = portion[-1]
        behind = Q(**{f"{column}__gt": key}) | Q(**{column: key, "pk__gt": row})
        portion = list(named.filter(behind)[:ROWS_AT_A_TIME])


def _entry(key: str, stat: BlobStat | None, claims: Iterable[Reference]) -> Entry:
    rows = 0
    first: int | None = None
    misfit: Reference | None = None
    for claim in claims:
        rows += 1
        first = claim.row if first is None else first
        if misfit is None and stat is not None and claim.size not in (None, stat.size):
            misfit = claim
    return Entry(key, stat, rows, first, misfit)


def _ascending(stats: Iterator[BlobStat]) -> Iterator[BlobStat]:
    last = b""
    for stat in stats:
        key = stat.key.encode(errors="surrogateescape")
        if key <= last:
            # A merge with such a listing would take objects that are there for missing.
            raise Halt(ExitStatus.UNAVAILABLE, f"the store listed {key!r} after {last!r}")
        last = key
        yield stat
