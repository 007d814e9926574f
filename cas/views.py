"""Serving blobs and their thumbnails. Nothing here asks the database anything.

`deliver_blob` and `deliver_thumbnail` know no URL: they serve any object of the store, and so
also what a project keeps under older keys.
"""

from __future__ import annotations

import time
from typing import Final

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

from cas import links, metrics
from cas.answers import Answer, Target, content, guarded, thumbnail
from cas.conf import serving
from cas.digest import Digest, MalformedDigest
from cas.errors import error_response, not_signed
from cas.query import BadQuery, BlobQuery, ThumbnailQuery, parse_query

__all__ = [
    "BadQuery",
    "BlobQuery",
    "ThumbnailQuery",
    "blob",
    "deliver_blob",
    "deliver_thumbnail",
    "parse_query",
]

IMMUTABLE: Final = "public, max-age=31536000, immutable"
_METHODS: Final = "GET, HEAD, OPTIONS"


@csrf_exempt
def blob(request: HttpRequest, digest: str) -> HttpResponseBase:
    """`/cas/<digest>`: a blob or its thumbnail, for as long as the digest exists (forever)."""
    started = time.perf_counter()
    answer = _blob(request, digest)
    _allow_origins(request, answer.response)
    kind = "thumbnail" if "thumbnail" in request.GET else "content"
    metrics.record(answer.response.status_code, kind, answer.found, time.perf_counter() - started)
    return answer.response


def deliver_blob(
    request: HttpRequest,
    *,
    key: str,
    etag: str | None,
    content_type: str,
    disposition: str,
    filename: str,
    cache_control: str,
) -> HttpResponseBase:
    """The object at `key`, or the error answer that says why not.

    `etag` is a quoted strong entity tag; None takes the store's own, at the price of a stat.
    Unsafe content types and dispositions are replaced (`http.effective_type`).
    """
    target = Target(key, etag, cache_control)
    query = BlobQuery(content_type, disposition, filename)
    return guarded(request, key, lambda: Answer(content(request, target, query))).response


def deliver_thumbnail(
    request: HttpRequest,
    *,
    key: str,
    cache_name: str,
    size: int,
    etag: str | None,
    cache_control: str,
) -> HttpResponseBase:
    """A thumbnail of the object at `key`, or the error answer that says why not.

    It is cached as `{cache_name}_{size}.jpg`. `etag` identifies the object, as above; the
    thumbnail's own is made from it.
    """
    target = Target(key, etag, cache_control)
    return guarded(
        request, key, lambda: thumbnail(request, target, cache_name, ThumbnailQuery(size))
    ).response


def _blob(request: HttpRequest, name: str) -> Answer:
    if request.method == "OPTIONS":
        allowed = HttpResponse(status=204, headers={"Allow": _METHODS})
        del allowed["Content-Type"]
        return Answer(allowed)
    if request.method not in ("GET", "HEAD"):
        return Answer(
            error_response(
                request, 405, "method_not_allowed", "Blobs are read only.", {"Allow": _METHODS}
            )
        )
    try:
        digest = Digest(name)
        query = parse_query(request.GET)
    except (MalformedDigest, BadQuery) as error:
        return Answer(error_response(request, 400, "bad_request", f"{error}."))
    if not links.permits(digest.hex, query, request.META.get("QUERY_STRING", "")):
        return Answer(not_signed(request))
    target = Target(digest.key, f'"{digest}"', IMMUTABLE)
    if isinstance(query, ThumbnailQuery):
        return guarded(request, digest.key, lambda: thumbnail(request, target, digest.hex, query))
    return guarded(request, digest.key, lambda: Answer(content(request, target, query)))


def _allow_origins(request: HttpRequest, response: HttpResponseBase) -> None:
    """Let pages of the configured origins read blobs (the Fetch standard's CORS protocol)."""
    allowed = serving().cors_allowed_origins
    if not allowed:
        return
    origin = "*"
    if origin not in allowed:
        # Also on answers without Origin: a cache would give them to those with one.
        response["Vary"] = "Origin"
        origin = request.headers.get("Origin", "")
        if origin not in allowed:
            return
    response["Access-Control-Allow-Origin"] = origin
    response["Access-Control-Expose-Headers"] = (
        "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, Retry-After"
    )
    if request.method == "OPTIONS":
        response["Access-Control-Allow-Methods"] = _METHODS
        response["Access-Control-Allow-Headers"] = "If-Match, If-None-Match, If-Range, Range"
        response["Access-Control-Max-Age"] = "86400"
