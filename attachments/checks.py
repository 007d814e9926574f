"""Whether the installation still has rows on the older layout's keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db import OperationalError, ProgrammingError

from attachments.maintenance.migrate import unmigrated

HINT = "Run manage.py migration_status, then manage.py migrate_to_cas."


def rows_are_unmigrated() -> bool:
    """For the readiness page: one look into an index of such rows; SQLite, which has none, reads
    keys until it finds one. Raises the database's errors.
    """
    return unmigrated().exists()


@checks.register(checks.Tags.database)
def check_migrated(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None, **_kwargs: Any
) -> list[checks.CheckMessage]:
    """attachments.W001, given by `check --database default` and before `migrate`."""
    if not databases or "default" not in databases:
        return []
    try:
        left = rows_are_unmigrated()
    except (OperationalError, ProgrammingError):
        # No table yet, or no database: other checks speak about that.
        return []
    if not left:
        return []
    return [
        checks.Warning(
            "There are attachments on keys of the older layout.", hint=HINT, id="attachments.W001"
        )
    ]
