"""Serving blobs and their thumbnails, without the database.

`deliver` serves any object of the store, and so also what a project keeps under older keys.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Final

from django.http import HttpRequest, HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

from cas import http
from cas.conf import serving
from cas.delivery import hand_over
from cas.digest import Digest
from cas.responses import (
    BlobResponse,
    blob_headers,
    conditional,
    head,
    public_endpoint,
    range_of,
    translate_errors,
)
from cas.signed_urls import BlobQuery, ThumbnailQuery, parse_query, verify
from cas.storage import attachment_store
from cas.thumbnails.render import RENDERER, thumbnail

log = logging.getLogger(__name__)

IMMUTABLE: Final = "public, max-age=31536000, immutable"


@csrf_exempt
@public_endpoint
@translate_errors
def blob(request: HttpRequest, digest: str) -> HttpResponseBase:
    """`/cas/<digest>`: a blob or its thumbnail, the same for as long as the digest exists."""
    named = Digest(digest)
    query = parse_query(request.GET)
    verify(named.hex, query, request.META.get("QUERY_STRING", ""))
    return deliver(
        request,
        named.key,
        query,
        etag=f'"{named.hex}"',
        cache_name=named.hex,
        cache_control=IMMUTABLE,
    )


def deliver(
    request: HttpRequest,
    key: str,
    query: BlobQuery | ThumbnailQuery,
    *,
    etag: str | None,
    cache_name: str,
    cache_control: str,
) -> HttpResponseBase:
    """The object at `key` or its thumbnail; for a view that `translate_errors` decorates.

    `etag` is the object's quoted strong entity tag; None takes the store's own, at the price of a
    stat. A thumbnail is cached as `{cache_name}_{size}.jpg`. Raises Unsatisfiable, Busy,
    Unrenderable and the store's errors.
    """
    etag = etag or '"{}"'.format(attachment_store().stat(key).etag.strip('"'))
    if isinstance(query, ThumbnailQuery):
        return _thumbnail(request, key, query.size, etag, cache_name, cache_control)
    return _blob(request, key, query, etag, cache_control)


def _blob(
    request: HttpRequest, key: str, query: BlobQuery, etag: str, cache_control: str
) -> HttpResponseBase:
    store, streamed = attachment_store(), serving().delivery == "stream"
    content_type, disposition = http.effective_type(query.content_type, query.disposition)
    headers = blob_headers(etag, cache_control, content_type)
    if answer := conditional(request, etag, headers, lambda: store.stat(key)):
        return answer
    headers["Content-Disposition"] = http.content_disposition(disposition, query.filename)
    wanted, byte_range = range_of(request, etag), None
    if wanted or request.method == "HEAD" or not streamed:
        size = store.stat(key).size
        byte_range = wanted.resolve(size) if wanted else None
        if not streamed and (answer := hand_over(request, store, key, query, wanted, headers)):
            log.info("handed over %s: %d", key, answer.status_code)
            return answer
        if request.method == "HEAD":
            return head(headers, size)
    stream = store.read(key, byte_range)
    response = BlobResponse(stream, stream.blob.size, byte_range, headers)
    log.info("served %s: %d, %s bytes", key, response.status_code, response["Content-Length"])
    return response


def _thumbnail(
    request: HttpRequest, key: str, size: int, etag: str, cache_name: str, cache_control: str
) -> HttpResponseBase:
    store = attachment_store()
    # Weak: a thumbnail made of the blob and one made of a kept picture differ in their bytes.
    etag = f'W/{etag[:-1]}-{size}-{RENDERER}"'
    headers = blob_headers(etag, cache_control, "image/jpeg")
    if answer := conditional(
        request, etag, headers, lambda: thumbnail(store, key, cache_name, size).body.close()
    ):
        return answer
    headers["Content-Disposition"] = "inline"
    picture = thumbnail(store, key, cache_name, size)
    with contextlib.ExitStack() as unless_sent:
        unless_sent.enter_context(picture.body)
        if request.method == "HEAD":
            return head(headers, picture.size)
        wanted = range_of(request, etag)
        byte_range = wanted.resolve(picture.size) if wanted else None
        picture.body.seek(byte_range.start if byte_range else 0)
        response = BlobResponse(picture.body, picture.size, byte_range, headers)
        unless_sent.pop_all()
    log.info("served %s at %d: %d", key, size, response.status_code)
    return response
