"""What the checksums of an object made of parts prove about a file that we have.

Such an object has neither an MD5 nor a SHA-256 of its bytes. Its ETag is mostly the MD5 of its
parts' MD5s, and it may have a SHA-256 of its parts' SHA-256s. Both can be computed from the file
once the length of a part is known.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cas.digest import CHUNK
from cas.storage.base import Absent, BlobStat, Denied, StoreError, Unreachable
from cas.storage.disk_files import translated as file_errors
from cas.storage.s3.bucket import Bucket
from cas.storage.s3.errors import translated

log = logging.getLogger(__name__)

_MIB: Final = 1024 * 1024
_USUAL_LENGTHS: Final = tuple(n * _MIB for n in (5, 8, 10, 15, 16, 25, 32, 50, 64, 100, 128, 256))
"""Lengths that clients in wide use cut uploads into."""


@dataclass(frozen=True, slots=True)
class _Checksums:
    etag: str
    sha256: str


def matches(bucket: Bucket, there: BlobStat, path: Path) -> bool:
    """Whether the object at `there` is proven to be the file at `path`.

    False proves nothing: the parts may have been cut otherwise, and where objects are encrypted
    the ETag may be no MD5. Raises StoreError.
    """
    _, dash, count = there.etag.partition("-")
    if not dash or not count.isdecimal() or not 0 < int(count) <= 10_000:
        return False
    claimed = _claimed_sha256(bucket, there)
    for length in _lengths(bucket, there, int(count)):
        computed = _compute(path, length)
        if there.etag == computed.etag or (claimed and claimed == computed.sha256):
            return True
    return False


def _claimed_sha256(bucket: Bucket, there: BlobStat) -> str:
    """The checksum of the parts' checksums; empty where the store has none to be believed."""
    if not bucket.guards.honours("stored_checksum"):
        return ""
    answer = _head(bucket, there, ChecksumMode="ENABLED")
    # With the number of parts behind it, or without.
    return str(answer.get("ChecksumSHA256", "")).partition("-")[0]


def _lengths(bucket: Bucket, there: BlobStat, count: int) -> Iterator[int]:
    """Possible lengths of all parts but the last: what the store says, else what is usual."""
    try:
        answer = _head(bucket, there, PartNumber=1)
    except (Absent, Denied, Unreachable):
        raise
    except StoreError as error:
        # To be refused is to be told nothing.
        log.info("the parts of %s are not told: %s", there.key, error)
        answer = {"ContentLength": there.size}
    first = int(answer["ContentLength"])
    if answer.get("PartsCount") == count or first < there.size or count == 1:
        yield first
        return
    usual = (bucket.sizes.upload_part, bucket.sizes.copy_part, *_USUAL_LENGTHS)
    for length in dict.fromkeys((*usual, -(-there.size // count))):
        if -(-there.size // length) == count:
            yield length


def _head(bucket: Bucket, there: BlobStat, **params: Any) -> Any:
    with translated(there.key):
        return bucket.client.head_object(Bucket=bucket.name, Key=there.key, **params)


def _compute(path: Path, length: int) -> _Checksums:
    """What the object's checksums are if it is the file, cut into parts of `length` bytes."""
    md5s = hashlib.md5(usedforsecurity=False)
    sha256s = hashlib.sha256()
    count = 0
    with file_errors(""), path.open("rb") as file:
        while chunk := file.read(min(CHUNK, length)):
            md5 = hashlib.md5(chunk, usedforsecurity=False)
            sha256 = hashlib.sha256(chunk)
            left = length - len(chunk)
            while left and (chunk := file.read(min(CHUNK, left))):
                md5.update(chunk)
                sha256.update(chunk)
                left -= len(chunk)
            md5s.update(md5.digest())
            sha256s.update(sha256.digest())
            count += 1
    return _Checksums(
        f"{md5s.hexdigest()}-{count}",
        base64.b64encode(sha256s.digest()).decode(),
    )
