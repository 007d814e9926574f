"""Making a blob be there: from a staged file, or from another object of the bucket."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cas.digest import CHUNK, Digest, Hasher
from cas.storage.base import (
    Absent,
    BlobStat,
    Changed,
    Corrupt,
    CutShort,
    Ingested,
    OnBytes,
    OnDigest,
    Outcome,
    Proofs,
    Staged,
    Unreachable,
    refuse_other_size,
)
from cas.storage.disk_files import translated as file_errors
from cas.storage.quarantine import Examined, healed
from cas.storage.s3.body import ObjectStream
from cas.storage.s3.bucket import Bucket, read_whole
from cas.storage.s3.errors import Conflict, translated
from cas.storage.s3.parts import matches
from cas.storage.s3.transfer import Written, copy, upload

log = logging.getLogger(__name__)

LOOKS: Final = 5
"""Times to look again when others write the same key at the same moment."""


Examine = Callable[[Digest], Examined]
"""Reads a blob and copies wrong bytes aside; see `cas.storage.quarantine`."""


@dataclass(frozen=True, slots=True)
class Target:
    """A blob that is to be there, and how to tell whether it is.

    `md5` is of its bytes where it is known, `path` a file that has them where there is one.
    """

    digest: Digest
    size: int
    md5: bytes | None
    path: Path | None
    proofs: Proofs
    examine: Examine


def create(bucket: Bucket, staged: Staged, proofs: Proofs, examine: Examine) -> Outcome:
    """Raises Corrupt if the staged file or what was stored is not what was hashed."""
    key = staged.digest.key
    target = Target(staged.digest, staged.size, staged.md5, staged.path, proofs, examine)
    for _ in _looks():
        there = bucket.find(key)
        try:
            if there and _sound(bucket, there, target):
                return Outcome.PRESENT
            with translated(key):
                written = upload(bucket, staged, replaced=there)
            if not _confirmed(bucket, target, written):
                continue
        except (Changed, Conflict):
            # Refused because somebody else was first, or overwritten while it was looked at.
            # What counts is what is there now.
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
    expected_size: int | None,
    proofs: Proofs,
    examine: Examine,
    look_first: bool,
) -> Ingested:
    """One download to hash and one copy in the store.

    No download if the store holds a checksum it can be believed; with `look_first` that is asked
    for before. No copy if the store cannot be trusted to copy the version that was read: then
    the download is kept and uploaded.
    """
    blob = bucket.head(source) if look_first else None
    if blob is not None:
        refuse_other_size(blob, expected_size)
    if blob is not None and blob.sha256 and _can_copy(bucket, blob.size):
        digest, md5, head = blob.sha256, blob.md5, None
    else:
        with bucket.get(source) as stream:
            blob = stream.blob
            refuse_other_size(blob, expected_size)
            if not _can_copy(bucket, blob.size):
                return _carry(bucket, stream, staging, on_bytes, on_digest, proofs, examine)
            if blob.sha256:
                digest, md5, head = blob.sha256, blob.md5, None
            else:
                # SHA-256 alone if the store will tell the copy's; otherwise MD5 is what its ETag
                # can be compared with.
                with_md5 = not bucket.guards.honours("copy_checksum")
                hasher = read_whole(stream, on_bytes, with_md5=with_md5)
                digest, md5 = hasher.digest, hasher.md5 if with_md5 else blob.md5
                head = hasher.head
    if on_digest:
        on_digest(digest)
    target = Target(digest, blob.size, md5, None, proofs, examine)
    return Ingested(digest, blob.size, blob, _copied(bucket, blob, target), head)


def _copied(bucket: Bucket, source: BlobStat, target: Target) -> Outcome:
    """Have the store copy the object to its digest, unless its bytes are proven to be there."""
    key = target.digest.key
    told = bucket.guards.honours("copy_if_none_match")
    for look in _looks():
        # A store that refuses to copy over an object need not be asked for it first. Parts are
        # refused only when all have been copied.
        blind = told and look == 0 and source.size <= bucket.sizes.copy_threshold
        there = None if blind else bucket.find(key)
        try:
            if there and _sound(bucket, there, target):
                return Outcome.PRESENT
            with translated(source.key):
                written = copy(bucket, source, key, replaced=there)
            if not _confirmed(bucket, target, written):
                continue
        except Conflict:
            continue
        except Changed:
            # For what is at the target, or because the source is another version by now.
            if not blind and bucket.head(source.key).etag != source.etag:
                raise
            continue
        _verify_copy(bucket, target.digest, target.md5, written)
        return _outcome(key, there)
    raise Unreachable("others keep writing this key", key=key)


def _carry(
    bucket: Bucket,
    stream: ObjectStream,
    staging: Path,
    on_bytes: OnBytes | None,
    on_digest: OnDigest | None,
    proofs: Proofs,
    examine: Examine,
) -> Ingested:
    """Download the object to a file and store that."""
    path = staging / f"incoming-{uuid.uuid4().hex}"
    try:
        hasher = Hasher()
        try:
            with file_errors(stream.blob.key), path.open("xb") as sink:
                while chunk := stream.read(CHUNK):
                    hasher.update(chunk)
                    sink.write(chunk)
                    if on_bytes:
                        on_bytes(len(chunk))
        except CutShort as error:
            raise Unreachable(str(error), key=error.key) from error
        if stream.blob.md5 not in (None, hasher.md5):
            raise Corrupt("the bytes read are not those of the ETag", key=stream.blob.key)
        staged = Staged(path, hasher.digest, hasher.md5, hasher.size)
        if on_digest:
            on_digest(staged.digest)
        outcome = create(bucket, staged, proofs, examine)
    finally:
        with file_errors(stream.blob.key):
            path.unlink(missing_ok=True)
    return Ingested(staged.digest, staged.size, stream.blob, outcome, hasher.head)


def _looks() -> Iterator[int]:
    for attempt in range(LOOKS):
        if attempt:
            time.sleep(0.02 * 2**attempt)
        yield attempt


def _can_copy(bucket: Bucket, size: int) -> bool:
    one_request = size <= bucket.sizes.copy_threshold
    return bucket.guards.honours("copy_if_match" if one_request else "part_copy_if_match")


def _told(bucket: Bucket, there: BlobStat, target: Target) -> bool | None:
    """What the store's own words prove: that these are the bytes, others, or (None) nothing."""
    if there.size != target.size or there.sha256 not in (None, target.digest):
        return False
    if there.md5 is not None and target.md5 is not None:
        return there.md5 == target.md5
    if there.sha256 is not None:
        return True
    return True if target.path and matches(bucket, there, target.path) else None


