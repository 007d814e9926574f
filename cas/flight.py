"""One at a time, and no more than so many at once, on this machine: across threads and processes.

Locks are `flock`s on files, which the kernel drops with the process that held them. They are
polled because `flock` itself cannot give up after a while.
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
    """The work was not begun in time because of other work going on."""

    code = "busy"


@contextlib.contextmanager
def alone(directory: Path, name: str, deadline: float) -> Iterator[None]:
    """Hold the lock for `name` until the block ends; `deadline` is on the monotonic clock.

    Names share a fixed number of lock files, so that no lock file is ever deleted (a deleted
    one could be held by two). Raises Busy.
    """
    stripe = zlib.crc32(name.encode()) % _STRIPES
    with _one_of([directory / f"name-{stripe:02x}.lock"], deadline):
        yield


@contextlib.contextmanager
def slot(directory: Path, slots: int, deadline: float) -> Iterator[None]:
    """Hold one of `slots` until the block ends. Raises Busy.

    Counted within the process as well: that holds where no lock file can be had.
    """
    own = _own_slots(slots)
    if not own.acquire(timeout=max(0.0, deadline - time.monotonic())):
        raise Busy("too much is being generated at this moment")
    try:
        with _one_of([directory / f"slot-{number}.lock" for number in range(slots)], deadline):
            yield
    finally:
        own.release()


@lru_cache
def _own_slots(slots: int) -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(slots)


@contextlib.contextmanager
def _one_of(paths: Sequence[Path], deadline: float) -> Iterator[None]:
    descriptor = _acquire(paths, deadline)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _acquire(paths: Sequence[Path], deadline: float) -> int | None:
    """A descriptor that holds one of the locks, or None where no lock file can be had.

    A full or read-only disk must not stop pictures from being shown: work is then done twice
    at worst.
    """
    pause = _FIRST_PAUSE
    while True:
        for path in paths:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                log.warning("no lock at %s: %s", path.name, error.strerror)
                return None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                    raise
            else:
                return descriptor
        if time.monotonic() >= deadline:
            raise Busy("too much is being generated at this moment")
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
