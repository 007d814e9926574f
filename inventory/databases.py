"""The database that `DATABASE_URL` names, or SQLite in the data directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
from psycopg import IsolationLevel

from inventory.environment import Environment

POSTGRESQL = ("postgres", "postgresql")
CONNECTION_SECONDS = 60
"""How long a PostgreSQL connection is kept for the next request of its thread."""

CONNECT_TIMEOUT = 5
"""Seconds; a database that is gone must not hold up every request for minutes."""

BUSY_SECONDS = 20
"""How long a SQLite writer waits for another one."""

PRAGMAS = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL"
"""WAL lets readers go on while somebody writes. FULL, because with NORMAL a power cut may take
back a committed row that says where a blob is, after its old object was deleted."""


def database(environment: Environment, data_dir: Path) -> dict[str, Any]:
    """The `default` entry of Django's `DATABASES`."""
    url = environment.text("DATABASE_URL")
    if not url:
        return _sqlite(data_dir / "inventory.sqlite3")
    try:
        # The URL may hold a password: it is never repeated in a fault.
        scheme = urlsplit(url).scheme
        parsed: dict[str, Any] = dict(dj_database_url.parse(url))
    except ValueError:
        scheme, parsed = "", {}
    if scheme == "sqlite" and parsed.get("NAME") not in ("", ":memory:", None):
        return _sqlite(Path(parsed["NAME"]))
    if scheme in POSTGRESQL and parsed.get("NAME"):
        return _postgresql(parsed)
    environment.fault(
        "DATABASE_URL",
        "is not the URL of a database. Write postgresql://USER:PASSWORD@HOST:PORT/NAME, with "
        "reserved characters percent-encoded, or sqlite:////PATH, or leave it out for SQLite in "
        "the data directory.",
    )
    return _sqlite(data_dir / "inventory.sqlite3")


def _sqlite(path: Path) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(path),
        "OPTIONS": {
            "timeout": BUSY_SECONDS,
            # A transaction that begins by reading cannot wait for the write lock later.
            "transaction_mode": "IMMEDIATE",
            "init_command": PRAGMAS,
        },
        # A file: a database in memory would be another one for every thread.
        "TEST": {"NAME": str(path.with_name(f"test-{path.name}"))},
    }


def _postgresql(parsed: dict[str, Any]) -> dict[str, Any]:
    return {
        **parsed,
        "CONN_MAX_AGE": CONNECTION_SECONDS,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            "connect_timeout": CONNECT_TIMEOUT,
            **parsed.get("OPTIONS", {}),
            # Whoever waited for a lock must see what was committed meanwhile, whatever the
            # server's default is.
            "isolation_level": IsolationLevel.READ_COMMITTED,
        },
    }
