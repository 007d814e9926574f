"""Writing objects of a bucket: blobs from a staged file or from another object, and plain copies.

In reading order: making a blob be there, proving it, and the requests that write it. An object
that is larger than one request may be goes in parts, which are hashed and sent from the file, so
memory stays flat.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from s3transfer.utils import ReadFileChunk

from cas.digest import CHUNK, Digest, Hasher, hash_stream
from cas.storage.base import (
    Absent,
    BlobStat,
    BlobStore,
    Changed,
    Corrupt,
    CutShort,
    Denied,
    Ingested,
    OnBytes,
    OnDigest,
    Outcome,
    Proofs,
    Staged,
    StoreError,
    Unreachable,
    compare,
    file_errors,
    refuse_other_size,
)
from cas.storage.quarantine import ATTEMPTS, healed, is_sound
from cas.storage.s3.client import (
    MIB,
    Bucket,
    Conflict,
    ObjectStream,
    Resent,
    md5_of,
    sha256_of,
    to_base64,
)
from cas.storage.staging import copy_hashed

log = logging.getLogger(__name__)

MOST_PARTS: Final = 10_000
"""Parts of one multipart upload, S3's limit."""


@dataclass(frozen=True, slots=True)
class Target:
    """A blob that is to be in `store`, and how to tell whether it is.

    `md5` is of its bytes where it is known, `path` a file that has them where there is one.
    """

    store: BlobStore
    digest: Digest
    size: int
    md5: bytes | None
    path: Path | None
    proofs: Proofs


@dataclass(frozen=True, slots=True)
class Written:
    """An object that was just written, as far as the store's answer proves anything.

    `md5` is the object's where its ETag is one; `sha256` where the store computed it. `checked`
    says whether the store compared the bytes with a checksum that was sent along. `found` is the
    object that was at the key after an unclear answer: nothing is proven of it yet.
    """

    etag: str
    md5: bytes | None = None
    sha256: Digest | None = None
    checked: bool = False
    found: BlobStat | None = None


def create(store: BlobStore, bucket: Bucket, staged: Staged, proofs: Proofs) -> Outcome:
    """Raises Corrupt if the staged file or what was stored is not what was hashed."""
    target = Target(store, staged.digest, staged.size, staged.md5, staged.path, proofs)
    return _make_present(bucket, target, partial(upload, bucket, staged))


def ingest(
    store: BlobStore,
    bucket: Bucket,
    source: str,
    on_bytes: OnBytes | None,
    on_digest: OnDigest | None,
    *,
    expected_size: int | None,
    proofs: Proofs,
    head_first: bool,
) -> Ingested:
    """One download to hash and one copy in the store.

    No download if the store holds a checksum that it is known to have checked; with `head_first`
    a HEAD finds that out before the GET. No copy if the store does not support copying one
    version alone: then the download is kept and uploaded.
    """
    digest: Digest | None = None
    head: bytes | None = None
    if head_first:
        blob = bucket.head(source)
        refuse_other_size(blob, expected_size)
        if _can_copy(bucket, blob.size):
            digest, md5 = blob.sha256, blob.md5
    if digest is None:
        with bucket.get(source) as stream:
            blob = stream.blob
            if expected_size not in (None, blob.size):
                # An answer that was cut short on its way states too few bytes; the store knows.
                refuse_other_size(bucket.head(source), expected_size)
                raise Changed("the store gave another size with the bytes", key=source)
            if not _can_copy(bucket, blob.size):
                return _download_and_create(store, bucket, stream, on_bytes, on_digest, proofs)
            digest, md5 = blob.sha256, blob.md5
            if digest is None:
                # SHA-256 alone if the store will state the copy's; otherwise MD5 is what the
                # copy's ETag can be compared with.
                with_md5 = not bucket.capabilities.supports("copy_checksum")
                hasher = read_whole(stream, on_bytes, with_md5=with_md5)
                digest, md5 = hasher.digest, hasher.md5 if with_md5 else blob.md5
                head = hasher.head
    if on_digest:
        on_digest(digest)
    target = Target(store, digest, blob.size, md5, None, proofs)
    return Ingested(digest, blob.size, blob, _copy_to_target(bucket, blob, target), head)


