"""As much of HTTP/1.1 as a stand-in needs to be spoken to, in as little time as Python takes.

What it stands in for runs on other machines, and what this takes is taken from what is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

BLOCK = 1 << 20

Answer = tuple[int, Mapping[str, object], bytes]
"""Status, further headers, body."""


class Request(NamedTuple):
    """`path` and `query` are as they were sent; names of headers are in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length") or 0)


class Service(Protocol):
    """`latency` is how many seconds pass before a request is answered."""

    latency: float

    def answer(self, request: Request, body: bytes) -> Answer: ...


class Connection(asyncio.Protocol):
    """One client's connection: a request at a time, each whole before its latency begins."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._received = bytearray()
        self._request: Request | None = None
        self._rest = memoryview(b"")
        self._answering = self._paused = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._answering:
            self._take()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._rest:
            self._send()

    def _take(self) -> None:
        """The next request, if it has arrived."""
        if self._request is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._request = _parsed(self._received[:end])
            del self._received[: end + 4]
            if "expect" in self._request.headers:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = self._request
        length = request.length
        if len(self._received) < length:
            return
        body = bytes(self._received[:length])
        del self._received[:length]
        self._request = None
        self._answering = True
        if self._service.latency:
            self._loop.call_later(self._service.latency, self._answer, request, body)
        else:
            self._answer(request, body)

    def _answer(self, request: Request, body: bytes) -> None:
        status, headers, answer = self._service.answer(request, body)
        said = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(answer)}\r\n{said}\r\n".encode()
        if request.method == "HEAD":
            answer = b""
        if len(answer) < BLOCK:
            self._transport.write(head + answer)
        else:
            self._transport.write(head)
            self._rest = memoryview(answer)
        self._send()

    def _send(self) -> None:
        """Go on with a large answer, no faster than the client takes it, and while it does."""
        while self._rest and not self._paused:
            if self._transport.is_closing():
                return
            self._transport.write(self._rest[:BLOCK])
            self._rest = self._rest[BLOCK:]
        if not self._rest:
            self._answering = False
            if self._received:
                self._take()


def _parsed(head: bytearray) -> Request:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    path, _, query = target.partition("?")
    pairs = [line.partition(":") for line in lines]
    return Request(method, path, query, {name.lower(): value.strip() for name, _, value in pairs})
