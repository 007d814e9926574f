"""Blobs as plain files below one directory.

An object appears under its key in one step, complete and fsynced: it is written under another
name in `.staging/`, on the same filesystem, and linked into place. `link` fails if the name is
taken, which makes it create-if-absent; `rename` would not.

A filesystem without hard links (FAT, some network shares) gets a rename in place of the link. Of
two concurrent writers the second then replaces the first one's file. Both hold the same bytes, and
readers keep the file they opened, so no reader sees a difference.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import io
import logging
import os
import shutil
import stat as modes
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from django.core.files.storage import FileSystemStorage

from cas.digest import CAS_PREFIX, Digest, Readable, hash_stream
from cas.storage.base import (
    NO_PROOFS,
    Absent,
    BlobStat,
    BlobStream,
    ByteRange,
    Changed,
    Corrupt,
    Ingested,
    KeepBlobs,
    Need,
    OnBytes,
    OnDigest,
    Outcome,
    Preflight,
    Proofs,
    Staged,
    StoreError,
    Unreachable,
    Versioning,
    Weight,
    compare,
    file_errors,
    refuse_blob_key,
    refuse_other_size,
)
from cas.storage.quarantine import ATTEMPTS, NOT_MOVED_ASIDE, QUARANTINE_PREFIX, healed, is_sound
from cas.storage.staging import copy_hashed, remove_old_files

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

log = logging.getLogger(__name__)

STAGING: Final = ".staging"
"""Of files on their way in; its name is no key."""


class DiskBlobStorage(KeepBlobs, FileSystemStorage):
    """The BlobStore contract on a local or network filesystem.

    Takes FileSystemStorage's options; `location` is the directory. Keys are paths below it. What
    is not a plain relative path (`..`, an empty component, a NUL) can have no object: Absent.
    """

    @property
    def staging_dir(self) -> Path:
        path = Path(self.location, STAGING)
        with file_errors(STAGING):
            make_directories(path, self.directory_permissions_mode)
        return path

    def read(self, key: str, byte_range: ByteRange | None = None) -> BlobStream:
        path = self._path(key)
        with file_errors(key):
            raw = OpenBlob(path, key)
        if byte_range:
            if byte_range.stop > raw.blob.size:
                raw.close()
                raise Corrupt(f"the object has only {raw.blob.size} bytes", key=key)
            raw.seek(byte_range.start)
        return cast(BlobStream, raw)

    def stat(self, key: str) -> BlobStat:
        path = self._path(key)
        with file_errors(key):
            found = path.stat()
        if not modes.S_ISREG(found.st_mode):
            raise Absent("there is no file at this key", key=key)
        return describe(key, found)

    def scan(self, prefix: str, *, after: str = "") -> Iterator[BlobStat]:
        """Raises if a directory cannot be read to its end, or vanishes before it is read."""
        for key in keys_below(Path(self.location), prefix, after):
            # A file that was deleted since its directory was read is left out.
            with contextlib.suppress(Absent):
                yield self.stat(key)

    def create(self, staged: Staged, proofs: Proofs = NO_PROOFS) -> Outcome:
        with file_errors(staged.digest.key):
            sound = self._is_sound(staged.digest, staged.size, proofs)
            if sound:
                return Outcome.PRESENT
            with self._temporary() as temporary:
                link_staged(staged, temporary)
                return self._place(temporary, staged.digest, staged.size, proofs, sound)

    def digest_of(self, key: str, on_bytes: OnBytes | None = None) -> tuple[Digest, BlobStat]:
        path = self._path(key)
        with file_errors(key), OpenBlob(path, key) as source, self._unchanged(source):
            hasher = hash_stream(source, on_bytes, with_md5=False)
        return hasher.digest, source.blob

    def ingest(
        self,
        source: str,
        on_bytes: OnBytes | None = None,
        on_digest: OnDigest | None = None,
        *,
        expected_size: int | None = None,
        proofs: Proofs = NO_PROOFS,
    ) -> Ingested:
        path = self._path(source)
        with file_errors(source), self._temporary() as temporary:
            with OpenBlob(path, source) as stream:
                blob = stream.blob
                refuse_other_size(blob, expected_size)
                with self._unchanged(stream):
                    hasher = copy_hashed(stream, temporary, on_bytes)
            digest, size = hasher.digest, hasher.size
            if on_digest:
                on_digest(digest)
            with file_errors(digest.key):
                sound = self._is_sound(digest, size, proofs)
                outcome = Outcome.PRESENT
                if not sound:
                    outcome = self._place(temporary, digest, size, proofs, sound)
        return Ingested(digest, size, blob, outcome, hasher.head)

    def remove(self, key: str) -> None:
        with contextlib.suppress(Absent):
            path = self._path(key)
            with file_errors(key):
                path.unlink()

    def remove_many(
        self, keys: Iterable[str], *, versions: bool = False
    ) -> Iterator[tuple[str, StoreError | None]]:
        """A file has no other versions."""
        for key in keys:
            try:
                self.remove(key)
            except StoreError as error:
                yield key, error
            else:
                yield key, None

    def versioning(self) -> Versioning:
        return Versioning.NONE

    def put_legacy(self, key: str, source: Path) -> None:
        refuse_blob_key(key)
        with file_errors(key), source.open("rb") as stream:
            self._replace(key, stream)

    def copy(self, source: str, target: str, *, etag: str = "") -> None:
        refuse_blob_key(target)
        path = self._path(source)
        with file_errors(source), OpenBlob(path, source) as stream:
            if etag and stream.blob.etag != etag:
                raise Changed("another version is there by now", key=source)
            self._replace(target, stream)

    def _replace(self, key: str, stream: Readable) -> None:
        target = self._path(key)
        with file_errors(key), self._temporary() as temporary:
            make_directories(target.parent, self.directory_permissions_mode)
            copy_hashed(stream, temporary)
            self._seal(temporary)
            temporary.replace(target)
            fsync_directory(target.parent)

    def remove_abandoned(self, older_than: datetime, *, dry_run: bool = False) -> Iterator[str]:
        return remove_old_files(self.staging_dir, older_than, dry_run=dry_run)

    @property
    def identity(self) -> str:
        return f"disk:{self.location}"

    @property
    def fallbacks(self) -> Mapping[str, str]:
        return {"hard_links": "objects are put in place by a rename, which replaces"}

    def probe_capabilities(self, prefix: str) -> Mapping[str, bool]:
        """Whether `link` works here and refuses a name that is taken."""
        with file_errors(STAGING), self._temporary() as source, self._temporary() as target:
            source.touch()
            return {"hard_links": links(source, target) and not links(source, target)}

    def preflight(self) -> Preflight:
        """Raises StoreError if the directory itself cannot be written to, Denied above all."""
        source = self.staging_dir / f"probe-{uuid.uuid4().hex}"
        found: dict[Need, StoreError | None] = {}
        with file_errors(STAGING):
            try:
                source.write_bytes(b"written, moved and deleted\n")
                for need in (DURABLE, *WRITABLE):
                    found[need] = None
                    try:
                        with file_errors(need.prefix):
                            if need is DURABLE:
                                _make_durable(source)
                            else:
                                _move_to(Path(self.location), source, need.prefix)
                    except StoreError as error:
                        found[need] = error
            finally:
                source.unlink(missing_ok=True)
            room = shutil.disk_usage(self.location)
        percent = 100 * room.free // room.total
        return Preflight(found, notes=(f"{room.free / 2**30:.1f} GiB are free, {percent} %.",))

    def _path(self, key: str) -> Path:
        """Where the object at `key` is. Raises Absent for what cannot be a key."""
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in key or parts[0] == STAGING:
            raise Absent("this can be no key of a file", key=key)
        return Path(self.location, *parts)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A name in the staging directory. A file of that name is deleted afterwards."""
        path = self.staging_dir / f"incoming-{uuid.uuid4().hex}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _is_sound(self, digest: Digest, size: int, proofs: Proofs) -> bool | None:
        """Whether the blob that is there has the right bytes, for good; None if there is none.

        Wrong bytes are copied aside.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                blob = self.stat(digest.key)
                if not is_sound(self, digest, blob, compare(blob, digest, size), proofs):
                    return False
                break
            except Absent:
                return None
            except Changed:
                # Another writer healed the blob meanwhile.
                if attempt == ATTEMPTS:
                    raise
        # The writer that linked it may not have made its name durable yet.
        fsync_directory(self._path(digest.key).parent)
        return True

    def _seal(self, path: Path) -> None:
        """Make the file's bytes durable, which must come before its name is."""
        with path.open("rb") as file:
            if self.file_permissions_mode is not None:
                os.fchmod(file.fileno(), self.file_permissions_mode)
            os.fsync(file.fileno())

    def _place(
        self, temporary: Path, digest: Digest, size: int, proofs: Proofs, sound: bool | None
    ) -> Outcome:
        """Make the finished file `temporary` the blob; `sound` is what `_is_sound` returned."""
        target = self._path(digest.key)
        make_directories(target.parent, self.directory_permissions_mode)
        self._seal(temporary)
        if sound is None:
            if links(temporary, target):
                fsync_directory(target.parent)
                return Outcome.STORED
            if self._is_sound(digest, size, proofs):
                return Outcome.PRESENT
        replaces = target.exists()
        temporary.replace(target)
        fsync_directory(target.parent)
        return healed(digest.key) if replaces else Outcome.STORED

    @contextlib.contextmanager
    def _unchanged(self, source: OpenBlob) -> Iterator[None]:
        """Raise Changed if the file is written to, replaced or deleted while it is read."""
        try:
            yield
        finally:
            # Also after an error: a file that ended early is not corrupt if it is being written.
            try:
                now = self.stat(source.blob.key)
            except Absent as error:
                raise Changed("deleted while it was read", key=source.blob.key) from error
            if now.etag != source.blob.etag:
                raise Changed("overwritten while it was read", key=source.blob.key)


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
        with file_errors(self.blob.key):
            count = super().readinto(buffer)
        if not count and memoryview(buffer).nbytes:
            self._refuse_early_end()
        return count

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return self.readall()
        with file_errors(self.blob.key):
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


