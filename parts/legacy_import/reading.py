"""Fills the scratch database: the source's rows, each judged by itself, and what is here."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from attachments.maintenance.run import ExitStatus, Halt, Stop, Stopped
from attachments.models import Attachment
from parts.legacy_import.records import (
    ATTACHMENT_COLUMNS,
    PART_COLUMNS,
    AttachmentRecord,
    Lookup,
    PartRecord,
    Raw,
    own_id,
    parse_attachment,
    parse_part,
)
from parts.legacy_import.scratch import INDEXES
from parts.legacy_import.sources import Source, Table
from parts.legacy_import.values import BadRow, identifier, text
from parts.models import Part

logger = logging.getLogger(__name__)

ROWS_AT_A_TIME: Final = 2000

REQUIRED: Final = {
    Table.PARTS: ("id", "key", "description"),
    Table.ATTACHMENTS: ("part_id", "attachment_type"),
}
KNOWN: Final = {Table.PARTS: PART_COLUMNS, Table.ATTACHMENTS: ATTACHMENT_COLUMNS}

LABELS: Final = {Table.PARTS: ("id", "key"), Table.ATTACHMENTS: ("id", "s3_key", "url")}

NAMED: Final = {"type": Table.TYPES, "seller": Table.SELLERS}
"""The tables in which a column of `parts` that ends in `_id` may find its name."""

Columns = dict[str, Any]


def read_source(
    scratch: sqlite3.Connection, source: Source, without: frozenset[Table], stop: Stop
) -> dict[Table, list[str]]:
    """Take every row of the source. Returns each table's columns that nobody here knows.

    `without` names the tables of names that are left out on purpose. Raises Halt, Stopped.
    """
    for kind, table in NAMED.items():
        if table not in without and source.has(table):
            _read_names(scratch, source, kind, table)
    look_up = _names(scratch, source, without)
    unknown = {
        Table.PARTS: _load(
            scratch, source, Table.PARTS, lambda raw: _part(parse_part(raw, look_up)), stop
        ),
        Table.ATTACHMENTS: _load(
            scratch, source, Table.ATTACHMENTS, lambda raw: _attachment(parse_attachment(raw)), stop
        ),
    }
    scratch.executescript(INDEXES)
    return unknown


def read_rows_here(scratch: sqlite3.Connection) -> None:
    """Take what tells the rows of this installation from one another."""
    parts = Part.objects.order_by().values_list(
        "pk", "key", "cover_attachment_id", "created_at", "description", "manufacturer_code"
    )
    attachments = Attachment.objects.order_by().values_list(
        "pk", "part_id", "s3_key", "url", "attachment_type", "filename", "file_size", "created_at"
    )
    scratch.executemany(
        "INSERT INTO part_here VALUES (?, ?, ?, ?, ?, ?)",
        map(_plain, parts.iterator(ROWS_AT_A_TIME)),
    )
    scratch.executemany(
        "INSERT INTO attachment_here VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        map(_plain, attachments.iterator(ROWS_AT_A_TIME)),
    )


def _read_names(scratch: sqlite3.Connection, source: Source, kind: str, table: Table) -> None:
    for row in source.rows(table):
        if isinstance(row, BadRow):
            raise Halt(ExitStatus.REFUSED, f"{table}: {row}. Nothing was imported")
        try:
            named = (kind, identifier(row.get("id"), "id"), text(row.get("name"), "name").strip())
        except BadRow as fault:
            raise Halt(ExitStatus.REFUSED, f"{table}: {fault}. Nothing was imported") from fault
        scratch.execute("INSERT OR REPLACE INTO name VALUES (?, ?, ?)", named)


def _names(scratch: sqlite3.Connection, source: Source, without: frozenset[Table]) -> Lookup:
    missing = {table for table in NAMED.values() if not source.has(table)}

    def look_up(kind: str, reference: str) -> str | None:
        table = NAMED[kind]
        if table in without:
            return ""
        if table in missing:
            raise Halt(
                ExitStatus.REFUSED,
                f"parts have a {kind}_id, but there is no table {table} to find the name in. Give "
                f"it, or say --without {table} to import the parts without it",
            )
        query = "SELECT name FROM name WHERE kind = ? AND id = ?"
        found = scratch.execute(query, [kind, reference]).fetchone()
        return None if found is None else str(found["name"])

    return look_up


def _load(
    scratch: sqlite3.Connection,
    source: Source,
    table: Table,
    parse: Callable[[Raw], Columns],
    stop: Stop,
) -> list[str]:
    """Insert the table's rows, good and bad. Returns the columns that are not known."""
    name = "part" if table is Table.PARTS else "attachment"
    seen: set[str] = set()
    number = 0
    for number, columns in enumerate(_judged(source, table, parse, seen, stop), start=1):
        given = {"number": number, **columns}
        marks = ", ".join("?" * len(given))
        scratch.execute(
            f"INSERT INTO {name} ({', '.join(given)}) VALUES ({marks})",  # noqa: S608 - own names
            list(given.values()),
        )
    lacking = [column for column in REQUIRED[table] if column not in seen]
    if number and lacking:
        raise Halt(
            ExitStatus.REFUSED,
            f"{table} has no column {', '.join(lacking)}. Nothing was imported",
        )
    logger.info("read %d rows of %s", number, table)
    return sorted(seen - KNOWN[table])


def _judged(
    source: Source, table: Table, parse: Callable[[Raw], Columns], seen: set[str], stop: Stop
) -> Iterator[Columns]:
    for row in source.rows(table):
        if stop.requested:
            raise Stopped
        if isinstance(row, BadRow):
            yield {"fault": row.code, "reason": str(row)}
            continue
        seen.update(row)
        try:
            yield parse(row)
        except BadRow as fault:
            yield {**_label(row, table), "fault": fault.code, "reason": str(fault)}


def _label(row: Raw, table: Table) -> Columns:
    """What a refused row is reported by, as far as it can be told."""
    label: Columns = {}
    for column in LABELS[table]:
        with suppress(BadRow):
            label[column] = identifier(row.get(column), column)
    return label


def _part(record: PartRecord) -> Columns:
    return {
        "id": record.source_id,
        "key": record.key,
        "cover": record.cover,
        "created": _instant(record.created),
        "description": record.fields["description"],
        "code": record.fields["manufacturer_code"],
        "own_id": own_id(record.source_id),
        "record": _json(record),
    }


def _attachment(record: AttachmentRecord) -> Columns:
    return {
        "id": record.source_id,
        "part": record.part,
        "kind": record.kind,
        "s3_key": record.s3_key,
        "url": record.url,
        "filename": record.filename,
        "size": record.size,
        "created": _instant(record.created),
        "own_id": own_id(record.source_id),
        "record": _json(record),
    }


def _json(record: PartRecord | AttachmentRecord) -> str:
    return json.dumps(asdict(record), default=datetime.isoformat)


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_instant(value) if isinstance(value, datetime) else value for value in row)


def _instant(value: datetime | None) -> str | None:
    """One spelling for one instant; all of them are in UTC."""
    return None if value is None else value.isoformat(timespec="microseconds")
