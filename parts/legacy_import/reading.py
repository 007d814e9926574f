"""Fills the scratch database with the source's rows, each judged by itself."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final, NamedTuple

from attachments.maintenance.frame import Run
from attachments.maintenance.run import ExitStatus, Halt
from parts.legacy_import.records import (
    ATTACHMENT_COLUMNS,
    LARGEST_SIZE,
    LONGEST_ID,
    PART_COLUMNS,
    AttachmentRecord,
    PartRecord,
    Raw,
    own_id,
    parse_attachment,
    parse_part,
)
from parts.legacy_import.scratch import INDEXES
from parts.legacy_import.shapes import Shape, recognise
from parts.legacy_import.sources import Source, Table
from parts.legacy_import.values import BadRow, identifier, text, whole

logger = logging.getLogger(__name__)

TIMES: Final = frozenset({"created_at", "updated_at"})

NAMED: Final = {"type": Table.TYPES, "seller": Table.SELLERS, "tag": Table.TAGS}
"""The tables in which the ids of types, sellers and tags find their names."""

Columns = dict[str, Any]


class Column(NamedTuple):
    """A column, and what makes text of its values."""

    name: str
    read: Callable[[Any, str], str | None] = identifier


_id, _part_id, _seller_id = Column("id"), Column("part_id"), Column("seller_id")
_tag_id, _set_id, _cover = (
    Column("tag_id"),
    Column("attachment_set_id"),
    Column("cover_attachment_id"),
)
_name, _link = Column("name", text), Column("link", text)


class Reader:
    """Reads one source. `left_out` counts, by name, what it has and an import does not bring."""

    def __init__(
        self, scratch: sqlite3.Connection, source: Source, without: frozenset[Table], run: Run
    ) -> None:
        self._scratch = scratch
        self._source = source
        self._without = without
        self._run = run
        self.left_out: Counter[str] = Counter()
        self.shape: Shape = recognise(source)
        self._tables = {*source.tables(), *(table for table in Table if source.columns(table))}
        self._read: set[str] = set()

    def read(self) -> None:
        """Take every row of the tables that are imported. Raises Halt, Stopped."""
        self._read_names()
        self._read_pairs()
        if self.shape.has_sets:
            self._read_sets()
        self._load("part", Table.PARTS, PART_COLUMNS, lambda raw: _part(parse_part(raw, self)))
        self._load(
            "attachment",
            self.shape.attachments,
            ATTACHMENT_COLUMNS,
            lambda raw: _attachment(parse_attachment(raw, self.shape.owner), self.shape),
        )
        self._scratch.executescript(INDEXES)
        self._count_unused()
        for table in sorted(self._tables - self._read):
            count = self._source.count(table)
            if count is None:
                self.left_out[f"{table} (may not be read)"] = 1
            else:
                self.left_out[table] = count

    # What a part's row says by ids (`records.Lookup`).

    def name(self, kind: str, reference: str) -> str | None:
        table = NAMED[kind]
        if table in self._without:
            return ""
        if table not in self._tables:
            raise Halt(
                ExitStatus.REFUSED,
                f"parts have ids of {kind}s, but there is no table {table} to find the names in. "
                f"Give it, or say --without {table} to import the parts without them",
            )
        query = "SELECT name, used FROM name WHERE kind = ? AND id = ?"
        found = self._scratch.execute(query, [kind, reference]).fetchone()
        if found is None:
            return None
        if not found["used"]:
            used = "UPDATE name SET used = 1 WHERE kind = ? AND id = ?"
            self._scratch.execute(used, [kind, reference])
        return str(found["name"]).strip()

    def used(self, kind: str, name: str) -> None:
        query = "UPDATE name SET used = 1 WHERE kind = ? AND name = ? AND NOT used"
        self._scratch.execute(query, [kind, name])

    def seller(self, part: str) -> tuple[str | None, str]:
        query = "SELECT seller, link FROM part_seller WHERE part = ? ORDER BY number LIMIT 1"
        found = self._scratch.execute(query, [part]).fetchone()
        return (found["seller"], found["link"]) if found else (None, "")

    def tags(self, part: str) -> list[str]:
        query = "SELECT tag FROM part_tag WHERE part = ? ORDER BY number"
        found = []
        for (reference,) in self._scratch.execute(query, [part]).fetchall():
            name = self.name("tag", reference)
            if name is None:
                raise BadRow("invalid", f"tag_id {reference} is not among the tags")
            found.append(name)
        return list(dict.fromkeys(name for name in found if name))

    def _read_names(self) -> None:
        for kind, table in NAMED.items():
            if table in self._tables and table not in self._without:
                for row in self._taken(table, _id, _name):
                    self._insert("INSERT OR REPLACE INTO name VALUES (?, ?, ?, 0)", kind, *row)

    def _read_pairs(self) -> None:
        """The tables that say which parts have which sellers and tags."""
        if Table.PART_SELLERS in self._tables and Table.SELLERS not in self._without:
            for row in self._taken(Table.PART_SELLERS, _part_id, _seller_id, _link):
                self._insert("INSERT INTO part_seller VALUES (NULL, ?, ?, ?)", *row)
            further = "SELECT count(*) - count(DISTINCT part) FROM part_seller"
            self.left_out["part_sellers (further sellers of a part)"] += self._one(further)
            self._scratch.execute("CREATE INDEX part_seller_part ON part_seller (part)")
        if Table.PART_TAGS in self._tables:
            for row in self._taken(Table.PART_TAGS, _part_id, _tag_id):
                self._insert("INSERT INTO part_tag VALUES (NULL, ?, ?)", *row)
            self._scratch.execute("CREATE INDEX part_tag_part ON part_tag (part)")

    def _read_sets(self) -> None:
        for row in self._taken(Table.ATTACHMENT_SETS, _id, _cover):
            self._insert("INSERT OR REPLACE INTO attachment_set VALUES (?, ?)", *row)
        if "attachment_set_id" in (self._source.columns(Table.KITS) or ()):
            for row in self._taken(Table.KITS, _id, _set_id):
                self._insert("INSERT INTO kit VALUES (NULL, ?, ?)", *row)
            # Only what they hold was taken; they themselves are not imported.
            self._read.remove(Table.KITS)

    def _taken(self, table: Table, *columns: Column) -> Iterator[list[str | None]]:
        """These columns of a table that others refer to, so that each of its rows must be told.

        What is in its other columns is counted as left out. Raises Halt, Stopped.
        """
        self._read.add(table)
        known = TIMES | {"id"} | {column.name for column in columns}
        for row in self._source.rows(table):
            self._run.stop.check()
            if isinstance(row, BadRow):
                raise Halt(ExitStatus.REFUSED, f"{table}: {row}. Nothing was imported")
            if table is not Table.KITS:
                self._count_columns(table, row, known)
            try:
                yield [column.read(row.get(column.name), column.name) for column in columns]
            except BadRow as fault:
                raise Halt(ExitStatus.REFUSED, f"{table}: {fault}. Nothing was imported") from fault

    def _load(
        self, name: str, table: Table, known: frozenset[str], parse: Callable[[Raw], Columns]
    ) -> None:
        """Insert the table's rows, good and bad."""
        self._read.add(table)
        self._run.progress.begin(f"{table} read")
        number = 0
        for number, columns in enumerate(self._judged(table, known, parse), start=1):
            given = {"number": number, **columns}
            marks = ", ".join("?" * len(given))
            query = f"INSERT INTO {name} ({', '.join(given)}) VALUES ({marks})"  # noqa: S608 - own names
            self._insert(query, *given.values())
            self._run.progress.step()
        logger.info("read %d rows of %s", number, table)

    def _judged(
        self, table: Table, known: frozenset[str], parse: Callable[[Raw], Columns]
    ) -> Iterator[Columns]:
        for row in self._source.rows(table):
            self._run.stop.check()
            if isinstance(row, BadRow):
                yield {"fault": row.code, "reason": str(row)}
                continue
            self._count_columns(table, row, known)
            try:
                yield parse(row)
            except BadRow as fault:
                label = _label(row, table, self.shape)
                yield {**label, "fault": fault.code, "reason": str(fault)}

    def _count_columns(self, table: Table, row: Raw, known: frozenset[str]) -> None:
        for column in row.keys() - known:
            if row[column] not in (None, "", [], {}):
                self.left_out[f"{table}.{column}"] += 1

    def _count_unused(self) -> None:
        query = "SELECT kind, count(*) FROM name WHERE NOT used GROUP BY kind"
        for kind, count in self._scratch.execute(query):
            self.left_out[f"{NAMED[kind]} (no part has them)"] += count

    def _insert(self, query: str, *values: Any) -> None:
        self._scratch.execute(query, values)

    def _one(self, query: str) -> int:
        return int(self._scratch.execute(query).fetchone()[0])


