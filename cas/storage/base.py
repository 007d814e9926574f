"""The contract of a blob store, its errors, what both backends share, and the configured store.

Keys are plain strings because a store also holds the older layout's objects; only `create` and
`ingest` ever write below `cas/`, and both take their key from a digest.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, cast, runtime_checkable

from django.core.exceptions import ImproperlyConfigured, SuspiciousFileOperation
from django.core.files.storage import storages

from cas.digest import CAS_PREFIX, Digest

ALIAS: Final = "attachments"
"""The name of the store that holds the blobs, in `STORAGES`."""


class StoreError(Exception):
    """A store operation failed. `key` is the object it was about, where there is one.

    `cure` is what a person can do about it, where that is known; the message has it too.
    """

    code = "store_error"

    def __init__(self, message: str, *, key: str = "", cure: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.cure = cure


class Absent(StoreError):
    """There is no object at this key."""

    code = "absent"


class Denied(StoreError):
    """The store refused our credentials or this operation. Trying again will not help."""

    code = "denied"


class Unreachable(StoreError):
    """The store did not answer in time, or answered that it is busy. Worth a retry."""

    code = "unreachable"


class Corrupt(StoreError):
    """The bytes are not what they should be: wrong digest, wrong size, or cut short."""

    code = "corrupt"


class CutShort(Corrupt):
    """The store's answer ended before the object did, which may be whole."""


class Changed(StoreError):
    """The source object was overwritten while it was being read or copied. Worth a retry."""

    code = "changed"


class StoreFull(StoreError):
    """There is no room left for the object."""

    code = "store_full"


class SizeMismatch(StoreError):
    """The source has another size than the caller expects. Nothing was stored."""

    code = "size_mismatch"


class Unsupported(StoreError):
    """The store does not know this operation. Trying again will not help."""

    code = "unsupported"


