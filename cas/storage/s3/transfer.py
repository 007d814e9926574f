"""Getting bytes to a key of a bucket: uploads from a file, copies within the bucket.

Both in one request, or in parts where the object is larger than one request may be. Parts are
hashed and sent from the file, so memory stays flat. These functions raise what botocore raises;
the store translates.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Final

from botocore.exceptions import BotoCoreError, ClientError

from cas.digest import CHUNK, Hasher
from cas.storage.base import Absent, BlobStat, Corrupt, Staged, Unreachable
from cas.storage.disk_files import translated as file_errors
from cas.storage.s3.body import FileSection
from cas.storage.s3.bucket import Bucket, md5_of
from cas.storage.s3.errors import Conflict, Resent, code_of, translate

log = logging.getLogger(__name__)

MOST_PARTS: Final = 10_000
"""Parts of one multipart upload, S3's limit."""


@dataclass(frozen=True, slots=True)
class Written:
    """What the store said of an object it just wrote, as far as it proves anything.

    `md5` is the object's where its ETag is one; `sha256` where the store computed it. `found` is
    the object that a look showed after an answer that said neither yes nor no: nothing is proven
    of it yet.
    """

    etag: str
    md5: bytes | None = None
    sha256: bytes | None = None
    found: BlobStat | None = None