def _can_copy(bucket: Bucket, size: int) -> bool:
    one_request = size <= bucket.sizes.copy_threshold
    return bucket.capabilities.supports("copy_if_match" if one_request else "part_copy_if_match")


def _copy_to_target(bucket: Bucket, source: BlobStat, target: Target) -> Outcome:
    # A store that refuses to copy over an object needs no HEAD before. Parts are refused only
    # when all have been copied.
    conditional = bucket.capabilities.supports("copy_if_none_match")
    return _make_present(
        bucket,
        target,
        partial(copy, bucket, source, target.digest.key),
        source=source,
        head_first=not conditional or source.size > bucket.sizes.copy_threshold,
    )


def _download_and_create(
    store: BlobStore,
    bucket: Bucket,
    stream: ObjectStream,
    on_bytes: OnBytes | None,
    on_digest: OnDigest | None,
    proofs: Proofs,
) -> Ingested:
    path = store.staging_dir / f"incoming-{uuid.uuid4().hex}"
    try:
        hasher = read_whole(stream, on_bytes, path=path)
        staged = Staged(path, hasher.digest, hasher.md5, hasher.size)
        if on_digest:
            on_digest(staged.digest)
        outcome = create(store, bucket, staged, proofs)
    finally:
        with file_errors(stream.blob.key):
            path.unlink(missing_ok=True)
    return Ingested(staged.digest, staged.size, stream.blob, outcome, hasher.head)


def read_whole(
    stream: ObjectStream,
    on_bytes: OnBytes | None,
    *,
    with_md5: bool = True,
    path: Path | None = None,
) -> Hasher:
    """Hash the object behind `stream`, and write it to the new file `path` if that is given.

    Raises Unreachable if the answer ends early, which says nothing about the object, and Corrupt
    if the bytes are not those of the MD5 that the store states.
    """
    key = stream.blob.key
    try:
        with file_errors(key):
            if path:
                hasher = copy_hashed(stream, path, on_bytes, with_md5=with_md5)
            else:
                hasher = hash_stream(stream, on_bytes, with_md5=with_md5)
    except CutShort as error:
        raise Unreachable(str(error), key=key) from error
    if with_md5 and stream.blob.md5 not in (None, hasher.md5):
        raise Corrupt("the bytes read are not those of the ETag", key=key)
    return hasher


def _make_present(
    bucket: Bucket,
    target: Target,
    put: Callable[[BlobStat | None], Written],
    *,
    source: BlobStat | None = None,
    head_first: bool = True,
) -> Outcome:
    """Have `put` write the target in place of the object that is there, unless that is sound.

    `source` is the object that is copied, if one is. Without `head_first`, the first attempt
    relies on the store to refuse what is taken.
    """
    key = target.digest.key
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(0.02 * 2**attempt)
        blind = not head_first and attempt == 0
        there = None if blind else bucket.find(key)
        try:
            if there and _is_sound(bucket, there, target):
                return Outcome.PRESENT
            if _is_right(bucket, target, put(there)):
                return healed(key) if there else Outcome.STORED
        except Conflict:
            continue
        except Changed:
            # Another writer was first, so what it wrote counts; or the source is another version.
            if source and not blind and bucket.head(source.key).etag != source.etag:
                raise
    raise Unreachable("others keep writing this key", key=key)


def _is_sound(bucket: Bucket, there: BlobStat, target: Target) -> bool:
    """Whether the object that is there has the blob's bytes. Wrong ones are copied aside."""
    proven = _proven(bucket, there, target)
    try:
        return is_sound(target.store, target.digest, there, proven, target.proofs)
    except Absent:
        return False


def _proven(bucket: Bucket, there: BlobStat, target: Target) -> bool | None:
    """As `compare`; the checksums of an object of parts are compared with the file, if any."""
    proven = compare(there, target.digest, target.size, target.md5)
    if proven is None and target.path and matches(bucket, there, target.path):
        return True
    return proven


