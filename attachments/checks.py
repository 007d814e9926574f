"""Whether the installation still has rows on the older layout's keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db import OperationalError, ProgrammingError, connection
from django.db.models import Q

from attachments.maintenance.migrate import unmigrated
from attachments.models import Attachment
from cas.digest import CAS_PREFIX

HINT = "Run manage.py migration_status, then manage.py migrate_to_cas."


def rows_are_unmigrated() -> bool:
    """For the readiness page, by a look into an index. Raises the database's errors.

    PostgreSQL has an index of such rows. On SQLite it is one before and one behind the keys below
    `cas/`; malformed ones among these are told by `migration_status` alone.
    """
    if connection.vendor == "postgresql":
        return unmigrated().exists()
    outside = (Q(s3_key__lt=CAS_PREFIX), Q(s3_key__gte=CAS_PREFIX[:-1] + "0"))
    return any(Attachment.objects.filter(keys).exists() for keys in outside)


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