def _label(row: Raw, table: Table, shape: Shape) -> Columns:
    """What a refused row is known by, and the object it names, as far as these can be told."""
    label: Columns = {}
    if table is Table.PARTS:
        wanted: dict[str, Callable[[Any, str], Any]] = {"id": identifier, "key": text}
        if shape.has_sets:
            wanted["set_id"] = identifier
    else:
        wanted = {"id": identifier, "s3_key": text, "url": text, "size": whole}
        wanted["set_id" if shape.has_sets else "part"] = identifier
    columns = {"size": "file_size", "set_id": "attachment_set_id", "part": "part_id"}
    for name, read in wanted.items():
        with suppress(BadRow):
            column = columns.get(name, name)
            label[name] = read(row.get(column), column) or None
    if abs(label.get("size") or 0) > LARGEST_SIZE:
        del label["size"]
    if label.get("id"):
        label["id"] = label["id"][:LONGEST_ID]
    if table is not Table.PARTS:
        with suppress(BadRow):
            title = text(row.get("title"), "title") or text(row.get("filename"), "filename")
            label["name"] = (title or label.get("url") or "")[:255]
    return label


def _part(record: PartRecord) -> Columns:
    return {
        "id": record.source_id,
        "key": record.key,
        "set_id": record.set_id,
        "cover": record.cover,
        "created": instant(record.created),
        "own_id": own_id(record.source_id),
        "record": _json(record),
    }


def _attachment(record: AttachmentRecord, shape: Shape) -> Columns:
    return {
        "id": record.source_id,
        "set_id" if shape.has_sets else "part": record.owner,
        "kind": record.kind,
        "name": record.title,
        "s3_key": record.s3_key,
        "url": record.url,
        "size": record.size,
        "created": instant(record.created),
        "has_picture": record.has_picture,
        "own_id": own_id(record.source_id),
        "record": _json(record),
    }


def _json(record: PartRecord | AttachmentRecord) -> str:
    return json.dumps(asdict(record), default=datetime.isoformat)


def instant(value: datetime | None) -> str | None:
    """One spelling for one instant; all of them are in UTC."""
    return None if value is None else value.isoformat(timespec="microseconds")