def upload(bucket: Bucket, staged: Staged, *, replaced: BlobStat | None) -> Written:
    """Put the staged bytes at their key, in place of `replaced` and of nothing else.

    A store whose guards work refuses bytes that are not those that were hashed. Raises Corrupt
    if that is seen here: the file has another length, or other bytes.
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
        if staged.size > bucket.sizes.upload_threshold:
            return _upload_parts(bucket, staged, body, replaced)
        return _write(
            partial(
                bucket.client.put_object,
                Bucket=bucket.name,
                Key=key,
                Body=body,
                **_checks(bucket, staged.md5, staged.digest.raw),
                **_condition(bucket, "if_none_match", replaced),
                **bucket.extra,
            ),
            lambda answer: Written(str(answer.get("ETag", "")), md5_of(answer)),
            Expected(bucket, key, staged.size, replaced),
        )


def copy(bucket: Bucket, source: BlobStat, key: str, *, replaced: BlobStat | None) -> Written:
    """Copy the version `source` of an object to `key`, within the store.

    In place of `replaced` and of nothing else, where the store can be told. Where it cannot, no
    harm is done: the source's bytes hash to the name of the target, so whatever is replaced, by
    itself or in a race, is either the same bytes or a damaged object.
    """
    guard = {
        "CopySource": {"Bucket": bucket.name, "Key": source.key},
        "CopySourceIfMatch": f'"{source.etag}"',
    }
    if source.size > bucket.sizes.copy_threshold:
        return _copy_parts(bucket, source, key, guard, replaced)
    wants_sum = bucket.guards.honours("copy_checksum")

    def read(answer: Mapping[str, Any]) -> Written:
        result = answer.get("CopyObjectResult") or {}
        etag = str(result.get("ETag", ""))
        claimed = result.get("ChecksumSHA256") if wants_sum else None
        md5 = md5_of({**answer, "ETag": etag})
        return Written(etag, md5, base64.b64decode(claimed) if claimed else None)

    return _write(
        partial(
            bucket.client.copy_object,
            Bucket=bucket.name,
            Key=key,
            MetadataDirective="REPLACE",
            **guard,
            **_condition(bucket, "copy_if_none_match", replaced),
            **({"ChecksumAlgorithm": "SHA256"} if wants_sum else {}),
            **bucket.extra,
        ),
        read,
        Expected(bucket, key, source.size, replaced),
    )


@dataclass(frozen=True, slots=True)
class Expected:
    """What is at `key` if a write was carried out: an object of `size`, and not `replaced`."""

    bucket: Bucket
    key: str
    size: int
    replaced: BlobStat | None


def _write(
    request: Callable[[], Any], read: Callable[[Any], Written], expected: Expected
) -> Written:
    """Send a request that puts an object in place, and say what was written.

    An answer without an ETag, a failure that may have come after the deed, and a refusal that
    may be due to an earlier sending of the same request all leave open whether the object was
    written. A look at the key decides. Raises what the request raised if it was not.
    """
    try:
        written = read(request())
        if written.etag:
            return written
        unclear: Exception = Unreachable("the store answered without a result", key=expected.key)
    except (ClientError, BotoCoreError) as error:
        meant = translate(error, expected.key)
        if isinstance(meant, Conflict) or not isinstance(meant, Unreachable | Resent):
            raise
        unclear = error
    there = expected.bucket.find(expected.key)
    replaced = expected.replaced
    if there is None or there.size != expected.size or (replaced and replaced.etag == there.etag):
        raise unclear
    log.info("%s is there after an unclear answer: %s", expected.key, unclear)
    return Written(there.etag, found=there)


def _checks(bucket: Bucket, md5: bytes, sha256: bytes) -> dict[str, str]:
    checks = {"ContentMD5": base64.b64encode(md5).decode()}
    if bucket.guards.honours("checksum_sha256"):
        checks["ChecksumSHA256"] = base64.b64encode(sha256).decode()
    return checks


def _condition(bucket: Bucket, guard: str, replaced: BlobStat | None) -> dict[str, str]:
    return {} if replaced or not bucket.guards.honours(guard) else {"IfNoneMatch": "*"}


def _upload_parts(
    bucket: Bucket, staged: Staged, file: BinaryIO, replaced: BlobStat | None
) -> Written:
    key = staged.digest.key
    whole = Hasher(with_md5=False)
    with _multipart(bucket, key, checksums=True) as names:
        parts: list[dict[str, Any]] = []
        for number, (start, length) in enumerate(_ranges(staged.size, bucket.sizes.upload_part), 1):
            section = FileSection(file, start, length)
            hasher = Hasher()
            while chunk := section.read(CHUNK):
                hasher.update(chunk)
                whole.update(chunk)
            section.seek(0)
            checks = _checks(bucket, hasher.md5, hasher.digest.raw)
            answer = bucket.client.upload_part(**names, PartNumber=number, Body=section, **checks)
            _refuse_damage(answer, hasher.md5, key)
            etag = answer.get("ETag") or _part_etag(bucket, names, number, length)
            part = {"PartNumber": number, "ETag": etag}
            if "ChecksumSHA256" in checks:
                part["ChecksumSHA256"] = checks["ChecksumSHA256"]
            parts.append(part)
        # The store saw each part checked against this pass over the file, not against the pass
        # that gave the digest: they must have been over the same bytes.
        if whole.digest != staged.digest:
            raise Corrupt("the staged file is not what was hashed", key=key)
        return _complete(bucket, names, parts, staged.size, replaced)


def _copy_parts(
    bucket: Bucket,
    source: BlobStat,
    key: str,
    guard: Mapping[str, Any],
    replaced: BlobStat | None,
) -> Written:
    with _multipart(bucket, key, checksums=False) as names:
        parts: list[dict[str, Any]] = []
        for number, (start, length) in enumerate(_ranges(source.size, bucket.sizes.copy_part), 1):
            answer = bucket.client.upload_part_copy(
                **names,
                PartNumber=number,
                CopySourceRange=f"bytes={start}-{start + length - 1}",
                **guard,
            )
            result = answer.get("CopyPartResult") or {}
            etag = result.get("ETag") or _part_etag(bucket, names, number, length)
            parts.append({"PartNumber": number, "ETag": etag})
        return _complete(bucket, names, parts, source.size, replaced)


def _part_etag(bucket: Bucket, names: Mapping[str, Any], number: int, length: int) -> str:
    """The ETag of a part whose answer had none. Raises Unreachable if the part is not there."""
    listed = bucket.client.list_parts(**names, PartNumberMarker=number - 1, MaxParts=1)
    for part in listed.get("Parts", ()):
        if part["PartNumber"] == number and part["Size"] == length and part.get("ETag"):
            return str(part["ETag"])
    raise Unreachable("the store answered a part without a result", key=names["Key"])


def _complete(
    bucket: Bucket,
    names: Mapping[str, Any],
    parts: list[dict[str, Any]],
    size: int,
    replaced: BlobStat | None,
) -> Written:
    return _write(
        partial(
            bucket.client.complete_multipart_upload,
            **names,
            MultipartUpload={"Parts": parts},
            **_condition(bucket, "complete_if_none_match", replaced),
        ),
        lambda answer: Written(str(answer.get("ETag", ""))),
        Expected(bucket, str(names["Key"]), size, replaced),
    )


@contextlib.contextmanager
def _multipart(bucket: Bucket, key: str, *, checksums: bool) -> Iterator[dict[str, Any]]:
    """A multipart upload; its parts are given back if the block does not get through."""
    with_sums = checksums and bucket.guards.honours("checksum_sha256")
    answer = bucket.client.create_multipart_upload(
        Bucket=bucket.name,
        Key=key,
        **({"ChecksumAlgorithm": "SHA256"} if with_sums else {}),
        **bucket.extra,
    )
    names = {"Bucket": bucket.name, "Key": key, "UploadId": answer["UploadId"]}
    try:
        yield names
    except BaseException:
        try:
            bucket.client.abort_multipart_upload(**names)
        except (ClientError, BotoCoreError) as error:
            # An upload that the store does not know any more has left nothing.
            if not (isinstance(error, ClientError) and code_of(error) == "NoSuchUpload"):
                log.warning("an unfinished upload of %s stays for the collector: %s", key, error)
        raise


def _ranges(size: int, part: int) -> Iterator[tuple[int, int]]:
    """Start and length of each part, as few bytes a part as `part` and the limit allow."""
    length = max(part, -(-size // MOST_PARTS))
    for start in range(0, size, length):
        yield start, min(length, size - start)


def _refuse_damage(answer: Mapping[str, Any], md5: bytes, key: str) -> None:
    stored = md5_of(answer)
    if stored is not None and stored != md5:
        raise Corrupt("the store holds other bytes than were sent", key=key)
