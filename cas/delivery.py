"""Having nginx or the S3 service send a blob's bytes in our place (`CAS_DELIVERY`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast
from urllib.parse import quote, urlsplit

from django.core.files.storage import FileSystemStorage
from django.http import HttpResponse, HttpResponseRedirect

from cas.conf import serving
from cas.http import INLINE_TYPES
from cas.storage.base import BlobStore


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
    store: BlobStore, key: str, asked: tuple[str, str], headers: Mapping[str, str]
) -> HttpResponse | None:
    """The answer that has the bytes of an existing object sent, or None if we must stream them.

    `asked` is the content type and disposition of the request, `headers` what a streamed answer
    would have.
    """
    settings = serving()
    on_disk = isinstance(store, FileSystemStorage)
    if settings.delivery == "accel":
        presigned = None if on_disk else _presigned(store, key, headers)
        target = _behind_nginx(presigned) if presigned else f"/disk/{quote(key)}"
        response = HttpResponse(headers=dict(headers))
        response["X-Accel-Redirect"] = settings.accel_prefix + target
        # Whoever sends the bytes says it of itself.
        del response["Accept-Ranges"]
        return response
    if settings.delivery == "redirect" and not on_disk and _may_leave(*asked):
        # The redirect must be forgotten well before the URL it names stops working.
        lifetime = f"private, max-age={settings.redirect_ttl // 2}"
        away = HttpResponseRedirect(_presigned(store, key, headers))
        for name, value in headers.items():
            if name not in ("ETag", "Content-Type", "Content-Disposition", "Accept-Ranges"):
                away[name] = value
        away["Cache-Control"] = lifetime
        return away
    return None


def _may_leave(content_type: str, disposition: str) -> bool:
    """S3 sends neither a policy nor nosniff, so what is displayed must be harmless by itself."""
    return content_type in INLINE_TYPES or disposition == "attachment"


def _presigned(store: BlobStore, key: str, headers: Mapping[str, str]) -> str:
    """A URL that reads the object for a while, and is answered with our headers."""
    s3 = cast(S3Store, store)
    url: str = s3.client.generate_presigned_url(
        "get_object",
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
