"""What was changed, when and by whom: rows of `changes`, written by triggers in the database.

A trigger sees every write, whoever makes it and however: a form, `QuerySet.update`, a command, a
bulk insert. A model says with `recorded` what of it is recorded. The triggers are made anew after
each migration, which may have replaced a table and lost them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.db import connection, connections, transaction
from django.db.backends.signals import connection_created
from django.db.models import Q, QuerySet
from django.utils import timezone

from attachments.models import Change, Recorded

ACTOR: Final = "inventory_actor"
PREFIX: Final = "changes_of_"
LONGEST_ACTOR: Final = 255
BATCH: Final = 1000
LONGEST_AGE: Final = 100 * 365 * 86_400


def _command() -> str:
    """Who acts outside of requests: the command that runs."""
    program, *arguments = sys.argv or [""]
    return f"manage.py {arguments[0]}" if Path(program).name == "manage.py" and arguments else ""


current_actor: Final[ContextVar[Callable[[], str]]] = ContextVar("actor", default=_command)
"""Asked at each write, as a request's account may be known by then only."""


def actor() -> str:
    """Who writes now, as it is recorded."""
    return current_actor.get()()[:LONGEST_ACTOR].replace("\0", "")


def all_recorded() -> list[Recorded]:
    """Of every model that has a `recorded`, and of every table that such a one adds."""
    return [
        each for model in apps.get_models() for each in getattr(model, "recorded", lambda: ())()
    ]


# Telling the triggers who acts


def _prepare(connection: Any, **_: Any) -> None:
    if connection.vendor == "sqlite":
        connection.connection.create_function(ACTOR, 0, actor)
    elif _tell_actor not in connection.execute_wrappers:
        connection.execute_wrappers.append(_tell_actor)


