"""One JSON shape for every error the API answers.

    {"error": {"code": "invalid", "message": "…", "details": {"field": ["…"]}}}

`code` is for programs and stays; `message` is for people and may change; `details` is there for
validation errors only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import DatabaseError, DataError, IntegrityError, InterfaceError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views import defaults
from rest_framework import exceptions, status
from rest_framework.response import Response
from rest_framework.views import set_rollback

from attachments.locks import CONNECTION_ERRORS
from attachments.maintenance.retry import is_missing_table
from cas.storage.base import Denied, StoreError, StoreFull, Unreachable

logger = logging.getLogger(__name__)

RETRY_AFTER = 5
"""Seconds after which a client may ask an unreachable store again."""


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Django REST framework's hook: any exception of an API view as an answer.

    None, for a fault that is ours, lets it reach Django's own 500 handling and its log.
    """
    set_rollback()
    if isinstance(error, StoreError):
        return _store_failure(error)
    if isinstance(error, Http404):
        return _response(404, "not_found", str(error) or "Not found.")
    if isinstance(error, PermissionDenied):
        return _response(403, "permission_denied", str(error) or "Permission denied.")
    if isinstance(error, RequestDataTooBig):
        return _response(413, "body_too_large", "The body is too large.")
    if isinstance(error, SuspiciousOperation | DataError | UnicodeError | RecursionError):
        # What a database, a codec or a parser cannot hold is the sender's fault, not ours.
        logger.warning("bad request: %s", type(error).__name__)
        return _response(400, "bad_request", "The request cannot be understood.")
    if isinstance(error, IntegrityError):
        logger.warning("conflict: %s", error)
        return _response(409, "conflict", "Something changed meanwhile. Look again, then retry.")
    if isinstance(error, DatabaseError | InterfaceError):
        return _database_failure(error)
    if isinstance(error, exceptions.ValidationError):
        return _response(400, _first_code(error.get_codes()), "Invalid input.", error.detail)
    if isinstance(error, exceptions.APIException):
        return _api_exception(error)
    return None


def _api_exception(error: exceptions.APIException) -> Response:
    response = _response(error.status_code, str(error.get_codes()), str(error.detail))
    if wait := getattr(error, "wait", None):
        response["Retry-After"] = str(int(wait))
    if header := getattr(error, "auth_header", None):
        response["WWW-Authenticate"] = header
    return response


def _database_failure(error: Exception) -> Response | None:
    if is_missing_table(error):
        logger.error("the database lacks a table; run manage.py migrate: %s", error)
        cure = "The database lacks tables of this version. Its operator must run manage.py migrate."
        return _unavailable("database_not_migrated", cure)
    if isinstance(error, CONNECTION_ERRORS):
        logger.error("the database failed: %s", error)
        return _unavailable("database_unavailable", "The database does not answer. Try again.")
    return None


def _store_failure(error: StoreError) -> Response:
    logger.error("the store failed: %s (%s)", error, error.key)
    if isinstance(error, Unreachable):
        return _unavailable("store_unreachable", "The store does not answer. Try again.")
    if isinstance(error, StoreFull):
        return _response(
            status.HTTP_507_INSUFFICIENT_STORAGE, "store_full", "There is no room for the file."
        )
    if isinstance(error, Denied):
        return _unavailable("store_denied", "The store takes nothing at present; the log says why.")
    return _response(500, "store_error", "The store failed; nothing was changed.")


def _unavailable(name: str, message: str) -> Response:
    response = _response(503, name, message)
    response["Retry-After"] = str(RETRY_AFTER)
    return response


def _response(code: int, name: str, message: str, details: Any = None) -> Response:
    answer = Response(body(name, message, details), status=code)
    answer["Cache-Control"] = "no-store"
    return answer


def body(code: str, message: str, details: Any = None) -> dict[str, Any]:
    """The error shape."""
    error: dict[str, Any] = {"code": code, "message": message}
    if details is not None:
        error["details"] = details if isinstance(details, dict) else {"non_field_errors": details}
    return {"error": error}


def _first_code(codes: Any) -> str:
    """One fault alone gives its own code; several are `invalid`, with the details to tell."""
    while isinstance(codes, dict | list) and len(codes) == 1:
        codes = next(iter(codes.values())) if isinstance(codes, dict) else codes[0]
    return codes if isinstance(codes, str) else "invalid"


def _outside_views(
    code: int, name: str, message: str, page: Callable[..., HttpResponse]
) -> Callable[..., HttpResponse]:
    """A handler for errors that no API view has seen: JSON below /api/, Django's page elsewhere."""

    def handler(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.path.startswith("/api/"):
            return page(request, *args, **kwargs)
        return JsonResponse(body(name, message), status=code, headers={"Cache-Control": "no-store"})

    return handler


bad_request = _outside_views(
    400, "bad_request", "The request cannot be understood.", defaults.bad_request
)
permission_denied = _outside_views(
    403, "permission_denied", "Permission denied.", defaults.permission_denied
)
not_found = _outside_views(404, "not_found", "There is nothing here.", defaults.page_not_found)
server_error = _outside_views(
    500, "server_error", "Something failed on our side; it has been logged.", defaults.server_error
)
