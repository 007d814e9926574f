"""All middleware of ours, in the order in which requests pass it."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.handlers.wsgi import LimitedStream
from django.core.signals import request_finished
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from accounts.throttles import upload_wait
from attachments.history import current_actor
from cas.conf import serving
from cas.responses import error_response
from cas.views import blob
from inventory.errors import bad_request
from inventory.log import current_account, current_request

logger = logging.getLogger(__name__)

API: Final = "/api/"
BLOBS: Final = "/api/cas/"
"""Where `inventory.urls` has the blobs, so that their URLs can be reversed and resolved."""

ADMIN: Final = "/admin/"
CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii"})
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


SLOT_SECONDS: Final = 0.2
"""How long a request waits for one of the slots of transfers."""

SLOW_SECONDS: Final = 1.0

BUFFERED_BYTES: Final = 256 * 1024
"""What is smaller leaves the thread at once, however slowly it is read."""


REQUEST_ID: Final = "X-Request-ID"
REQUEST_IDS: Final = re.compile(r"[\w.:+/=-]{1,100}", re.ASCII)

NOBODY: Final = "0.0.0.0"  # noqa: S104
"""An address that no peer has, and that nothing is allowed."""

DRAINED_BYTES: Final = 1024 * 1024
"""A body that is no larger is read even if its request is refused."""


class _Middleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response


class RequestIdMiddleware(_Middleware):
    """Gives a request an id, which every line of its log and its response have.

    A proxy in INVENTORY_TRUSTED_PROXIES may have given it one. Blobs carry none back: caches keep
    them, for later requests.
    """

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.headers.get(REQUEST_ID, "")
        known = given and _is_trusted_proxy(request) and REQUEST_IDS.fullmatch(given)
        request_id = given if known else uuid.uuid4().hex
        request.id = request_id  # type: ignore[attr-defined]
        # Django logs a response of 400 and above after all middleware.
        current_request.set(request)
        current_actor.set(current_account)
        response = self.get_response(request)
        if not request.path_info.startswith(BLOBS):
            response[REQUEST_ID] = request_id
        return response


def _is_answered(**_: Any) -> None:
    """The response was sent, and closed."""
    current_request.set(None)


request_finished.connect(_is_answered, dispatch_uid="log-request")


def _is_trusted_proxy(request: HttpRequest) -> bool:
    return _is_trusted(request.META.get("REMOTE_ADDR", ""))


def _is_trusted(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in settings.INVENTORY_TRUSTED_PROXIES)


class ClientAddressMiddleware(_Middleware):
    """Makes `REMOTE_ADDR` the client's address where trusted proxies say it (`X-Forwarded-For`).

    Each proxy adds the address of its own peer at the right; what stands left of the first one that
    is no trusted proxy anybody may have written. Runs after RequestIdMiddleware, which asks for the
    peer.
    """

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        said = request.META.get("HTTP_X_FORWARDED_FOR", "")
        hops = said.split(",") if said else []
        while hops and _is_trusted_proxy(request):
            request.META["REMOTE_ADDR"] = _address(hops.pop().strip())
        return self.get_response(request)


def _address(hop: str) -> str:
    """The address in an entry, which may have a port; one of nobody where that is none."""
    bare = hop
    if hop.startswith("["):
        bare = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        bare = hop.partition(":")[0]
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return NOBODY


class NulCharacterMiddleware(_Middleware):
    """Answers 400 to a NUL character in the path or query, which PostgreSQL's text cannot hold."""

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        query = request.META.get("QUERY_STRING", "")
        if "\0" in request.path_info or "%00" in query or "\0" in query:
            return bad_request(request, None)
        return self.get_response(request)


class _Slots:
    """A number of threads that may wait for clients. Who finds none waits a moment, or not at all.

    Not at all where most of those that have one have had it for long: they wait for slow clients.
    """

    def __init__(self, number: int) -> None:
        self._number = max(1, number)
        self._since: dict[object, float] = {}
        self._changed = threading.Condition()

    def take(self) -> Callable[[], None] | None:
        """The function that gives the slot back, once or more often; None if there is none."""
        slot, deadline = object(), time.monotonic() + SLOT_SECONDS
        with self._changed:
            while len(self._since) >= self._number:
                now = time.monotonic()
                slow = sum(now - since > SLOW_SECONDS for since in self._since.values())
                if now >= deadline or 2 * slow > self._number:
                    return None
                self._changed.wait(deadline - now)
            self._since[slot] = time.monotonic()
        return partial(self._give_back, slot)

    def _give_back(self, slot: object) -> None:
        with self._changed:
            if self._since.pop(slot, None) is not None:
                self._changed.notify()


