"""The directory that the processes of a machine share: finished thumbnails, and locks.

Files are put there atomically, and bounded in bytes: the least recently used are evicted. A file
that a reader has open stays readable to it. Locks are `flock`s on files, which the kernel drops
with the process that holds them. They are polled because `flock` itself has no time limit.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final

log = logging.getLogger(__name__)

_TOTAL: Final = "total"
_TEMPORARY: Final = ".new-"
_ABANDONED_AFTER: Final = 3600
_EVICT_TO: Final = 0.9
_TOUCH_EVERY: Final = 60
"""Seconds; a file's time of use is written at most once in this time."""

_STRIPES: Final = 256
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.02

JPEG_END: Final = b"\xff\xd9"


class ThumbnailCache:
    """JPEGs by name below `directory`, of at most `limit` bytes together."""

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory = directory
        self.limit = limit

    def open(self, name: str) -> tuple[BinaryIO, int] | None:
        """The file and its size in bytes, or None. The caller closes it.

        A file without a JPEG's end was cut short by a power failure and counts as missing.
        """
        path = self.directory / name
        try:
            file = path.open("rb", buffering=0)
        except OSError:
            return None
        found = os.fstat(file.fileno())
        if os.pread(file.fileno(), 2, max(0, found.st_size - 2)) != JPEG_END:
            file.close()
            return None
        if time.time() - found.st_atime > _TOUCH_EVERY:
            with contextlib.suppress(OSError):
                os.utime(file.fileno(), (time.time(), found.st_mtime))
        return file, found.st_size

    def read(self, name: str) -> bytes | None:
        """The file's bytes, or None."""
        found = self.open(name)
        if found is None:
            return None
        with found[0] as file:
            return file.read()

    def put_within(self, name: str, seconds: float) -> bool:
        """Whether `name` was put in the last `seconds`."""
        try:
            return time.time() - (self.directory / name).stat().st_mtime < seconds
        except OSError:
            return False

    def put(self, name: str, data: bytes) -> bool:
        """Keep `data` under `name`, atomically. False if it cannot be written."""
        if len(data) > self.limit:
            return False
        try:
            self._write(name, data)
            self._account(len(data))
        except OSError as error:
            log.warning("not cached: %s: %s", name, error.strerror)
            return False
        return True

    def _write(self, name: str, data: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=self.directory)
        try:
            try:
                if os.write(descriptor, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)
            Path(temporary).rename(self.directory / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _account(self, added: int) -> None:
        """Add to the total that all processes share, and evict if it exceeds the limit.

        The total may drift (files that are replaced or deleted); each eviction counts anew.
        """
        descriptor = os.open(self.directory / _TOTAL, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Two writers would both read the old total and lose one addition.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            total = int.from_bytes(os.pread(descriptor, 8, 0), "big") + added
            if total > self.limit:
                total = self._evict()
            os.pwrite(descriptor, total.to_bytes(8, "big"), 0)
        finally:
            os.close(descriptor)

    def _evict(self) -> int:
        """Delete the least recently used files; what is left in bytes."""
        files = []
        total = 0
        with os.scandir(self.directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat()
                    if entry.name.startswith(_TEMPORARY):
                        # Its writer was killed.
                        if time.time() - found.st_mtime > _ABANDONED_AFTER:
                            Path(entry.path).unlink()
                    elif entry.name.endswith(".jpg"):
                        files.append(
                            (max(found.st_atime, found.st_mtime), entry.path, found.st_size)
                        )
                        total += found.st_size
        evicted = 0
        for _, path, size in sorted(files):
            if total <= self.limit * _EVICT_TO:
                break
            Path(path).unlink(missing_ok=True)
            total -= size
            evicted += 1
        log.info("evicted %d thumbnails, %d bytes are left", evicted, total)
        return total


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
