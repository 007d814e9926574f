"""The table of source rows: what was read from where, what became of it, and what it holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.db import transaction
from django.utils import timezone

from attachments.locks import hold_shared
from cas.digest import Digest, is_cas_key
from parts.legacy_import.scratch import LONGEST_KEY
from parts.legacy_import.shapes import Shape
from parts.legacy_import.sources import Table
from parts.models import SourceRow

BATCH: Final = 250
"""Rows in a transaction: each blob among them takes a slot of PostgreSQL's shared lock table."""

IDENTITY: Final = ("source", "source_table", "source_id")

# What is known with the same object already need not be written again.
UNRECORDED: Final = """
SELECT {table}.map_id, {name} AS name, {key} AS s3_key, {size} AS size
FROM {table} LEFT JOIN known ON known.kind = '{table}' AND known.id = {table}.map_id
WHERE known.id IS NULL OR known.name IS NOT {name} OR known.s3_key IS NOT {key}
    OR known.size IS NOT {size}
GROUP BY {table}.map_id ORDER BY {table}.number
"""

COLUMNS: Final = {
    "part": {"name": "coalesce(part.key, '')", "key": "NULL", "size": "NULL"},
    "attachment": {
        "name": "coalesce(attachment.name, '')",
        "key": "attachment.s3_key",
        # A size that the source does not know was taken from the object.
        "size": "coalesce(attachment.size, known.size)",
    },
}
"""What is recorded of a row, by the scratch table that it is in."""

REFUSED: Final = """
SELECT map_id, target, {size} AS size, fault, reason FROM {table}
WHERE CASE WHEN outcome IS NULL THEN fault IS NOT NULL
    ELSE outcome = 'left_out' OR (outcome = 'already_here' AND NOT EXISTS (
        SELECT 1 FROM known WHERE kind = '{table}' AND id = map_id AND our_id = target)) END
GROUP BY map_id
"""

# Rows that were refused for another object (`plan.OTHER_OBJECTS`), which has turned out to be ours.
RESOLVED: Final = """
SELECT refused.id FROM attachment JOIN known AS refused
    ON refused.kind = 'attachment'
    AND refused.id = map_id || '#' || short_hash(coalesce(attachment.s3_key, ''))
WHERE attachment.outcome = 'already_here' AND refused.state = 'refused' AND refused.released = ''
"""

LONGEST_NAME: Final = 255


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a source row: the row `our_id` here, or refused with a `code`.

    `size` is that of its object, in bytes.
    """

    table: str
    map_id: str
    our_id: int | None
    size: int | None = None
    code: str = ""
    reason: str = ""


class SourceRows:
    """The rows of one source, by the scratch tables that they were read into."""

    def __init__(self, source: str, shape: Shape) -> None:
        self._source = source
        self._tables = {"part": Table.PARTS, "attachment": shape.attachments}

    def record(self, scratch: sqlite3.Connection) -> Iterator[int]:
        """Record all rows that were read, before anything else is written; yields how many.

        From then on what they name is held. Each batch is committed by itself. The digests' locks
        make a collection that is deleting one of them finish first, or see the row. Raises
        Unreachable, and the database's errors.
        """
        for name, table in self._tables.items():
            query = UNRECORDED.format(table=name, **COLUMNS[name])
            unrecorded = scratch.execute(query)
            while rows := unrecorded.fetchmany(BATCH):
                self._record(table, rows)
                yield len(rows)

    def _record(self, table: Table, rows: Sequence[sqlite3.Row]) -> None:
        keys = {row["s3_key"] for row in rows if is_cas_key(row["s3_key"] or "")}
        with transaction.atomic():
            hold_shared([Digest.from_key(key) for key in sorted(keys)])
            self._write(
                (
                    {
                        "source_table": table,
                        "source_id": row["map_id"],
                        "name": row["name"][:LONGEST_NAME],
                        "object_key": _storable(row["s3_key"]),
                        "object_size": row["size"],
                    }
                    for row in rows
                ),
                ("name", "object_key", "object_size"),
            )

    def settle_decided(self, scratch: sqlite3.Connection) -> None:
        """Note what the plan alone decided: refusals, rows found without a map, resolved ones."""
        for name in self._tables:
            size = "NULL" if name == "part" else "size"
            found = scratch.execute(REFUSED.format(table=name, size=size))
            while rows := found.fetchmany(BATCH):
                self.settle(
                    [
                        Result(name, row["map_id"], None, row["size"], row["fault"], row["reason"])
                        if row["target"] is None
                        else Result(name, row["map_id"], row["target"], row["size"])
                        for row in rows
                    ]
                )
        resolved = scratch.execute(RESOLVED)
        while rows := resolved.fetchmany(BATCH):
            SourceRow.objects.filter(
                source=self._source,
                source_table=self._tables["attachment"],
                source_id__in=[row["id"] for row in rows],
            ).update(released_at=timezone.now(), release_cause=SourceRow.Release.RESOLVED)

    def settle(self, results: Iterable[Result]) -> None:
        """Note what became of rows; in the transaction that made it so."""
        now = timezone.now()
        State = SourceRow.State
        self._write(
            (
                {
                    "source_table": self._tables[result.table],
                    "source_id": result.map_id,
                    "our_id": result.our_id,
                    "object_size": result.size,
                    "state": State.REFUSED if result.code else State.ACCEPTED,
                    "reason_code": result.code,
                    "reason": result.reason,
                    "tried_at": now,
                }
                for result in results
            ),
            ("our_id", "object_size", "state", "reason_code", "reason", "tried_at"),
        )

    def _write(self, rows: Iterable[dict[str, Any]], changed: tuple[str, ...]) -> None:
        SourceRow.objects.bulk_create(
            [SourceRow(source=self._source, **row) for row in rows],
            update_conflicts=True,
            unique_fields=IDENTITY,
            update_fields=changed,
        )


def _storable(key: str | None) -> str | None:
    """No store has an object for a longer key, nor PostgreSQL a text with a NUL."""
    return key if key and len(key) <= LONGEST_KEY and "\0" not in key else None
