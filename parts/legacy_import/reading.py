"""Fills the scratch database with the source's rows, each judged by itself."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from attachments.maintenance.runner import Run
from cas.exit_status import ExitStatus, RunAborted
from parts.legacy_import.columns import (
    Columns,
    attachment_columns,
    label_of,
    labels_in,
    part_columns,
)
from parts.legacy_import.records import (
    ATTACHMENT_COLUMNS,
    PART_COLUMNS,
    Raw,
    parse_attachment,
    parse_part,
)
from parts.legacy_import.scratch import INDEXES, short_hash
from parts.legacy_import.shapes import Shape, recognise
from parts.legacy_import.sources import Source, Table
from parts.legacy_import.values import BadRow, identifier, text

logger = logging.getLogger(__name__)

TIMES: Final = frozenset({"created_at", "updated_at"})

NAMED: Final = {"type": Table.TYPES, "seller": Table.SELLERS, "tag": Table.TAGS}
"""The tables in which the ids of types, sellers and tags find their names."""


class Column(NamedTuple):
    """A column, and what makes text of its values."""

    name: str
    read: Callable[[Any, str], str | None] = identifier


def _required(value: Any, column: str) -> str:
    found = identifier(value, column)
    if found is None:
        raise BadRow("invalid", f"{column} is empty")
    return found


_id, _part_id, _seller_id = Column("id", _required), Column("part_id"), Column("seller_id")
_tag_id, _set_id, _cover = (
    Column("tag_id"),
    Column("attachment_set_id"),
    Column("cover_attachment_id"),
)
_name, _link = Column("name", text), Column("link", text)


def _named_by(row: BadRow, label: Columns) -> Columns:
    """The name of a row without an id: by its line, and by the one of its objects."""
    if not row.written:
        return {}
    named = "\0".join([row.written.rstrip("\r\n"), label.get("s3_key") or ""])
    return {"map_id": f"#{short_hash(named)}"}


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
        # A column of tags comes before tables of them, which are then left out.
        in_column = "tags" in (source.columns(Table.PARTS) or ())
        self._tags_in_tables = Table.PART_TAGS in self._tables and not in_column
        self._read: set[str] = set()

    def read(self) -> None:
        """Take every row of the tables that are imported. Raises RunAborted, Cancelled."""
        self._read_names()
        self._read_pairs()
        if self.shape.has_sets:
            self._read_sets()
        self._load(
            "part", Table.PARTS, PART_COLUMNS, lambda raw: part_columns(parse_part(raw, self))
        )
        self._load(
            "attachment",
            self.shape.attachments,
            ATTACHMENT_COLUMNS,
            lambda raw: attachment_columns(parse_attachment(raw, self.shape.owner), self.shape),
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
            raise RunAborted(
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
            if table is Table.TAGS and not self._tags_in_tables:
                continue
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
        if self._tags_in_tables:
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

        What is in its other columns is counted as left out. Raises RunAborted, Cancelled.
        """
        self._read.add(table)
        known = TIMES | {"id"} | {column.name for column in columns}
        for row in self._source.rows(table):
            self._run.cancel.check()
            if isinstance(row, BadRow):
                raise RunAborted(ExitStatus.REFUSED, f"{table}: {row}. Nothing was imported")
            if table is not Table.KITS:
                self._count_columns(table, row, known)
            try:
                yield [column.read(row.get(column.name), column.name) for column in columns]
            except BadRow as fault:
                raise RunAborted(
                    ExitStatus.REFUSED, f"{table}: {fault}. Nothing was imported"
                ) from fault

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
            self._run.cancel.check()
            if isinstance(row, BadRow):
                for label in [{}] if table is Table.PARTS else labels_in(row.written):
                    yield {**label, **_named_by(row, label), "fault": row.code, "reason": str(row)}
                continue
            self._count_columns(table, row, known)
            try:
                yield parse(row)
            except BadRow as fault:
                label = label_of(row, table, self.shape)
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
