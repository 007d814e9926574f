"""What the plan leaves to be written, in portions that each fit one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cas.storage.base import StoreError
from parts.legacy_import.records import AttachmentRecord, PartRecord

PARTS_AT_A_TIME: Final = 200
ATTACHMENTS_AT_A_TIME: Final = 250
"""Each blob among them takes a slot of PostgreSQL's shared lock table until the commit."""

PARTS: Final = """
SELECT number, map_id, id, key, own_id, record, target FROM part
WHERE fault IS NULL AND outcome IS NULL OR outcome = 'already_here' AND EXISTS (
    SELECT 1 FROM attachment WHERE attachment.part = part.id
        AND attachment.fault IS NULL AND attachment.outcome IS NULL)
ORDER BY number
"""

# The cover first: it must be in the transaction that creates the part, and a part may have more
# files than one transaction takes.
ATTACHMENTS: Final = """
SELECT number, map_id, own_id, record, size, is_cover FROM attachment
WHERE part = ? AND fault IS NULL AND outcome IS NULL
ORDER BY is_cover DESC, number
"""


@dataclass(slots=True)
class PlannedPart:
    """A part to create, or, with a `target`, one that is here and gets more files.

    Only one to create has a `record`. `refused` once it turned out that it cannot be created.
    """

    number: int
    map_id: str
    source_id: str
    key: str
    record: PartRecord | None
    own_id: int | None
    target: int | None
    refused: bool = False


@dataclass(slots=True)
class PlannedAttachment:
    """A file or a link to attach. `fault` once it turned out that its blob is not what it says."""

    number: int
    map_id: str
    part_key: str
    record: AttachmentRecord
    own_id: int | None
    is_cover: bool
    fault: StoreError | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """Some of a part's files, and the part itself unless it is here already."""

    part: PlannedPart
    attachments: list[PlannedAttachment]


def loads(scratch: sqlite3.Connection) -> Iterator[list[Load]]:
    """The portions. Each must have been written before the next is asked for."""
    portion: list[Load] = []
    size = 0
    for row in scratch.execute(PARTS):
        part = PlannedPart(
            row["number"],
            row["map_id"],
            row["id"],
            row["key"],
            PartRecord(**_record(row["record"])) if row["target"] is None else None,
            row["own_id"],
            row["target"],
        )
        pieces = _pieces(scratch, part)
        first = next(pieces, [])
        portion.append(Load(part, first))
        size += len(first)
        if len(portion) >= PARTS_AT_A_TIME or size >= ATTACHMENTS_AT_A_TIME:
            yield portion
            portion, size = [], 0
            # By now the part is here, or refused, and what is left of its files can follow.
            for piece in pieces:
                yield [Load(part, piece)]
    if portion:
        yield portion


def _pieces(scratch: sqlite3.Connection, part: PlannedPart) -> Iterator[list[PlannedAttachment]]:
    cursor = scratch.execute(ATTACHMENTS, [part.source_id])
    while rows := cursor.fetchmany(ATTACHMENTS_AT_A_TIME):
        piece = [
            PlannedAttachment(
                row["number"],
                row["map_id"],
                part.key,
                AttachmentRecord(**{**_record(row["record"]), "size": row["size"]}),
                row["own_id"],
                bool(row["is_cover"]),
            )
            for row in rows
        ]
        # In the source's order, so that rows which get new ids keep their order.
        yield sorted(piece, key=lambda planned: planned.number)


def _record(written: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(written)
    for name in ("created", "updated"):
        if values[name] is not None:
            values[name] = datetime.fromisoformat(values[name])
    return values