def _tell_actor(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
    """Tell the transaction who acts, right before each statement that writes to a recorded table.

    Not once for a request: a rollback to a savepoint takes it back. Nor for a session: a pooler may
    give that to another client after the transaction.
    """
    found = _WRITES.match(sql) if isinstance(sql, str) else None
    if not (found and found[1] in _tables()):
        return execute(sql, params, many, context)
    connection = context["connection"]
    alone = transaction.atomic(using=connection.alias, savepoint=False)
    with nullcontext() if connection.in_atomic_block else alone:
        connection.connection.execute("SELECT set_config('inventory.actor', %s, true)", (actor(),))
        return execute(sql, params, many, context)


_WRITES: Final = re.compile(r'\s*(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+"?(\w+)', re.IGNORECASE)


@cache
def _tables() -> frozenset[str]:
    return frozenset(each.table for each in all_recorded())


# The triggers


def create_triggers(using: str, **_: Any) -> None:
    """Make them as the models say, where they are not. Receives `post_migrate`.

    None of a table that an earlier migration has left without a column that is recorded.
    """
    connection = connections[using]
    tables = set(connection.introspection.table_names())
    if Change._meta.db_table not in tables:
        return
    wanted: dict[str, str] = {}
    with transaction.atomic(using=using), connection.cursor() as cursor:
        for recorded in all_recorded():
            if recorded.table not in tables:
                continue
            found = connection.introspection.get_table_description(cursor, recorded.table)
            if {*recorded.edits, *recorded.touches} <= {column.name for column in found}:
                wanted |= _statements(recorded, connection.vendor)
        there = _triggers(connection, cursor)
        for name, statement in wanted.items():
            if there.get(name) == statement:
                continue
            if connection.vendor == "sqlite":
                cursor.execute(f"DROP TRIGGER IF EXISTS {name}")
                cursor.execute(statement)
            else:
                # psycopg sends what has no parameters as it is.
                cursor.execute(statement, None)
                table = name.removeprefix(PREFIX)
                literal = statement.replace("'", "''")
                cursor.execute(f"COMMENT ON TRIGGER {name} ON {table} IS '{literal}'", None)


def _triggers(connection: Any, cursor: Any) -> dict[str, str]:
    """Those that are there: their names, and the statements that made them."""
    if connection.vendor == "sqlite":
        cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    else:
        cursor.execute(
            "SELECT tgname, obj_description(oid, 'pg_trigger') FROM pg_trigger "
            "WHERE NOT tgisinternal"
        )
    return {name: sql for name, sql in cursor.fetchall() if name.startswith(PREFIX)}


def drop_triggers(connection: Any) -> None:
    """Until `create_triggers` makes them again nothing is recorded."""
    with connection.cursor() as cursor:
        for name in _triggers(connection, cursor):
            if connection.vendor == "sqlite":
                cursor.execute(f"DROP TRIGGER {name}")
            else:
                cursor.execute(f"DROP FUNCTION {name}() CASCADE")


def make_way(using: str, plan: Any = (), **_: Any) -> None:
    """Where SQLite rebuilds a table, no trigger may name it meanwhile. Receives `pre_migrate`.

    On PostgreSQL they stay, for the writes of others go on: a migration that takes away a column
    that is recorded has to call `drop_triggers` first.
    """
    connection = connections[using]
    if plan and connection.vendor == "sqlite":
        drop_triggers(connection)


def _statements(recorded: Recorded, vendor: str) -> dict[str, str]:
    """The triggers of a table, by name."""
    if vendor == "sqlite":
        return {
            f"{PREFIX}{recorded.table}_{event.lower()}": _sqlite(recorded, event)
            for event in ("INSERT", "UPDATE", "DELETE")
        }
    return {f"{PREFIX}{recorded.table}": _postgresql(recorded)}


def _values(recorded: Recorded, row: str, function: str) -> str:
    pairs = (f"'{name}', {sql.format(row=row)}" for name, sql in recorded.values.items())
    return f"{function}({', '.join(pairs)})"


def _differs(columns: tuple[str, ...], operator: str) -> str:
    return " OR ".join(f"OLD.{name} {operator} NEW.{name}" for name in columns) or "FALSE"


_COLUMNS: Final = "table_name, row_id, part_id, action, at, actor, before, after, transaction_id"


def _sqlite(recorded: Recorded, event: str) -> str:
    row = "OLD" if event == "DELETE" else "NEW"
    before = "NULL" if event == "INSERT" else _values(recorded, "OLD", "json_object")
    after = "NULL" if event == "DELETE" else _values(recorded, "NEW", "json_object")
    action, condition = f"'{event.lower()}'", ""
    if event == "UPDATE":
        edited = _differs(recorded.edits, "IS NOT")
        condition = f" WHEN {edited} OR {_differs(recorded.touches, 'IS NOT')}"
        action = f"CASE WHEN {edited} THEN 'update' ELSE 'touch' END"
        before, after = (f"CASE WHEN {edited} THEN {each} END" for each in (before, after))
    part = recorded.part.format(row=row)
    return (
        f"CREATE TRIGGER {PREFIX}{recorded.table}_{event.lower()} AFTER {event} "  # noqa: S608
        f"ON {recorded.table}{condition} BEGIN INSERT INTO changes ({_COLUMNS}) VALUES "
        f"('{recorded.table}', {row}.id, {part}, {action}, "
        f"strftime('%Y-%m-%d %H:%M:%f', 'now'), {ACTOR}(), {before}, {after}, 0); END"
    )


def _postgresql(recorded: Recorded) -> str:
    name = f"{PREFIX}{recorded.table}"
    row = {each: _values(recorded, each, "jsonb_build_object") for each in ("OLD", "NEW")}

    def insert(of: str, action: str, before: str, after: str) -> str:
        part = recorded.part.format(row=of)
        return (
            f"INSERT INTO changes ({_COLUMNS}) VALUES ('{recorded.table}', {of}.id, {part}, "  # noqa: S608
            f"'{action}', clock_timestamp(), coalesce(current_setting('inventory.actor', true), "
            f"''), {before}, {after}, pg_current_xact_id()::text::bigint);"
        )

    distinct = "IS DISTINCT FROM"
    body = (
        f"IF TG_OP = 'INSERT' THEN {insert('NEW', 'insert', 'NULL', row['NEW'])} "
        f"ELSIF TG_OP = 'DELETE' THEN {insert('OLD', 'delete', row['OLD'], 'NULL')} "
        f"ELSIF {_differs(recorded.edits, distinct)} THEN "
        f"{insert('NEW', 'update', row['OLD'], row['NEW'])} "
        f"ELSIF {_differs(recorded.touches, distinct)} THEN "
        f"{insert('NEW', 'touch', 'NULL', 'NULL')} END IF; RETURN NULL;"
    )
    return (
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$body$ BEGIN {body} END $body$; DROP TRIGGER IF EXISTS {name} ON {recorded.table}; "
        f"CREATE TRIGGER {name} AFTER INSERT OR UPDATE OR DELETE ON {recorded.table} "
        f"FOR EACH ROW EXECUTE FUNCTION {name}()"
    )


def connect() -> None:
    connection_created.connect(_prepare, dispatch_uid="history-actor")


# Order, and forgetting


def horizon() -> int:
    """The oldest transaction that may still be open; on SQLite there is one at a time."""
    if connection.vendor == "sqlite":
        return 1
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        return int(cursor.fetchone()[0])


def _older_than(seconds: float) -> QuerySet[Change]:
    before = timezone.now() - timedelta(seconds=min(seconds, LONGEST_AGE))
    rows = Change._default_manager.filter(at__lt=before, transaction_id__lt=horizon())
    return rows.exclude(action=Change.Action.PRUNED)


def count_prunable(seconds: float) -> int:
    """How many changes `prune` would delete."""
    return _older_than(seconds).count()


def prune(seconds: float) -> int:
    """Delete changes older than this, in batches. Returns how many; may be repeated.

    The newest of them stays, without what it said, as a mark: who has read less than that has
    missed something, and is told so (`parts.updates`).
    """
    rows = _older_than(seconds)
    newest = rows.order_by("transaction_id", "id").last()
    if newest is None:
        return 0
    mark = Change._default_manager.filter(pk=newest.pk)
    mark.update(action=Change.Action.PRUNED, before=None, after=None, part_id=None)
    up_to = Q(transaction_id__lt=newest.transaction_id) | Q(
        transaction_id=newest.transaction_id, id__lt=newest.pk
    )
    pruned = 1
    while batch := list(rows.filter(up_to).values_list("pk", flat=True)[:BATCH]):
        pruned += Change._default_manager.filter(pk__in=batch).delete()[0]
    Change._default_manager.filter(up_to, action=Change.Action.PRUNED).delete()
    return pruned
