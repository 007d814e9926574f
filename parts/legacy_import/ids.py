"""Keeps the database from giving away an id that an older row is about to take."""

from __future__ import annotations

import sqlite3
from typing import Final

from django.db import connection

from attachments.models import Attachment
from parts.models import Part

# SQLite's own sequences follow every id that is inserted; PostgreSQL's have to be told.
ADVANCE: Final = """
SELECT setval(sequence, %s) FROM pg_get_serial_sequence(%s, 'id') AS sequence
WHERE coalesce(pg_sequence_last_value(sequence::regclass), 0) < %s
"""


def reserve_ids(scratch: sqlite3.Connection) -> None:
    """Move the sequences behind the ids that will be kept, before the first is used.

    Afterwards would be too late: whoever uploads meanwhile draws from them.
    """
    if connection.vendor != "postgresql":
        return
    for name, model in (("part", Part), ("attachment", Attachment)):
        largest = scratch.execute(
            f"SELECT max(own_id) FROM {name} WHERE fault IS NULL AND outcome IS NULL"  # noqa: S608
        ).fetchone()[0]
        if largest is not None:
            with connection.cursor() as cursor:
                cursor.execute(ADVANCE, [largest, model._meta.db_table, largest])
