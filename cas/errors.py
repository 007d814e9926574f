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
    if request.method == "HEAD":
        response["Content-Length"] = str(len(response.content))
        response.content = b""
    return response
