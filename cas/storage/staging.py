"""Staging bytes that are at hand, and removing what killed processes left staged."""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from django.utils import timezone

from cas.digest import Hasher
from cas.storage.base import BlobStore, Staged
from cas.storage.disk_files import remove_old_files, translated

UNUSED_AFTER: Final = timedelta(hours=1)
"""What is being received is open; what is open nowhere and was last written so long ago is
nobody's any more."""


@contextmanager
def staged_bytes(store: BlobStore, content: bytes) -> Iterator[Staged]:
    """A staged file of these bytes, deleted afterwards. Raises StoreError."""
    hasher = Hasher()
    hasher.update(content)
    path = store.staging_dir / f"check-{uuid.uuid4().hex}"
    with translated(path.name):
        try:
            path.write_bytes(content)
            yield Staged(path, hasher.digest, hasher.md5, hasher.size)
        finally:
            path.unlink(missing_ok=True)


def remove_unused_staging(directory: Path, *, dry_run: bool = False) -> Iterator[str]:
    """Delete staged files that nobody has open and that are older than an hour.

    Yields a description of each. Raises StoreError.
    """
    older_than = timezone.now() - UNUSED_AFTER
    yield from remove_old_files(directory, older_than, dry_run=dry_run, spared=is_open)


def is_open(path: Path) -> bool:
    """Whether some process has the file open; True where that cannot be told.

    The kernel gives a write lease only on a file that nobody else has open (`fcntl(2)`).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        return error.errno != errno.ENOENT
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
