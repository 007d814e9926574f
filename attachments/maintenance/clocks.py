"""Whether store and database agree about the time, which a grace period depends on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from django.db import connection
from django.utils import timezone

from attachments.maintenance.preflight import probe
from attachments.maintenance.run import ExitStatus, Halt
from cas.storage.base import BlobStore

MOST_APART: Final = timedelta(minutes=5)


def database_now() -> datetime:
    """The database server's clock; SQLite has this machine's."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now.astimezone(UTC)


def check_clocks(store: BlobStore) -> None:
    """Store a small object and compare its time with the database's. Raises Halt, StoreError."""
    with probe(store, fresh=True) as stored:
        apart = abs(store.stat(stored.key).modified - database_now())
    if apart > MOST_APART:
        raise Halt(
            ExitStatus.REFUSED,
            f"the clocks of store and database are {apart.total_seconds():.0f} seconds apart; an "
            "object's age cannot be told. Set the clocks right first",
            first="Set the clocks right",
        )
