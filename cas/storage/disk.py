"""Blobs as plain files below one directory.

An object appears under its key in one step, complete and fsynced: it is written under another
name in `.staging/`, on the same filesystem, and linked into place. `link` fails if the name is
taken, which makes it create-if-absent; `rename` would not.

A filesystem without hard links (FAT, some network shares) gets a rename in place of the link.
Two writers can then both believe they were first, and the second replaces the first one's file;
as both hold the same bytes, and readers keep the file they opened, nobody can tell.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as modes
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from django.core.exceptions import SuspiciousFileOperation
from django.core.files.storage import FileSystemStorage

from cas.digest import CAS_PREFIX, Digest, hash_stream
from cas.storage import disk_preflight
from cas.storage.base import (
    NO_PROOFS,
    Absent,
    BlobStat,
    BlobStream,
    ByteRange,
    Changed,
    Corrupt,
    Ingested,
    OnBytes,
    OnDigest,
    Outcome,
    Proofs,
    Staged,
    StoreError,
    Versioning,
    refuse_other_size,
)
from cas.storage.disk_files import (
    NO_HARD_LINKS,
    OpenBlob,
    copy_hashed,
    describe,
    fsync_directory,
    link_staged,
    links,
    make_directories,
    remove_old_files,
    translated,
)
from cas.storage.disk_listing import keys_below
from cas.storage.preflight import Preflight
from cas.storage.quarantine import Examined, examine, healed

STAGING: Final = ".staging"
"""Of files on their way in; its name is no key."""

LOOKS: Final = 5
"""Times to look again when others heal the same blob at the same moment."""


class DiskBlobStorage(FileSystemStorage):
    """The BlobStore contract on a local or network filesystem.

    Takes FileSystemStorage's options; `location` is the directory. Keys are paths below it. What
    is not a plain relative path (`..`, an empty component, a NUL) can have no object: Absent.
    """

    @property
    def staging_dir(self) -> Path:
        path = Path(self.location, STAGING)
        with translated(STAGING):
            make_directories(path, self.directory_permissions_mode)
        return path

    def read(self, key: str, byte_range: ByteRange | None = None) -> BlobStream:
        path = self._path(key)
        with translated(key):
            raw = OpenBlob(path, key)
        if byte_range:
            if byte_range.stop > raw.blob.size:
                raw.close()
                raise Corrupt(f"the object has only {raw.blob.size} bytes", key=key)
            raw.seek(byte_range.start)
        return cast(BlobStream, raw)

    def stat(self, key: str) -> BlobStat:
        path = self._path(key)
        with translated(key):
            found = path.stat()
        if not modes.S_ISREG(found.st_mode):
            raise Absent("there is no file at this key", key=key)
        return describe(key, found)

    def scan(self, prefix: str, *, after: str = "") -> Iterator[BlobStat]:
        """A directory that cannot be read to its end, or vanishes before its turn, raises."""
        for key in keys_below(Path(self.location), prefix, after, hidden=STAGING):
            # What was deleted since its directory was read is no longer there to be listed.
            with contextlib.suppress(Absent):
                yield self.stat(key)

    def create(self, staged: Staged, proofs: Proofs = NO_PROOFS) -> Outcome:
        with translated(staged.digest.key):
            sound = self._sound(staged.digest, staged.size, proofs)
            if sound:
                return Outcome.PRESENT
            temporary = self._own_name()
            try:
                link_staged(staged, temporary)
                return self._put(temporary, staged.digest, staged.size, proofs, sound)
            finally:
                temporary.unlink(missing_ok=True)

    def digest_of(self, key: str, on_bytes: OnBytes | None = None) -> tuple[Digest, BlobStat]:
        path = self._path(key)
        with translated(key), OpenBlob(path, key) as source, self._unchanged(source):
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
        with translated(source):
            temporary = self._own_name()
            try:
                with OpenBlob(path, source) as stream:
                    refuse_other_size(stream.blob, expected_size)
                    with self._unchanged(stream):
                        hasher = copy_hashed(stream, temporary, on_bytes)
                    blob = stream.blob
                if on_digest:
                    on_digest(hasher.digest)
                with translated(hasher.digest.key):
                    sound = self._sound(hasher.digest, hasher.size, proofs)
                    outcome = self._put(temporary, hasher.digest, hasher.size, proofs, sound)
            finally:
                temporary.unlink(missing_ok=True)
        return Ingested(hasher.digest, hasher.size, blob, outcome, hasher.head)

    def remove(self, key: str) -> None:
        with contextlib.suppress(Absent):
            path = self._path(key)
            with translated(key):
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
        if key.startswith(CAS_PREFIX):
            raise StoreError("only bytes of known digest are written below cas/", key=key)
        with translated(key), source.open("rb") as stream:
            self._put_legacy(key, stream)

    def copy(self, source: str, target: str, *, etag: str = "") -> None:
        if target.startswith(CAS_PREFIX):
            raise StoreError("only bytes of known digest are written below cas/", key=target)
        path = self._path(source)
        with translated(source), OpenBlob(path, source) as stream:
            if etag and stream.blob.etag != etag:
                raise Changed("another version is there by now", key=source)
            self._put_legacy(target, stream)

    def _put_legacy(self, key: str, stream: BinaryIO) -> None:
        target = self._path(key)
        temporary = self._own_name()
        with translated(key):
            make_directories(target.parent, self.directory_permissions_mode)
            try:
                copy_hashed(stream, temporary)
                self._seal(temporary)
                temporary.replace(target)
                fsync_directory(target.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def remove_abandoned(self, older_than: datetime, *, dry_run: bool = False) -> Iterator[str]:
        return remove_old_files(self.staging_dir, older_than, dry_run=dry_run)

    @property
    def identity(self) -> str:
        return f"disk:{self.location}"

    @property
    def fallbacks(self) -> Mapping[str, str]:
        return {"hard_links": "objects are put in place by a rename, which replaces"}

    def try_guards(self, prefix: str) -> Mapping[str, bool]:
        """Whether `link` works here and refuses a name that is taken."""
        source, target = self._own_name(), self._own_name()
        with translated(STAGING):
            try:
                source.touch()
                return {"hard_links": links(source, target) and not links(source, target)}
            finally:
                source.unlink(missing_ok=True)
                target.unlink(missing_ok=True)

    def preflight(self) -> Preflight:
        return disk_preflight.preflight(Path(self.location), self.staging_dir)

    def _save(self, name: str, content: Any) -> str:
        """Django's own way to write a file; it follows no rule that holds below `cas/`."""
        if name.startswith(CAS_PREFIX):
            raise SuspiciousFileOperation("only bytes of known digest are written below cas/")
        saved: str = super()._save(name, content)  # type: ignore[misc]
        return saved

    def _path(self, key: str) -> Path:
        """Where the object at `key` is. Raises Absent for what cannot be a key."""
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in key or parts[0] == STAGING:
            raise Absent("this can be no key of a file", key=key)
        return Path(self.location, *parts)

    def _own_name(self) -> Path:
        return self.staging_dir / f"incoming-{uuid.uuid4().hex}"

    def _sound(self, digest: Digest, size: int, proofs: Proofs) -> bool | None:
        """Whether the blob that is there has the right bytes, for good; None if there is none.

        Wrong bytes are copied aside.
        """
        try:
            blob = self.stat(digest.key)
            if blob.size != size or not proofs.hold(blob):
                examined = self._examine(digest)
                if examined.aside:
                    return False
                proofs.record(examined.blob)
        except Absent:
            return None
        # Whoever linked it may not have come to make its name durable yet.
        fsync_directory(self._path(digest.key).parent)
        return True

    def _examine(self, digest: Digest) -> Examined:
        """Read the blob, again where another writer healed it meanwhile."""
        for _ in range(LOOKS - 1):
            with contextlib.suppress(Changed):
                return examine(self, digest)
        return examine(self, digest)

    def _seal(self, path: Path) -> None:
        """Make the file's bytes durable, which must come before its name is."""
        with path.open("rb") as file:
            if self.file_permissions_mode is not None:
                os.fchmod(file.fileno(), self.file_permissions_mode)
            os.fsync(file.fileno())

    def _put(
        self, temporary: Path, digest: Digest, size: int, proofs: Proofs, sound: bool | None
    ) -> Outcome:
        """Make the finished file `temporary` the blob, unless what is there is `sound`."""
        if sound:
            return Outcome.PRESENT
        target = self._path(digest.key)
        make_directories(target.parent, self.directory_permissions_mode)
        self._seal(temporary)
        if sound is None:
            try:
                os.link(temporary, target)
            except OSError as error:
                if error.errno not in {errno.EEXIST, *NO_HARD_LINKS}:
                    raise
                if self._sound(digest, size, proofs):
                    return Outcome.PRESENT
            else:
                fsync_directory(target.parent)
                return Outcome.STORED
        outcome = Outcome.HEALED if target.exists() else Outcome.STORED
        temporary.replace(target)
        fsync_directory(target.parent)
        if outcome is Outcome.HEALED:
            healed(digest.key)
        return outcome

    @contextlib.contextmanager
    def _unchanged(self, source: OpenBlob) -> Iterator[None]:
        """Raise Changed if the file is written to, replaced or deleted while it is read."""
        try:
            yield
        finally:
            # Also on the way out of an error: a file that was cut short is not corrupt, but
            # being written.
            try:
                now = self.stat(source.blob.key)
            except Absent as error:
                raise Changed("deleted while it was read", key=source.blob.key) from error
            if now.etag != source.blob.etag:
                raise Changed("overwritten while it was read", key=source.blob.key)
