"""What a blob URL may ask for: its parameters as values, and back.

One parse and one canonical order, so that a computed URL is always spelled the same way, caches
hold one copy, and a signature covers what is served.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from django.http import QueryDict

from cas.conf import LARGEST_THUMBNAIL, serving

# A media type without parameters (RFC 9110 §8.3.1), of lengths RFC 6838 §4.2 allows.
_TOKEN: Final = r"[a-z0-9!#$&^_.+-]{1,127}"  # noqa: S105
_MEDIA_TYPE: Final = re.compile(rf"{_TOKEN}/{_TOKEN}")
_DISPOSITIONS: Final = ("inline", "attachment")
_LONGEST_NAME: Final = 255
_PARAMETERS: Final = ("content_type", "disposition", "filename", "thumbnail", "signature")


class BadQuery(ValueError):
    """The parameters are not one of the forms a blob URL has. The message says what is wrong."""


@dataclass(frozen=True, slots=True)
class BlobQuery:
    """The blob itself, to be shown or saved under a name ("" for none)."""

    content_type: str
    disposition: str = "inline"
    filename: str = ""

    @property
    def parameters(self) -> dict[str, str]:
        """The query in canonical order."""
        found = {"content_type": self.content_type, "disposition": self.disposition}
        return {**found, "filename": self.filename} if self.filename else found


@dataclass(frozen=True, slots=True)
class ThumbnailQuery:
    """A JPEG fitted into `size` × `size` pixels."""

    size: int

    @property
    def parameters(self) -> dict[str, str]:
        """The query in canonical order."""
        return {"thumbnail": str(self.size)}


def parse_query(query: QueryDict) -> BlobQuery | ThumbnailQuery:
    """Raises BadQuery. A parameter given twice is refused: caches and we may read it otherwise.

    Parameters that are none of ours are left alone.
    """
    given: dict[str, str] = {}
    for name in _PARAMETERS:
        values = query.getlist(name)
        if len(values) > 1:
            raise BadQuery(f"{name} is given more than once")
        if values:
            given[name] = str(values[0])
    if ("content_type" in given) == ("thumbnail" in given):
        raise BadQuery("give either content_type or thumbnail")
    disposition = given.get("disposition", "inline")
    if disposition not in _DISPOSITIONS:
        raise BadQuery("disposition is inline or attachment")
    filename = given.get("filename", "")
    if len(filename) > _LONGEST_NAME:
        raise BadQuery(f"filename is longer than {_LONGEST_NAME} characters")
    if "thumbnail" in given:
        return ThumbnailQuery(_size(given["thumbnail"]))
    content_type = given["content_type"].lower()
    if not _MEDIA_TYPE.fullmatch(content_type):
        raise BadQuery("content_type is not a media type such as image/png")
    return BlobQuery(content_type, disposition, filename)


def media_type(text: str) -> str | None:
    """`text` without its parameters, if it is a media type."""
    essence = text.partition(";")[0].strip().lower()
    return essence if _MEDIA_TYPE.fullmatch(essence) else None


def _size(text: str) -> int:
    allowed = serving().thumbnail_sizes
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text):
        raise BadQuery(f"thumbnail is a number from 1 to {LARGEST_THUMBNAIL}")
    size = int(text)
    if size > LARGEST_THUMBNAIL or (allowed and size not in allowed):
        choice = ", ".join(map(str, allowed)) or f"a number from 1 to {LARGEST_THUMBNAIL}"
        raise BadQuery(f"thumbnail is {choice}")
    return size
