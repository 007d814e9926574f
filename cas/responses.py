"""Responses of the blob views: headers, bodies, preconditions, errors, CORS and counting."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, BinaryIO, Final

from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)

from cas import http
from cas.conf import serving
from cas.digest import MalformedDigest
from cas.metrics import REQUESTS, RESPONSE_SECONDS
from cas.signed_urls import BadQuery, BadSignature
from cas.storage.base import Absent, ByteRange, Corrupt, Denied, StoreError, Unreachable
from cas.thumbnails.cache import Busy
from cas.thumbnails.limits import Unrenderable

log = logging.getLogger(__name__)

METHODS: Final = "GET, HEAD, OPTIONS"

View = Callable[..., HttpResponseBase]


def blob_headers(etag: str, cache_control: str, content_type: str) -> dict[str, str]:
    """What every successful response carries."""
    current = serving()
    shared = bool(current.cors_allowed_origins or current.public_base_url)
    return {
        "Content-Type": content_type,
        "ETag": etag,
        "Cache-Control": cache_control,
        "Accept-Ranges": "bytes",
        **http.security_headers(cross_origin=shared),
    }


class BlobResponse(StreamingHttpResponse):
    """Streams a blob of `size` bytes or a range of it, 200 or 206; `body` is at its first byte.

    A server with a file wrapper (PEP 3333) gets `file_to_stream` to send.
    """

    block_size: Final = 256 * 1024

    def __init__(
        self, body: BinaryIO, size: int, byte_range: ByteRange | None, headers: dict[str, str]
    ) -> None:
        first, stop = (byte_range.start, byte_range.stop) if byte_range else (0, size)
        headers["Content-Length"] = str(stop - first)
        if byte_range:
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{size}"
        self.file_to_stream = http.BoundedReader(body, stop - first)
        # For a file wrapper, Django makes the file's close() the response's.
        self._close_file = self.file_to_stream.close
        super().__init__(self._blocks(), status=206 if byte_range else 200, headers=headers)

    def _blocks(self) -> Iterator[bytes]:
        while block := self.file_to_stream.read(self.block_size):
            yield block

    def close(self) -> None:
        """Raises Corrupt if the file became shorter: the server must then end the connection."""
        cut_short = self.file_to_stream.cut_short
        self._close_file()
        super().close()
        if cut_short:
            raise Corrupt("the file became shorter while it was sent")


def head(headers: dict[str, str], size: int) -> HttpResponse:
    """The headers of a 200 with a body of `size` bytes."""
    return HttpResponse(headers={**headers, "Content-Length": str(size)})


def conditional(
    request: HttpRequest, etag: str, headers: dict[str, str], require: Callable[[], object]
) -> HttpResponse | None:
    """The 304 or 412 that the preconditions demand (RFC 9110 §13.2.2), if they do.

    `require` raises if there is no representation. It is called for `If-None-Match: *` only: a
    client that has our ETag got it with one, and blobs do not change.
    """
    # META, because `request.headers` would first be made of all of them.
    required, known = (request.META.get(f"HTTP_IF_{name}") for name in ("MATCH", "NONE_MATCH"))
    if required is not None and (http.match_etags(required, etag, weak=False) is http.Match.NONE):
        return error_response(request, 412, "precondition_failed", "The ETag does not match.")
    match = http.match_etags(known, etag, weak=True) if known else http.Match.NONE
    if match is http.Match.NONE:
        return None
    if match is http.Match.ANY:
        require()
    response = HttpResponse(status=304, headers=headers)
    del response["Content-Type"]
    return response


def range_of(request: HttpRequest, etag: str) -> http.RangeRequest | None:
    """The range that the request selects. RFC 9110 §14.2 gives it a meaning in GET alone."""
    header = request.META.get("HTTP_RANGE")
    if request.method != "GET" or header is None:
        return None
    return http.requested_range(header, request.META.get("HTTP_IF_RANGE", ""), etag)


def error_response(
    request: HttpRequest,
    status: int,
    code: str,
    message: str,
    headers: dict[str, str] | None = None,
) -> HttpResponse:
    """`{"error": {"code", "message"}}` that no cache keeps and no browser renders.

    A 503 says when to try again. The response to a HEAD has the headers alone.
    """
    sent = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})}
    if status == 503:
        sent["Retry-After"] = str(serving().retry_after)
    said = {"error": {"code": code, "message": message}}
    response = JsonResponse(said, status=status, headers=sent)
    response["Content-Length"] = str(len(response.content))
    if request.method == "HEAD":
        response.content = b""
    return response


def translate_errors(view: View) -> View:
    """Decorator: every error of parsing, store and thumbnails as a response, and in the log."""

    @wraps(view)
    def wrapper(request: HttpRequest, /, *args: Any, **kwargs: Any) -> HttpResponseBase:
        path = request.path
        try:
            return view(request, *args, **kwargs)
        except (MalformedDigest, BadQuery) as error:
            return error_response(request, 400, "bad_request", f"{error}.")
        except BadSignature:
            message = "This URL is not signed by this service."
            return error_response(request, 403, "bad_signature", message)
        except Absent:
            log.info("no object for %s", path)
            return error_response(request, 404, "not_found", "There is no such blob.")
        except http.Unsatisfiable as error:
            message = f"There are {error.size} bytes."
            size = {"Content-Range": f"bytes */{error.size}"}
            return error_response(request, 416, "range_not_satisfiable", message, size)
        except Unrenderable as error:
            log.info("no thumbnail for %s: %s", path, error)
            return error_response(request, 422, error.code, f"No thumbnail: {error}.")
        except (Busy, Unreachable) as error:
            log.warning("cannot serve %s now: %s", path, error)
            return error_response(request, 503, error.code, "Please try again soon.")
        except StoreError as error:
            log.error("cannot serve %s: %s: %s (%s)", path, error.code, error, error.key)
            if isinstance(error, Denied):
                message = "The store is closed at present."
                return error_response(request, 503, "store_denied", message)
            return error_response(request, 500, error.code, "The store failed.")

    return wrapper


def public_endpoint(view: View) -> View:
    """Decorator: a view for GET and HEAD, counted, and open to the origins that CORS allows."""

    @wraps(view)
    def wrapper(request: HttpRequest, /, *args: Any, **kwargs: Any) -> HttpResponseBase:
        started = time.perf_counter()
        if request.method in ("GET", "HEAD"):
            response = view(request, *args, **kwargs)
        elif request.method == "OPTIONS":
            response = HttpResponse(status=204, headers={"Allow": METHODS})
            del response["Content-Type"]
        else:
            message, allowed = "Blobs are read only.", {"Allow": METHODS}
            response = error_response(request, 405, "method_not_allowed", message, allowed)
        if serving().cors_allowed_origins:
            _allow_origin(request, response)
        kind = "thumbnail" if "thumbnail" in request.GET else "content"
        REQUESTS.labels(str(response.status_code), kind).inc()
        RESPONSE_SECONDS.labels(kind).observe(time.perf_counter() - started)
        return response

    return wrapper


def _allow_origin(request: HttpRequest, response: HttpResponseBase) -> None:
    """Let pages of the configured origins read the response (CORS, in the Fetch standard)."""
    allowed = serving().cors_allowed_origins
    origin = "*"
    if origin not in allowed:
        # Also on responses without Origin: a cache would give them to requests with one.
        response["Vary"] = "Origin"
        origin = request.headers.get("Origin", "")
        if origin not in allowed:
            return
    response["Access-Control-Allow-Origin"] = origin
    response["Access-Control-Expose-Headers"] = (
        "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, Retry-After"
    )
    if request.method == "OPTIONS":
        response["Access-Control-Allow-Methods"] = METHODS
        response["Access-Control-Allow-Headers"] = "If-Match, If-None-Match, If-Range, Range"
        response["Access-Control-Max-Age"] = "86400"