NO_HARD_LINKS: Final = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
"""Errors of `link` that mean "not between these two names", not "not now"."""


def link_staged(staged: Staged, temporary: Path) -> None:
    """Give the staged bytes a second name, or copy them if they are on another filesystem.

    A link checks nothing but the file's size: the upload was hashed while this very file was
    written. A copy is hashed again as it is made.
    """
    try:
        with staged.path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size != staged.size:
                raise Corrupt("the staged file is not as long as what was hashed")
            if links(staged.path, temporary):
                return
            if copy_hashed(stream, temporary).digest != staged.digest:
                raise Corrupt("the staged file is not what was hashed")
    except FileNotFoundError as error:
        raise Corrupt("the staged file is gone") from error


def links(source: Path, target: Path) -> bool:
    """Link `source` to `target`. False where that is refused: taken, or no hard links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in {errno.EEXIST, *NO_HARD_LINKS}:
            raise
        return False
    return True


def fsync_directory(path: Path) -> None:
    """Make the directory's names durable: fsync of a file does not cover its name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


BATCH: Final = 65_536
"""Names of one directory held at a time: about ten megabytes."""


def keys_below(root: Path, prefix: str, after: str) -> Iterator[str]:
    """Keys of the files below `root` that start with `prefix` and come behind `after`.

    Ascending by their bytes, as an S3 listing is, with memory that stays flat. Without what can
    have no key, or has one elsewhere, which is logged. Raises Unreachable if a directory vanishes
    before it was read: the listing would be incomplete without an error.
    """
    # Start at the deepest directory that holds every match, not at the root.
    parent = prefix.rpartition("/")[0]
    with file_errors(parent):
        exists = ".." not in parent.split("/") and (root / parent.lstrip("/")).is_dir()
    if not exists or parent.split("/")[0] == STAGING:
        return
    start, behind = os.fsencode(prefix), os.fsencode(after)

    def leads(key: bytes) -> bool:
        """Whether `key`, or if it names a directory something below it, is to be listed."""
        if key == os.fsencode(f"{STAGING}/"):
            return False
        if key.endswith(b"/"):
            in_prefix = key.startswith(start) or start.startswith(key)
            return in_prefix and (key > behind or behind.startswith(key))
        return key.startswith(start) and key > behind

    def walk(base: bytes) -> Iterator[str]:
        """Keys that start with `base`, which is empty or a directory's key with its slash."""
        for name in _names(os.fsencode(root), base, leads):
            if why := _no_key(os.fsencode(root), base, name):
                log.warning("%s: %r is left alone", why, base + name)
            elif name.endswith(b"/"):
                yield from walk(base + name)
            else:
                yield os.fsdecode(base + name)

    yield from walk(os.fsencode(f"{parent}/" if parent else ""))


