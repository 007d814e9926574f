"""Answers to requests that cannot be served, in the API's one JSON shape."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse


def error_response(
    request: HttpRequest,
    status: int,
    code: str,
    message: str,
    headers: dict[str, str] | None = None,
) -> HttpResponse:
    """`{"error": {"code", "message"}}` that no cache keeps and no browser renders.

    The answer to a HEAD has the headers alone.
    """
    response: HttpResponse = JsonResponse({"error": {"code": code, "message": message}})
    response.status_code = status
    response["Cache-Control"] = "no-store"
    response["X-Content-Type-Options"] = "nosniff"
    for name, value in (headers or {}).items():
        response[name] = value
    response["Content-Length"] = str(len(response.content))
    if request.method == "HEAD":
        response.content = b""
    return response


def not_signed(request: HttpRequest) -> HttpResponse:
    """The answer to a URL that `links.permits` does not let through."""
    return error_response(request, 403, "bad_signature", "This URL is not signed by this service.")
