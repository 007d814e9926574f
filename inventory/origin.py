"""No web page elsewhere may write to the API.

The API is open on loopback until there are accounts, so a page on any site could otherwise have
its reader's browser post to it. Browsers send `Origin` with every unsafe request across origins
(Fetch standard, section 3.2), and it cannot be forged by a page.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse

from inventory.errors import body

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class RefuseForeignOrigin:
    """Middleware: an unsafe request below /api/ that another site caused is answered 403.

    A client that is no browser sends neither header and is let through. The origins listed in
    `INVENTORY_TRUSTED_ORIGINS` (scheme://host[:port]) may write too.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.method in SAFE_METHODS or not request.path.startswith("/api/"):
            return self.get_response(request)
        if _is_foreign(request):
            return _refusal()
        return self.get_response(request)


def _is_foreign(request: HttpRequest) -> bool:
    origin = request.headers.get("Origin")
    if origin is not None:
        own = f"{request.scheme}://{request.get_host()}"
        return not _same(origin, own) and not any(
            _same(origin, trusted) for trusted in settings.INVENTORY_TRUSTED_ORIGINS
        )
    return request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}


def _same(one: str, other: str) -> bool:
    try:
        return _parts(one) == _parts(other)
    except ValueError:
        return False


def _parts(origin: str) -> tuple[str, str | None, int | None]:
    """Raises ValueError for a port that is none."""
    split = urlsplit(origin)
    default = {"http": 80, "https": 443}.get(split.scheme)
    return split.scheme, split.hostname, split.port or default


def _refusal() -> HttpResponse:
    message = "Requests that another web site causes are refused."
    return JsonResponse(
        body("foreign_origin", message), status=403, headers={"Cache-Control": "no-store"}
    )
