"""Having nginx or the S3 service send a blob's bytes in our place (`CAS_DELIVERY`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol, cast
from urllib.parse import quote, urlsplit

from django.core.files.storage import FileSystemStorage
from django.http import HttpResponse, HttpResponseRedirect

from cas.conf import serving
from cas.http import INLINE_TYPES
from cas.storage.base import BlobStore

ACCEL_CACHE_CONTROL: Final = "X-Cas-Cache-Control"
"""What nginx is to send as Cache-Control, once it has the bytes. It would send Cache-Control itself
on its own error page as well, and browsers would keep that for a year."""


class S3Store(Protocol):
    """What a store on S3 has beyond the contract."""

    bucket_name: str

    @property
    def client(self) -> Any:
        """The process's boto3 client, which presigns without asking the service."""


def delegates() -> bool:
    """Whether somebody else is to send bodies, so that only the object's facts are needed."""
    return serving().delivery != "stream"


def delegated(
    method: str | None,
    store: BlobStore,
    key: str,
    asked: tuple[str, str],
    headers: Mapping[str, str],
) -> HttpResponse | None:
    """The answer that has the bytes of an existing object sent, or None if it must be ours.

    `asked` is the content type and disposition of the request, `headers` what a streamed answer
    would have.
    """
    delivery, on_disk = serving().delivery, isinstance(store, FileSystemStorage)
    if delivery == "accel" and method == "GET":
        path = f"/disk/{quote(key)}" if on_disk else _behind_nginx(_presigned(store, key, headers))
        return _accelerated(path, headers)
    if delivery == "redirect" and not on_disk and _may_leave(*asked):
        # A signature covers the method.
        operation = "head_object" if method == "HEAD" else "get_object"
        return _redirected(_presigned(store, key, headers, operation), headers)
    return None


def _accelerated(path: str, headers: Mapping[str, str]) -> HttpResponse:
    # Whether it takes ranges nginx says of itself.
    kept = {k: v for k, v in headers.items() if k not in ("Accept-Ranges", "Cache-Control")}
    kept[ACCEL_CACHE_CONTROL] = headers["Cache-Control"]
    kept["X-Accel-Redirect"] = serving().accel_prefix + path
    return HttpResponse(headers={**kept, "Content-Length": "0"})


def _redirected(url: str, headers: Mapping[str, str]) -> HttpResponse:
    away = HttpResponseRedirect(url)
    for name, value in headers.items():
        if name not in ("ETag", "Content-Type", "Content-Disposition", "Accept-Ranges"):
            away[name] = value
    # It must be forgotten well before the URL it names stops working.
    away["Cache-Control"] = f"private, max-age={serving().redirect_ttl // 2}"
    away["Content-Length"] = "0"
    return away


def _may_leave(content_type: str, disposition: str) -> bool:
    """S3 sends neither a policy nor nosniff, so what is displayed must be harmless by itself."""
    return content_type in INLINE_TYPES or disposition == "attachment"


def _presigned(
    store: BlobStore, key: str, headers: Mapping[str, str], operation: str = "get_object"
) -> str:
    """A URL that reads the object for a while, and is answered with our headers."""
    s3 = cast(S3Store, store)
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


def _behind_nginx(url: str) -> str:
    """The path and query of a presigned URL; nginx knows the host, which is signed as well."""
    parts = urlsplit(url)
    return f"/s3{parts.path}?{parts.query}"