_FILE_ERRORS: Final = {
    Absent: (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
    Denied: (errno.EACCES, errno.EPERM, errno.EROFS),
    StoreFull: (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    Unreachable: (
        *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN),
        # Too many open files, which passes.
        *(errno.EMFILE, errno.ENFILE),
    ),
}

_FILE_CURES: Final = {
    errno.EACCES: "Give the user of this process the right to it",
    errno.EDQUOT: "Make room, or raise the quota",
    errno.EIO: "The medium fails: see the system's log",
    errno.ENOSPC: "Make room on that file system",
    errno.EROFS: "Find out why (the system's log says), and mount the file system writable again",
}


@contextlib.contextmanager
def file_errors(key: str) -> Iterator[None]:
    """Raise the StoreError that an OSError about `key` amounts to."""
    try:
        yield
    except OSError as error:
        raise store_error(error, key) from error


def store_error(error: OSError, key: str = "") -> StoreError:
    """The StoreError that an OSError about `key` amounts to."""
    number = error.errno or 0
    message = error.strerror or str(error)
    if cure := _FILE_CURES.get(number):
        message = f"{message}: {error.filename}. {cure}" if error.filename else f"{message}. {cure}"
    fitting = (kind for kind, numbers in _FILE_ERRORS.items() if number in numbers)
    return next(fitting, StoreError)(message, key=key, cure=cure or "")


class Outcome(StrEnum):
    """What `create` or `ingest` had to do for the object to be there."""

    STORED = "stored"
    PRESENT = "present"
    HEALED = "healed"


@dataclass(frozen=True, slots=True)
class BlobStat:
    """One object as the store describes it.

    `size` is in bytes and `modified` is timezone-aware. `etag` identifies this version of the
    object and nothing more: it is no checksum. `sha256` and `md5` are those of all its bytes,
    where the store states them.
    """

    key: str
    size: int
    modified: datetime
    etag: str
    sha256: Digest | None = None
    md5: bytes | None = None


class BlobStream(BinaryIO):
    """A stream of a blob, or of a range of it.

    A type only: a stream from disk is a real file, one from S3 is not. `blob` describes the whole
    object at the time of the read, so that its size and version need no second request.
    """

    blob: BlobStat


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` to `stop` (exclusive) of an object: 0 <= start < stop."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Staged:
    """Bytes received in full, hashed on the way, and waiting in a temporary file at `path`."""

    path: Path
    digest: Digest
    md5: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Ingested:
    """What `ingest` found and did. `source` is the version of the object that was read.

    `head` is what its bytes begin with (`cas.content_types.HEAD`), None if they were not read.
    """

    digest: Digest
    size: int
    source: BlobStat
    outcome: Outcome
    head: bytes | None = None


class Versioning(StrEnum):
    """What deleting an object does to its bytes."""

    NONE = "none"
    """They are deleted."""
    KEPT = "kept"
    """They stay as an old version, until that version is deleted."""
    SUSPENDED = "suspended"
    """Those of objects written while versions were kept stay; others are deleted."""
    LOCKED = "locked"
    """They stay as an old version, which object lock may protect for a time."""
    UNKNOWN = "unknown"
    """The store does not say, or not to these credentials."""


class Weight(IntEnum):
    """How much depends on an operation."""

    REPLACEABLE = 0
    """Something else is done in its place, or nothing has to be."""
    NEEDED = 1
    """Some command cannot do its work without it."""
    ESSENTIAL = 2
    """The store cannot be used without it."""


@dataclass(frozen=True, slots=True)
class Need:
    """An operation that commands need, on keys that begin with `prefix`.

    `cost` says what cannot be done without it.
    """

    operation: str
    prefix: str
    weight: Weight
    cost: str

    def __str__(self) -> str:
        return f"{self.operation} in {self.prefix}" if self.prefix else self.operation


@dataclass(frozen=True, slots=True)
class Preflight:
    """What the commands need of a store, found out before thousands of objects depend on it.

    `found` has for each need the error it met, or None. `clock_ahead` is how far the store's clock
    is ahead of this machine's (behind: negative), to about a second; None if it is not known.
    `notes` are for the operator.
    """

    found: Mapping[Need, StoreError | None]
    clock_ahead: timedelta | None = None
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> list[tuple[Need, StoreError]]:
        return [(need, error) for need, error in self.found.items() if error is not None]

    @property
    def weight(self) -> Weight | None:
        """That of the weightiest need that is not met, if any is not."""
        return max((need.weight for need, _ in self.missing), default=None)


OnBytes = Callable[[int], None]
OnDigest = Callable[[Digest], None]


@dataclass(frozen=True, slots=True)
class Proofs:
    """The caller's memory of blobs that were read and found to hash to their key.

    `hold` says whether this version of the blob was; `record` is called when one was. Without a
    memory, a blob is read whenever it is found and the store's checksums prove nothing.
    """

    hold: Callable[[BlobStat], bool]
    record: Callable[[BlobStat], None]


NO_PROOFS: Final = Proofs(hold=lambda blob: False, record=lambda blob: None)


def compare(found: BlobStat, digest: Digest, size: int, md5: bytes | None = None) -> bool | None:
    """What the store's description of an object proves about its bytes.

    True: they are those of this digest and size (and MD5, where one is known). False: they are
    others, or the checksums contradict each other. None: nothing is proven.
    """
    if found.size != size or found.sha256 not in (None, digest):
        return False
    if found.md5 is not None and md5 is not None:
        return found.md5 == md5
    return True if found.sha256 else None


def refuse_other_size(source: BlobStat, expected: int | None) -> None:
    """Raises SizeMismatch unless the source has the expected size in bytes, where one is."""
    if expected is not None and source.size != expected:
        raise SizeMismatch(
            f"{expected} bytes were expected, the object has {source.size}", key=source.key
        )


NOT_BELOW_CAS: Final = "only bytes of known digest are written below cas/"


def refuse_blob_key(key: str) -> None:
    """Raises StoreError for a key below `cas/`."""
    if key.startswith(CAS_PREFIX):
        raise StoreError(NOT_BELOW_CAS, key=key)


class KeepBlobs:
    """Keeps Django's `Storage.save`, which follows none of the rules for blobs, out of `cas/`."""

    def _save(self, name: str, content: Any) -> str:
        if name.startswith(CAS_PREFIX):
            raise SuspiciousFileOperation(NOT_BELOW_CAS)
        saved: str = super()._save(name, content)  # type: ignore[misc]
        return saved


@runtime_checkable
class BlobStore(Protocol):
    """The contract both backends keep and `cas/tests/test_store_contract.py` checks.

    Every method may raise Denied, Unreachable or StoreError beyond what it names.
    """

    @property
    def staging_dir(self) -> Path:
        """Where uploads are staged: on the blobs' own filesystem if they are files. Exists."""

    def read(self, key: str, byte_range: ByteRange | None = None) -> BlobStream:
        """A stream of the object, or only of the given range, in one round trip.

        The stream raises Corrupt if the store ends it early. Raises Absent. A range must lie
        within the object. Context manager; a file on disk keeps its real `fileno()` (positioned
        at the range's start; the caller must read no further than the range).
        """

    def stat(self, key: str) -> BlobStat:
        """Raises Absent."""

    def scan(self, prefix: str, *, after: str = "") -> Iterator[BlobStat]:
        """Every object below `prefix`, lazily, in ascending (byte-wise) key order.

        Starts behind the key `after`. Raises if the listing cannot be completed: an iterator that
        ends without an error has seen everything.
        """

    def create(self, staged: Staged, proofs: Proofs = NO_PROOFS) -> Outcome:
        """Put the staged bytes at `cas/<digest>` unless they are there, atomically and durably.

        An object that is there is left alone (PRESENT) if its bytes are proven to be these: by a
        checksum that the store holds, by `proofs`, or by reading it, which `proofs` then records.
        Wrong bytes are kept below `quarantine/` and replaced (HEALED). The staged file is left to
        its owner. Raises Corrupt if the staged file or what the store kept is not what was
        hashed, StoreFull when there is no room.
        """

    def digest_of(self, key: str, on_bytes: OnBytes | None = None) -> tuple[Digest, BlobStat]:
        """Hash the object at `key`. Raises Absent, Corrupt, Changed."""

    def ingest(
        self,
        source: str,
        on_bytes: OnBytes | None = None,
        on_digest: OnDigest | None = None,
        *,
        expected_size: int | None = None,
        proofs: Proofs = NO_PROOFS,
    ) -> Ingested:
        """Make the bytes at `source` available at `cas/<their digest>`, reading them once.

        `on_digest` is called when the digest is known and nothing below `cas/` was read yet: a
        lock taken there covers all that follows. A blob that is there is proven or replaced as by
        `create`, because the source may be the last good copy. The source is left as it was.
        Raises Absent, Corrupt, Changed, StoreFull, and SizeMismatch, before anything is read, if
        the source does not have the expected size in bytes.
        """

    def remove(self, key: str) -> None:
        """Delete one object; one that is not there is no error."""

    def remove_many(
        self, keys: Iterable[str], *, versions: bool = False
    ) -> Iterator[tuple[str, StoreError | None]]:
        """Delete objects in batches, yielding each key's own outcome.

        With `versions` all versions of each key are deleted, old ones and deletion markers too.
        """

    def versioning(self) -> Versioning:
        """What deleting an object does to its bytes here."""

    def put_legacy(self, key: str, source: Path) -> None:
        """Write a file under the older layout (sample data and tests only). Never below `cas/`."""

    def copy(self, source: str, target: str, *, etag: str = "") -> None:
        """Copy an object of any size within the store. Never below `cas/`: that is `ingest`.

        With `etag` only that version of the object is copied. What is at `target` is replaced.
        The copy is not compared with its source. Raises Absent, Changed, StoreFull.
        """

    def remove_abandoned(self, older_than: datetime, *, dry_run: bool = False) -> Iterator[str]:
        """Delete what crashed writers left behind: temporary files, unfinished multipart uploads.

        Yields a description of each.
        """

    @property
    def identity(self) -> str:
        """Names the place the blobs are in: two stores with the same one are the same."""

    @property
    def fallbacks(self) -> Mapping[str, str]:
        """By capability that a store may lack: what is done in its place."""

    def probe_capabilities(self, prefix: str) -> Mapping[str, bool]:
        """Probe every capability of `fallbacks` on objects below `prefix`, removed afterwards."""

    def preflight(self) -> Preflight:
        """Try each operation that commands need, on objects of its own, removed afterwards.

        Raises the StoreError that says why nothing can be tried at all: Unreachable, or Denied
        with wrong credentials or a bucket that is not there.
        """


def attachment_store() -> BlobStore:
    """The store configured as `STORAGES["attachments"]`, one instance a process.

    Raises ImproperlyConfigured if the configured class keeps another contract, and Django's
    InvalidStorageError if none is configured.
    """
    store = storages[ALIAS]
    if not keeps_contract(type(store)):
        raise ImproperlyConfigured(f"STORAGES[{ALIAS!r}] is not a blob store: {type(store)}")
    return cast(BlobStore, store)


def keeps_contract(kind: type) -> bool:
    """Whether a class has every member of BlobStore.

    The class, not an instance: `hasattr` on an instance would run its properties at every call.
    """
    return all(hasattr(kind, name) for name in vars(BlobStore) if not name.startswith("_"))
