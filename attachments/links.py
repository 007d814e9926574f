"""The URLs under which an attachment's bytes are found, whichever layout holds them."""

from __future__ import annotations

import logging
from typing import NamedTuple

from django.urls import reverse

from attachments.models import Attachment
from cas.conf import THUMBNAIL_SIZE
from cas.signed_urls import (
    BlobQuery,
    ThumbnailQuery,
    blob_query,
    blob_url,
    public_url,
    thumbnail_url,
)

logger = logging.getLogger(__name__)


class Links(NamedTuple):
    """URLs of an attachment's bytes; each None where there is nothing to link to."""

    download: str | None = None
    view: str | None = None
    thumbnail: str | None = None


def links(attachment: Attachment) -> Links:
    """A link has at most a thumbnail; what is no picture has none; a row on its old key has
    transitional URLs.

    A key that is neither form is an integrity error: it is logged and yields no URLs, so that one
    damaged row does not take a whole list of parts down.
    """
    if attachment.s3_key is None and not attachment.is_file:
        return Links()
    if attachment.digest is None and not attachment.is_legacy:
        logger.error(
            "integrity error: attachment %s has the key %r, which is neither a CAS key nor one "
            "of the older layout",
            attachment.pk,
            attachment.s3_key,
        )
        return Links()
    small = thumbnail(attachment, THUMBNAIL_SIZE) if attachment.has_picture else None
    if not attachment.is_file:
        return Links(thumbnail=small)
    return Links(
        download=content_url(attachment, "attachment"),
        view=content_url(attachment, "inline"),
        thumbnail=small,
    )


def content_url(attachment: Attachment, disposition: str) -> str:
    """The URL of a file's bytes. `disposition` is `inline` or `attachment` (RFC 6266)."""
    content_type, filename = attachment.content_type or "", attachment.filename or ""
    if attachment.digest is not None:
        return blob_url(
            attachment.digest,
            content_type=content_type,
            disposition=disposition,
            filename=filename,
        )
    return _transitional_url(attachment, blob_query(content_type, disposition, filename))


def thumbnail(attachment: Attachment, size: int) -> str:
    """The URL of an image's thumbnail that fits into `size` pixels squared."""
    if attachment.digest is not None:
        return thumbnail_url(attachment.digest, size)
    return _transitional_url(attachment, ThumbnailQuery(size))


def _transitional_url(attachment: Attachment, query: BlobQuery | ThumbnailQuery) -> str:
    path = reverse("attachment-content", args=[attachment.part.key, attachment.pk])
    return public_url(path, path, query)
