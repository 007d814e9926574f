"""What an older installation's rows are read from: its database, or dumps of its tables.

Which of the older systems' shapes a source has is found from its tables and columns:

| shape | its attachments | its keys |
|---|---|---|
| PART_ATTACHMENTS | `part_attachments`, each row with its `part_id` | older ones, or `cas/` |
| ATTACHMENT_SETS | `attachments`, each row in a set that a part or a kit owns | either |
"""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol, TextIO

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader

from cas.exit_status import ExitStatus, RunAborted


class Table(StrEnum):
    """The older tables that an import reads; which of them there are, `shapes` says."""

    PARTS = "parts"
    PART_ATTACHMENTS = "part_attachments"
    ATTACHMENTS = "attachments"
    ATTACHMENT_SETS = "attachment_sets"
    KITS = "kits"
    TYPES = "types"
    SELLERS = "sellers"
    PART_SELLERS = "part_sellers"
    TAGS = "tags"
    PART_TAGS = "part_tags"


class BadRow(ValueError):
    """A row that cannot be imported. `code` classes the reason, the message says it.

    `written` is how the row stands in the dump if it cannot be told into columns.
    """

    def __init__(self, code: str, reason: str, written: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.written = written


class Source(Protocol):
    """Tables and their rows, read one row at a time in flat memory."""

    def tables(self) -> list[str]:
        """The names of all tables, also of those that no import knows. Raises RunAborted."""

    def columns(self, table: str) -> frozenset[str] | None:
        """The table's columns; None if there is no such table. Raises RunAborted.

        A dump of a table without rows may not say them: then the set is empty.
        """

    def count(self, table: str) -> int | None:
        """How many rows the table has; None if it may not be read. Raises RunAborted."""

    def rows(self, table: str) -> Iterator[Mapping[str, Any] | BadRow]:
        """Every row, in an order that is the same each time as long as no row is added.

        BadRow stands for one that cannot be told. Raises RunAborted.
        """


Opening = AbstractContextManager[Source]


def unreadable(name: str, problem: str) -> RunAborted:
    """A source that is not what it should be: no row of it can be trusted to be complete."""
    return RunAborted(ExitStatus.REFUSED, f"{name} cannot be read: {problem}. Nothing was imported")


Required = dict[Table, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Shape:
    """`attachments` is the table of attachments, `owner` its column that says whose they are.

    `required` are the columns without which it is not this shape.
    """

    attachments: Table
    owner: str
    required: Required

    @property
    def has_sets(self) -> bool:
        return self.owner == "attachment_set_id"


PART: Final = ("id", "key", "description")
ATTACHMENT: Final = ("id", "attachment_type", "s3_key", "file_size")

PART_ATTACHMENTS: Final = Shape(
    Table.PART_ATTACHMENTS,
    "part_id",
    {Table.PARTS: PART, Table.PART_ATTACHMENTS: ("part_id", *ATTACHMENT)},
)
ATTACHMENT_SETS: Final = Shape(
    Table.ATTACHMENTS,
    "attachment_set_id",
    {
        Table.PARTS: (*PART, "attachment_set_id"),
        Table.ATTACHMENTS: ("attachment_set_id", *ATTACHMENT),
        Table.ATTACHMENT_SETS: ("id", "cover_attachment_id"),
    },
)


def recognise(source: Source) -> Shape:
    """The shape of the source. Raises RunAborted if it has none, or more than one."""
    lacking = {
        shape.owner: _lacking(source, shape) for shape in (PART_ATTACHMENTS, ATTACHMENT_SETS)
    }
    whole = [shape for shape in (PART_ATTACHMENTS, ATTACHMENT_SETS) if not lacking[shape.owner]]
    if len(whole) == 2:
        # A table that is no longer in use names objects, too: it must not go unread.
        whole = [shape for shape in whole if source.count(shape.attachments) != 0] or whole[:1]
    if len(whole) == 1:
        return whole[0]
    if whole:
        raise _not_importable(
            "it has rows in part_attachments and in attachments. Dump its tables, without the one "
            "that is no longer in use, and import the dump"
        )
    with_parts, with_sets = lacking["part_id"], lacking["attachment_set_id"]
    if common := [what for what in with_parts if what in with_sets]:
        raise _not_importable(f"it has no {', no '.join(common)}")
    raise _not_importable(
        f"for attachments of parts it has no {', no '.join(with_parts)}; for sets of attachments "
        f"it has no {', no '.join(with_sets)}"
    )


def _lacking(source: Source, shape: Shape) -> list[str]:
    """What the source would need to have this shape, in words."""
    found = []
    for table, required in shape.required.items():
        columns = source.columns(table)
        if columns is None:
            found.append(f"table {table}")
        elif columns:
            found += [f"column {table}.{name}" for name in required if name not in columns]
    return found


def _not_importable(problem: str) -> RunAborted:
    return RunAborted(ExitStatus.REFUSED, f"this source cannot be imported: {problem}")


SUFFIXES: Final = (".csv", ".json", ".jsonl", ".ndjson")
"""Of the files that are read; what is in one decides how it is read, not its suffix."""

ROWS_LOOKED_AT: Final = 1000
"""Rows of JSON lines that are read to see which columns there are."""

LONGEST_LINE: Final = 16 * 1024 * 1024
"""Characters of one row; none of the older tables comes near it."""

NULLS: Final = ("", "\\N")
"""How CSV writes NULL; `\\N` is what `COPY` writes unless told otherwise."""


class Dumps:
    """The files of a directory by the tables they hold: `parts.csv` holds `parts`."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths

    def tables(self) -> list[str]:
        return sorted(self._paths)

    def columns(self, table: str) -> frozenset[str] | None:
        path = self._paths.get(table)
        if path is None:
            return None
        with _text(path) as file:
            kind = _kind(file, path)
            if kind == "csv":
                return frozenset(_header(csv.reader(file, strict=True), path.name))
            # Some programs leave out what is NULL.
            rows = islice(_lines(file), ROWS_LOOKED_AT)
            return frozenset().union(*(row for row in rows if not isinstance(row, BadRow)))

    def count(self, table: str) -> int:
        return sum(1 for _ in self.rows(table))

    def rows(self, table: str) -> Iterator[Mapping[str, Any] | BadRow]:
        path = self._paths[table]
        with _text(path) as file:
            kind = _kind(file, path)
            if kind == "csv":
                yield from _table(file, path.name)
            elif kind == "lines":
                yield from _lines(file)


@contextmanager
def open_dumps(directory: Path) -> Iterator[Source]:
    """The source that a directory of dumps is. Raises RunAborted."""
    paths: dict[str, Path] = {}
    try:
        for path in sorted(directory.iterdir()):
            if path.suffix.lower() not in SUFFIXES or not path.is_file():
                continue
            if other := paths.get(path.stem):
                raise RunAborted(
                    ExitStatus.REFUSED,
                    f"{other.name} and {path.name} are both dumps of {path.stem}: remove one",
                )
            paths[path.stem] = path
    except OSError as error:
        raise unreadable(str(directory), error.strerror or str(error)) from error
    yield Dumps(paths)


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    """The file as text, errors translated. Raises RunAborted."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise unreadable(path.name, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise unreadable(path.name, "it is not UTF-8") from error


def _kind(file: TextIO, path: Path) -> str:
    """`lines`, `csv`, or "" for a file without content. Raises RunAborted for a JSON array."""
    first = ""
    while not first and (portion := file.read(64 * 1024)):
        first = portion.lstrip()[:1]
    file.seek(0)
    if first == "[":
        array, lines = shlex.quote(str(path)), shlex.quote(str(path.with_suffix(".jsonl")))
        if array == lines:
            lines = shlex.quote(str(path.with_suffix(".ndjson")))
        raise unreadable(
            path.name,
            "it is a JSON array, which cannot be read row by row. Make JSON lines of it: "
            f"jq -c '.[]' {array} > {lines} && rm {array}",
        )
    return {"": "", "{": "lines"}.get(first, "csv")


def _lines(file: TextIO) -> Iterator[Mapping[str, Any] | BadRow]:
    """One object a line. A line that is none is one bad row: the next begins where it ends."""
    while line := file.readline(LONGEST_LINE):
        if not line.endswith("\n") and len(line) == LONGEST_LINE:
            _skip_line(file)
            reason = f"the line is longer than {LONGEST_LINE} characters"
            yield BadRow("malformed", reason, line)
        elif line.strip():
            yield _parsed(line)


def _skip_line(file: TextIO) -> None:
    while (rest := file.readline(LONGEST_LINE)) and not rest.endswith("\n"):
        pass


def _parsed(line: str) -> Mapping[str, Any] | BadRow:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return BadRow("malformed", "the line is not JSON", line)
    if not isinstance(record, dict):
        return BadRow("malformed", "the line is not a JSON object", line)
    return record


def _header(reader: Any, name: str) -> list[str]:
    try:
        header = [column.strip() for column in next(reader)]
    except csv.Error as error:
        raise unreadable(name, f"line {reader.line_num}: {error}") from error
    if len(set(header)) < len(header):
        raise unreadable(name, "its header names a column twice")
    return header


def _table(file: TextIO, name: str) -> Iterator[Mapping[str, Any] | BadRow]:
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(file, strict=True)
    header = _header(reader, name)
    try:
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                yield BadRow(
                    "malformed",
                    f"line {reader.line_num} has {len(fields)} fields, the header {len(header)}",
                    "\n".join(fields),
                )
                continue
            values = (None if field in NULLS else field for field in fields)
            yield dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise unreadable(name, f"line {reader.line_num}: {error}") from error


ROWS_AT_A_TIME: Final = 2000
CONNECT_SECONDS: Final = 10

SCHEMES: Final = ("postgresql://", "postgres://")

_TABLES: Final = """
SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'p') AND NOT relispartition AND pg_table_is_visible(pg_class.oid)
    AND nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY relname
"""

_MAY_READ: Final = "SELECT has_table_privilege(to_regclass(%s), 'SELECT')"

_COLUMNS: Final = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
"""


class Database:
    """The tables that the connection's search path leads to, as they were at one moment."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def tables(self) -> list[str]:
        with translated():
            return [name for (name,) in self._connection.execute(_TABLES)]

    def columns(self, table: str) -> frozenset[str] | None:
        with translated():
            # Quoted, as to_regclass would fold the name like any other.
            name = sql.Identifier(table).as_string(self._connection)
            found = frozenset(name for (name,) in self._connection.execute(_COLUMNS, [name]))
        return found or None

    def count(self, table: str) -> int | None:
        name = sql.Identifier(table).as_string(self._connection)
        with translated():
            may = self._connection.execute(_MAY_READ, [name]).fetchone()
        if not (may and may[0]):
            return None
        query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
        with translated():
            row = self._connection.execute(query).fetchone()
        return int(row[0]) if row else 0

    def rows(self, table: str) -> Iterator[Mapping[str, Any] | BadRow]:
        order = "id" if "id" in (self.columns(table) or ()) else "ctid"
        query = sql.SQL("SELECT * FROM {} ORDER BY {}").format(
            sql.Identifier(table), sql.Identifier(order)
        )
        with (
            translated(),
            self._connection.cursor(name=f"import_{table}", row_factory=dict_row) as cursor,
        ):
            cursor.itersize = ROWS_AT_A_TIME
            yield from cursor.execute(query)


@contextmanager
def open_database(url: str) -> Iterator[Source]:
    """The database at this URL, in one read-only transaction. Raises RunAborted.

    The transaction sees the tables as they are when it begins: rows that come later in one table
    cannot refer to what an earlier read of the other did not see.
    """
    if not url.startswith(SCHEMES):
        raise RunAborted(ExitStatus.REFUSED, "the database's URL must begin with postgresql://")
    try:
        connection = psycopg.connect(url, connect_timeout=CONNECT_SECONDS)
    except psycopg.OperationalError as error:
        raise _unavailable(error) from error
    except psycopg.Error:
        # The message would repeat the URL, which may hold a password.
        raise RunAborted(ExitStatus.REFUSED, "the database's URL is malformed") from None
    with closing(connection):
        # Times as text: the driver cannot make a datetime of `infinity`, and would end the read.
        for kind in ("timestamp", "timestamptz", "date"):
            connection.adapters.register_loader(kind, TextLoader)
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with translated():
            connection.execute("SET TIME ZONE 'UTC'")
            connection.execute("SET datestyle TO 'ISO'")
        yield Database(connection)


@contextmanager
def translated() -> Iterator[None]:
    """The driver's errors as ends of the run. Other errors pass."""
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise _unavailable(error) from error
    except psycopg.Error as error:
        raise RunAborted(ExitStatus.REFUSED, f"the older database: {error}") from error


def _unavailable(error: psycopg.Error) -> RunAborted:
    return RunAborted(ExitStatus.UNAVAILABLE, f"the older database cannot be used: {error}")
