"""Blobs are answered before the middleware that only pages with sessions need.

They are what every client asks for most, and neither sessions, accounts, messages nor forms have
any part in them; going through all that would take longer than the answer itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from django.http import HttpRequest, HttpResponseBase

from cas.views import blob

PREFIX: Final = "/api/cas/"
"""Where `inventory.urls` has the blobs. The URLs stay there for whoever reverses or resolves."""


class ServeBlobs:
    """Middleware: hands requests below `/api/cas/` to their view.

    Belongs behind what refuses requests and before what is for pages. The host is looked at
    here, as CommonMiddleware would: unknown ones are answered 400.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        path = request.path_info
        if not path.startswith(PREFIX) or path == PREFIX:
            return self.get_response(request)
        request.get_host()
        return blob(request, path[len(PREFIX) :])
