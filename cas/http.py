"""HTTP semantics of serving a blob: ranges, preconditions, bounded bodies and headers.

Uses no store, no settings and no request object, so that every rule here can be tested as a
function. Section numbers are RFC 9110's where no other RFC is named.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import Enum
from typing import BinaryIO, Final
from urllib.parse import quote

from django.utils.http import parse_etags

from cas.content_types import INLINE_TYPES
from cas.content_types import OPAQUE_TYPE as OPAQUE_TYPE
from cas.storage.base import ByteRange, Corrupt

_PASSIVE: Final = re.compile(
    r"(?:image|audio|video|font)/[^+]+|text/(?:plain|csv)|application/(?:pdf|json|zip|gzip)"
)
"""Types that may keep their name when downloaded: no browser runs them, wherever embedded."""

_LONE_RANGE: Final = re.compile(r"([0-9]*)-([0-9]*)")
_PLAIN_RANGE: Final = re.compile(r"bytes=([0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})")
_PARSEABLE_DIGITS: Final = 4000

_NOT_IN_A_NAME: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f/\\\\\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, path separators, what reorders a displayed name, and lone surrogates."""

_NOT_QUOTED_PLAINLY: Final = re.compile(r'[^ !#$&-~]|["\\]')
"""What keeps a name out of a bare `filename="..."`: some clients decode % there (RFC 6266 D)."""

_ATTR_CHAR: Final = "!#$&+-.^_`|~"


class Unsatisfiable(Exception):
    """The range starts after the end of a representation of `size` bytes (§15.5.17)."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the range lies outside the {size} bytes there are")
        self.size = size


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """One byte range of a request; which bytes that is depends on the size (§14.1.2).

    `first` None means the last `last` bytes; `last` None means up to the end.
    """

    first: int | None
    last: int | None

    def resolve(self, size: int) -> ByteRange | None:
        """The bytes meant, or None if the whole is to be sent as 200. Raises Unsatisfiable."""
        if self.first is None:
            length = min(self.last or 0, size)
            if self.last == 0:
                raise Unsatisfiable(size)
            # No Content-Range can describe a suffix of nothing.
            return ByteRange(size - length, size) if size else None
        if self.first >= size:
            raise Unsatisfiable(size)
        last = size - 1 if self.last is None else min(self.last, size - 1)
        return ByteRange(self.first, last + 1)


def requested_range(header: str, if_range: str, etag: str) -> RangeRequest | None:
    """What the Range field selects, or None where it is to be ignored (§14.2).

    Ignored are other units than bytes, anything malformed, `5-2`, and several ranges (a server
    may, and the whole is always right). `If-Range` counts only as this very ETag, compared
    strongly (§13.1.5): we send no Last-Modified, so no date can match.
    """
    unit, equals, ranges = header.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    if if_range and (if_range.strip() != etag or _is_weak(etag)):
        return None
    # Empty list elements are to be skipped (§5.6.1.2).
    elements = [element.strip(" \t") for element in ranges.split(",")]
    elements = [element for element in elements if element]
    if len(elements) != 1 or not (found := _LONE_RANGE.fullmatch(elements[0])):
        return None
    first, last = (_position(digits) for digits in found.groups())
    if (first is None and last is None) or (
        first is not None and last is not None and first > last
    ):
        return None
    return RangeRequest(first, last)


def is_plain_range(header: str) -> bool:
    """Whether the Range field is spelled so that every server reads it alike."""
    return _PLAIN_RANGE.fullmatch(header) is not None


def _position(digits: str) -> int | None:
    """A byte position; one with more digits than Python parses is after the end of any file."""
    if not digits:
        return None
    return int(digits) if len(digits) <= _PARSEABLE_DIGITS else 10**_PARSEABLE_DIGITS


class Match(Enum):
    """What a list of entity tags says about a representation."""

    NONE = "none"
    TAG = "tag"
    ANY = "any"
    """`*`: matches if the representation exists, which has yet to be found out."""


def match_etags(header: str, etag: str, *, weak: bool) -> Match:
    """Compare an If-None-Match (weakly, §13.1.2) or If-Match (strongly, §13.1.1) field."""
    tags = parse_etags(header)
    if tags == ["*"]:
        return Match.ANY
    if weak:
        tags = [tag.removeprefix("W/") for tag in tags]
        etag = etag.removeprefix("W/")
    return Match.TAG if etag in tags and not _is_weak(etag) else Match.NONE


def _is_weak(etag: str) -> bool:
    return etag.startswith("W/")


def effective_type(content_type: str, disposition: str) -> tuple[str, str]:
    """The content type and disposition that are safe to send for the requested ones.

    Anything not known to be harmless is a download, and an active type loses its name as well:
    an attachment can still be pulled in by a page as a script or style sheet.
    """
    if content_type in INLINE_TYPES:
        return content_type, disposition
    safe = content_type if _PASSIVE.fullmatch(content_type) else OPAQUE_TYPE
    return safe, "attachment"


def content_disposition(disposition: str, filename: str) -> str:
    """A Content-Disposition field (RFC 6266) for any Unicode name, or for none ("").

    A name that needs it is sent twice: approximated in ASCII, and exactly (RFC 8187).
    """
    name = _NOT_IN_A_NAME.sub("_", filename).strip()
    if not name:
        return disposition
    plain = _NOT_QUOTED_PLAINLY.sub("_", name)
    if plain == name:
        return f'{disposition}; filename="{name}"'
    return f"{disposition}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe=_ATTR_CHAR)}"


def security_headers(*, cross_origin: bool) -> dict[str, str]:
    """Headers that keep an upload from acting as a page of ours, whatever it contains.

    Inline styles are what browsers' own picture pages are made of. Chromium's PDF viewer is a
    page of its own and works under this policy, which does not reach scripts inside a PDF.
    """
    return {
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'",
        "Cross-Origin-Resource-Policy": "cross-origin" if cross_origin else "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
    }


class BoundedReader:
    """Exactly `length` bytes of `source` from its position on, and an error if it has fewer.

    A source that is a file on disk keeps its `fileno()`, so that the server can use sendfile:
    it starts at the descriptor's position and sends Content-Length bytes.
    """

    def __init__(self, source: BinaryIO, length: int) -> None:
        self._source = source
        self._left = length
        try:
            self._end: int | None = os.lseek(source.fileno(), 0, os.SEEK_CUR) + length
        except OSError:
            self._end = None

    def read(self, size: int = -1) -> bytes:
        """Raises Corrupt where the source ends before `length` bytes."""
        if not self._left:
            return b""
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._source.read(wanted)
        if not data and wanted:
            raise Corrupt(f"the stream ended {self._left} bytes early")
        self._left -= len(data)
        return data

    def fileno(self) -> int:
        """Raises OSError (io.UnsupportedOperation) if the source is no file on disk."""
        return self._source.fileno()

    @property
    def cut_short(self) -> bool:
        """Whether the file is shorter than Content-Length by now; sendfile would not report it."""
        if self._end is None or self._source.closed:
            return False
        return os.fstat(self._source.fileno()).st_size < self._end

    def close(self) -> None:
        self._source.close()
