"""URLs of blobs: one spelling for each, on a CDN's host if there is one, signed if asked for.

A URL says nothing about the time it was made, so that it stays the same for as long as the
blob does and caches can keep what it names.
"""

from __future__ import annotations

from collections.abc import Mapping
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

_SIGNATURE: Final = "signature"


def blob_url(digest: Digest, *, content_type: str, disposition: str, filename: str) -> str:
    """The URL of a blob's bytes. `disposition` is `inline` or `attachment`.

    A content type that is none (from an older row) becomes application/octet-stream.
    """
    return _url(digest, BlobQuery(media_type(content_type) or OPAQUE_TYPE, disposition, filename))


def thumbnail_url(digest: Digest, size: int = THUMBNAIL_SIZE) -> str:
    """The URL of a blob's picture fitted into `size` × `size` pixels."""
    return _url(digest, ThumbnailQuery(size))


def permits(digest: Digest, query: BlobQuery | ThumbnailQuery, given: Mapping[str, str]) -> bool:
    """Whether URLs need no signature, or `given` (the raw parameters) carries a right one.

    With signed URLs nothing may be added either: a shared cache would hold a copy of the blob
    for every made-up parameter.
    """
    if not serving().signed_urls:
        return True
    if given.keys() - query.parameters.keys() - {_SIGNATURE}:
        return False
    return _verify(_subject(digest, query), given.get(_SIGNATURE, ""))


def _url(digest: Digest, query: BlobQuery | ThumbnailQuery) -> str:
    current = serving()
    parameters = query.parameters
    if current.signed_urls:
        signature = _signers(current.url_signing_keys)[0].signature(_subject(digest, query))
        parameters[_SIGNATURE] = signature
    path = reverse("cas-blob", args=[digest.hex])
    encoded = urlencode(parameters, quote_via=quote, errors="replace")
    return f"{current.public_base_url}{path}?{encoded}"


def _subject(digest: Digest, query: BlobQuery | ThumbnailQuery) -> str:
    return f"{digest.hex}?{urlencode(query.parameters, errors='replace')}"


def _verify(subject: str, signature: str) -> bool:
    """Whether any listed key made the signature, which is how keys are rotated."""
    return any(
        constant_time_compare(signature, signer.signature(subject))
        for signer in _signers(serving().url_signing_keys)
    )


@lru_cache(maxsize=4)
def _signers(keys: tuple[str, ...]) -> list[Signer]:
    return [Signer(key=key, salt="cas.links") for key in keys]
