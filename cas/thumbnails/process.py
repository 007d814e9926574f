"""Decoding in processes of their own, which cannot take more than a picture may.

A process is kept alive between pictures. To it goes one byte with the descriptor of the file
attached (or of a socket, for what is no file here), then a JSON object of integers: `size` of the
thumbnail, `at_least` and `at_most` of the kept picture, and `max_pixels`. Back come a JSON object,
either `whole` or `code` and `message` of a refusal, or `errno` of a file that cannot be read; and
of a picture the thumbnail and then the larger one, both JPEGs. No code comes from there: a decoder
that was taken over can only give a wrong picture.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO, Final

from cas.conf import LARGEST_THUMBNAIL
from cas.digest import CHUNK
from cas.storage.base import store_error
from cas.thumbnails.cache import Busy
from cas.thumbnails.limits import (
    CPU_SECONDS,
    IDLE_SECONDS,
    NotAnImage,
    TooExpensive,
    TooManyPixels,
    Unrenderable,
)

log = logging.getLogger(__name__)

PATIENCE: Final = 60.0
"""Seconds; a machine on which one picture takes longer than this is overloaded."""

_BASE_AT_LEAST: Final = 480
"""Pixels of the longer side that the larger picture has, where the original has as many."""

ENDING_SECONDS: Final = 5.0
"""So long a process may take to end that has closed its end of the connection."""

_LARGEST_ANSWER: Final = 16 * 1024 * 1024
_REFUSALS: Final = {kind.code: kind for kind in (NotAnImage, TooManyPixels, TooExpensive)}
_ENVIRONMENT: Final = {
    "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    "VIPS_CONCURRENCY": str(min(os.cpu_count() or 1, 4)),
    "VIPS_WARNING": "0",
    "MALLOC_ARENA_MAX": "2",
}
"""All of it: the decoder learns no secret."""


def refusal(code: str, message: str) -> Unrenderable:
    """The error that was told of with these words."""
    return _REFUSALS.get(code, Unrenderable)(message)


class DecoderProcess:
    """One process, for one thread at a time. After any error but a refusal it is ended."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        # A message that is begun is also ended, or it has broken down.
        limit = struct.pack("ll", int(PATIENCE), 0)
        self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        with theirs, contextlib.ExitStack() as unless_started:
            unless_started.enter_context(self._channel)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-m", "cas.thumbnails.decode"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
            unless_started.pop_all()
        self.pid: Final = self._process.pid
        self._connection = Connection(os.dup(self._channel.fileno()))
        self._used = time.monotonic()

    def is_usable(self) -> bool:
        """Whether it is alive, and will be for long enough to be given a picture."""
        return self._process.poll() is None and time.monotonic() - self._used < IDLE_SECONDS / 2

    def end(self) -> None:
        """Kill it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._channel.close()

    def render(self, source: BinaryIO, request: dict[str, int]) -> tuple[bool, bytes]:
        """Whether the kept picture is whole, and the thumbnail; `base` must be called next.

        Raises NotAnImage, TooManyPixels, TooExpensive, Busy, and the store's errors.
        """
        try:
            self._send(source, request)
            answer: dict[str, Any] = json.loads(self._receive())
            if "whole" in answer:
                return bool(answer["whole"]), self._receive()
        except BaseException:
            self.end()
            raise
        self._used = time.monotonic()
        if "errno" in answer:
            raise store_error(OSError(answer["errno"], os.strerror(answer["errno"])))
        refused = refusal(answer["code"], answer["message"])
        if isinstance(refused, TooExpensive):
            # What it has allocated by then cannot be relied upon to be free again.
            self.end()
        raise refused

    def base(self) -> bytes:
        """The larger picture. Raises TooExpensive and Busy."""
        try:
            data = self._receive()
        except BaseException:
            self.end()
            raise
        self._used = time.monotonic()
        return data

    def _send(self, source: BinaryIO, request: dict[str, int]) -> None:
        try:
            descriptor = source.fileno()
        except OSError:
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:
                    self._submit(theirs.fileno(), request)
                ours.settimeout(PATIENCE)
                # It stops reading once it has seen enough, and where it has ended.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
                    while data := source.read(CHUNK):
                        ours.sendall(data)
        else:
            os.lseek(descriptor, 0, os.SEEK_SET)
            self._submit(descriptor, request)

    def _submit(self, descriptor: int, request: dict[str, int]) -> None:
        # Where it has ended, reading the answer says how.
        with contextlib.suppress(BrokenPipeError):
            socket.send_fds(self._channel, [b"."], [descriptor])
            self._connection.send_bytes(json.dumps(request).encode())

    def _receive(self) -> bytes:
        try:
            if self._connection.poll(PATIENCE):
                return self._connection.recv_bytes(_LARGEST_ANSWER)
        except (EOFError, OSError) as error:
            raise self._how_it_ended() from error
        log.error("no picture from decoder %d for %.0f seconds", self.pid, PATIENCE)
        raise Busy("the picture takes too long at present")

    def _how_it_ended(self) -> Exception:
        try:
            status = self._process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if status == -signal.SIGXCPU:
            return TooExpensive(f"it takes more than {CPU_SECONDS} seconds of processor time")
        if status < 0 and status != -signal.SIGKILL:
            name = signal.Signals(-status).name
            log.error("decoder %d crashed: %s", self.pid, name)
            return TooExpensive(f"the decoder crashed: {name}")
        # It was killed by the system or could not start, which says nothing about the picture.
        log.error("decoder %d ended with status %d", self.pid, status)
        return Busy("the decoder was ended")


_idle: list[DecoderProcess] = []
"""As many as were in use at once, which `semaphore` bounds. list.pop and append are atomic."""

# A forked process must not talk to the decoders of its parent.
os.register_at_fork(after_in_child=_idle.clear)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A thumbnail; `whole` says that the larger picture it was made of has all of the pixels.

    `base` waits for that picture, for other sizes to be made of. It must be called, once, since
    the process is free only then. Raises TooExpensive and Busy.
    """

    thumbnail: bytes
    whole: bool
    base: Callable[[], bytes]


def render(source: BinaryIO, size: int, max_pixels: int) -> Rendered:
    """The picture as a JPEG fitted into `size` × `size` pixels, never enlarged.

    Raises NotAnImage, TooManyPixels, TooExpensive, Busy and what reading `source` raises.
    """
    try:
        process = _take()
    except OSError as error:
        log.error("no decoder can be started: %s", error.strerror)
        raise Busy("no decoder can be started at present") from error
    request = {
        "size": size,
        "at_least": max(size, _BASE_AT_LEAST),
        "at_most": LARGEST_THUMBNAIL,
        "max_pixels": max_pixels,
    }
    try:
        whole, thumbnail = process.render(source, request)
    except BaseException:
        _give_back(process)
        raise

    def base() -> bytes:
        try:
            return process.base()
        finally:
            _give_back(process)

    return Rendered(thumbnail, whole, base)


def _take() -> DecoderProcess:
    while _idle:
        with contextlib.suppress(IndexError):
            process = _idle.pop()
            if process.is_usable():
                return process
            process.end()
    return DecoderProcess()


def _give_back(process: DecoderProcess) -> None:
    if process.is_usable():
        _idle.append(process)
