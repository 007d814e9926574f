"""Requests that write an object of a bucket, from a staged file or from another object.

An object that is larger than one request may be goes in parts, which are hashed and sent from the
file, so memory stays flat.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from s3transfer.utils import ReadFileChunk

from cas.digest import CHUNK, Digest, Hasher
from cas.storage.base import (
    Absent,
    BlobStat,
    Corrupt,
    Denied,
    Staged,
    StoreError,
    Unreachable,
    file_errors,
)
from cas.storage.s3.client import MIB, Bucket, Conflict, Resent, md5_of, sha256_of, to_base64

log = logging.getLogger(__name__)

MOST_PARTS: Final = 10_000
"""Parts of one multipart upload, S3's limit."""


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
        if staged.size > bucket.multipart_threshold:
            return _upload_parts(bucket, staged, body, replaced)
        return _write(
            bucket,
            "put_object",
            key,
            staged.size,
            replaced,
            checked=_checks_uploads(bucket),
            Body=body,
            **_checksums(bucket, staged.md5, staged.digest),
            **_condition(bucket, "if_none_match", replaced),
            **bucket.extra,
        )


def copy(bucket: Bucket, source: BlobStat, key: str, replaced: BlobStat | None) -> Written:
    """Copy the version `source` of an object to `key`, within the store.

    In place of `replaced` and of nothing else, where the store supports the condition. Where it
    does not, no harm is done below `cas/`: the source's bytes hash to the name of the target, so
    whatever is replaced is either the same bytes or a damaged object.
    """
    version: dict[str, Any] = {
        "CopySource": {"Bucket": bucket.bucket_name, "Key": source.key},
        "CopySourceIfMatch": f'"{source.etag}"',
    }
    if source.size > bucket.copy_threshold:
        return _copy_parts(bucket, source, key, version, replaced)
    return _write(
        bucket,
        "copy_object",
        key,
        source.size,
        replaced,
        about=source.key,
        MetadataDirective="REPLACE",
        **version,
        **_condition(bucket, "copy_if_none_match", replaced),
        **_algorithm(bucket, "copy_checksum"),
        **bucket.extra,
    )


def _write(
    bucket: Bucket,
    operation: str,
    key: str,
    size: int,
    replaced: BlobStat | None,
    *,
    checked: bool = False,
    **params: Any,
) -> Written:
    """Send a request that puts an object of `size` bytes in place, and say what was written.

    An answer without an ETag, a failure that may have come after the write, and a refusal that
    may be due to an earlier sending of the same request all leave open whether the object was
    written. Then a HEAD of the key decides: it was if an object of this size is there that is not
    `replaced`. Raises what the request raised if it was not.
    """
    try:
        answer = bucket.request(operation, key, **params)
        result = answer.get("CopyObjectResult") or ({} if operation == "copy_object" else answer)
        if etag := _etag(result):
            # The ETag of an object of parts is none, whatever it looks like.
            of_parts = "MultipartUpload" in params
            md5 = None if of_parts else md5_of({**answer, "ETag": etag})
            computed = "ChecksumAlgorithm" in params and result.get("ChecksumSHA256")
            return Written(etag, md5, sha256_of(computed) if computed else None, checked)
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
    return bucket.supports("content_md5") or bucket.supports("checksum_sha256")


def _checksums(bucket: Bucket, md5: bytes, sha256: Digest) -> dict[str, Any]:
    checksums = {"ContentMD5": to_base64(md5)}
    if bucket.supports("checksum_sha256"):
        checksums["ChecksumSHA256"] = to_base64(sha256.raw)
    return checksums


def _algorithm(bucket: Bucket, capability: str) -> dict[str, Any]:
    return {"ChecksumAlgorithm": "SHA256"} if bucket.supports(capability) else {}


def _condition(bucket: Bucket, capability: str, replaced: BlobStat | None) -> dict[str, Any]:
    conditional = not replaced and bucket.supports(capability)
    return {"IfNoneMatch": "*"} if conditional else {}


