"""What a strict S3 checks before it acts, and moto does not.

Each check can be switched off by name, as stores in wide use lack it:

content_md5             refuse bytes that are not what Content-MD5 says
checksum_sha256         refuse bytes that are not what x-amz-checksum-sha256 says
if_none_match           refuse PutObject over an existing object if the condition is sent
complete_if_none_match  the same for CompleteMultipartUpload
copy_if_match           refuse to copy a source whose ETag is another one
copy_if_none_match      refuse CopyObject over an existing object if the condition is sent
part_copy_if_match      the same for UploadPartCopy
if_match                refuse to read or delete another version than the condition names
copy_checksum           compute the checksum of a copy whose request names an algorithm
batch_limit             refuse to delete more than 1,000 keys at a time

More names switch misbehaviour on: get_object_attributes (answers 500), checksums_rejected
(refuses every request that carries a checksum header, as older stores do), part_number (answers a
HEAD for one part with the whole object's size) and opaque_etags (no ETag says anything about the
bytes, as where a key service encrypts them).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

ETagOf = Callable[[str, str], str | None]
"""(bucket, key) -> the object's quoted ETag, or None if there is none."""


@dataclass
class S3Request:
    """One request, parsed as far as checks and faults need it."""

    operation: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: dict[str, str]
    """Names in lower case. Those of checks that are switched off never reach moto."""
    body: bytes
    method: str = ""
    path: str = ""
    raw_query: str = ""


@dataclass(frozen=True)
class Refusal:
    status: int
    code: str
    message: str


@dataclass
class Checks:
    ignored: set[str] = field(default_factory=set)

    def refusal(self, request: S3Request, etag_of: ETagOf) -> Refusal | None:
        """Why this request is refused, if it is. Call under the store's lock."""
        if request.operation == "GetObjectAttributes" and "get_object_attributes" in self.ignored:
            return Refusal(500, "InternalError", "We encountered an internal error.")
        if "checksums_rejected" in self.ignored and _carries_checksum(request.headers):
            return Refusal(501, "NotImplemented", "A header you provided is not implemented.")
        return (
            self._wrong_md5(request)
            or self._wrong_sha256(request)
            or self._taken(request, etag_of)
            or self._other_source(request, etag_of)
            or self._other_version(request, etag_of)
            or self._too_many(request)
        )

    def _wrong_md5(self, request: S3Request) -> Refusal | None:
        claimed = request.headers.get("content-md5")
        if not claimed or "content_md5" in self.ignored:
            return None
        actual = base64.b64encode(hashlib.md5(request.body, usedforsecurity=False).digest())
        if claimed.encode() == actual:
            return None
        return Refusal(400, "BadDigest", "The Content-MD5 you specified did not match.")

    def _wrong_sha256(self, request: S3Request) -> Refusal | None:
        claimed = request.headers.get("x-amz-checksum-sha256")
        if not claimed or "checksum_sha256" in self.ignored:
            return None
        if request.operation not in ("PutObject", "UploadPart"):
            return None
        if claimed.encode() == base64.b64encode(hashlib.sha256(request.body).digest()):
            return None
        return Refusal(400, "BadDigest", "The SHA256 you specified did not match.")

    def _taken(self, request: S3Request, etag_of: ETagOf) -> Refusal | None:
        names = {
            "PutObject": "if_none_match",
            "CompleteMultipartUpload": "complete_if_none_match",
            "CopyObject": "copy_if_none_match",
        }
        name = names.get(request.operation)
        if not name or request.headers.get("if-none-match") != "*":
            return None
        if name in self.ignored:
            del request.headers["if-none-match"]
            return None
        if etag_of(request.bucket, request.key) is None:
            return None
        return Refusal(412, "PreconditionFailed", "At least one precondition did not hold.")

    def _other_source(self, request: S3Request, etag_of: ETagOf) -> Refusal | None:
        names = {"CopyObject": "copy_if_match", "UploadPartCopy": "part_copy_if_match"}
        name = names.get(request.operation)
        wanted = request.headers.get("x-amz-copy-source-if-match")
        if not name or not wanted or name in self.ignored:
            return None
        if _same(wanted, etag_of(*copy_source(request))):
            return None
        return Refusal(412, "PreconditionFailed", "The source is another version.")

    def _other_version(self, request: S3Request, etag_of: ETagOf) -> Refusal | None:
        if request.operation not in ("GetObject", "DeleteObject", "HeadObject"):
            return None
        wanted = request.headers.pop("if-match", None)
        if not wanted or "if_match" in self.ignored:
            return None
        if _same(wanted, etag_of(request.bucket, request.key)):
            return None
        return Refusal(412, "PreconditionFailed", "The object is another version.")

    def _too_many(self, request: S3Request) -> Refusal | None:
        if request.operation != "DeleteObjects" or "batch_limit" in self.ignored:
            return None
        if request.body.count(b"<Key>") <= 1000:
            return None
        return Refusal(400, "MalformedXML", "The XML you provided was not well-formed.")


def copy_source(request: S3Request) -> tuple[str, str]:
    """Bucket and key that a copy reads."""
    path = unquote(request.headers["x-amz-copy-source"].partition("?")[0])
    bucket, _, key = path.lstrip("/").partition("/")
    return bucket, key


def _same(wanted: str, actual: str | None) -> bool:
    return actual is not None and wanted.strip('"') == actual.strip('"')


def _carries_checksum(headers: Mapping[str, str]) -> bool:
    return any(
        (name.startswith("x-amz-checksum-") and name != "x-amz-checksum-mode")
        or name in ("x-amz-trailer", "x-amz-sdk-checksum-algorithm")
        for name in headers
    )
