"""Probing what an S3 store supports, with requests that it must refuse.

Every probe has two halves: the right request must be accepted and the wrong one refused. A store
that refuses both does not know the header, and one that accepts both ignores it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, Final

from botocore.exceptions import ClientError

from cas.storage.base import Denied, StoreError, Unreachable
from cas.storage.s3.client import Bucket, status_of, to_base64

log = logging.getLogger(__name__)

_BYTES: Final = b"bytes that are what they are said to be\n"
_MD5: Final = to_base64(hashlib.md5(_BYTES, usedforsecurity=False).digest())
_SHA256: Final = to_base64(hashlib.sha256(_BYTES).digest())
_WRONG: Final = hashlib.sha256(b"other bytes").digest()
_WRONG_ETAG: Final = f'"{hashlib.md5(b"other bytes", usedforsecurity=False).hexdigest()}"'


class CapabilityProbes:
    """Probes capabilities on objects below `prefix` of one bucket."""

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._used: set[str] = set()

    def run(self) -> dict[str, bool]:
        """Every capability of FALLBACKS, probed.

        Raises Unreachable, and Denied if nothing may be written below the prefix.
        """
        try:
            etag = self._send("put_object", "source", Body=_BYTES)["ETag"]
            sha256 = self._put("sha256", ChecksumSHA256=_SHA256) and not self._put(
                "sha256-wrong", ChecksumSHA256=to_base64(_WRONG)
            )
            return {
                "content_md5": self._put("md5", ContentMD5=_MD5)
                and not self._put("md5-wrong", ContentMD5=to_base64(_WRONG[:16])),
                "checksum_sha256": sha256,
                "if_none_match": self._put("new", IfNoneMatch="*")
                and not self._put("source", IfNoneMatch="*"),
                "complete_if_none_match": self._complete("completed")
                and not self._complete("completed"),
                "copy_if_match": self._copy("copy", etag)
                and not self._copy("copy-wrong", _WRONG_ETAG),
                # Not onto itself, which is refused for another reason.
                "copy_if_none_match": self._copy("copy-new", etag, IfNoneMatch="*")
                and not self._copy("copy", etag, IfNoneMatch="*"),
                "part_copy_if_match": self._part_copy(etag),
                "copy_checksum": self._copy_checksum(),
                "stored_checksum": sha256 and self._stored_checksum(),
            }
        finally:
            self._clean_up()

    def _put(self, name: str, **params: Any) -> bool:
        return self._accepted("put_object", name, Body=_BYTES, **params) is not None

    def _copy(self, name: str, etag: str, **params: Any) -> bool:
        params = {"CopySource": self._source, "CopySourceIfMatch": etag, **params}
        return self._accepted("copy_object", name, **params) is not None

    def _complete(self, name: str) -> bool:
        """Complete an upload to a key that must be free."""
        upload = self._bucket.begin_upload(self._key(name))
        part: dict[str, Any] = {"UploadId": upload, "PartNumber": 1}
        etag = self._bucket.request("upload_part", self._key(name), Body=_BYTES, **part)["ETag"]
        accepted = self._accepted(
            "complete_multipart_upload",
            name,
            UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]},
            IfNoneMatch="*",
        )
        if accepted is None:
            self._bucket.give_up_upload(self._key(name), upload)
        return accepted is not None

    def _part_copy(self, etag: str) -> bool:
        upload = self._bucket.begin_upload(self._key("parts"))
        part = {"UploadId": upload, "PartNumber": 1, "CopySource": self._source}

        def accepted(etag: str) -> bool:
            answer = self._accepted("upload_part_copy", "parts", **part, CopySourceIfMatch=etag)
            return answer is not None

        try:
            return accepted(etag) and not accepted(_WRONG_ETAG)
        finally:
            self._bucket.give_up_upload(self._key("parts"), upload)

    def _copy_checksum(self) -> bool:
        """Whether the store computes a copy's checksum: the source was stored without any."""
        answer = self._accepted(
            "copy_object", "copy-checksum", CopySource=self._source, ChecksumAlgorithm="SHA256"
        )
        return bool((answer or {}).get("CopyObjectResult", {}).get("ChecksumSHA256") == _SHA256)

    def _stored_checksum(self) -> bool:
        """Whether the store gives back the checksum that it checked when it took the object."""
        answer = self._accepted("head_object", "sha256", ChecksumMode="ENABLED")
        return bool((answer or {}).get("ChecksumSHA256") == _SHA256)

    def _accepted(self, operation: str, name: str, **params: Any) -> Mapping[str, Any] | None:
        """The answer, or None if the request was refused.

        Raises Denied or Unreachable, which prove nothing about the capability.
        """
        try:
            return self._send(operation, name, **params)
        except StoreError as error:
            cause = error.__cause__
            # A store that always fails internally at some header does not support it, either.
            failed = isinstance(cause, ClientError) and status_of(cause) == 500
            if isinstance(error, (Denied, Unreachable)) and not failed:
                raise
            return None

    def _send(self, operation: str, name: str, **params: Any) -> Mapping[str, Any]:
        if operation in ("put_object", "copy_object"):
            params = {**self._bucket.extra, **params}
        answer: Mapping[str, Any] = self._bucket.request(operation, self._key(name), **params)
        return answer

    @property
    def _source(self) -> dict[str, str]:
        return {"Bucket": self._bucket.bucket_name, "Key": self._prefix + "source"}

    def _key(self, name: str) -> str:
        self._used.add(self._prefix + name)
        return self._prefix + name

    def _clean_up(self) -> None:
        for key in sorted(self._used):
            try:
                self._bucket.request("delete_object", key)
            except StoreError as error:
                log.warning("a probe's object stays behind: %s: %s", key, error)