def _no_key(root: bytes, base: bytes, name: bytes) -> str:
    """Why an entry is not listed, and so never deleted; "" if it is."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return "the name is not UTF-8, which no key is"
    # The same files may have other keys, and one of these may be named by a row. At the top it is
    # how a prefix is kept on another disk.
    if base and name.endswith(b"/") and Path(os.fsdecode(root + b"/" + base + name)).is_symlink():
        return "a link to a directory"
    return ""


def _names(root: bytes, base: bytes, leads: Callable[[bytes], bool]) -> Iterator[bytes]:
    """The directory's entries that can lead to a match, in order of the keys below them.

    Subdirectories end in a slash, and are sorted with it: "a-b" comes before "a/b". A large
    directory is read several times, each time for the next names in order, so as not to
    hold all of them; a file added meanwhile may be missed, as in any listing.
    """
    last = b""
    while True:
        try:
            with file_errors(os.fsdecode(base)), os.scandir(root + b"/" + base) as found:
                names = (e.name + (b"/" if e.is_dir() else b"") for e in found)
                wanted = (n for n in names if n > last and leads(base + n))
                batch = heapq.nsmallest(BATCH, wanted)
        except Absent as error:
            raise Unreachable("a directory vanished while listed", key=error.key) from error
        yield from batch
        if len(batch) < BATCH:
            return
        last = batch[-1]


DURABLE: Final = Need(
    "fsync", "", Weight.NEEDED, "a power failure can lose what was said to be stored"
)
WRITABLE: Final = (
    Need("write", CAS_PREFIX, Weight.ESSENTIAL, "nothing can be uploaded or migrated"),
    Need("write", "parts/", Weight.NEEDED, "cleanup_legacy_blobs cannot delete"),
    Need("write", QUARANTINE_PREFIX, Weight.NEEDED, NOT_MOVED_ASIDE),
)


def _make_durable(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    fsync_directory(path.parent)


def _move_to(location: Path, source: Path, prefix: str) -> None:
    """Move a file to where an object would be put, and delete it.

    That fails where the directory may not be written to, and where it is on another filesystem
    than the staging directory. One that is not there yet is made when it is needed.
    """
    directory = location / prefix
    if not directory.is_dir():
        directory = location
    name = f".cas-probe-{uuid.uuid4().hex}"
    moved = source.with_name(name)
    moved.touch(exist_ok=False)
    try:
        moved.rename(directory / name).unlink()
    finally:
        moved.unlink(missing_ok=True)
