"""Fills the scratch database with what is here, and what earlier imports recorded."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from attachments.models import Attachment
from parts.legacy_import.columns import instant
from parts.legacy_import.shapes import Shape
from parts.legacy_import.sources import Table
from parts.models import Part, SourceRow

ROWS_AT_A_TIME: Final = 2000

TABLES_OF: Final = {
    "part": [Table.PARTS],
    "attachment": [Table.PART_ATTACHMENTS, Table.ATTACHMENTS],
}
"""The older tables whose rows become parts and attachments, in whichever shape."""


def read_rows_here(scratch: sqlite3.Connection, source: str, shape: Shape) -> None:
    """Take what tells the rows of this installation from one another, and the map of ids."""
    parts = Part.objects.values_list(
        "pk", "key", "cover_attachment_id", "created_at", "description"
    )
    _fill(scratch, "part_here", _all(parts))
    attachments = Attachment.objects.values_list(
        "pk", "part_id", "attachment_type", "created_at", "s3_key"
    )
    _fill(scratch, "attachment_here", _all(attachments))
    for kind, tables in TABLES_OF.items():
        given = SourceRow.objects.filter(source_table__in=tables, our_id__isnull=False)
        ids = _all(given.values_list("our_id").distinct())
        _fill(scratch, "given_id", ((kind, *row) for row in ids))
    for kind, table in (("part", Table.PARTS), ("attachment", shape.attachments)):
        known = SourceRow.objects.filter(source=source, source_table=table).values_list(
            "source_id", "our_id", "state", "release_cause", "name", "object_key", "object_size"
        )
        _fill(scratch, "known", ((kind, *row) for row in _all(known)))


def _all(rows: Any) -> Iterable[tuple[Any, ...]]:
    found: Iterable[tuple[Any, ...]] = rows.order_by().iterator(ROWS_AT_A_TIME)
    return found


def _fill(scratch: sqlite3.Connection, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    for row in rows:
        marks = ", ".join("?" * len(row))
        plain = tuple(instant(value) if isinstance(value, datetime) else value for value in row)
        scratch.execute(f"INSERT INTO {table} VALUES ({marks})", plain)  # noqa: S608 - own names