def _is_right(bucket: Bucket, target: Target, written: Written) -> bool:
    """Whether the target was written.

    False if the answer was unclear and other bytes are there. Raises Corrupt if what was written
    is known to be wrong; then it is deleted again.
    """
    if written.found is not None:
        proven = _proven(bucket, written.found, target)
        return _reads_right(bucket, target.digest) if proven is None else proven
    if written.sha256 is not None:
        right = written.sha256 == target.digest
    elif written.md5 is not None and target.md5 is not None:
        right = written.md5 == target.md5
    else:
        right = written.checked or _reads_right(bucket, target.digest)
    if not right:
        _discard(bucket, target.digest.key, written)
    return right


def _reads_right(bucket: Bucket, digest: Digest) -> bool:
    with bucket.get(digest.key) as stream:
        return read_whole(stream, None, with_md5=False).digest == digest


def _discard(bucket: Bucket, key: str, written: Written) -> None:
    """Delete what we just wrote and know to be wrong, unless it was overwritten already.

    Raises Corrupt.
    """
    there = bucket.find(key)
    if there and there.etag == written.etag.strip('"'):
        log.error("what was stored at %s is not what was sent; it is removed", key)
        # If it was healed meanwhile, a store that supports the condition leaves it.
        with contextlib.suppress(Changed):
            bucket.request("delete_object", key, IfMatch=written.etag)
    raise Corrupt("the store kept other bytes than it was given", key=key)


def upload(bucket: Bucket, staged: Staged, replaced: BlobStat | None) -> Written:
    """Put the staged bytes at their key, in place of `replaced` and of nothing else.

    A store that supports checksums refuses bytes that are not those that were hashed. Raises
    Corrupt if that is seen here: the file has another length, or other bytes.
    """
    key = staged.digest.key
    try:
        with file_errors(key):
            body = staged.path.open("rb")
    except Absent as error:
        raise Corrupt("the staged file is gone", key=key) from error
    with file_errors(key), body:
        if os.fstat(body.fileno()).st_size != staged.size:
            raise Corrupt("the staged file is not as long as what was hashed", key=key)
        if staged.size > bucket.sizes.multipart_threshold:
            return _upload_parts(bucket, staged, body, replaced)
        checked = _checks_uploads(bucket)
        return _write(
            bucket,
            "put_object",
            key,
            staged.size,
            replaced,
            lambda answer: Written(_etag(answer), md5=md5_of(answer), checked=checked),
            Body=body,
            **_checksums(bucket, staged.md5, staged.digest.raw),
            **_condition(bucket, "if_none_match", replaced),
            **bucket.extra,
        )


def copy(bucket: Bucket, source: BlobStat, key: str, replaced: BlobStat | None) -> Written:
    """Copy the version `source` of an object to `key`, within the store.

    In place of `replaced` and of nothing else, where the store supports the condition. Where it
    does not, no harm is done below `cas/`: the source's bytes hash to the name of the target, so
    whatever is replaced is either the same bytes or a damaged object.
    """
    version = {
        "CopySource": {"Bucket": bucket.name, "Key": source.key},
        "CopySourceIfMatch": f'"{source.etag}"',
    }
    if source.size > bucket.sizes.copy_threshold:
        return _copy_parts(bucket, source, key, version, replaced)
    with_sha256 = bucket.capabilities.supports("copy_checksum")

    def read(answer: Mapping[str, Any]) -> Written:
        result = answer.get("CopyObjectResult") or {}
        md5 = md5_of({**answer, "ETag": _etag(result)})
        stated = result.get("ChecksumSHA256") if with_sha256 else None
        return Written(_etag(result), md5, sha256_of(stated) if stated else None)

    return _write(
        bucket,
        "copy_object",
        key,
        source.size,
        replaced,
        read,
        about=source.key,
        MetadataDirective="REPLACE",
        **version,
        **_condition(bucket, "copy_if_none_match", replaced),
        **({"ChecksumAlgorithm": "SHA256"} if with_sha256 else {}),
        **bucket.extra,
    )


