"""Keeping passwords out of what is printed, reported and logged."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

SECRET_PARAMETERS: Final = {"password", "sslpassword"}

# An unencoded password may itself have "@", "/" and ":" in it: up to the last "@" of the word.
_IN_URL: Final = re.compile(r"(?<=://)([^\s:/@?#]*):[^\s'\"]*@")
# A password with "@" in it, unencoded, is for libpq half a host's name, which errors repeat.
_IN_HOST: Final = re.compile(r"(host(?: name)? ['\"])[^'\"]*@")
_PARAMETER: Final = re.compile(r"([?&])([^\s=&?'\"]+)=([^\s&'\"]*)")
_KEYWORD: Final = re.compile(
    r"\b(?:ssl)?password\s*=\s*(?:'(?:\\.|[^'\\])*(?:'|$)|(?:\\.|\S)+)", re.I
)


def without_passwords(text: str) -> str:
    """The text without any password of a database URL or of libpq's keywords (`password=…`).

    A URL that had one can still be used: the password is then taken from where libpq looks.
    """
    text = _IN_HOST.sub(r"\1", _IN_URL.sub(r"\1@", text))
    return _KEYWORD.sub("", _PARAMETER.sub(_parameter, text)).rstrip("?&")


def _parameter(found: re.Match[str]) -> str:
    # libpq takes names of parameters percent-encoded too.
    return found[1] if unquote(found[2]).strip().lower() in SECRET_PARAMETERS else found[0]
