"""Logging to standard error, one line for each event."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from attachments.maintenance.report import without_passwords

REFUSED = ("DisallowedHost", "SuspiciousOperation", "TooManyFieldsSent", "RequestDataTooBig")
"""What Django logs with a traceback although the request alone is to blame."""

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"

_BREAKS = {code: f"\\x{code:02x}" for code in (*range(32), 127, 0x85)}
_BREAKS |= {10: "\\n", 13: "\\r", 9: "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}


class OneLine(logging.Formatter):
    """Escapes control characters, and leaves out passwords of databases.

    A file name with a line break in it must not be able to forge an entry, and a traceback must
    not be torn apart by whatever collects the log.
    """

    def format(self, record: logging.LogRecord) -> str:
        return without_passwords(super().format(record)).translate(_BREAKS)


def without_traceback(record: logging.LogRecord) -> bool:
    """A filter: a request that is refused for what it says is no fault of ours to be traced."""
    record.exc_info = record.exc_text = None
    return True


def filter_of_refused() -> Callable[[logging.LogRecord], bool]:
    """`without_traceback`, in the form that the configuration of logging takes."""
    return without_traceback


def logging_settings(level: str) -> dict[str, Any]:
    """Django's `LOGGING`, and the server's."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"refused": {"()": "inventory.log.filter_of_refused"}},
        "formatters": {"line": {"()": "inventory.log.OneLine", "format": FORMAT}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": "line",
            }
        },
        "root": {"handlers": ["stderr"], "level": level},
        # Django's own handlers would print in another format, or send mail.
        "loggers": {
            "django": {"handlers": [], "level": "INFO", "propagate": True},
            **{f"django.security.{name}": {"filters": ["refused"]} for name in REFUSED},
        },
    }
