"""Making a blob be there: from a staged file, or from another object of the bucket."""

from __future__ import annotations

import contextlib
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
    CutShort,
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
from cas.storage.s3.errors import Conflict, translated
from cas.storage.s3.transfer import Written, copy, upload

log = logging.getLogger(__name__)

LOOKS: Final = 5
"""Times to look again when others write the same key at the same moment."""


def create(bucket: Bucket, staged: Staged) -> Outcome:
    """Raises Corrupt if the staged file or what was stored is not what was hashed."""
    key = staged.digest.key
    for _ in _looks():
        there = bucket.find(key)
        if there and _fits(there, staged.digest, staged.size, staged.md5):
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
    *,
    look_first: bool,
) -> Ingested:
    """One download to hash and one copy in the store.

    No download if the store holds a checksum it can be believed; with `look_first` that is asked
    for before. No copy if the store cannot be trusted to copy the version that was read: then
    the download is kept and uploaded.
    """
    blob = bucket.head(source) if look_first else None
    if blob is not None and blob.sha256 and _can_copy(bucket, blob.size):
        digest, md5 = blob.sha256, blob.md5
    else:
        with bucket.get(source) as stream:
            blob = stream.blob
            if not _can_copy(bucket, blob.size):
                return _carry(bucket, stream, staging, on_bytes, on_digest)
            if blob.sha256:
                digest, md5 = blob.sha256, blob.md5
            else:
                # SHA-256 alone if the store will tell the copy's; otherwise MD5 is what its ETag
                # can be compared with.
                with_md5 = not bucket.guards.honours("copy_checksum")
                hasher = read_whole(stream, on_bytes, with_md5=with_md5)
                digest, md5 = hasher.digest, hasher.md5 if with_md5 else blob.md5
    if on_digest:
        on_digest(digest)
    return Ingested(digest, blob.size, blob, _copied(bucket, blob, digest, md5))


def _copied(bucket: Bucket, source: BlobStat, digest: Digest, md5: bytes | None) -> Outcome:
    """Have the store copy the object to its digest, unless its bytes are proven to be there."""
    key = digest.key
    told = bucket.guards.honours("copy_if_none_match")
    for look in _looks():
        # A store that refuses to copy over an object need not be asked for it first. Parts are
        # refused only when all have been copied.
        blind = told and look == 0 and source.size <= bucket.sizes.copy_threshold
        there = None if blind else bucket.find(key)
        if there and _proven(bucket, there, digest, source.size, md5):
            return Outcome.PRESENT
        try:
            with translated(source.key):
                written = copy(bucket, source, key, replace=there is not None)
        except Conflict:
            continue
        except Changed:
            # For what is at the target, or because the source is another version by now.
            if not blind and bucket.head(source.key).etag != source.etag:
                raise
            continue
        _verify_copy(bucket, digest, md5, written)
        return _outcome(key, there)
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
        if stream.blob.md5 not in (None, hasher.md5):
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


def _fits(there: BlobStat, digest: Digest, size: int, md5: bytes | None) -> bool:
    """Whether nothing that the store tells of the object speaks against its being the blob."""
    if there.size != size or there.sha256 not in (None, digest):
        return False
    return there.md5 is None or md5 is None or there.md5 == md5


def _proven(bucket: Bucket, there: BlobStat, digest: Digest, size: int, md5: bytes | None) -> bool:
    if not _fits(there, digest, size, md5):
        return False
    told = there.sha256 is not None or (there.md5 is not None and md5 is not None)
    return told or _read_back(bucket, digest)


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
        # If it was healed since we looked, a store that knows the condition leaves it.
        with contextlib.suppress(Changed), translated(digest.key):
            bucket.client.delete_object(Bucket=bucket.name, Key=digest.key, IfMatch=written.etag)
    raise Corrupt("the store kept other bytes than it was given", key=digest.key)
