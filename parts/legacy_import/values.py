"""One value of an older row, whatever a dump made of it, as the type its column has here.

A PostgreSQL driver gives numbers and times, JSON strings and numbers, CSV strings alone. Each
function takes all of these and raises BadRow for what it could only guess at.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

LONGEST_NUMBER: Final = 40
"""Characters; Python takes its time over numbers of thousands of digits."""

_ARRAY_ELEMENT: Final = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^,"{}\s][^,"{}]*))\s*(?:,|\Z)')


class BadRow(ValueError):
    """A row that cannot be imported. `code` classes the reason, the message says it.

    `written` is how the row stands in the dump if it cannot be told into columns.
    """

    def __init__(self, code: str, reason: str, written: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.written = written


def text(value: Any, column: str) -> str:
    """Text; NULL is empty, a number is written out."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise _invalid(column, "is not text")
    written = value if isinstance(value, str) else f"{value}"
    if "\x00" in written:
        raise _invalid(column, "has a NUL character")
    try:
        written.encode()
    except UnicodeEncodeError:
        raise _invalid(column, "is not well-formed Unicode") from None
    return written


def identifier(value: Any, column: str) -> str | None:
    """An older id as text, so that 7 and "7" are the same; None for NULL."""
    if isinstance(value, UUID):
        value = str(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return text(value, column).strip() or None


def whole(value: Any, column: str) -> int | None:
    """A whole number; None for NULL."""
    if isinstance(value, float | Decimal) and value == value // 1:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise _invalid(column, "is not a whole number")
    written = f"{value}".strip() if value is not None else ""
    if not written:
        return None
    if not re.fullmatch(rf"[+-]?[0-9]{{1,{LONGEST_NUMBER}}}", written):
        raise _invalid(column, "is not a whole number")
    return int(written)


def moment(value: Any, column: str) -> datetime | None:
    """A point in time in UTC, which is also what one without a zone is taken for."""
    if not isinstance(value, str | datetime | None):
        raise _invalid(column, "is not a time")
    if value is None or value == "":
        return None
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _invalid(column, "is not a time in ISO 8601") from None


def names(value: Any, column: str) -> list[str]:
    """Names in their order, each once: a list, or one written as JSON, `{a,b}` or `a, b`."""
    given = _listed(value, column) if isinstance(value, str) else value
    if given is None:
        return []
    if not isinstance(given, list):
        raise _invalid(column, "is not a list of names")
    if any(not isinstance(name, str) for name in given):
        raise _invalid(column, "has something in it that is not a name")
    written = (text(name, column).strip() for name in given)
    return list(dict.fromkeys(name for name in written if name))


def _listed(value: str, column: str) -> Any:
    bare = value.strip()
    if bare.startswith("["):
        try:
            return json.loads(bare)
        except (ValueError, RecursionError):
            raise _invalid(column, "is not a JSON array") from None
    if bare.startswith("{") and bare.endswith("}"):
        return _array(bare[1:-1].strip(), column)
    return bare.split(",")


def _array(inside: str, column: str) -> list[str]:
    """A one-dimensional array as PostgreSQL writes it."""
    found = []
    position = 0
    while position < len(inside):
        element = _ARRAY_ELEMENT.match(inside, position)
        if element is None or element[2] == "NULL":
            raise _invalid(column, "is not an array of names")
        quoted, bare = element.groups()
        found.append(bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        position = element.end()
    return found


def _invalid(column: str, problem: str) -> BadRow:
    return BadRow("invalid", f"{column} {problem}")
