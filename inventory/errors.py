"""One JSON shape for every error the API answers.

    {"error": {"code": "invalid", "message": "…", "details": {"field": ["…"]}}}

`code` is for programs and stays; `message` is for people and may change; `details` is there for
validation errors only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.core.exceptions import (
    ObjectDoesNotExist,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.db import DatabaseError, DataError, IntegrityError
from django.http import Http404, HttpRequest, HttpResponse
from django.views import defaults
from django.views.csrf import csrf_failure as csrf_page
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from attachments.locks import CONNECTION_ERRORS, is_busy, is_full, is_read_only
from attachments.maintenance.retry import is_missing_table
from attachments.models import ChangedMeanwhile
from cas.conf import serving
from cas.responses import error_response
from cas.storage.base import Denied, StoreError, StoreFull, Unreachable

logger = logging.getLogger(__name__)


_RESPONSES: tuple[tuple[Any, int, str, str], ...] = (
    (Unreachable, 503, "store_unreachable", "The store does not answer. Try again."),
    (StoreFull, 507, "store_full", "There is no room for the file."),
    (Denied, 503, "store_denied", "The store takes nothing at present; the log says why."),
    (StoreError, 500, "store_error", "The store failed; nothing was changed."),
    (Http404, 404, "not_found", "Not found."),
    (PermissionDenied, 403, "permission_denied", "Permission denied."),
    (RequestDataTooBig, 413, "body_too_large", "The body is too large."),
    # What the database, a codec or a parser cannot hold is wrong in the request.
    ((SuspiciousOperation, DataError, UnicodeError, RecursionError),
     400, "bad_request", "The request cannot be understood."),
    (IntegrityError, 409, "conflict", "Something changed meanwhile. Look again, then retry."),
    (ObjectDoesNotExist, 404, "not_found", "It was deleted meanwhile."),
    (ChangedMeanwhile, 409, "conflict", "It was changed meanwhile. Look again, then retry."),
    (CONNECTION_ERRORS, 503, "database_unavailable", "The database does not answer. Try again."),
)  # fmt: skip
"""Exceptions and their responses; the first line that fits counts."""


_DATABASE: tuple[tuple[Callable[[BaseException], bool], int, str, str], ...] = (
    (is_missing_table, 503, "database_not_migrated",
     "The database lacks tables of this version. Its operator must run manage.py migrate."),
    (is_busy, 503, "database_busy", "Too many are writing at the same time. Try again."),
    (is_full, 507, "database_full", "The database has no room left."),
    (is_read_only, 503, "database_read_only", "Nothing can be changed at present."),
)  # fmt: skip
"""What the errors of a database that answers mean, by what tells them."""


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Django REST framework's hook: any exception of an API view as a response.

    None, for a fault of this application, lets it reach Django's own 500 handling and its log.
    """
    set_rollback()
    if isinstance(error, exceptions.ValidationError):
        return _response(400, _first_code(error.get_codes()), "Invalid input.", error.detail)
    if isinstance(error, exceptions.APIException):
        response = _response(error.status_code, str(error.get_codes()), str(error.detail))
        if wait := getattr(error, "wait", None):
            response["Retry-After"] = str(int(wait))
        if header := getattr(error, "auth_header", None):
            response["WWW-Authenticate"] = header
        return response
    if fault := next((row for row in _DATABASE if _tells(row[0], error)), None):
        return _failure(error, *fault[1:])
    for kind, status, code, message in _RESPONSES:
        if isinstance(error, kind):
            if isinstance(error, Http404 | PermissionDenied):
                return _response(status, code, str(error) or message)
            return _failure(error, status, code, message)
    return None


def _tells(tells: Callable[[BaseException], bool], error: Exception) -> bool:
    return isinstance(error, DatabaseError) and tells(error)


def _failure(error: Exception, status: int, code: str, message: str) -> Response:
    """The response to an error that is logged."""
    log = logger.error if status >= 500 else logger.warning
    # The text of a bad request's error repeats parts of the request.
    said = type(error).__name__ if status == 400 else f"{type(error).__name__}: {error}"
    log("%s: %s %s (%s)", code, said, getattr(error, "key", ""), message)
    response = _response(status, code, message)
    if status == 503:
        response["Retry-After"] = str(serving().retry_after)
    return response


def _response(status: int, code: str, message: str, details: Any = None) -> Response:
    error: dict[str, Any] = {"code": code, "message": message}
    if details is not None:
        error["details"] = details if isinstance(details, dict) else {"non_field_errors": details}
    return Response({"error": error}, status, headers={"Cache-Control": "no-store"})


def _first_code(codes: Any) -> str:
    """A single fault gives its own code; several are `invalid`, with the details."""
    while isinstance(codes, dict | list) and len(codes) == 1:
        codes = next(iter(codes.values())) if isinstance(codes, dict) else codes[0]
    return codes if isinstance(codes, str) else "invalid"


def _outside_views(
    code: int, name: str, message: str, page: Callable[..., HttpResponse]
) -> Callable[..., HttpResponse]:
    """A handler for errors outside API views: JSON below /api/, Django's page elsewhere."""

    def handler(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.path_info.startswith("/api/"):
            return error_response(request, code, name, message)
        return page(request, *args, **kwargs)

    return handler


bad_request = _outside_views(
    400, "bad_request", "The request cannot be understood.", defaults.bad_request
)
permission_denied = _outside_views(
    403, "permission_denied", "Permission denied.", defaults.permission_denied
)
csrf_failure = _outside_views(
    403, "permission_denied", "The form's token is missing or wrong.", csrf_page
)
not_found = _outside_views(404, "not_found", "There is nothing here.", defaults.page_not_found)
server_error = _outside_views(
    500, "server_error", "Something failed on our side; it has been logged.", defaults.server_error
)
