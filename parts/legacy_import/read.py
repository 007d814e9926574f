"""Fills a private scratch database with the source's rows, each judged by itself, and with ours.

The scratch database is an SQLite file on disk that is gone with its connection, and so with the
process. It keeps memory flat whatever the number of rows, and lets the plan be a handful of joins.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple

from attachments.maintenance.retry import by_id
from attachments.maintenance.runner import CancelToken, Run
from attachments.models import Attachment
from cas.exit_status import ExitStatus, RunAborted
from parts.legacy_import.map import (
    ATTACHMENT_COLUMNS,
    LONGEST_ID,
    PART_COLUMNS,
    Columns,
    Raw,
    attachment_columns,
    held_key,
    identifier,
    instant,
    label_of,
    labels_in,
    other_keys,
    parse_attachment,
    parse_part,
    part_columns,
    text,
)
from parts.legacy_import.sources import BadRow, Shape, Source, Table, recognise
from parts.models import Part, SourceRow

CACHE_KIB: Final = 32 * 1024

SCHEMA: Final = """
-- What ids of types, sellers and tags stand for; `used` if a part has it.
CREATE TABLE name (
    kind TEXT, id TEXT, name TEXT, used INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE INDEX name_name ON name (kind, name);
CREATE TABLE part_seller (number INTEGER PRIMARY KEY, part TEXT, seller TEXT, link TEXT);
CREATE TABLE part_tag (number INTEGER PRIMARY KEY, part TEXT, tag TEXT);
CREATE TABLE attachment_set (id TEXT PRIMARY KEY, cover TEXT) WITHOUT ROWID;
CREATE TABLE kit (number INTEGER PRIMARY KEY, id TEXT, set_id TEXT);

-- `number` counts the source's rows from 1, `map_id` is the row's id in the table of source rows.
-- `outcome` is set for what is neither to be imported nor refused: already_here (as the row
-- `target`), deleted_here, forgotten, left_out. A row with a `fault` is not imported, for `reason`.
-- `own_id` is the id it had and is to keep if it can. `record` is the row as JSON; the other
-- columns repeat of it what the plan needs. `former` is the attachment here that the row became
-- when it named another object.
CREATE TABLE part (
    number INTEGER PRIMARY KEY, id TEXT, map_id TEXT, key TEXT, set_id TEXT, cover TEXT,
    created TEXT, own_id INTEGER, record TEXT, fault TEXT, reason TEXT, outcome TEXT,
    target INTEGER, cover_here INTEGER, lost_cover TEXT
);
CREATE TABLE attachment (
    number INTEGER PRIMARY KEY, id TEXT, map_id TEXT, part TEXT, set_id TEXT, kind TEXT,
    name TEXT, s3_key TEXT, url TEXT, size INTEGER, created TEXT, has_picture INTEGER,
    own_id INTEGER, record TEXT, fault TEXT, reason TEXT, outcome TEXT, target INTEGER,
    former INTEGER, is_cover INTEGER NOT NULL DEFAULT 0
);

-- Objects that other columns name, of whichever table; `name` is what the hold is known by.
CREATE TABLE other_key (
    source_table TEXT, name TEXT, source_column TEXT, s3_key TEXT, PRIMARY KEY (source_table, name)
) WITHOUT ROWID;

-- What earlier imports of this source recorded, and the ids here that any source's rows got.
CREATE TABLE known (
    kind TEXT, id TEXT, our_id INTEGER, state TEXT, released TEXT, name TEXT, s3_key TEXT,
    size INTEGER, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE TABLE given_id (kind TEXT, id INTEGER, PRIMARY KEY (kind, id)) WITHOUT ROWID;

CREATE TABLE part_here (
    id INTEGER PRIMARY KEY, key TEXT, cover INTEGER, created TEXT, description TEXT
);
CREATE TABLE attachment_here (
    id INTEGER PRIMARY KEY, part INTEGER, kind TEXT, created TEXT, s3_key TEXT
);
"""

INDEXES: Final = """
CREATE INDEX part_id ON part (id);
CREATE INDEX part_key ON part (key);
CREATE INDEX part_map ON part (map_id);
CREATE INDEX part_set ON part (set_id);
CREATE INDEX kit_set ON kit (set_id);
CREATE INDEX attachment_id ON attachment (id);
CREATE INDEX attachment_map ON attachment (map_id);
CREATE INDEX attachment_set_id ON attachment (set_id);
CREATE INDEX attachment_part ON attachment (part);
CREATE INDEX attachment_key ON attachment (s3_key);
CREATE INDEX attachment_target ON attachment (target);
CREATE INDEX here_part ON attachment_here (part);
"""

TABLES: Final = ("part", "attachment")
"""The tables that hold rows to import."""


@contextmanager
def scratch() -> Iterator[sqlite3.Connection]:
    """An empty scratch database; `INDEXES` are for when it has been filled."""
    # An empty name is SQLite's for a private file, deleted as soon as it is open.
    with closing(sqlite3.connect("", isolation_level=None)) as database:
        database.row_factory = sqlite3.Row
        database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        database.execute("PRAGMA journal_mode = OFF")
        database.create_function("short_hash", 1, short_hash, deterministic=True)
        database.create_function("held_key", 1, held_key, deterministic=True)
        database.executescript(SCHEMA)
        yield database


def short_hash(text: str) -> str:
    """What stands for a text in a name."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
    """Reads one source. `left_out` counts, by name, what it has and an import does not bring.

    `rows` counts those of parts and of attachments.
    """

    def __init__(
        self, scratch: sqlite3.Connection, source: Source, without: frozenset[Table], run: Run
    ) -> None:
        self._scratch = scratch
        self._source = source
        self._without = without
        self._run = run
        self.left_out: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
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
        self.rows[table] = number
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
        insert = "INSERT OR IGNORE INTO other_key VALUES (?, ?, ?, ?)"
        for column, key in other_keys(row, known):
            name = f"{str(row.get('id'))[:LONGEST_ID]}.{column[:LONGEST_ID]}#{short_hash(key)}"
            self._insert(insert, table, name, column, key)

    def _count_unused(self) -> None:
        query = "SELECT kind, count(*) FROM name WHERE NOT used GROUP BY kind"
        for kind, count in self._scratch.execute(query):
            self.left_out[f"{NAMED[kind]} (no part has them)"] += count

    def _insert(self, query: str, *values: Any) -> None:
        self._scratch.execute(query, values)

    def _one(self, query: str) -> int:
        return int(self._scratch.execute(query).fetchone()[0])


TABLES_OF: Final = {
    "part": [Table.PARTS],
    "attachment": [Table.PART_ATTACHMENTS, Table.ATTACHMENTS],
}
"""The older tables whose rows become parts and attachments, in whichever shape."""


def read_rows_here(
    scratch: sqlite3.Connection, source: str, shape: Shape, cancel: CancelToken
) -> None:
    """Take what tells the rows of this installation from one another, and the map of ids."""
    parts = Part.objects.values_list(
        "pk", "key", "cover_attachment_id", "created_at", "description"
    )
    _fill(scratch, "part_here", by_id(parts, cancel))
    attachments = Attachment.objects.values_list(
        "pk", "part_id", "attachment_type", "created_at", "s3_key"
    )
    _fill(scratch, "attachment_here", by_id(attachments, cancel))
    for kind, tables in TABLES_OF.items():
        given = SourceRow.objects.filter(source_table__in=tables, our_id__isnull=False)
        ids = by_id(given.values_list("pk", "our_id"), cancel)
        _fill(scratch, "given_id", ((kind, our_id) for _pk, our_id in ids))
    for kind, table in (("part", Table.PARTS), ("attachment", shape.attachments)):
        known = SourceRow.objects.filter(source=source, source_table=table).values_list(
            "pk", "source_id", "our_id", "state", "release_cause", "name", "object_key",
            "object_size",
        )  # fmt: skip
        _fill(scratch, "known", ((kind, *row) for _pk, *row in by_id(known, cancel)))


def _fill(scratch: sqlite3.Connection, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    for row in rows:
        marks = ", ".join("?" * len(row))
        plain = tuple(instant(value) if isinstance(value, datetime) else value for value in row)
        scratch.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", plain)  # noqa: S608 - own names