def _write(
    bucket: Bucket,
    operation: str,
    key: str,
    size: int,
    replaced: BlobStat | None,
    read: Callable[[Mapping[str, Any]], Written],
    **params: Any,
) -> Written:
    """Send a request that puts an object of `size` bytes in place, and say what was written.

    An answer without an ETag, a failure that may have come after the write, and a refusal that
    may be due to an earlier sending of the same request all leave open whether the object was
    written. Then a HEAD of the key decides: it was if an object of this size is there that is not
    `replaced`. Raises what the request raised if it was not.
    """
    try:
        written = read(bucket.request(operation, key, **params))
        if written.etag:
            return written
        unclear: StoreError = Unreachable("the store answered without a result", key=key)
    except (Unreachable, Resent) as error:
        if isinstance(error, Conflict):
            raise
        unclear = error
    there = bucket.find(key)
    if there is None or there.size != size or (replaced and replaced.etag == there.etag):
        raise unclear
    log.info("%s is there after an unclear answer: %s", key, unclear)
    return Written(there.etag, found=there)


def _etag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag") or "")


def _checks_uploads(bucket: Bucket) -> bool:
    """Whether the store compares what it is sent with one of the checksums that go along."""
    supports = bucket.capabilities.supports
    return supports("content_md5") or supports("checksum_sha256")


def _checksums(bucket: Bucket, md5: bytes, sha256: bytes) -> dict[str, str]:
    checksums = {"ContentMD5": to_base64(md5)}
    if bucket.capabilities.supports("checksum_sha256"):
        checksums["ChecksumSHA256"] = to_base64(sha256)
    return checksums


def _condition(bucket: Bucket, capability: str, replaced: BlobStat | None) -> dict[str, str]:
    conditional = not replaced and bucket.capabilities.supports(capability)
    return {"IfNoneMatch": "*"} if conditional else {}


def _upload_parts(
    bucket: Bucket, staged: Staged, file: BinaryIO, replaced: BlobStat | None
) -> Written:
    key = staged.digest.key
    whole = Hasher(with_md5=False)
    algorithm = bucket.capabilities.supports("checksum_sha256")
    with _multipart(bucket, key, **({"ChecksumAlgorithm": "SHA256"} if algorithm else {})) as id_:
        parts: list[dict[str, Any]] = []
        for number, (start, length) in enumerate(_ranges(staged.size, bucket.sizes.part_size), 1):
            file.seek(start)
            section = ReadFileChunk(file, length, staged.size)
            hasher = Hasher()
            while chunk := section.read(CHUNK):
                hasher.update(chunk)
                whole.update(chunk)
            section.seek(0)
            checksums = _checksums(bucket, hasher.md5, hasher.digest.raw)
            answer = bucket.request(
                "upload_part", key, UploadId=id_, PartNumber=number, Body=section, **checksums
            )
            if md5_of(answer) not in (None, hasher.md5):
                raise Corrupt("the store holds other bytes than were sent", key=key)
            etag = _etag(answer) or _part_etag(bucket, key, id_, number, length)
            checksums.pop("ContentMD5")
            parts.append({"PartNumber": number, "ETag": etag, **checksums})
        # The store compared each part with this pass over the file, not with the pass that gave
        # the digest: they must have been over the same bytes.
        if whole.digest != staged.digest:
            raise Corrupt("the staged file is not what was hashed", key=key)
        checked = _checks_uploads(bucket)
        return _complete(bucket, key, id_, parts, staged.size, replaced, checked=checked)


def _copy_parts(
    bucket: Bucket,
    source: BlobStat,
    key: str,
    version: Mapping[str, Any],
    replaced: BlobStat | None,
) -> Written:
    with _multipart(bucket, key) as id_:
        parts: list[dict[str, Any]] = []
        ranges = _ranges(source.size, bucket.sizes.copy_part_size)
        for number, (start, length) in enumerate(ranges, 1):
            answer = bucket.request(
                "upload_part_copy",
                key,
                about=source.key,
                UploadId=id_,
                PartNumber=number,
                CopySourceRange=f"bytes={start}-{start + length - 1}",
                **version,
            )
            etag = _etag(answer.get("CopyPartResult") or {})
            etag = etag or _part_etag(bucket, key, id_, number, length)
            parts.append({"PartNumber": number, "ETag": etag})
        return _complete(bucket, key, id_, parts, source.size, replaced, checked=False)


@contextlib.contextmanager
def _multipart(bucket: Bucket, key: str, **params: Any) -> Iterator[str]:
    """The id of a multipart upload; it is given up if the block does not get through."""
    upload_id = bucket.begin_upload(key, **params)
    try:
        yield upload_id
    except BaseException:
        bucket.give_up_upload(key, upload_id)
        raise


