"""Logging to standard error, one line for each event, as text or as JSON.

Within a request each line has the request's id (`inventory.middleware.RequestIdMiddleware`) and
who makes it, if that is known by then.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

from django.http import HttpRequest
from django.utils.functional import LazyObject

from attachments.maintenance.report import without_passwords

REFUSED = ("DisallowedHost", "SuspiciousOperation", "TooManyFieldsSent", "RequestDataTooBig")
"""What Django logs with a traceback although the request alone is to blame."""

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"

_BREAKS = {code: f"\\x{code:02x}" for code in (*range(32), 127, 0x85)}
_BREAKS |= {10: "\\n", 13: "\\r", 9: "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}


current_request: Final[ContextVar[HttpRequest | None]] = ContextVar("request", default=None)
"""The request that this thread answers, until its response is closed; its `id` is set."""


def of_request() -> dict[str, str]:
    """The current request's `request_id`, and its `user` and `token` where known by now."""
    request = current_request.get()
    if request is None:
        return {}
    return {"request_id": str(getattr(request, "id", "")), **account_of(request)}


def account_of(request: HttpRequest) -> dict[str, str]:
    """The request's `user` and `token`, where they are known by now."""
    found = {}
    # `request.user` is a lazy object that asks the database, unless the API has put one there.
    user = getattr(request, "_cached_user", None) or getattr(request, "user", None)
    if user is not None and not isinstance(user, LazyObject) and (name := user.get_username()):
        found["user"] = name
    if token := getattr(getattr(request, "auth", None), "name", ""):
        found["token"] = token
    return found


def current_account() -> str:
    """Who makes the current request, for the history: the account, and the token that it used."""
    request = current_request.get()
    account = account_of(request) if request else {}
    name, token = account.get("user", ""), account.get("token")
    return f"{name} ({token})" if token else name


class OneLine(logging.Formatter):
    """Escapes control characters, and leaves out passwords of databases.

    A file name with a line break in it must not be able to forge an entry, and a traceback must
    not be torn apart by whatever collects the log.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if request := of_request():
            line = f"{line} [{' '.join(request.values())}]"
        return without_passwords(line).translate(_BREAKS)


class Json(logging.Formatter):
    """A JSON object a line: `time` (RFC 3339, UTC), `level`, `logger`, `message`, and the rest."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": without_passwords(record.getMessage()),
            **of_request(),
        }
        if record.exc_info:
            said["exception"] = without_passwords(self.formatException(record.exc_info))
        return json.dumps(said, ensure_ascii=False)


def without_traceback(record: logging.LogRecord) -> bool:
    """A filter: a request that is refused for what it says is no fault of ours to be traced."""
    record.exc_info = record.exc_text = None
    return True


def filter_of_refused() -> Callable[[logging.LogRecord], bool]:
    """`without_traceback`, in the form that the configuration of logging takes."""
    return without_traceback


def logging_settings(level: str, *, form: str = "text", blobs: bool = True) -> dict[str, Any]:
    """Django's `LOGGING`, and the server's. `blobs`: a line for each blob that is served."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"refused": {"()": "inventory.log.filter_of_refused"}},
        "formatters": {
            "text": {"()": "inventory.log.OneLine", "format": FORMAT},
            "json": {"()": "inventory.log.Json"},
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": form,
            }
        },
        "root": {"handlers": ["stderr"], "level": level},
        # Django's own handlers would print in another format, or send mail.
        "loggers": {
            "django": {"handlers": [], "level": "INFO", "propagate": True},
            **({} if blobs else {"cas.views": {"level": "WARNING"}}),
            **{f"django.security.{name}": {"filters": ["refused"]} for name in REFUSED},
        },
    }
