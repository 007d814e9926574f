"""Making a blob be there: from a staged file, or from another object of the bucket."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cas.digest import CHUNK, Digest, Hasher
from cas.storage.base import (
    BlobStat,
    Changed,
    Corrupt,
    Ingested,
    OnBytes,
    OnDigest,
    Outcome,
    Staged,
    StoreFull,
    Unreachable,
)
from cas.storage.s3.body import ObjectStream
from cas.storage.s3.bucket import Bucket, read_whole
from cas.storage.s3.errors import Conflict, CutShort, translated
from cas.storage.s3.transfer import Written, copy, upload

log = logging.getLogger(__name__)

LOOKS: Final = 5
"""Times to look again when others write the same key at the same moment."""


def create(bucket: Bucket, staged: Staged) -> Outcome:
    """Raises Corrupt if the staged file or what was stored is not what was hashed."""
    key = staged.digest.key
    for _ in _looks():
        there = bucket.find(key)
        if there and _fits(there, staged.digest, staged.size):
            return Outcome.PRESENT
        try:
            with translated(key):
                written = upload(bucket, staged, replace=there is not None)
        except (Changed, Conflict):
            # Refused because somebody else was first, or because our own first attempt was,
            # whose answer got lost. What counts is what is there now.
            continue
        _verify_upload(bucket, staged, written)
        return _outcome(key, there)
    raise Unreachable("others keep writing this key", key=key)


def ingest(
    bucket: Bucket,
    source: str,
    staging: Path,
    on_bytes: OnBytes | None,
    on_digest: OnDigest | None,
) -> Ingested:
    """One download to hash and one copy in the store.

    No download if the store holds a checksum it can be believed, and no copy if it cannot be
    trusted to copy the version that was read: then the download is kept and uploaded.
    """
    with bucket.get(source) as stream:
        blob = stream.blob
        if not _can_copy(bucket, blob.size):
            return _carry(bucket, stream, staging, on_bytes, on_digest)
        if blob.sha256:
            digest, md5 = blob.sha256, stream.md5
        else:
            # SHA-256 alone if the store will tell the copy's; otherwise MD5 is what its ETag
            # can be compared with.
            with_md5 = not bucket.guards.honours("copy_checksum")
            hasher = read_whole(stream, on_bytes, with_md5=with_md5)
            digest, md5 = hasher.digest, hasher.md5 if with_md5 else None
    if on_digest:
        on_digest(digest)
    key = digest.key
    for _ in _looks():
        there = bucket.find(key)
        if there and _fits(there, digest, blob.size):
            return Ingested(digest, blob.size, blob, Outcome.PRESENT)
        try:
            with translated(source):
                written = copy(bucket, blob, key)
        except Conflict:
            continue
        _verify_copy(bucket, digest, md5, written)
        return Ingested(digest, blob.size, blob, _outcome(key, there))
    raise Unreachable("others keep writing this key", key=key)


def _carry(
    bucket: Bucket,
    stream: ObjectStream,
    staging: Path,
    on_bytes: OnBytes | None,
    on_digest: OnDigest | None,
) -> Ingested:
    """Download the object to a file and store that."""
    path = staging / f"incoming-{uuid.uuid4().hex}"
    try:
        hasher = Hasher()
        try:
            with path.open("xb") as sink:
                while chunk := stream.read(CHUNK):
                    hasher.update(chunk)
                    sink.write(chunk)
                    if on_bytes:
                        on_bytes(len(chunk))
        except CutShort as error:
            raise Unreachable(str(error), key=error.key) from error
        except OSError as error:
            raise StoreFull(
                f"the object could not be staged: {error}", key=stream.blob.key
            ) from error
        if stream.md5 not in (None, hasher.md5):
            raise Corrupt("the bytes read are not those of the ETag", key=stream.blob.key)
        staged = Staged(path, hasher.digest, hasher.md5, hasher.size)
        if on_digest:
            on_digest(staged.digest)
        outcome = create(bucket, staged)
    finally:
        path.unlink(missing_ok=True)
    return Ingested(staged.digest, staged.size, stream.blob, outcome)


def _looks() -> Iterator[int]:
    for attempt in range(LOOKS):
        if attempt:
            time.sleep(0.02 * 2**attempt)
        yield attempt


def _can_copy(bucket: Bucket, size: int) -> bool:
    one_request = size <= bucket.sizes.copy_threshold
    return bucket.guards.honours("copy_if_match" if one_request else "part_copy_if_match")


def _fits(there: BlobStat, digest: Digest, size: int) -> bool:
    return there.size == size and there.sha256 in (None, digest)


def _outcome(key: str, replaced: BlobStat | None) -> Outcome:
    if replaced is None:
        return Outcome.STORED
    log.warning("healed %s: another object of %d bytes was there", key, replaced.size)
    return Outcome.HEALED


def _verify_upload(bucket: Bucket, staged: Staged, written: Written) -> None:
    if written.md5 is not None:
        right = written.md5 == staged.md5
    elif bucket.guards.honours("content_md5") or bucket.guards.honours("checksum_sha256"):
        right = True
    else:
        right = _read_back(bucket, staged.digest)
    if not right:
        _discard(bucket, staged.digest, written)


def _verify_copy(bucket: Bucket, digest: Digest, md5: bytes | None, written: Written) -> None:
    if written.sha256 is not None:
        right = written.sha256 == digest.raw
    elif written.md5 is not None and md5 is not None:
        right = written.md5 == md5
    else:
        right = _read_back(bucket, digest)
    if not right:
        _discard(bucket, digest, written)


def _read_back(bucket: Bucket, digest: Digest) -> bool:
    with bucket.get(digest.key) as stream:
        return read_whole(stream, None, with_md5=False).digest == digest


def _discard(bucket: Bucket, digest: Digest, written: Written) -> None:
    """Take back what we just wrote and know to be wrong, unless it was overwritten already.

    Left there, its size would make the next writer believe it. Raises Corrupt.
    """
    there = bucket.find(digest.key)
    if there and there.etag == written.etag.strip('"'):
        log.error("what was stored at %s is not what was sent; it is removed", digest.key)
        with translated(digest.key):
            bucket.client.delete_object(Bucket=bucket.name, Key=digest.key)
    raise Corrupt("the store kept other bytes than it was given", key=digest.key)
