"""URLs of blobs: their parameters as values and back, the public host, and the signature.

There is one parser and one canonical spelling, so that a computed URL is always the same, caches
hold one copy of a blob, and a signature covers what is served. A URL does not depend on the time
it was made.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import quote, urlencode

from django.core.signing import Signer
from django.http import QueryDict
from django.urls import reverse
from django.utils.crypto import constant_time_compare

from cas.conf import LARGEST_THUMBNAIL, THUMBNAIL_SIZE, serving
from cas.content_types import canonical
from cas.digest import Digest
from cas.http import OPAQUE_TYPE

# A media type without parameters (RFC 9110 §8.3.1), of lengths RFC 6838 §4.2 allows.
_TOKEN: Final = r"[a-z0-9!#$&^_.+-]{1,127}"  # noqa: S105
_MEDIA_TYPE: Final = re.compile(rf"{_TOKEN}/{_TOKEN}")
_DISPOSITIONS: Final = ("inline", "attachment")
_LONGEST_NAME: Final = 255
_SALT: Final = "cas.links"
_PARAMETERS: Final = ("content_type", "disposition", "filename", "thumbnail", "signature")


class BadQuery(ValueError):
    """The parameters are not one of the forms a blob URL has. The message says what is wrong."""


class BadSignature(Exception):
    """The URL is not one that this service computed and signed."""


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
    """Raises BadQuery. A parameter given twice is refused: a cache may read it otherwise.

    Parameters that are not ours are ignored.
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


def _size(text: str) -> int:
    allowed = serving().thumbnail_sizes
    size = int(text) if re.fullmatch(r"[1-9][0-9]{0,3}", text) else 0
    if not 1 <= size <= LARGEST_THUMBNAIL or (allowed and size not in allowed):
        choice = ", ".join(map(str, allowed)) or f"a number from 1 to {LARGEST_THUMBNAIL}"
        raise BadQuery(f"thumbnail is {choice}")
    return size


def blob_query(content_type: str, disposition: str, filename: str) -> BlobQuery:
    """The query for a file as its row describes it.

    What is not a media type (in an older row) becomes application/octet-stream; an alias becomes
    the usual name; parameters are dropped.
    """
    usual = canonical(content_type)
    known = usual if _MEDIA_TYPE.fullmatch(usual) else OPAQUE_TYPE
    return BlobQuery(known, disposition, filename)


def blob_url(digest: Digest, *, content_type: str, disposition: str, filename: str) -> str:
    """The URL of a blob's bytes. `disposition` is `inline` or `attachment`."""
    return _url(digest, blob_query(content_type, disposition, filename))


def thumbnail_url(digest: Digest, size: int = THUMBNAIL_SIZE) -> str:
    """The URL of a blob's picture fitted into `size` × `size` pixels."""
    return _url(digest, ThumbnailQuery(size))


def _url(digest: Digest, query: BlobQuery | ThumbnailQuery) -> str:
    return public_url(reverse("cas-blob", args=[digest.hex]), digest.hex, query)


def public_url(path: str, name: str, query: BlobQuery | ThumbnailQuery) -> str:
    """The URL of what is at `path`, as clients get it; a signature covers `name` and the query."""
    current = serving()
    signer = _signers(current.url_signing_keys)[0] if current.signed_urls else None
    return f"{current.public_base_url}{path}?{_spelled(name, query, signer)}"


def verify(name: str, query: BlobQuery | ThumbnailQuery, given: str) -> None:
    """Raises BadSignature unless `given`, the raw query, is spelled and signed as we do it.

    `query` is what it was parsed to. Another spelling is refused even if it means the same, and so
    is any addition: a shared cache would hold a copy of the blob for each. A signature by any of
    the listed keys is valid, so that keys can be rotated.
    """
    current = serving()
    if current.signed_urls and not any(
        constant_time_compare(given, _spelled(name, query, signer))
        for signer in _accepted(current.url_signing_keys)
    ):
        raise BadSignature


def _spelled(name: str, query: BlobQuery | ThumbnailQuery, signer: Signer | None) -> str:
    parameters = query.parameters
    if signer:
        subject = f"{name}?{urlencode(parameters, errors='replace')}"
        parameters["signature"] = signer.signature(subject)
    return urlencode(parameters, quote_via=quote, errors="replace")


class _KeyedSigner(Signer):
    """Signatures that begin with their key's id, so that one sees what a URL was signed with."""

    def signature(self, value: str | bytes, key: str | bytes | None = None) -> str:
        return f"{key_id(str(self.key))}.{super().signature(value, key)}"


def key_id(key: str) -> str:
    """What is seen of a key in the URLs that it signs: eight hexadecimal digits."""
    return hashlib.sha256(f"cas.links:{key}".encode()).hexdigest()[:8]


@lru_cache(maxsize=4)
def _signers(keys: tuple[str, ...]) -> list[Signer]:
    return [_KeyedSigner(key=key, salt=_SALT) for key in keys]


@lru_cache(maxsize=4)
def _accepted(keys: tuple[str, ...]) -> list[Signer]:
    """Also those without a key id, which the releases before it made."""
    return [*_signers(keys), *(Signer(key=key, salt=_SALT) for key in keys)]
