"""Having nginx or the S3 service send a blob's bytes instead of this process (`CAS_DELIVERY`)."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, urlsplit

from django.core.files.storage import FileSystemStorage
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from cas import http
from cas.conf import serving
from cas.content_types import INLINE_TYPES
from cas.signed_urls import BlobQuery
from cas.storage.base import BlobStore

ACCEL_CACHE_CONTROL: Final = "X-Cas-Cache-Control"
"""Carries Cache-Control to nginx, whose configuration sends it once it has the bytes. nginx would
send Cache-Control itself with its own error pages too, and browsers would keep those for a year."""


def hand_over(
    request: HttpRequest,
    store: BlobStore,
    key: str,
    query: BlobQuery,
    wanted: http.RangeRequest | None,
    headers: dict[str, str],
) -> HttpResponse | None:
    """The response that has the bytes of an existing object sent, or None if this process must.

    `headers` are those of a streamed response, `wanted` is the range it would send.
    """
    if not _understood_alike(request, wanted):
        return None
    current, on_disk = serving(), isinstance(store, FileSystemStorage)
    if current.delivery == "accel" and request.method == "GET":
        if on_disk:
            path = f"/disk/{quote(key)}"
        else:
            # nginx knows the host, which is signed as well.
            signed = urlsplit(_presigned(store, key, headers))
            path = f"/s3{signed.path}?{signed.query}"
        # nginx itself says whether it takes ranges.
        kept = {k: v for k, v in headers.items() if k not in ("Accept-Ranges", "Cache-Control")}
        kept[ACCEL_CACHE_CONTROL] = headers["Cache-Control"]
        kept["X-Accel-Redirect"] = current.accel_prefix + path
        return HttpResponse(headers={**kept, "Content-Length": "0"})
    # S3 sends neither a policy nor nosniff, so what is displayed must be harmless by itself.
    harmless = query.content_type in INLINE_TYPES or query.disposition == "attachment"
    if current.delivery == "redirect" and not on_disk and harmless:
        # A signature covers the method.
        operation = "head_object" if request.method == "HEAD" else "get_object"
        response = HttpResponseRedirect(_presigned(store, key, headers, operation))
        for name, value in headers.items():
            if name not in ("ETag", "Content-Type", "Content-Disposition", "Accept-Ranges"):
                response[name] = value
        # Caches must drop it well before the URL it names expires.
        response["Cache-Control"] = f"private, max-age={current.redirect_ttl // 2}"
        response["Content-Length"] = "0"
        return response
    return None


def _understood_alike(request: HttpRequest, wanted: http.RangeRequest | None) -> bool:
    """Whether nginx and S3 understand the request's conditions and range as we do.

    They have another ETag and a date that clients do not get, and refuse ranges that we ignore.
    """
    if any(f"HTTP_IF_{name}" in request.META for name in ("MATCH", "RANGE", "UNMODIFIED_SINCE")):
        return False
    header = request.META.get("HTTP_RANGE")
    return header is None or (wanted is not None and http.is_plain_range(header))


def _presigned(s3: Any, key: str, headers: dict[str, str], operation: str = "get_object") -> str:
    """A URL that reads the object for CAS_REDIRECT_TTL seconds and is answered with `headers`.

    Made without a request to the service.
    """
    url: str = s3.client.generate_presigned_url(
        operation,
        Params={
            "Bucket": s3.bucket_name,
            "Key": key,
            "ResponseContentType": headers["Content-Type"],
            "ResponseContentDisposition": headers["Content-Disposition"],
            "ResponseCacheControl": headers["Cache-Control"],
        },
        ExpiresIn=serving().redirect_ttl,
    )
    return url
