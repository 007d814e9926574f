"""Answers about one object of the store, whatever URL it was asked for by."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from cas import http, variants
from cas.conf import serving
from cas.decoders import Unrenderable
from cas.delivery import delegated, delegates
from cas.errors import error_response
from cas.flight import Busy
from cas.query import BlobQuery, ThumbnailQuery
from cas.storage import attachment_store
from cas.storage.base import (
    Absent,
    BlobStore,
    ByteRange,
    Corrupt,
    Denied,
    StoreError,
    Unreachable,
)
from cas.thumbnails import RENDERER
from cas.variants import CacheResult

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """A response, and what the thumbnail cache had to do with it."""

    response: HttpResponseBase
    found: CacheResult = CacheResult.NONE


class BlobResponse(StreamingHttpResponse):
    """Streams a bounded reader; a server that can sends the file behind it by itself."""

    block_size: Final = 256 * 1024

    def __init__(self, body: http.BoundedReader, status: int, headers: dict[str, str]) -> None:
        self.file_to_stream = body
        super().__init__(self._blocks(body), status=status, headers=headers)
        self._finish = body.close

    def _blocks(self, body: http.BoundedReader) -> Iterator[bytes]:
        while block := body.read(self.block_size):
            yield block

    def close(self) -> None:
        """Raises Corrupt if the file shrank under the server: the connection must then end."""
        cut_short = self.file_to_stream.cut_short
        self._finish()
        super().close()
        if cut_short:
            raise Corrupt("the file became shorter while it was sent")


@dataclass(frozen=True, slots=True)
class Target:
    """The object to answer about.

    `etag` is its quoted strong entity tag; None takes the store's own, at the price of a stat.
    """

    key: str
    etag: str | None
    cache_control: str


def content(request: HttpRequest, target: Target, query: BlobQuery) -> HttpResponseBase:
    """The object's bytes. Raises Unsatisfiable and what the store raises."""
    store = attachment_store()
    etag = target.etag or _own_etag(store, target.key)
    content_type, disposition = http.effective_type(query.content_type, query.disposition)
    headers = _headers(etag, target.cache_control, content_type)
    if answer := _unchanged(request, etag, headers, lambda: store.stat(target.key)):
        return answer
    headers["Content-Disposition"] = http.content_disposition(disposition, query.filename)
    wanted = _range(request, etag)
    byte_range = None
    if request.method == "HEAD" or wanted or delegates():
        size = store.stat(target.key).size
        byte_range = wanted.resolve(size) if wanted else None
        asked = (query.content_type, query.disposition)
        if _others_agree(request, wanted) and (
            answer := delegated(request.method, store, target.key, asked, headers)
        ):
            log.info("sent elsewhere for %s: %d", target.key, answer.status_code)
            return answer
        if request.method == "HEAD":
            return _head(headers, size)
    stream = store.read(target.key, byte_range)
    response = _body(stream, stream.blob.size, byte_range, headers)
    log.info("served %s: %d, %s bytes", target.key, response.status_code, headers["Content-Length"])
    return response


def thumbnail(
    request: HttpRequest, target: Target, cache_name: str, query: ThumbnailQuery
) -> Answer:
    """The object's picture. Raises Unsatisfiable, Busy, Unrenderable and what the store raises."""
    store = attachment_store()
    etag = target.etag or _own_etag(store, target.key)
    # Weak: the same picture may be made of the blob or of a kept one, which gives other bytes.
    etag = f'W/{etag[:-1]}-{query.size}-{RENDERER}"'
    headers = _headers(etag, target.cache_control, "image/jpeg")

    def made() -> variants.Thumbnail:
        return variants.thumbnail(store, target.key, cache_name, query.size)

    if unchanged := _unchanged(request, etag, headers, lambda: made().body.close()):
        return Answer(unchanged)
    headers["Content-Disposition"] = "inline"
    picture = made()
    with contextlib.ExitStack() as unless_sent:
        unless_sent.enter_context(picture.body)
        if request.method == "HEAD":
            return Answer(_head(headers, picture.size), picture.found)
        wanted = _range(request, etag)
        byte_range = wanted.resolve(picture.size) if wanted else None
        picture.body.seek(byte_range.start if byte_range else 0)
        response = _body(picture.body, picture.size, byte_range, headers)
        unless_sent.pop_all()
    log.info("served %s at %d: %d", target.key, query.size, response.status_code)
    return Answer(response, picture.found)


