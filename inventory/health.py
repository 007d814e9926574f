"""Whether this process lives, and whether it can do its work."""

from __future__ import annotations

import logging
import os
from typing import Any

from django.db import DatabaseError, InterfaceError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from attachments.checks import rows_are_unmigrated
from cas.conf import serving
from cas.digest import Digest
from cas.storage import attachment_store
from cas.storage.base import Absent, StoreError

logger = logging.getLogger(__name__)

PROBE = Digest.of(b"").key
"""A key without an object, as empty files are refused at upload: its stat costs very little."""


@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """200 as long as requests are answered at all: restarting the process cures no outage."""
    return _answer({"status": "live"}, 200)


@require_safe
def ready(request: HttpRequest) -> HttpResponse:
    """200 if the database and the store answer, else 503.

    Rows on old keys are reported and are no fault: they are served as well.
    """
    database, unmigrated = _database()
    checks: dict[str, Any] = {"database": database, "store": _store()}
    healthy = set(checks.values()) == {"ok"}
    if unmigrated is not None:
        checks["unmigrated_attachments"] = unmigrated
    status = "ready" if healthy else "unavailable"
    return _answer({"status": status, "checks": checks}, 200 if healthy else 503)


def _database() -> tuple[str, bool | None]:
    """The state of the database, and whether rows are unmigrated, None if that is unknown."""
    try:
        connection.ensure_connection()
        return "ok", rows_are_unmigrated()
    except (DatabaseError, InterfaceError) as error:
        logger.warning("not ready: the database failed: %s", error)
        return "unavailable", None


def _store() -> str:
    """`ok`, or the code of what is wrong."""
    try:
        store = attachment_store()
        if not os.access(store.staging_dir, os.W_OK):
            logger.warning("not ready: %s cannot be written to", store.staging_dir)
            return "staging_not_writable"
        store.stat(PROBE)
    except Absent:
        pass
    except (StoreError, OSError) as error:
        logger.warning("not ready: the store failed: %s", error)
        return getattr(error, "code", "store_error")
    return "ok"


def _answer(body: dict[str, Any], status: int) -> HttpResponse:
    response = JsonResponse(body, status=status)
    response["Cache-Control"] = "no-store"
    if status == 503:
        response["Retry-After"] = str(serving().retry_after)
    return response
