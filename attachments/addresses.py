"""Addresses of web pages and files, as links have them: http or https, whatever the host is called.

The API, the admin and an import refuse the same.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError

LONGEST: Final = 2000

SCHEMES: Final = ("http", "https")

INVALID: Final = "Enter a web address that starts with http:// or https://."


def web_address(text: str) -> None:
    """Raises ValidationError unless a browser can follow this without harm.

    A host may be one of the local network's names, or an IP address, and may have a port.
    """
    try:
        parts = urlsplit(text)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise ValidationError(INVALID) from None
    if parts.scheme.lower() not in SCHEMES:
        raise ValidationError(INVALID, code="unsafe_url")
    if not host or any(character <= " " or character == "\x7f" for character in parts.netloc):
        raise ValidationError(INVALID)
    if any(character < " " or character == "\x7f" for character in text):
        raise ValidationError(INVALID)