class _CountedBody(LimitedStream):
    """A request's body that says when it has arrived in full."""

    def __init__(self, stream: Any, length: int, arrived: Callable[[], None]) -> None:
        super().__init__(stream, length)
        self._arrived = arrived

        self._left = length

    def read(self, size: int | None = -1, /) -> bytes:
        return self._counted(super().read(-1 if size is None else size))

    def readline(self, size: int | None = -1, /) -> bytes:
        return self._counted(super().readline(-1 if size is None else size))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left <= 0 or not data:
            self._arrived()
        return data


class SlowClientMiddleware(_Middleware):
    """Keeps threads free of slow clients: whoever would take the last ones is answered 503.

    A thread waits for a body that has not arrived, and for the reader of what it sends. Half of a
    worker's threads may wait for readers, and one less for bodies.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        super().__init__(get_response)
        self.bodies = _Slots(settings.INVENTORY_THREADS // 2 - 1)
        self.readers = _Slots(settings.INVENTORY_THREADS // 2)

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        length = request.META.get("CONTENT_LENGTH") or "0"
        if not length.isdigit() or length == "0":
            return self._sent(request, self.get_response(request))
        give_back = self.bodies.take()
        if give_back is None:
            return _too_many(request)
        request._stream = _CountedBody(  # type: ignore[assignment]
            request.META["wsgi.input"], int(length), give_back
        )
        body = request._stream
        try:
            response = self.get_response(request)
            if int(length) <= DRAINED_BYTES:
                # What nobody has read would break the connection before the answer is read.
                with contextlib.suppress(OSError):
                    body.read()
        finally:
            give_back()
        return self._sent(request, response)

    def process_exception(
        self, request: HttpRequest, exception: Exception
    ) -> HttpResponseBase | None:
        """That a view found no free file descriptor is no fault of its own: one line, and 503."""
        if not is_out_of_files(exception):
            return None
        logger.error("too many open files: %s", exception)
        return _too_many(request)

    def _sent(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        size = int(response.get("Content-Length") or 0)
        large = response.streaming and size > BUFFERED_BYTES
        if not large or request.method == "HEAD":
            return response
        slot = self.readers.take()
        if slot is None:
            response.close()
            return _too_many(request)
        response._resource_closers.append(slot)  # type: ignore[attr-defined]
        return response


def is_out_of_files(error: BaseException) -> bool:
    """Whether the process has as many files and connections open as it may have."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def _too_many(request: HttpRequest) -> HttpResponseBase:
    later = {"Retry-After": str(serving().retry_after)}
    message = "Too many transfers are under way. Try again."
    return error_response(request, 503, "overloaded", message, later)


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
    """Where the API is open, answers 403 below /api/ to other machines.

    It has no accounts then. `inventory.settings` refuses to listen elsewhere; this protects every
    other server that `inventory.wsgi` may run in, and what a proxy on this machine would open to
    its clients. A peer without an address is on a Unix socket.
    """

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if settings.INVENTORY_AUTH == "open" and request.path_info.startswith(API):
            peer = request.META.get("REMOTE_ADDR", "")
            clients = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
            told = (_address(hop) for each in clients if (hop := each.strip()))
            if not all(is_loopback(address) for address in (peer, *told) if address):
                message = (
                    "The API is open to its own machine only. With INVENTORY_AUTH=accounts it is "
                    "for those who have an account."
                )
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


class UploadRateMiddleware(_Middleware):
    """Counts forms with files that accounts send in the admin; the API's view counts its own."""

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        sends_files = request.method == "POST" and request.content_type == "multipart/form-data"
        in_admin = request.path_info.startswith(ADMIN)
        if sends_files and in_admin and (wait := upload_wait(request.user)):
            told = f"Too many uploads. Go back, and try again in {wait} seconds."
            later = {"Retry-After": str(wait), "Cache-Control": "no-store"}
            return HttpResponse(told, "text/plain; charset=utf-8", 429, headers=later)
        return self.get_response(request)


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
