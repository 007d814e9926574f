"""All middleware of ours, in the order in which requests pass it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

from cas.conf import serving
from cas.responses import error_response
from cas.views import blob
from inventory.errors import bad_request

API: Final = "/api/"
BLOBS: Final = "/api/cas/"
"""Where `inventory.urls` has the blobs, so that their URLs can be reversed and resolved."""

ADMIN: Final = "/admin/"
CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii"})
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class _Middleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response


class NulCharacterMiddleware(_Middleware):
    """Answers 400 to a NUL character in the path or query, which PostgreSQL's text cannot hold."""

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        query = request.META.get("QUERY_STRING", "")
        if "\0" in request.path_info or "%00" in query or "\0" in query:
            return bad_request(request, None)
        return self.get_response(request)


class BodyMiddleware(_Middleware):
    """Refuses bodies that would be ignored or read as something else.

    One without a length (RFC 9112, 6.3) is a 411: WSGI (PEP 3333) has no way to say where it ends.
    Text is UTF-8; another charset is a 400.
    """

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        meta = request.META
        if meta.get("HTTP_TRANSFER_ENCODING") and not meta.get("CONTENT_LENGTH"):
            message = "A body needs a Content-Length."
            return error_response(request, 411, "length_required", message)
        charset = (request.content_params or {}).get("charset", "utf-8")
        if charset.strip("'\" ").lower() not in CHARSETS:
            message = "The charset of a request is UTF-8."
            return error_response(request, 400, "bad_request", message)
        return self.get_response(request)


class LoopbackOnlyMiddleware(_Middleware):
    """Answers 403 below /api/ to other machines, unless INVENTORY_ALLOW_OPEN_API is set.

    The API has no accounts. `inventory.serve` listens on loopback only; this protects every other
    server that `inventory.wsgi` may run in. A peer without an address is on a Unix socket.
    """

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info.startswith(API) and not settings.INVENTORY_ALLOW_OPEN_API:
            peer = request.META.get("REMOTE_ADDR", "")
            if peer and not is_loopback(peer):
                message = "The API is open to its own machine only."
                return error_response(request, 403, "not_local", message)
        return self.get_response(request)


def is_loopback(address: str) -> bool:
    """Whether only this machine can have, or connect from, this IP address."""
    if address in ("127.0.0.1", "::1"):
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


class ForeignOriginMiddleware(_Middleware):
    """Answers 403 to an unsafe request below /api/ that a page of another site caused.

    The API is open on loopback, so any page could have its reader's browser post to it. Browsers
    send `Origin` with every unsafe request across origins (Fetch standard, section 3.2), and pages
    cannot forge it. A client that is no browser sends neither header and is let through, as are the
    origins in INVENTORY_TRUSTED_ORIGINS.
    """

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if (
            request.method not in SAFE_METHODS
            and request.path_info.startswith(API)
            and _is_foreign(request)
        ):
            message = "Requests that another web site causes are refused."
            return error_response(request, 403, "foreign_origin", message)
        return self.get_response(request)


def _is_foreign(request: HttpRequest) -> bool:
    origin = request.headers.get("Origin")
    if origin is None:
        return request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}
    own = f"{request.scheme}://{request.get_host()}"
    allowed = [own, *settings.INVENTORY_TRUSTED_ORIGINS]
    try:
        return _parts(origin) not in map(_parts, allowed)
    except ValueError:
        return True


def _parts(origin: str) -> tuple[str, str | None, int | None]:
    """Raises ValueError for an invalid port."""
    split = urlsplit(origin)
    default = {"http": 80, "https": 443}.get(split.scheme)
    return split.scheme, split.hostname, split.port or default


class BlobMiddleware(_Middleware):
    """Passes requests for blobs to their view, past the middleware that only pages need.

    Blobs are requested most, and sessions, accounts, messages and forms would take longer than the
    response itself. Checks the host, as CommonMiddleware would: unknown ones are answered 400.
    """

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        path = request.path_info
        if not path.startswith(BLOBS) or path == BLOBS:
            return self.get_response(request)
        request.get_host()
        return blob(request, path[len(BLOBS) :])


class AdminPolicyMiddleware(_Middleware):
    """Gives every response below /admin/ a Content Security Policy (Level 3).

    The admin shows names that users gave. They are escaped; should one slip through, the browser
    still runs no script but ours.
    """

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if request.path_info.startswith(ADMIN):
            response["Content-Security-Policy"] = admin_policy(serving().public_base_url)
        return response


def admin_policy(blobs: str) -> str:
    """The policy, where blobs have URLs below `blobs` ("" for this very site)."""
    address = urlsplit(blobs)
    images = f" {address.scheme}://{address.netloc}" if address.netloc else ""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
        f"connect-src 'self'; img-src 'self' data:{images}; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
