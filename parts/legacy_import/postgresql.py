"""The older installation's own database, read without changing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader

from attachments.maintenance.run import ExitStatus, Halt
from parts.legacy_import.sources import Source, Table
from parts.legacy_import.values import BadRow

ROWS_AT_A_TIME: Final = 2000
CONNECT_SECONDS: Final = 10

SCHEMES: Final = ("postgresql://", "postgres://")

TAGS_FROM_ROWS: Final = sql.SQL("""
    SELECT parts.*, (
        SELECT coalesce(array_agg(tags.name::text ORDER BY tags.name), '{}')
        FROM part_tags JOIN tags ON tags.id = part_tags.tag_id
        WHERE part_tags.part_id = parts.id
    ) AS tags
    FROM parts
""")
"""For an installation that keeps tags in rows of their own instead of a column of `parts`."""


class Database:
    """The tables that the connection's search path leads to, as they were at one moment."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def has(self, table: Table) -> bool:
        return self._exists(str(table))

    def rows(self, table: Table) -> Iterator[Mapping[str, Any] | BadRow]:
        query: sql.SQL | sql.Composed = sql.SQL("SELECT * FROM {}").format(
            sql.Identifier(str(table))
        )
        if table is Table.PARTS and self._tags_are_rows():
            query = TAGS_FROM_ROWS
        with (
            translated(),
            self._connection.cursor(name=f"import_{table}", row_factory=dict_row) as cursor,
        ):
            cursor.itersize = ROWS_AT_A_TIME
            yield from cursor.execute(query)

    def _tags_are_rows(self) -> bool:
        with translated():
            column = self._connection.execute(
                "SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass('parts')"
                " AND attname = 'tags' AND NOT attisdropped"
            ).fetchone()
        return column is None and self._exists("tags") and self._exists("part_tags")

    def _exists(self, table: str) -> bool:
        with translated():
            found = self._connection.execute("SELECT to_regclass(%s)", [table]).fetchone()
        return found is not None and found[0] is not None


@contextmanager
def opened(url: str) -> Iterator[Source]:
    """The database at this URL, in one read-only transaction. Raises Halt.

    The transaction sees the tables as they are when it begins: rows that come later in one table
    cannot refer to what an earlier read of the other did not see.
    """
    if not url.startswith(SCHEMES):
        raise Halt(ExitStatus.REFUSED, "the database's URL must begin with postgresql://")
    try:
        connection = psycopg.connect(url, connect_timeout=CONNECT_SECONDS)
    except psycopg.OperationalError as error:
        raise _unavailable(error) from error
    except psycopg.Error:
        # The message would repeat the URL, which may hold a password.
        raise Halt(ExitStatus.REFUSED, "the database's URL is malformed") from None
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
        raise Halt(ExitStatus.REFUSED, f"the older database: {error}") from error


def _unavailable(error: psycopg.Error) -> Halt:
    return Halt(ExitStatus.UNAVAILABLE, f"the older database cannot be used: {error}")