def _sound(bucket: Bucket, there: BlobStat, target: Target) -> bool:
    """Whether the object that is there has the blob's bytes. Wrong ones are copied aside."""
    told = _told(bucket, there, target)
    if told or (told is None and target.proofs.hold(there)):
        return True
    try:
        examined = target.examine(target.digest)
    except Absent:
        return False
    if examined.aside:
        return False
    target.proofs.record(examined.blob)
    return True


def _confirmed(bucket: Bucket, target: Target, written: Written) -> bool:
    """Whether an object that was found after an unclear answer has the bytes that were sent."""
    if written.found is None:
        return True
    told = _told(bucket, written.found, target)
    return _read_back(bucket, target.digest) if told is None else told


def _outcome(key: str, replaced: BlobStat | None) -> Outcome:
    if replaced is None:
        return Outcome.STORED
    healed(key)
    return Outcome.HEALED


def _verify_upload(bucket: Bucket, staged: Staged, written: Written) -> None:
    if written.found is not None:
        return
    if written.md5 is not None:
        right = written.md5 == staged.md5
    elif bucket.guards.honours("content_md5") or bucket.guards.honours("checksum_sha256"):
        right = True
    else:
        right = _read_back(bucket, staged.digest)
    if not right:
        _discard(bucket, staged.digest, written)


def _verify_copy(bucket: Bucket, digest: Digest, md5: bytes | None, written: Written) -> None:
    if written.found is not None:
        return
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
