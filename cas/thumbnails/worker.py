"""The process that decodes pictures, one after the other: `python -m cas.thumbnails.worker`.

`cas.thumbnails.process` starts it, with one end of a socket as its standard input, and describes
what they say to each other. It has no settings, no secrets and no Django; the kernel ends it when a
picture takes more processor time than it may, and gives it no more memory than that.
"""

from __future__ import annotations

import ctypes
import gc
import io
import json
import os
import resource
import socket
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any, Final

from PIL import Image

from cas.thumbnails.decode import Picture, decode, fit
from cas.thumbnails.limits import CPU_SECONDS, IDLE_SECONDS, MEMORY, TooExpensive, Unrenderable

_LIBRARIES: Final = 64 * 1024 * 1024
"""Resident bytes that `RLIMIT_DATA` does not count."""

_QUALITY: Final = 85
_BASE_QUALITY: Final = 92


def main() -> None:
    """Serve until the other end is closed or has nothing to decode for a while."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY - _LIBRARIES, MEMORY - _LIBRARIES))
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    gc.freeze()
    channel, connection = socket.socket(fileno=os.dup(0)), Connection(os.dup(0))
    while connection.poll(IDLE_SECONDS):
        _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not descriptors:
            return
        request = json.loads(connection.recv_bytes())
        _allow_time()
        _answer(connection, descriptors[0], request)
        # What the picture took is given back, and not kept for the next one.
        gc.collect()
        if trim:
            trim(0)


def _allow_time() -> None:
    """From now on. The limit is on whole seconds since the process was started."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _answer(connection: Connection, descriptor: int, request: dict[str, int]) -> None:
    size = request.pop("size")
    try:
        with os.fdopen(descriptor, "rb") as source:
            picture = decode(source, **request)
        thumbnail = _encode(picture, size, _QUALITY)
    except Unrenderable as error:
        _refuse(connection, error)
    except MemoryError:
        _refuse(connection, TooExpensive(f"it takes more than {MEMORY >> 20} MiB of memory"))
    except OSError as error:
        connection.send_bytes(json.dumps({"errno": error.errno, "message": str(error)}).encode())
    except Exception as error:  # noqa: BLE001
        # A decoder that fails in a way nobody knew is one that cannot show this picture.
        traceback.print_exc(file=sys.stderr)
        _refuse(connection, TooExpensive(f"the decoder failed: {type(error).__name__}"))
    else:
        connection.send_bytes(json.dumps({"whole": picture.whole}).encode())
        connection.send_bytes(thumbnail)
        connection.send_bytes(_encode(picture, request["at_most"], _BASE_QUALITY))


def _refuse(connection: Connection, error: Unrenderable) -> None:
    connection.send_bytes(json.dumps({"code": error.code, "message": str(error)}).encode())


def _encode(picture: Picture, size: int, quality: int) -> bytes:
    """A JPEG by Pillow, whose encoder is the faster one."""
    pixels: Any = fit(picture.pixels, size)
    data = pixels.write_to_memory()
    image = Image.frombuffer("RGB", (pixels.width, pixels.height), data, "raw", "RGB", 0, 1)
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality, subsampling=0 if picture.sharp_colours else 2)
    return sink.getvalue()


if __name__ == "__main__":
    main()
