"""URLs of blobs: one spelling for each, on a CDN's host if there is one, signed if asked for.

A URL says nothing about the time it was made, so that it stays the same for as long as the
blob does and caches can keep what it names.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import quote, urlencode

from django.core.signing import Signer
from django.urls import reverse
from django.utils.crypto import constant_time_compare

from cas.conf import serving
from cas.digest import Digest
from cas.http import OPAQUE_TYPE
from cas.query import BlobQuery, ThumbnailQuery, media_type

THUMBNAIL_SIZE: Final = 150
"""Pixels of the thumbnails that lists of parts and attachments show."""


def blob_url(digest: Digest, *, content_type: str, disposition: str, filename: str) -> str:
    """The URL of a blob's bytes. `disposition` is `inline` or `attachment`."""
    return _url(digest, blob_query(content_type, disposition, filename))


def thumbnail_url(digest: Digest, size: int = THUMBNAIL_SIZE) -> str:
    """The URL of a blob's picture fitted into `size` × `size` pixels."""
    return _url(digest, ThumbnailQuery(size))


def blob_query(content_type: str, disposition: str, filename: str) -> BlobQuery:
    """What a row says of its file, as a query.

    A content type that is none (from an older row) becomes application/octet-stream.
    """
    return BlobQuery(media_type(content_type) or OPAQUE_TYPE, disposition, filename)


def public_url(path: str, name: str, query: BlobQuery | ThumbnailQuery) -> str:
    """The URL of what is at `path`, as clients are told it; a signature covers `name`."""
    current = serving()
    signer = _signers(current.url_signing_keys)[0] if current.signed_urls else None
    return f"{current.public_base_url}{path}?{_spelled(name, query, signer)}"


def permits(name: str, query: BlobQuery | ThumbnailQuery, given: str) -> bool:
    """Whether URLs need no signature, or `given` (the raw query) is as we spell and sign it.

    `query` is what it was read as. Another spelling is refused even if it means the same, and so
    is anything added: a shared cache would hold a copy of the blob for each. Any listed key will
    do, which is how keys are rotated.
    """
    current = serving()
    return not current.signed_urls or any(
        constant_time_compare(given, _spelled(name, query, signer))
        for signer in _signers(current.url_signing_keys)
    )


def _url(digest: Digest, query: BlobQuery | ThumbnailQuery) -> str:
    return public_url(reverse("cas-blob", args=[digest.hex]), digest.hex, query)


def _spelled(name: str, query: BlobQuery | ThumbnailQuery, signer: Signer | None) -> str:
    parameters = query.parameters
    if signer:
        subject = f"{name}?{urlencode(parameters, errors='replace')}"
        parameters["signature"] = signer.signature(subject)
    return urlencode(parameters, quote_via=quote, errors="replace")


@lru_cache(maxsize=4)
def _signers(keys: tuple[str, ...]) -> list[Signer]:
    return [Signer(key=key, salt="cas.links") for key in keys]
