"""Requests that no view could make sense of are answered before one tries."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase

from inventory.errors import bad_request


class RefuseNul:
    """Middleware: a NUL character in the path or query is answered 400.

    PostgreSQL has no text with one, so wherever it got through it would end in a fault of ours.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        query = request.META.get("QUERY_STRING", "")
        if "\0" in request.path_info or "%00" in query or "\0" in query:
            return bad_request(request, None)
        return self.get_response(request)
