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
from typing import BinaryIO, Protocol, runtime_checkable

from cas.digest import Digest


class StoreError(Exception):
    """A store operation failed. `key` is the object it was about, where there is one."""

    code = "store_error"

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


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
    """What `ingest` found and did. `source` is the version of the object that was read."""

    digest: Digest
    size: int
    source: BlobStat
    outcome: Outcome


OnBytes = Callable[[int], None]
OnDigest = Callable[[Digest], None]


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

    def create(self, staged: Staged) -> Outcome:
        """Put the staged bytes at `cas/<digest>` unless they are there, atomically and durably.

        An object of the right size is left alone (PRESENT) unless a checksum that the store holds
        says otherwise; one that is wrong is replaced (HEALED). The staged file is left to its
        owner. Raises Corrupt if the staged file or what the store kept is not what was hashed,
        StoreFull when there is no room.
        """

    def digest_of(self, key: str, on_bytes: OnBytes | None = None) -> tuple[Digest, BlobStat]:
        """Hash the object at `key`. Raises Absent, Corrupt, Changed."""

    def ingest(
        self, source: str, on_bytes: OnBytes | None = None, on_digest: OnDigest | None = None
    ) -> Ingested:
        """Make the bytes at `source` available at `cas/<their digest>`, reading them once.

        `on_digest` is called when the digest is known and nothing below `cas/` was looked at yet:
        who takes a lock then can believe afterwards what is said to be stored.
        An object that is there already is proven to have these bytes, by a checksum that the
        store holds or by reading it, because the source may be the last good copy. The source is
        left as it was. Raises Absent, Corrupt, Changed, StoreFull.
        """

    def remove(self, key: str) -> None:
        """Delete one object; one that is not there is no error."""

    def remove_many(self, keys: Iterable[str]) -> Iterator[tuple[str, StoreError | None]]:
        """Delete objects in batches, yielding each key's own outcome."""

    def put_legacy(self, key: str, source: Path) -> None:
        """Write a file under the older layout (sample data and tests only). Never below `cas/`."""

    def copy(self, source: str, target: str) -> None:
        """Copy an object of any size within the store. Never below `cas/`: that is `ingest`.

        What is at `target` is replaced. Raises Absent, Changed, StoreFull. What arrived is not
        compared with what was there.
        """

    def remove_abandoned(self, older_than: datetime, *, dry_run: bool = False) -> Iterator[str]:
        """Delete what crashed writers left behind: temporary files, unfinished multipart uploads.

        Yields a description of each.
        """
