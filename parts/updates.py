"""What was changed since: for clients that keep a copy, and for people who look back.

A copy misses nothing: changes are read in the order of their transactions, and only those of which
no earlier one can still be committed. So it lags by the longest transaction that is open.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple, Self

from django.db import connection
from django.db.models import Max, Q, QuerySet

from attachments.history import horizon
from attachments.models import Attachment, Change
from parts.models import Part

NOW: Final = "now"

_CURSOR: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")


class Cursor(NamedTuple):
    """Up to where a client has read: everything before is known to it."""

    transaction_id: int
    id: int

    def __str__(self) -> str:
        return f"{self.transaction_id}-{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of an answer's `cursor`, or of `now`. Raises ValueError."""
        if text == NOW:
            return cls.now()
        if match := _CURSOR.fullmatch(text):
            return cls(int(match[1]), int(match[2]))
        raise ValueError(text)

    @classmethod
    def now(cls) -> Self:
        """What a listing that begins after this shows is before it, or comes after it again."""
        if connection.vendor == "sqlite":
            newest = Change._default_manager.aggregate(newest=Max("id"))["newest"]
            return cls(0, newest or 0)
        return cls(horizon(), 0)


class Expired(LookupError):
    """The cursor is no place in this history: what follows it was pruned, or it is of another.

    A database that was set back, or restored on another server, has not come so far yet.
    """


class Updates(NamedTuple):
    """Parts that are there and were changed, keys of those that are not any more, and on from."""

    parts: list[int]
    deleted: list[str]
    cursor: Cursor
    more: bool


def updates(since: Cursor, most: int) -> Updates:
    """What became of the parts that the next `most` changes concern. Raises Expired."""
    # First the horizon, then the changes: what was finished by then is seen.
    finished_before = horizon()
    after = Q(transaction_id__gt=since.transaction_id) | Q(
        transaction_id=since.transaction_id, id__gt=since.id
    )
    rows = Change._default_manager.filter(
        after, transaction_id__gte=since.transaction_id, transaction_id__lt=finished_before
    ).order_by("transaction_id", "id")
    found = list(rows.values_list("transaction_id", "id", "part_id", "action", "table_name")[:most])
    if any(action == Change.Action.PRUNED for _, _, _, action, _ in found):
        raise Expired
    if not found:
        if since > Cursor.now():
            raise Expired
        return Updates([], [], since, more=False)
    concerned = {part_id for _, _, part_id, _, _ in found if part_id is not None}
    there = set(Part._default_manager.filter(pk__in=concerned).values_list("pk", flat=True))
    gone = [
        id_
        for _, id_, part_id, action, table in found
        if action == Change.Action.DELETE and table == Part._meta.db_table and part_id not in there
    ]
    keys = Change._default_manager.filter(pk__in=gone).order_by("transaction_id", "id")
    deleted = [before["key"] for before in keys.values_list("before", flat=True) if before]
    last = Cursor(*found[-1][:2])
    return Updates(sorted(there), deleted, last, more=len(found) == most)


def history(part: Part) -> QuerySet[Change]:
    """The edits of a part, its tags and its attachments, the newest first."""
    edits = Change._default_manager.exclude(action=Change.Action.TOUCH)
    return edits.filter(part_id=part.pk).order_by("-id")


_WHAT: Final = {
    Part._meta.db_table: "part",
    Part.tags.through._meta.db_table: "tag",
    Attachment._meta.db_table: "attachment",
}


def shown(change: Change) -> dict[str, Any]:
    """A change as JSON: of each field that differs what was there and what came."""
    what, before, after = _WHAT[change.table_name], change.before or {}, change.after or {}
    fields = {
        name: {"before": before.get(name), "after": after.get(name)}
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    }
    return {
        "id": change.pk,
        "at": change.at,
        "by": change.actor,
        "what": what,
        "row_id": None if what == "tag" else change.row_id,
        "action": change.action,
        "fields": fields,
        "restorable": change.action == Change.Action.UPDATE or what == "tag",
    }
