"""What the admin's pages may load and do: their own files, and pictures from where blobs are.

They show names that users gave. Those are escaped; should one slip through once, the browser
still runs no script but ours (Content Security Policy Level 3).
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from django.http import HttpRequest, HttpResponseBase

from cas.conf import serving

ADMIN = "/admin/"


class RestrictAdmin:
    """Middleware: every answer below /admin/ carries the policy."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if request.path.startswith(ADMIN):
            response["Content-Security-Policy"] = policy(serving().public_base_url)
        return response


def policy(blobs: str) -> str:
    """The policy, where blobs have URLs below `blobs` ("" for this very site)."""
    address = urlsplit(blobs)
    images = f" {address.scheme}://{address.netloc}" if address.netloc else ""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
        f"connect-src 'self'; img-src 'self' data:{images}; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