def _own_etag(store: BlobStore, key: str) -> str:
    return '"{}"'.format(store.stat(key).etag.strip('"'))


def _headers(etag: str, cache_control: str, content_type: str) -> dict[str, str]:
    return {
        "Content-Type": content_type,
        "ETag": etag,
        "Cache-Control": cache_control,
        "Accept-Ranges": "bytes",
        **http.security_headers(cross_origin=serving().cross_origin),
    }


def _unchanged(
    request: HttpRequest, etag: str, headers: dict[str, str], prove: Callable[[], object]
) -> HttpResponse | None:
    """The answer that the preconditions (RFC 9110 §13.2.2) call for, if they do.

    `prove` raises what is wrong if there is nothing to answer with; a tag of ours proves by
    itself that there was, and blobs do not change.
    """
    # META, because `request.headers` would first be made of all of them.
    required, known = (request.META.get(f"HTTP_IF_{name}") for name in ("MATCH", "NONE_MATCH"))
    if required is not None and (http.match_etags(required, etag, weak=False) is http.Match.NONE):
        return error_response(request, 412, "precondition_failed", "The ETag does not match.")
    match = http.match_etags(known, etag, weak=True) if known else http.Match.NONE
    if match is http.Match.NONE:
        return None
    if match is http.Match.ANY:
        prove()
    response = HttpResponse(status=304, headers=headers)
    del response["Content-Type"]
    return response


def _range(request: HttpRequest, etag: str) -> http.RangeRequest | None:
    """The range asked for. RFC 9110 §14.2 gives it a meaning in GET alone."""
    header = request.META.get("HTTP_RANGE")
    if request.method != "GET" or header is None:
        return None
    return http.requested_range(header, request.META.get("HTTP_IF_RANGE", ""), etag)


def _others_agree(request: HttpRequest, wanted: http.RangeRequest | None) -> bool:
    """Whether nginx and S3 read the request as we do, so that they may send what it asks for.

    They know another ETag and a date that clients are not told, and refuse ranges that we ignore.
    """
    if any(f"HTTP_IF_{name}" in request.META for name in ("MATCH", "RANGE", "UNMODIFIED_SINCE")):
        return False
    header = request.META.get("HTTP_RANGE")
    return header is None or (wanted is not None and http.is_plain_range(header))


def _head(headers: dict[str, str], size: int) -> HttpResponse:
    return HttpResponse(headers={**headers, "Content-Length": str(size)})


def _body(
    stream: BinaryIO, size: int, byte_range: ByteRange | None, headers: dict[str, str]
) -> BlobResponse:
    """`stream` stands at the first byte to send."""
    status, length = 200, size
    if byte_range:
        status, length = 206, byte_range.stop - byte_range.start
        headers["Content-Range"] = f"bytes {byte_range.start}-{byte_range.stop - 1}/{size}"
    headers["Content-Length"] = str(length)
    return BlobResponse(http.BoundedReader(stream, length), status, headers)


def guarded(request: HttpRequest, key: str, serve: Callable[[], Answer]) -> Answer:
    """What `serve` answers, or the error answer for what it raised, logged."""
    try:
        return serve()
    except http.Unsatisfiable as error:
        return Answer(
            error_response(
                request,
                416,
                "range_not_satisfiable",
                f"There are {error.size} bytes.",
                {"Content-Range": f"bytes */{error.size}"},
            )
        )
    except Absent:
        log.info("no object at %s", key)
        return Answer(error_response(request, 404, "not_found", "There is no such blob."))
    except Unrenderable as error:
        log.info("no thumbnail of %s: %s", key, error)
        return Answer(error_response(request, 422, error.code, f"No thumbnail: {error}."))
    except (Busy, Unreachable) as error:
        log.warning("cannot serve %s now: %s", key, error)
        again = {"Retry-After": str(serving().retry_after)}
        return Answer(error_response(request, 503, error.code, "Please try again soon.", again))
    except Denied as error:
        log.error("cannot serve %s: %s: %s", key, error.code, error)
        again = {"Retry-After": str(serving().retry_after)}
        return Answer(
            error_response(request, 503, "store_denied", "The store is closed at present.", again)
        )
    except StoreError as error:
        log.error("cannot serve %s: %s: %s", key, error.code, error)
        return Answer(error_response(request, 500, error.code, "The store failed."))
