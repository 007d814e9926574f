"""What the disk store needs of the operating system, and the one place its errors are read."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat as modes
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from cas.digest import CHUNK, Hasher
from cas.storage.base import (
    Absent,
    BlobStat,
    Corrupt,
    Denied,
    OnBytes,
    Staged,
    StoreError,
    StoreFull,
    Unreachable,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

NO_HARD_LINKS: Final = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
"""Answers to `link` that mean "not between these two names", not "not now"."""

_MEANING: Final[dict[int, type[StoreError]]] = {
    errno.ENOENT: Absent,
    errno.ENOTDIR: Absent,
    errno.EISDIR: Absent,
    errno.ENAMETOOLONG: Absent,
    errno.EACCES: Denied,
    errno.EPERM: Denied,
    errno.EROFS: Denied,
    errno.ENOSPC: StoreFull,
    errno.EDQUOT: StoreFull,
    errno.EFBIG: StoreFull,
    errno.EIO: Unreachable,
    errno.ESTALE: Unreachable,
    errno.ETIMEDOUT: Unreachable,
    errno.EHOSTDOWN: Unreachable,
    errno.ENOTCONN: Unreachable,
    errno.EMFILE: Unreachable,
    errno.ENFILE: Unreachable,
}

_CURES: Final = {
    errno.EACCES: "Give the user of this process the right to it",
    errno.EDQUOT: "Make room, or raise the quota",
    errno.EIO: "The medium fails: look at the system's log",
    errno.ENOSPC: "Make room on that file system",
    errno.EROFS: "Find out why (the system's log says), and mount the file system writable again",
}


@contextlib.contextmanager
def translated(key: str) -> Iterator[None]:
    """Raise the StoreError that an OSError about `key` amounts to."""
    try:
        yield
    except OSError as error:
        raise store_error(error, key) from error


def store_error(error: OSError, key: str = "") -> StoreError:
    """The StoreError that an OSError about `key` amounts to."""
    number = error.errno or 0
    message = error.strerror or str(error)
    if cure := _CURES.get(number):
        message = f"{message}: {error.filename}. {cure}" if error.filename else f"{message}. {cure}"
    return _MEANING.get(number, StoreError)(message, key=key, cure=cure or "")


class OpenBlob(io.FileIO):
    """An open object. Reading raises Corrupt if the file ends before the size it had.

    `blob` is its description at the time of opening. Raises OSError if it cannot be opened.
    """

    def __init__(self, path: Path, key: str) -> None:
        super().__init__(path, "rb")
        found = os.fstat(self.fileno())
        if not modes.S_ISREG(found.st_mode):
            self.close()
            raise FileNotFoundError(errno.ENOENT, "not a regular file")
        self.blob = describe(key, found)

    def readinto(self, buffer: WriteableBuffer) -> int:
        with translated(self.blob.key):
            count = super().readinto(buffer)
        if not count and memoryview(buffer).nbytes:
            self._refuse_early_end()
        return count

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return self.readall()
        with translated(self.blob.key):
            data = super().read(size)
        if len(data) < size:
            self._refuse_early_end()
        return data

    def readall(self) -> bytes:
        return self.read(max(self.blob.size - self.tell(), 0))

    def _refuse_early_end(self) -> None:
        if self.tell() < self.blob.size:
            raise Corrupt("the file ended before its size", key=self.blob.key)


def describe(key: str, found: os.stat_result) -> BlobStat:
    return BlobStat(
        key=key,
        size=found.st_size,
        modified=datetime.fromtimestamp(found.st_mtime, UTC),
        etag=f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}",
    )


def copy_hashed(source: BinaryIO, target: Path, on_bytes: OnBytes | None = None) -> Hasher:
    """Write `source` to the new file `target`, hashing what is written."""
    hasher = Hasher(with_md5=False)
    with target.open("xb", buffering=0) as sink:
        while chunk := source.read(CHUNK):
            hasher.update(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[sink.write(rest) :]
            if on_bytes:
                on_bytes(len(chunk))
    return hasher


def link_staged(staged: Staged, temporary: Path) -> None:
    """Give the staged bytes a second name, or copy them if they are on another filesystem.

    A link costs nothing but the file's size is all it checks; the upload was hashed while
    this very file was written. A copy is hashed again as it is made.
    """
    try:
        with staged.path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size != staged.size:
                raise Corrupt("the staged file is not as long as what was hashed")
            try:
                os.link(staged.path, temporary)
            except OSError as error:
                if error.errno not in NO_HARD_LINKS:
                    raise
                if copy_hashed(stream, temporary).digest != staged.digest:
                    raise Corrupt("the staged file is not what was hashed") from None
    except FileNotFoundError as error:
        raise Corrupt("the staged file is gone") from error


def fsync_directory(path: Path) -> None:
    """Make the directory's names durable: fsync of a file does not cover its name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def links(source: Path, target: Path) -> bool:
    """Link `source` to `target`. False where that is refused: taken, or no hard links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EEXIST, *NO_HARD_LINKS}:
            raise
        return False
    return True


def make_directories(path: Path, mode: int | None) -> None:
    """Create `path` and its missing parents, durably, and give each `mode`, umask or not."""
    if path.is_dir():
        return
    make_directories(path.parent, mode)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        if mode is not None:
            path.chmod(mode)
    fsync_directory(path.parent)


def remove_old_files(
    directory: Path,
    older_than: datetime,
    *,
    dry_run: bool,
    spared: Callable[[Path], bool] = lambda path: False,
) -> Iterator[str]:
    """Delete the files of a staging directory last written before `older_than`.

    Yields a description of each. Such a file is nobody's any more: what is being received or
    copied is being written. `spared` may know better of one.
    """
    with translated(directory.name), os.scandir(directory) as entries:
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
