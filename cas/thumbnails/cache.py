"""A cache of small files in one directory: atomic, bounded in bytes, shared by processes.

The least recently used files are evicted. A file that a reader has open stays readable to it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import BinaryIO, Final

log = logging.getLogger(__name__)

_TOTAL: Final = "total"
_TEMPORARY: Final = ".new-"
_ABANDONED_AFTER: Final = 3600
_EVICT_TO: Final = 0.9
_TOUCH_EVERY: Final = 60
"""Seconds; a file's time of use is written at most once in this time."""

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
