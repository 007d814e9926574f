"""What a blob store promises, whichever backend keeps it.

Keys are plain strings because a store also holds the older layout's objects; only `create` and
`ingest` ever write below `cas/`, and both take their key from a digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final, Protocol, runtime_checkable

from cas.digest import Digest


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
    """The store did not answer in time, or asked to be asked again later. Worth a retry."""

    code = "unreachable"


class Corrupt(StoreError):
    """The bytes are not what they should be: wrong digest, wrong size, or cut short."""

    code = "corrupt"


class CutShort(Corrupt):
    """The store ended its answer before the object did, whole or not."""


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


class Outcome(StrEnum):
    """What `create` or `ingest` had to do for the object to be there."""

    STORED = "stored"
    PRESENT = "present"
    HEALED = "healed"


@dataclass(frozen=True, slots=True)
class BlobStat:
    """One object as the store describes it.

    `size` is in bytes and `modified` is timezone-aware. `etag` identifies this version of the
    object and nothing more: it is no checksum. `sha256` is the full-object digest where the store
    holds one, `md5` that of all its bytes where the store tells.
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
    object as the store did when it answered the read, so that a caller who needs its size or
    version needs no second request.
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

    `head` is what its bytes begin with (`cas.sniff.HEAD`), None if they were not read.
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


OnBytes = Callable[[int], None]
OnDigest = Callable[[Digest], None]


@dataclass(frozen=True, slots=True)
class Proofs:
    """The caller's memory of blobs that were read and found to hash to their key.

    `hold` says whether this version of the blob was; `record` is called when one was. Without a
    memory a blob of which the store's own words prove nothing is read each time it is found.
    """

    hold: Callable[[BlobStat], bool]
    record: Callable[[BlobStat], None]


NO_PROOFS: Final = Proofs(hold=lambda blob: False, record=lambda blob: None)


def refuse_other_size(source: BlobStat, expected: int | None) -> None:
    """Raises SizeMismatch unless the source has the expected size in bytes, where one is."""
    if expected is not None and source.size != expected:
        raise SizeMismatch(
            f"{expected} bytes were expected, the object has {source.size}", key=source.key
        )


@runtime_checkable
class BlobStore(Protocol):
    """The contract both backends keep and `cas/tests/test_store_contract.py` checks.

    Every method may raise Denied, Unreachable or StoreError beyond what it names.
    """

    @property
    def staging_dir(self) -> Path:
        """Where uploads are staged: on the blobs' own filesystem if they are files. Exists."""

    def read(self, key: str, byte_range: ByteRange | None = None) -> BlobStream:
        """A stream of the object, or only of the bytes asked for, in one round trip.

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

        What is there is left alone (PRESENT) if its bytes are proven to be these: by a checksum
        that the store holds, by `proofs`, or by reading it, which `proofs` then records. Wrong
        bytes are kept below `quarantine/` and replaced (HEALED). The staged file is left to its
        owner. Raises Corrupt if the staged file or what the store kept is not what was hashed,
        StoreFull when there is no room.
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

        `on_digest` is called when the digest is known and nothing below `cas/` was looked at yet:
        who takes a lock then can believe afterwards what is said to be stored. What is there is
        proven or replaced as by `create`, because the source may be the last good copy. The
        source is left as it was. Raises Absent, Corrupt, Changed, StoreFull, and SizeMismatch,
        before anything is read, if the source does not have the expected size in bytes.
        """

    def remove(self, key: str) -> None:
        """Delete one object; one that is not there is no error."""

    def remove_many(
        self, keys: Iterable[str], *, versions: bool = False
    ) -> Iterator[tuple[str, StoreError | None]]:
        """Delete objects in batches, yielding each key's own outcome.

        With `versions` all versions of each key are deleted, the old ones and the marks of
        earlier deletions as well.
        """

    def versioning(self) -> Versioning:
        """What deleting an object does to its bytes here."""

    def put_legacy(self, key: str, source: Path) -> None:
        """Write a file under the older layout (sample data and tests only). Never below `cas/`."""

    def copy(self, source: str, target: str, *, etag: str = "") -> None:
        """Copy an object of any size within the store. Never below `cas/`: that is `ingest`.

        With `etag` only that version of the object is copied. What is at `target` is replaced.
        Raises Absent, Changed, StoreFull. What arrived is not
        compared with what was there.
        """

    def remove_abandoned(self, older_than: datetime, *, dry_run: bool = False) -> Iterator[str]:
        """Delete what crashed writers left behind: temporary files, unfinished multipart uploads.

        Yields a description of each.
        """
