"""One bucket as it is read, and the terms on which it is written."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from cas.digest import Digest, Hasher, hash_stream
from cas.storage.base import Absent, BlobStat, ByteRange, Corrupt, CutShort, OnBytes, Unreachable
from cas.storage.guards import Guards
from cas.storage.s3.body import ObjectStream
from cas.storage.s3.errors import code_of, translated


@dataclass(frozen=True, slots=True)
class Sizes:
    """In bytes. Objects larger than a threshold go in parts of about the part size."""

    upload_threshold: int
    upload_part: int
    copy_threshold: int
    copy_part: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket and what is known of it. `extra` goes with every request that creates."""

    client: Any
    name: str
    extra: Mapping[str, Any]
    sizes: Sizes
    guards: Guards

    def head(self, key: str) -> BlobStat:
        """Raises Absent."""
        answer = self._ask(self._head, key, self._checksum_mode())
        return self._describe(key, answer, int(answer["ContentLength"]))

    def find(self, key: str) -> BlobStat | None:
        """What is at `key`, if anything is."""
        try:
            return self.head(key)
        except Absent:
            return None

    def get(self, key: str, byte_range: ByteRange | None = None) -> ObjectStream:
        """A stream of the object or of the range. Raises Absent, and Corrupt if the object does
        not have the bytes asked for."""
        if byte_range is None:
            answer = self._ask(self.client.get_object, key, self._checksum_mode())
            length = size = int(answer["ContentLength"])
        else:
            asked = {"Range": f"bytes={byte_range.start}-{byte_range.stop - 1}"}
            answer = self._ask(self.client.get_object, key, asked)
            length, size = byte_range.stop - byte_range.start, _total(answer)
            if int(answer["ContentLength"]) != length or byte_range.stop > size:
                answer["Body"].close()
                raise Corrupt(f"the object has {size} bytes, not the range", key=key)
        return ObjectStream(answer["Body"], length, self._describe(key, answer, size))

    def _head(self, **params: Any) -> Any:
        """HEAD, and where it is refused GET, whose answer has a body that says why."""
        try:
            return self.client.head_object(**params)
        except ClientError as error:
            if code_of(error) not in ("400", "403"):
                raise
            with contextlib.suppress(BotoCoreError):
                named = {"Bucket": self.name, "Key": params["Key"]}
                self.client.get_object(**named, Range="bytes=0-0")["Body"].close()
            raise

    def _ask(self, call: Callable[..., Any], key: str, params: Mapping[str, Any]) -> Any:
        if not 0 < len(key.encode(errors="surrogateescape")) <= 1024 or "\0" in key:
            raise Absent("this can be no key of an object", key=key)
        with translated(key):
            return call(Bucket=self.name, Key=key, **params)

    def _checksum_mode(self) -> dict[str, str]:
        return {"ChecksumMode": "ENABLED"} if self.guards.honours("stored_checksum") else {}

    def _describe(self, key: str, answer: Mapping[str, Any], size: int) -> BlobStat:
        etag = str(answer["ETag"]).strip('"')
        sha256 = self._sha256(answer, etag)
        return BlobStat(key, size, answer["LastModified"], etag, sha256, md5_of(answer))

    def _sha256(self, answer: Mapping[str, Any], etag: str) -> Digest | None:
        """The checksum of the whole object: that of one made of parts is one of checksums."""
        said = str(answer.get("ChecksumSHA256", ""))
        of_parts = "-" in said or "-" in etag or answer.get("ChecksumType") == "COMPOSITE"
        if not said or of_parts or not self.guards.honours("stored_checksum"):
            return None
        try:
            return Digest(base64.b64decode(said, validate=True).hex())
        except (binascii.Error, ValueError):
            return None


def read_whole(stream: ObjectStream, on_bytes: OnBytes | None, *, with_md5: bool) -> Hasher:
    """Hash the object behind `stream`.

    Raises Unreachable if the answer ends early, which says nothing about the object, and Corrupt
    if the bytes are not those the store says it holds.
    """
    try:
        hasher = hash_stream(stream, on_bytes, with_md5=with_md5)
    except CutShort as error:
        raise Unreachable(str(error), key=error.key) from error
    if with_md5 and stream.blob.md5 not in (None, hasher.md5):
        raise Corrupt("the bytes read are not those of the ETag", key=stream.blob.key)
    return hasher


def md5_of(answer: Mapping[str, Any]) -> bytes | None:
    """The MD5 that an answer's ETag is, or None where an ETag is something else.

    It is for objects that were written in one request and are not encrypted with a key of
    their own.
    """
    etag = str(answer.get("ETag", "")).strip('"')
    encryption = str(answer.get("ServerSideEncryption", ""))
    if encryption.startswith("aws:kms") or answer.get("SSECustomerAlgorithm"):
        return None
    return bytes.fromhex(etag) if re.fullmatch("[0-9a-f]{32}", etag) else None


def _total(answer: Mapping[str, Any]) -> int:
    """The object's size from Content-Range (RFC 9110, 14.4); 0 if the range was ignored."""
    _, _, total = str(answer.get("ContentRange", "")).partition("/")
    return int(total) if total.isdecimal() else 0
