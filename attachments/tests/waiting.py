"""Waiting for what a test needs, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from django.db import connections

LONGEST_SECONDS: Final = 30
"""After so long a test fails: what it waits for does not come."""


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.005)


def in_thread(pool: ThreadPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Run it in a thread, and so a database session, of its own."""

    def working() -> Any:
        try:
            return work(*arguments)
        finally:
            connections.close_all()

    return pool.submit(working)


def wait_for_lock_or_end(work: Future[Any]) -> None:
    """Return when the work is over, or its session waits for a lock of PostgreSQL."""
    wait_until(lambda: work.done() or sessions_that_wait())


def sessions_that_wait() -> int:
    """How many sessions of this database wait for a lock, advisory ones included."""
    watcher = connections.create_connection("default")
    try:
        with watcher.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            number: int = cursor.fetchone()[0]
            return number
    finally:
        watcher.close()
