"""The rows of a migration: which are to be moved, in which portions, and what is left of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from django.db.models import Exists, OuterRef, QuerySet

from attachments.maintenance.database import (
    CONNECTION_ERRORS,
    claim_block,
    release_block,
)
from attachments.maintenance.retry import query
from attachments.maintenance.run import Stop
from attachments.models import LEGACY_PREFIX, Attachment

Value = TypeVar("Value")

LEGACY_KEY: Final = re.compile(
    re.escape(LEGACY_PREFIX)
    + r"[0-9A-Za-z-]+/attachments/"
    + r"[0-9a-fA-F]{8}(?:-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}(?:\.[^/\x00-\x1f\x7f]{1,255})?\Z"
)
"""What the older application named its objects: `parts/{part_id}/attachments/{uuid}.{ext}`.

The extension is whatever followed the last dot of a file's name, with spaces and all.
"""

BLOCK_ROWS: Final = 128
"""Ids in a block, the unit that processes claim: few enough to share small tables evenly."""

GROUP_ROWS: Final = 500


@dataclass(frozen=True, slots=True)
class IdRange:
    """Rows from `first` to `last`, both included; None is open."""

    first: int | None = None
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> IdRange:
        """`100-200`, `100-` or `-200`. Raises ValueError."""
        match = re.fullmatch(r"(\d*)-(\d*)", text)
        if match is None or text == "-":
            raise ValueError("an id range is FIRST-LAST, FIRST- or -LAST")
        first, last = (int(number) if number else None for number in match.groups())
        if first is not None and last is not None and first > last:
            raise ValueError("the range's first id is larger than its last")
        return cls(first, last)

    def of(self, rows: QuerySet[Attachment]) -> QuerySet[Attachment]:
        if self.first is not None:
            rows = rows.filter(pk__gte=self.first)
        if self.last is not None:
            rows = rows.filter(pk__lte=self.last)
        return rows

    def __str__(self) -> str:
        return (
            f"{'' if self.first is None else self.first}-{'' if self.last is None else self.last}"
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that share a key and a recorded size (bytes), named by the one with the lowest id.

    `alone` if that was the only one when it was read; one added since belongs to a later group.
    One transfer serves them all. The size is part of what makes a group because rows that
    disagree with their object about it fail, and must fail once each. None is no size recorded,
    as of a link's picture; such a row is a group of its own.
    """

    leader: int
    key: str
    size: int | None
    block: int
    alone: bool


def unmigrated(ids: IdRange | None = None) -> QuerySet[Attachment]:
    """Rows with a key that is not exactly `cas/<digest>`, malformed ones included.

    PostgreSQL has an index of just these (migration 0005, which repeats the condition).
    """
    return (ids or IdRange()).of(Attachment.objects.unmigrated()).order_by("pk")


def members(group: Group, ids: IdRange, stop: Stop) -> Iterator[int]:
    """The group's rows, leader last: until it goes, no other run takes the rest for a group."""
    if group.alone:
        yield group.leader
        return
    rows = ids.of(Attachment.objects.filter(s3_key=group.key, file_size=group.size))
    rows = rows.filter(pk__gte=group.leader).order_by("-pk")
    below: int | None = None
    while True:
        portion = rows if below is None else rows.filter(pk__lt=below)
        found = query(partial(_ids, portion), stop)
        yield from found
        if len(found) < GROUP_ROWS:
            return
        below = found[-1]


def _ids(rows: QuerySet[Attachment]) -> list[int]:
    return list(rows.values_list("pk", flat=True)[:GROUP_ROWS])


class Blocks:
    """Walks the unmigrated rows in blocks of neighbouring ids, each claimed before it is read.

    Several processes walk the same table: each takes the blocks it can claim and passes the
    claimed ones by, to look at them again at the end, when their owner has finished or died. A
    claim saves work and is not what makes the migration right; the compare-and-set is.
    """

    def __init__(self, ids: IdRange, stop: Stop) -> None:
        self._ids = ids
        self._stop = stop
        self._open: dict[int, int] = {}
        self._busy: list[int] = []

    def groups(self) -> Iterator[Group | None]:
        """Every group, lazily. None while all that is left is claimed by others."""
        after = (self._ids.first or 1) - 1
        while (first := self._query(partial(self._next_id, after))) is not None:
            block = first // BLOCK_ROWS
            yield from self._walk(block, self._busy)
            after = (block + 1) * BLOCK_ROWS - 1
        while self._busy:
            again: list[int] = []
            for block in self._busy:
                yield from self._walk(block, again)
            self._busy = again
            if again:
                yield None

    def finished(self, group: Group) -> None:
        """One of a block's groups is over; the last lets go of the block."""
        self._open[group.block] -= 1
        self._release_if_done(group.block)

    def close(self) -> None:
        """Let go of what a run that ended early still holds."""
        for block in list(self._open):
            del self._open[block]
            with contextlib.suppress(*CONNECTION_ERRORS):
                release_block(block)

    def _walk(self, block: int, busy: list[int]) -> Iterator[Group]:
        if not self._query(partial(claim_block, block)):
            busy.append(block)
            return
        # One more than its groups, so that the block stays ours until all have been handed out.
        self._open[block] = 1
        for group in self._query(partial(self._read, block)):
            self._open[block] += 1
            yield group
        self._open[block] -= 1
        self._release_if_done(block)

    def _release_if_done(self, block: int) -> None:
        if self._open[block] == 0:
            del self._open[block]
            self._query(partial(release_block, block))

    def _next_id(self, after: int) -> int | None:
        rows = unmigrated(self._ids).filter(pk__gt=after)
        return rows.values_list("pk", flat=True).first()

    def _read(self, block: int) -> list[Group]:
        first = block * BLOCK_ROWS
        same = self._ids.of(
            Attachment.objects.filter(s3_key=OuterRef("s3_key"), file_size=OuterRef("file_size"))
        )
        rows = unmigrated(self._ids).filter(pk__gte=first, pk__lt=first + BLOCK_ROWS)
        leaders = rows.filter(~Exists(same.filter(pk__lt=OuterRef("pk"))))
        leaders = leaders.annotate(alone=~Exists(same.filter(pk__gt=OuterRef("pk"))))
        return [
            Group(pk, key, size, block, alone)
            for pk, key, size, alone in leaders.values_list("pk", "s3_key", "file_size", "alone")
            if key is not None
        ]

    def _query(self, operation: Callable[[], Value]) -> Value:
        return query(operation, self._stop)
