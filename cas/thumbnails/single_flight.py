"""Limits on what runs at the same time on this machine, across threads and processes.

Locks are `flock`s on files, which the kernel drops with the process that holds them. They are
polled because `flock` itself has no time limit.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_STRIPES: Final = 256
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.02


class Busy(Exception):
    """The work was not begun before its deadline because of other work."""

    code = "busy"


def single_flight(
    directory: Path, name: str, deadline: float
) -> contextlib.AbstractContextManager[object]:
    """Hold the lock of `name` during the block; `deadline` is on the monotonic clock.

    Names share a fixed number of lock files, so that no lock file is ever deleted (two could hold
    a deleted one). Raises Busy.
    """
    stripe = zlib.crc32(name.encode()) % _STRIPES
    return _lock_on_any([directory / f"name-{stripe:02x}.lock"], deadline)


@contextlib.contextmanager
def semaphore(directory: Path, permits: int, deadline: float) -> Iterator[None]:
    """Hold one of so many permits during the block. Raises Busy.

    Counted within the process as well, for where no lock file can be created.
    """
    of_process = _process_semaphore(permits)
    if not of_process.acquire(timeout=max(0.0, deadline - time.monotonic())):
        raise Busy("too many thumbnails are being made")
    try:
        files = [directory / f"permit-{number}.lock" for number in range(permits)]
        with _lock_on_any(files, deadline):
            yield
    finally:
        of_process.release()


@lru_cache
def _process_semaphore(permits: int) -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(permits)


def _lock_on_any(
    paths: Sequence[Path], deadline: float
) -> contextlib.AbstractContextManager[object]:
    """The first of the files that could be locked; closing it releases the lock. Raises Busy.

    No lock is held where a file cannot be created: a full or read-only disk must not stop
    thumbnails from being served, and at worst one is made twice.
    """
    pause = _FIRST_PAUSE
    while True:
        for path in paths:
            try:
                file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            except OSError as error:
                log.warning("no lock at %s: %s", path.name, error.strerror)
                return contextlib.nullcontext()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                    raise
            else:
                return file
        if time.monotonic() >= deadline:
            raise Busy("too many thumbnails are being made")
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
