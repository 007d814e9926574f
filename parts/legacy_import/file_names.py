"""What a file is called, and taken for, where the older row does not say."""

from __future__ import annotations

import mimetypes
import re
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from attachments.models import Attachment
from attachments.uploads import safe_name
from cas.content_types import FORMATS, PDF, UNTYPED

OCTETS: Final = frozenset({"application/octet-stream", *UNTYPED})
"""Content types that say nothing."""

LOOK: Final = "binary/octet-stream"
"""The one of them that stands for bytes that may be a picture, until they are looked at."""


def file_name(name: str, content_type: str, key: str) -> str:
    """A safe name that ends as files of the type do; where the type says nothing, as the key."""
    if content_type not in FORMATS and "." not in name.strip("."):
        guessed = None if content_type in OCTETS else mimetypes.guess_extension(content_type)
        name = (name or "attachment") + (guessed or _suffix(key))
    return safe_name(name, content_type) or "attachment"


def name_in(url: str | None) -> str:
    """The last part of a URL's path."""
    try:
        return PurePosixPath(unquote(urlsplit(url or "").path)).name
    except ValueError:
        return ""


def likely_type(kind: str, key: str) -> str:
    """What a file whose type nobody looked at is taken for, until its bytes are read."""
    guessed = mimetypes.guess_type(f"x{_suffix(key)}")[0]
    if kind == Attachment.Kind.PDF:
        return guessed or PDF
    return guessed if guessed in FORMATS else LOOK


def _suffix(key: str) -> str:
    suffix = PurePosixPath(key).suffix
    return suffix if re.fullmatch(r"\.[0-9A-Za-z]{1,10}", suffix) else ""
