"""Keeping passwords out of what is printed, reported and logged."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

SECRET_PARAMETERS: Final = {"password", "sslpassword"}

# An unencoded password may itself have "@", "/" and ":" in it: up to the last "@" of the word.
_IN_URL: Final = re.compile(r"(?<=://)([^\s:/@?#]*):[^\s'\"]*@")
# One that has a space or a quote in it ends at the last "@" before the next URL or line.
_RAW_IN_URL: Final = re.compile(
    r"(?<=://)([^\s:/@?#\[]*):(?!\d{1,5}(?:[/?#\s'\"]|$))(?:(?!://)[^\r\n])*@"
)
# In JSON or a dict's text, which may itself be in JSON, quotes escaped.
_IN_MAPPING: Final = re.compile(
    r"""((\\*['"])(?:ssl)?password\2\s*:\s*)"""
    r"""(?:(\\*['"])(?:(?!\3)(?:\\.|[^\\])|\\(?!\3))*(?:\3|$)|[^\s,}]+)""",
    re.I,
)
# A password with "@" in it, unencoded, is for libpq half a host's name, which errors repeat.
_IN_HOST: Final = re.compile(r"(host(?: name)? ['\"])[^'\"]*@")
_QUERY: Final = re.compile(r"\?([^\s?'\"]+)")
_KEYWORD: Final = re.compile(
    r"\b(?:ssl)?password\s*=\s*(?:'(?:\\.|[^'\\])*(?:'|$)|(?:\\.|\S)+)", re.I
)


def without_passwords(text: str) -> str:
    """The text without any password of a database URL or of libpq's keywords (`password=…`).

    A URL that had one can still be used: the password is then taken from where libpq looks.
    """
    text = _RAW_IN_URL.sub(r"\1@", _IN_URL.sub(r"\1@", text))
    text = _IN_MAPPING.sub(r"\1\2***\2", _IN_HOST.sub(r"\1", text))
    return _KEYWORD.sub("", _QUERY.sub(_without_secrets, text))


def _without_secrets(query: re.Match[str]) -> str:
    kept = [one for one in query[1].split("&") if not _is_secret(one)]
    return f"?{'&'.join(kept)}" if kept else ""


def _is_secret(parameter: str) -> bool:
    # libpq takes the names of parameters percent-encoded too.
    name, equals, _ = parameter.partition("=")
    return bool(equals) and unquote(name).strip().lower() in SECRET_PARAMETERS
