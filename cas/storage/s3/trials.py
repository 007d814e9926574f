"""Trying an S3 store's guards with bytes that it must refuse.

Every trial has two halves: the right request must be accepted and the wrong one refused. A store
that refuses both does not know the header, and one that accepts both does not look at it.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from botocore.exceptions import ClientError

from cas.storage.base import StoreError
from cas.storage.s3.errors import code_of, meaning, status_of, translated

log = logging.getLogger(__name__)

FALLBACKS: Final[Mapping[str, str]] = {
    "content_md5": "what was stored is compared by its ETag, or read back and hashed",
    "checksum_sha256": "no SHA-256 checksum is sent; Content-MD5 or the ETag has to do",
    "if_none_match": "an object is looked for right before it is written (HEAD, then PUT)",
    "complete_if_none_match": "an object is looked for before a multipart upload is completed",
    "copy_if_none_match": "an object is looked for right before it is copied (HEAD, then COPY)",
    "copy_if_match": "migrated objects are downloaded and uploaded, not copied in the store",
    "part_copy_if_match": "objects too large for one copy are downloaded and uploaded",
    "copy_checksum": "copies are compared by their ETag, or read back and hashed",
    "stored_checksum": "objects are always downloaded to learn their digest",
}

_BYTES: Final = b"bytes that are what they are said to be\n"
_WRONG: Final = hashlib.sha256(b"other bytes").digest()
_WRONG_ETAG: Final = f'"{hashlib.md5(b"other bytes", usedforsecurity=False).hexdigest()}"'


class Trials:
    """Tries guards on objects below `prefix` of one bucket. `extra` goes with every write."""

    def __init__(self, client: Any, bucket: str, prefix: str, extra: Mapping[str, Any]) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._extra = dict(extra)
        self._keys: list[str] = []

    def run(self) -> dict[str, bool]:
        """Every guard of FALLBACKS, tried. Raises Unreachable, and Denied if nothing may be
        written below the prefix."""
        sha256 = hashlib.sha256(_BYTES).digest()
        md5 = hashlib.md5(_BYTES, usedforsecurity=False).digest()
        try:
            with translated(self._prefix):
                source = self._key("source")
                etag = self._client.put_object(**self._put(source))["ETag"]
                results = {
                    "content_md5": self._refuses(
                        self._client.put_object,
                        self._put(self._key("md5"), ContentMD5=_base64(md5)),
                        self._put(self._key("md5-wrong"), ContentMD5=_base64(_WRONG[:16])),
                    ),
                    "checksum_sha256": self._refuses(
                        self._client.put_object,
                        self._put(self._key("sha256"), ChecksumSHA256=_base64(sha256)),
                        self._put(self._key("sha256-wrong"), ChecksumSHA256=_base64(_WRONG)),
                    ),
                    "if_none_match": self._refuses(
                        self._client.put_object,
                        self._put(self._key("new"), IfNoneMatch="*"),
                        self._put(source, IfNoneMatch="*"),
                    ),
                    "complete_if_none_match": self._complete(self._key("completed")),
                    "copy_if_match": self._refuses(
                        self._client.copy_object,
                        self._copy(self._key("copy"), source, etag),
                        self._copy(self._key("copy-wrong"), source, _WRONG_ETAG),
                    ),
                    "copy_if_none_match": self._refuses(
                        self._client.copy_object,
                        self._copy(self._key("copy-new"), source, etag, IfNoneMatch="*"),
                        # Not onto itself, which is refused for another reason.
                        self._copy(self._key("copy"), source, etag, IfNoneMatch="*"),
                    ),
                    "part_copy_if_match": self._part_copy(source, etag),
                    "copy_checksum": self._copy_checksum(source, _base64(sha256)),
                }
                results["stored_checksum"] = results["checksum_sha256"] and self._stored(
                    self._key("sha256"), _base64(sha256)
                )
                return results
        finally:
            self._clean_up()

    def _key(self, name: str) -> str:
        key = self._prefix + name
        if key not in self._keys:
            self._keys.append(key)
        return key

    def _put(self, key: str, **params: Any) -> dict[str, Any]:
        return {**self._extra, "Bucket": self._bucket, "Key": key, "Body": _BYTES, **params}

    def _copy(self, key: str, source: str, etag: str, **params: Any) -> dict[str, Any]:
        return {
            **self._extra,
            "Bucket": self._bucket,
            "Key": key,
            "CopySource": {"Bucket": self._bucket, "Key": source},
            "CopySourceIfMatch": etag,
            **params,
        }

    def _refuses(
        self, call: Callable[..., Any], right: Mapping[str, Any], wrong: Mapping[str, Any]
    ) -> bool:
        return self._accepted(call, right) and not self._accepted(call, wrong)

    def _accepted(self, call: Callable[..., Any], params: Mapping[str, Any]) -> bool:
        """Whether the store acted. Raises where its answer says nothing about the guard."""
        try:
            call(**params)
        except ClientError as error:
            # A store that always fails internally at some header does not honour it, either;
            # one that asks to be asked later has not answered the question.
            broken = status_of(error) == 500
            if not broken and meaning(code_of(error), status_of(error)).code in (
                "denied",
                "unreachable",
            ):
                raise
            return False
        return True

    def _complete(self, key: str) -> bool:
        """Complete two uploads to one key: the first must succeed, the second not."""
        return self._completes(key) and not self._completes(key)

    def _completes(self, key: str) -> bool:
        upload = self._client.create_multipart_upload(Bucket=self._bucket, Key=key, **self._extra)[
            "UploadId"
        ]
        names = {"Bucket": self._bucket, "Key": key, "UploadId": upload}
        etag = self._client.upload_part(**names, PartNumber=1, Body=_BYTES)["ETag"]
        parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
        accepted = self._accepted(
            self._client.complete_multipart_upload,
            {**names, "MultipartUpload": parts, "IfNoneMatch": "*"},
        )
        if not accepted:
            self._abort(names)
        return accepted

    def _part_copy(self, source: str, etag: str) -> bool:
        key = self._key("parts")
        upload = self._client.create_multipart_upload(Bucket=self._bucket, Key=key, **self._extra)[
            "UploadId"
        ]
        names = {"Bucket": self._bucket, "Key": key, "UploadId": upload}
        part = {
            **names,
            "PartNumber": 1,
            "CopySource": {"Bucket": self._bucket, "Key": source},
        }
        try:
            return self._refuses(
                self._client.upload_part_copy,
                {**part, "CopySourceIfMatch": etag},
                {**part, "CopySourceIfMatch": _WRONG_ETAG},
            )
        finally:
            self._abort(names)

    def _copy_checksum(self, source: str, expected: str) -> bool:
        """Whether the store computes a copy's checksum: the source was stored without any."""
        key = self._key("copy-checksum")
        params = self._copy(key, source, "")
        del params["CopySourceIfMatch"]
        found: dict[str, Any] = {}

        def copy(**params: Any) -> None:
            found.update(self._client.copy_object(**params).get("CopyObjectResult", {}))

        return (
            self._accepted(copy, {**params, "ChecksumAlgorithm": "SHA256"})
            and found.get("ChecksumSHA256") == expected
        )

    def _stored(self, key: str, expected: str) -> bool:
        """Whether the store gives back the checksum that it checked when it took the object."""
        found: dict[str, Any] = {}

        def head(**params: Any) -> None:
            found.update(self._client.head_object(**params))

        params = {"Bucket": self._bucket, "Key": key, "ChecksumMode": "ENABLED"}
        return self._accepted(head, params) and found.get("ChecksumSHA256") == expected

    def _abort(self, names: Mapping[str, Any]) -> None:
        try:
            self._client.abort_multipart_upload(**names)
        except ClientError as error:
            log.warning("a trial's multipart upload stays behind: %s", error)

    def _clean_up(self) -> None:
        for key in self._keys:
            try:
                with translated(key):
                    self._client.delete_object(Bucket=self._bucket, Key=key)
            except StoreError as error:
                log.warning("a trial's object stays behind: %s: %s", key, error)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
