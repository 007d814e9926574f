"""The older installation's own database, read without changing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader

from cas.exit_status import ExitStatus, RunAborted
from parts.legacy_import.sources import Source
from parts.legacy_import.values import BadRow

ROWS_AT_A_TIME: Final = 2000
CONNECT_SECONDS: Final = 10

SCHEMES: Final = ("postgresql://", "postgres://")

TABLES: Final = """
SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'p') AND NOT relispartition AND pg_table_is_visible(pg_class.oid)
    AND nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY relname
"""

MAY_READ: Final = "SELECT has_table_privilege(to_regclass(%s), 'SELECT')"

COLUMNS: Final = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
"""


class Database:
    """The tables that the connection's search path leads to, as they were at one moment."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def tables(self) -> list[str]:
        with translated():
            return [name for (name,) in self._connection.execute(TABLES)]

    def columns(self, table: str) -> frozenset[str] | None:
        with translated():
            # Quoted, as to_regclass would fold the name like any other.
            name = sql.Identifier(table).as_string(self._connection)
            found = frozenset(name for (name,) in self._connection.execute(COLUMNS, [name]))
        return found or None

    def count(self, table: str) -> int | None:
        name = sql.Identifier(table).as_string(self._connection)
        with translated():
            may = self._connection.execute(MAY_READ, [name]).fetchone()
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
def opened(url: str) -> Iterator[Source]:
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