def _ranges(size: int, part: int) -> Iterator[tuple[int, int]]:
    """Start and length of each part, as few bytes a part as `part` and the limit allow."""
    length = max(part, -(-size // MOST_PARTS))
    for start in range(0, size, length):
        yield start, min(length, size - start)


def _part_etag(bucket: Bucket, key: str, upload_id: str, number: int, length: int) -> str:
    """The ETag of a part whose answer had none. Raises Unreachable if the part is not there."""
    listed = bucket.request(
        "list_parts", key, UploadId=upload_id, PartNumberMarker=number - 1, MaxParts=1
    )
    for part in listed.get("Parts", ()):
        if part["PartNumber"] == number and part["Size"] == length and part.get("ETag"):
            return str(part["ETag"])
    raise Unreachable("the store answered a part without a result", key=key)


def _complete(
    bucket: Bucket,
    key: str,
    upload_id: str,
    parts: list[dict[str, Any]],
    size: int,
    replaced: BlobStat | None,
    *,
    checked: bool,
) -> Written:
    return _write(
        bucket,
        "complete_multipart_upload",
        key,
        size,
        replaced,
        lambda answer: Written(_etag(answer), checked=checked),
        UploadId=upload_id,
        MultipartUpload={"Parts": parts},
        **_condition(bucket, "complete_if_none_match", replaced),
    )


USUAL_LENGTHS: Final = tuple(n * MIB for n in (5, 8, 10, 15, 16, 25, 32, 50, 64, 100, 128, 256))
"""Lengths that clients in wide use cut uploads into."""


def matches(bucket: Bucket, there: BlobStat, path: Path) -> bool:
    """Whether the object of parts that is there is proven to be the file at `path`.

    Such an object has neither an MD5 nor a SHA-256 of its bytes. Its ETag is mostly the MD5 of
    its parts' MD5s, and it may have a SHA-256 of its parts' SHA-256s. Both can be computed from
    the file once the length of a part is known. False proves nothing: the parts may have been cut
    otherwise, and where objects are encrypted the ETag may be no MD5. Raises StoreError.
    """
    _, dash, count = there.etag.partition("-")
    if not dash or not count.isdecimal() or not 0 < int(count) <= MOST_PARTS:
        return False
    stated = ""
    if bucket.capabilities.supports("stored_checksum"):
        answer = bucket.request("head_object", there.key, ChecksumMode="ENABLED")
        # With the number of parts behind it, or without.
        stated = str(answer.get("ChecksumSHA256", "")).partition("-")[0]
    for length in _lengths(bucket, there, int(count)):
        etag, sha256 = _checksums_of_parts(path, length)
        if there.etag == etag or stated == sha256:
            return True
    return False


def _lengths(bucket: Bucket, there: BlobStat, count: int) -> Iterator[int]:
    """Possible lengths of all parts but the last: what the store states, else what is usual."""
    try:
        answer = bucket.request("head_object", there.key, PartNumber=1)
    except (Absent, Denied, Unreachable):
        raise
    except StoreError as error:
        log.info("the length of the parts of %s is not known: %s", there.key, error)
        answer = {"ContentLength": there.size}
    first = int(answer["ContentLength"])
    if answer.get("PartsCount") == count or first < there.size or count == 1:
        yield first
        return
    usual = (bucket.sizes.part_size, bucket.sizes.copy_part_size, *USUAL_LENGTHS)
    for length in dict.fromkeys((*usual, -(-there.size // count))):
        if -(-there.size // length) == count:
            yield length


def _checksums_of_parts(path: Path, length: int) -> tuple[str, str]:
    """ETag and SHA-256 of an object that is the file, cut into parts of `length` bytes."""
    md5s = hashlib.md5(usedforsecurity=False)
    sha256s = hashlib.sha256()
    count = 0
    with file_errors(""), path.open("rb") as file:
        while chunk := file.read(min(CHUNK, length)):
            part = Hasher()
            part.update(chunk)
            while chunk := file.read(min(CHUNK, length - part.size)):
                part.update(chunk)
            md5s.update(part.md5)
            sha256s.update(part.digest.raw)
            count += 1
    return f"{md5s.hexdigest()}-{count}", to_base64(sha256s.digest())
