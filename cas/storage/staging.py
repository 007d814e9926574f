"""Files on this machine beside the blobs: bytes on their way into a store, and findings about it.

`CAS_STAGING_DIR` holds uploads and copies on their way to a bucket; `CAS_STATE_DIR` holds what was
found out about a store and takes long to find out again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat as modes
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from django.conf import settings
from django.utils import timezone

from cas.digest import CHUNK, Hasher, Readable
from cas.storage.base import BlobStore, Denied, OnBytes, Staged, file_errors

UNUSED_AFTER: Final = timedelta(hours=1)
"""A staged file that no process has open and that was last written so long ago is left over."""


def staging_dir() -> Path:
    """`CAS_STAGING_DIR`, by default this user's own directory below the system's temporary one.

    Created if missing. Raises StoreError if it cannot be, and Denied if it belongs to somebody
    else, who could then exchange staged bytes.
    """
    chosen = getattr(settings, "CAS_STAGING_DIR", None)
    path = Path(chosen or Path(tempfile.gettempdir(), f"cas-staging-{os.getuid()}"))
    with file_errors(""):
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = path.stat().st_uid
    if owner not in (os.getuid(), 0):
        raise Denied(f"the staging directory {path} belongs to another user")
    return path


def state_dir() -> Path | None:
    """`CAS_STATE_DIR`, created if missing; None if it is not set. Raises StoreError."""
    chosen = getattr(settings, "CAS_STATE_DIR", None)
    if not chosen:
        return None
    path = Path(chosen)
    with file_errors(""):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def staged_bytes(store: BlobStore, content: bytes) -> Iterator[Staged]:
    """A staged file of these bytes, deleted afterwards. Raises StoreError."""
    hasher = Hasher()
    hasher.update(content)
    path = store.staging_dir / f"check-{uuid.uuid4().hex}"
    with file_errors(path.name):
        try:
            path.write_bytes(content)
            yield Staged(path, hasher.digest, hasher.md5, hasher.size)
        finally:
            path.unlink(missing_ok=True)


def copy_hashed(
    source: Readable, target: Path, on_bytes: OnBytes | None = None, *, with_md5: bool = False
) -> Hasher:
    """Write `source` to the new file `target`, hashing what is written. Raises OSError."""
    hasher = Hasher(with_md5=with_md5)
    with target.open("xb", buffering=0) as sink:
        while chunk := source.read(CHUNK):
            hasher.update(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[sink.write(rest) :]
            if on_bytes:
                on_bytes(len(chunk))
    return hasher


def remove_unused_staging(directory: Path, *, dry_run: bool = False) -> Iterator[str]:
    """Delete staged files that no process has open and that are older than an hour.

    Yields a description of each. Raises StoreError.
    """
    older_than = timezone.now() - UNUSED_AFTER
    yield from remove_old_files(directory, older_than, dry_run=dry_run, spared=is_open)


def remove_old_files(
    directory: Path,
    older_than: datetime,
    *,
    dry_run: bool,
    spared: Callable[[Path], bool] = lambda path: False,
) -> Iterator[str]:
    """Delete the files of a staging directory last written before `older_than`.

    A file that is being received or copied is written to all the time; `spared` names others to
    leave. Yields a description of each. Raises StoreError.
    """
    with file_errors(directory.name), os.scandir(directory) as entries:
        for entry in entries:
            try:
                found = entry.stat()
            except FileNotFoundError:
                continue
            if found.st_mtime >= older_than.timestamp() or not modes.S_ISREG(found.st_mode):
                continue
            if spared(Path(entry.path)):
                continue
            if not dry_run:
                Path(entry.path).unlink(missing_ok=True)
            yield f"temporary file {entry.name}, {found.st_size} bytes"


def is_open(path: Path) -> bool:
    """Whether some process has the file open; True where that is not known.

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