def _upload_parts(
    bucket: Bucket, staged: Staged, file: BinaryIO, replaced: BlobStat | None
) -> Written:
    key = staged.digest.key

    def send(upload_id: str) -> Iterator[dict[str, Any]]:
        whole = Hasher(with_md5=False)
        for number, start, length in _ranges(staged.size, bucket.part_size):
            file.seek(start)
            section = ReadFileChunk(file, length, staged.size)
            hasher = Hasher()
            while chunk := section.read(CHUNK):
                hasher.update(chunk)
                whole.update(chunk)
            section.seek(0)
            checksums = _checksums(bucket, hasher.md5, hasher.digest)
            answer = bucket.request(
                "upload_part", key, UploadId=upload_id, PartNumber=number, Body=section, **checksums
            )
            if md5_of(answer) not in (None, hasher.md5):
                raise Corrupt("the store holds other bytes than were sent", key=key)
            etag = _etag(answer) or _part_etag(bucket, key, upload_id, number, length)
            checksums.pop("ContentMD5")
            yield {"PartNumber": number, "ETag": etag, **checksums}
        # The store compared each part with this pass over the file, not with the pass that gave
        # the digest: they must have been over the same bytes.
        if whole.digest != staged.digest:
            raise Corrupt("the staged file is not what was hashed", key=key)

    checked = _checks_uploads(bucket)
    algorithm = _algorithm(bucket, "checksum_sha256")
    return _write_parts(bucket, key, staged.size, replaced, send, checked=checked, **algorithm)


def _copy_parts(
    bucket: Bucket,
    source: BlobStat,
    key: str,
    version: Mapping[str, Any],
    replaced: BlobStat | None,
) -> Written:
    def send(upload_id: str) -> Iterator[dict[str, Any]]:
        for number, start, length in _ranges(source.size, bucket.copy_part_size):
            answer = bucket.request(
                "upload_part_copy",
                key,
                about=source.key,
                UploadId=upload_id,
                PartNumber=number,
                CopySourceRange=f"bytes={start}-{start + length - 1}",
                **version,
            )
            etag = _etag(answer.get("CopyPartResult") or {})
            etag = etag or _part_etag(bucket, key, upload_id, number, length)
            yield {"PartNumber": number, "ETag": etag}

    return _write_parts(bucket, key, source.size, replaced, send, checked=False)


def _write_parts(
    bucket: Bucket,
    key: str,
    size: int,
    replaced: BlobStat | None,
    send: Callable[[str], Iterator[dict[str, Any]]],
    *,
    checked: bool,
    **params: Any,
) -> Written:
    """Complete an upload of the parts that `send` sends and describes, given the upload's id.

    The upload is given up if that does not get through.
    """
    upload_id = bucket.begin_upload(key, **params)
    try:
        return _write(
            bucket,
            "complete_multipart_upload",
            key,
            size,
            replaced,
            checked=checked,
            UploadId=upload_id,
            MultipartUpload={"Parts": list(send(upload_id))},
            **_condition(bucket, "complete_if_none_match", replaced),
        )
    except BaseException:
        bucket.give_up_upload(key, upload_id)
        raise


def _ranges(size: int, part: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and length of each part, as few bytes a part as `part` and the limit allow."""
    length = max(part, -(-size // MOST_PARTS))
    for number, start in enumerate(range(0, size, length), 1):
        yield number, start, min(length, size - start)


def _part_etag(bucket: Bucket, key: str, upload_id: str, number: int, length: int) -> str:
    """The ETag of a part whose answer had none. Raises Unreachable if the part is not there."""
    listed = bucket.request(
        "list_parts", key, UploadId=upload_id, PartNumberMarker=number - 1, MaxParts=1
    )
    for part in listed.get("Parts", ()):
        if part["PartNumber"] == number and part["Size"] == length and part.get("ETag"):
            return str(part["ETag"])
    raise Unreachable("the store answered a part without a result", key=key)


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
    if bucket.supports("stored_checksum"):
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
    usual = (bucket.part_size, bucket.copy_part_size, *USUAL_LENGTHS)
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
