"""Trying a bucket: what its service supports, and which operations it permits.

Capabilities are probed with requests that must be refused. Every probe has two halves: the right
request must be accepted and the wrong one refused. A store that refuses both does not know the
header, and one that accepts both ignores it.

Operations are each tried by themselves, as rights may depend on the prefix of a key. Below
`.cas-probe/` everything is really done. Elsewhere an object is written only where it can be deleted
again for good; otherwise an upload is begun and given up, which needs the right to write and leaves
nothing.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import timedelta
from typing import Any, Final

from botocore.exceptions import ClientError

from cas.digest import CAS_PREFIX, Digest
from cas.storage.base import (
    Absent,
    Corrupt,
    Denied,
    Need,
    Preflight,
    StoreError,
    Unreachable,
    Unsupported,
    Versioning,
    Weight,
)
from cas.storage.capabilities import PROBE_PREFIX
from cas.storage.quarantine import NOT_MOVED_ASIDE, QUARANTINE_PREFIX
from cas.storage.s3 import listing
from cas.storage.s3.client import (
    MIB,
    MOST_SKEW,
    Bucket,
    clock_ahead,
    code_of,
    s3_errors,
    status_of,
    to_base64,
)

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
"""By capability of an S3 service: what is done where it lacks it."""

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
        with ExitStack() as unless_completed:
            unless_completed.callback(self._bucket.give_up_upload, self._key(name), upload)
            etag = self._bucket.request("upload_part", self._key(name), Body=_BYTES, **part)["ETag"]
            accepted = self._accepted(
                "complete_multipart_upload",
                name,
                UploadId=upload,
                MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]},
                IfNoneMatch="*",
            )
            if accepted is not None:
                unless_completed.pop_all()
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
            answer: Mapping[str, Any] = self._send(operation, name, **params)
            return answer
        except StoreError as error:
            cause = error.__cause__
            # A store that always fails internally at some header does not support it, either.
            failed = isinstance(cause, ClientError) and status_of(cause) == 500
            if isinstance(error, (Denied, Unreachable)) and not failed:
                raise
            return None

    def _send(self, operation: str, name: str, **params: Any) -> Any:
        if operation in ("put_object", "copy_object"):
            params = {**self._bucket.extra, **params}
        return self._bucket.request(operation, self._key(name), **params)

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


LEGACY_PREFIX: Final = "parts/"
SMALLEST_PART: Final = 5 * MIB
"""What S3 takes of every part but the last."""

_LARGE: Final = "files of more than 64 MiB cannot be stored"
REPLACEABLE, NEEDED, ESSENTIAL = Weight
_NEEDS: Final = (
    Need(
        "put",
        PROBE_PREFIX,
        REPLACEABLE,
        "no capability can be probed, so none is relied on: bytes are read back instead",
    ),
    Need(
        "delete",
        PROBE_PREFIX,
        REPLACEABLE,
        "small objects of probes stay below .cas-probe/; anyone may delete them",
    ),
    Need("multipart", PROBE_PREFIX, NEEDED, _LARGE),
    Need("put", CAS_PREFIX, ESSENTIAL, "nothing can be uploaded or migrated"),
    Need("head", CAS_PREFIX, ESSENTIAL, "nothing can be uploaded, migrated or served"),
    Need("get", CAS_PREFIX, ESSENTIAL, "nothing can be served"),
    Need(
        "list",
        CAS_PREFIX,
        NEEDED,
        "verify_cas, cleanup_legacy_blobs and collect_garbage cannot run",
    ),
    Need("copy", CAS_PREFIX, NEEDED, "migrate_to_cas cannot copy within the store"),
    Need("multipart", CAS_PREFIX, NEEDED, _LARGE),
    Need(
        "abort",
        CAS_PREFIX,
        REPLACEABLE,
        "unfinished uploads stay and take room: have a lifecycle rule of the bucket remove them",
    ),
    Need(
        "list uploads",
        "",
        REPLACEABLE,
        "collect_garbage goes on, but leaves unfinished uploads to a lifecycle rule of the bucket",
    ),
    Need("delete", CAS_PREFIX, NEEDED, "collect_garbage cannot delete"),
    Need("delete many", "", REPLACEABLE, "objects are deleted one by one, a request each"),
    Need("list", LEGACY_PREFIX, NEEDED, "migrate_to_cas and cleanup_legacy_blobs cannot run"),
    Need("get", LEGACY_PREFIX, NEEDED, "migrate_to_cas cannot read old objects"),
    Need("delete", LEGACY_PREFIX, NEEDED, "cleanup_legacy_blobs cannot delete"),
    Need("copy", QUARANTINE_PREFIX, NEEDED, NOT_MOVED_ASIDE),
    Need(
        "read versioning",
        "",
        REPLACEABLE,
        "whether deleting frees room is not known: old versions may stay",
    ),
)
NEEDS: Final = {(need.operation, need.prefix): need for need in _NEEDS}
"""By operation and prefix."""

_EXPIRE: Final = "Have a lifecycle rule of the bucket expire noncurrent versions."
VERSIONS_NOTES: Final[Mapping[Versioning, str]] = {
    Versioning.KEPT: (
        "The bucket keeps versions: what is deleted stays as an old version, and no room is "
        f"freed. {_EXPIRE}"
    ),
    Versioning.SUSPENDED: (
        "The bucket kept versions before: of what was written then, old versions stay when it is "
        f"deleted, and no room is freed. {_EXPIRE}"
    ),
    Versioning.LOCKED: (
        "The bucket has object lock: what is deleted stays as an old version until its retention "
        f"ends, and no room is freed before. {_EXPIRE}"
    ),
}


class BucketPreflight:
    """Tries every need on one bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._send = bucket.request
        self._found: dict[Need, StoreError | None] = {}
        self._notes: list[str] = []
        self._keeps_versions = False
        self._blobs: list[str] = []
        self._body = b"rights are tried " + secrets.token_bytes(20)
        self._name = uuid.uuid4().hex
        self._source = f"{PROBE_PREFIX}{self._name}/source"

    def run(self) -> Preflight:
        """Raises Unreachable, and whatever says that nothing can be tried in this bucket."""
        ahead = self._list_blobs()
        self._try("read versioning", "", self._read_versioning)
        self._try("put", PROBE_PREFIX, self._put, self._source)
        self._try_cas()
        self._try_legacy()
        self._try_quarantine()
        self._try_multipart()
        self._try("list uploads", "", self._send, "list_multipart_uploads", Prefix=CAS_PREFIX)
        self._try("delete many", "", self._delete_many)
        self._try("delete", PROBE_PREFIX, self._send, "delete_object", self._source)
        ordered = {need: self._found[need] for need in NEEDS.values() if need in self._found}
        return Preflight(ordered, ahead, tuple(self._notes))

    def _try(
        self,
        operation: str,
        prefix: str,
        call: Callable[..., Any],
        *arguments: str,
        absent: bool = False,
        **params: Any,
    ) -> Any:
        """Try one need. Returns what `call` returned, None if the need is not met.

        With `absent` there need be no object: finding that out needs the same right.
        """
        need = NEEDS[operation, prefix]
        self._found[need] = None
        try:
            with s3_errors(prefix):
                return call(*arguments, **params)
        except Unreachable:
            raise
        except StoreError as error:
            if not (absent and isinstance(error, Absent)):
                self._found[need] = error
        return None

    def _met(self, operation: str, prefix: str) -> bool:
        return self._found.get(NEEDS[operation, prefix], Absent("")) is None

    def _list_blobs(self) -> timedelta | None:
        """List blobs, because its errors say more than those of a HEAD. Returns `clock_ahead`.

        A missing right to list is no reason not to go on.
        """
        need = NEEDS["list", CAS_PREFIX]
        try:
            answer = self._send("list_objects_v2", Prefix=CAS_PREFIX, MaxKeys=1)
        except StoreError as error:
            cause = error.__cause__
            if not isinstance(cause, ClientError) or not _is_missing_right(cause):
                raise
            self._found[need] = error
            return clock_ahead(cause.response)
        self._found[need] = None
        self._blobs = [item["Key"] for item in answer.get("Contents", ())]
        return clock_ahead(answer)

    def _read_versioning(self) -> None:
        with suppress(Denied, Unsupported):
            if note := VERSIONS_NOTES.get(listing.versioning(self._bucket)):
                self._notes.append(note)
                self._keeps_versions = True
        self._send("get_bucket_versioning")

    def _try_cas(self) -> None:
        key = Digest.of(self._body).key
        self._try("delete", CAS_PREFIX, self._send, "delete_object", key)
        if self._met("delete", CAS_PREFIX) and not self._keeps_versions:
            self._try("put", CAS_PREFIX, self._put, key)
            there = self._met("put", CAS_PREFIX)
            self._try("head", CAS_PREFIX, self._send, "head_object", key, absent=not there)
            self._try("get", CAS_PREFIX, self._get, key, absent=not there)
            if there and self._met("list", CAS_PREFIX):
                self._try("list", CAS_PREFIX, self._find, key)
            if self._met("put", PROBE_PREFIX):
                self._try("copy", CAS_PREFIX, self._copy, key)
            self._try("delete", CAS_PREFIX, self._delete_for_good, key)
        else:
            self._try("put", CAS_PREFIX, self._begin_and_give_up, key)
            # Ceph looks for the object before it looks at the policy: one that is there is taken,
            # if any is.
            there_before = self._blobs[0] if self._blobs else key
            self._try("head", CAS_PREFIX, self._send, "head_object", there_before, absent=True)
            self._try("get", CAS_PREFIX, self._open, there_before, absent=True)
        upload_id = self._try("multipart", CAS_PREFIX, self._bucket.begin_upload, key)
        if upload_id:
            self._try("abort", CAS_PREFIX, self._bucket.abort_upload, key, upload_id)

    def _try_legacy(self) -> None:
        """Nothing is written here: whatever is below this prefix belongs to somebody else.

        Where nothing is, a store that looks for the object before it looks at the policy, as Ceph
        does, cannot be seen to forbid reading it.
        """
        absent = f"{LEGACY_PREFIX}.cas-probe-{self._name}"
        listed: dict[str, Any] = {"Prefix": LEGACY_PREFIX, "MaxKeys": 1}
        page = self._try("list", LEGACY_PREFIX, self._send, "list_objects_v2", **listed) or {}
        there = [item["Key"] for item in page.get("Contents", ())]
        read = there[0] if there else absent
        self._try("get", LEGACY_PREFIX, self._send, "head_object", read, absent=True)
        self._try("delete", LEGACY_PREFIX, self._send, "delete_object", absent)

    def _try_quarantine(self) -> None:
        key = f"{QUARANTINE_PREFIX}.cas-probe-{self._name}"
        if self._keeps_versions or not self._deleted(key):
            self._try("copy", QUARANTINE_PREFIX, self._begin_and_give_up, key)
        elif self._met("put", PROBE_PREFIX):
            self._try("copy", QUARANTINE_PREFIX, self._copy, key)
            self._take_away(key)

    def _try_multipart(self) -> None:
        """A whole upload in two parts."""
        key = f"{PROBE_PREFIX}{self._name}/parts"
        if self._met("put", PROBE_PREFIX):
            self._try("multipart", PROBE_PREFIX, self._upload_parts, key)
            self._take_away(key)

    def _upload_parts(self, key: str) -> None:
        upload = {"UploadId": self._bucket.begin_upload(key)}
        parts = []
        try:
            for number, body in enumerate((bytes(SMALLEST_PART), self._body), 1):
                part: dict[str, Any] = {**upload, "PartNumber": number, "Body": body}
                etag = self._send("upload_part", key, **part)["ETag"]
                parts.append({"PartNumber": number, "ETag": etag})
            self._send("complete_multipart_upload", key, **upload, MultipartUpload={"Parts": parts})
        except BaseException:
            self._bucket.give_up_upload(key, upload["UploadId"])
            raise
        # The answer may lack the ETag, or be an error with status 200; a HEAD tells.
        if self._send("head_object", key)["ContentLength"] != SMALLEST_PART + len(self._body):
            raise Corrupt("an object of two parts has another size than they have", key=key)

    def _put(self, key: str) -> None:
        self._send("put_object", key, Body=self._body, **self._bucket.extra)

    def _get(self, key: str) -> None:
        with self._send("get_object", key)["Body"] as body:
            if body.read(len(self._body) + 1) != self._body:
                raise Corrupt("other bytes came back than were written", key=key)

    def _open(self, key: str) -> None:
        self._send("get_object", key, Range="bytes=0-0")["Body"].close()

    def _copy(self, key: str) -> None:
        self._send(
            "copy_object",
            key,
            CopySource={"Bucket": self._bucket.bucket_name, "Key": self._source},
            MetadataDirective="REPLACE",
            **self._bucket.extra,
        )

    def _find(self, key: str) -> None:
        if not self._send("list_objects_v2", Prefix=key, MaxKeys=1).get("Contents"):
            raise StoreError("an object that was written is not listed", key=key)

    def _delete_for_good(self, key: str) -> None:
        self._send("delete_object", key)
        with suppress(Absent, Denied):
            self._send("head_object", key)
            raise StoreError("an object that was deleted is still there", key=key)

    def _delete_many(self) -> None:
        named = [{"Key": self._source}]
        answer = self._send("delete_objects", Delete={"Objects": named})
        for error in answer.get("Errors", ()):
            raise ClientError({"Error": error}, "DeleteObjects")

    def _begin_and_give_up(self, key: str) -> None:
        self._bucket.give_up_upload(key, self._bucket.begin_upload(key))

    def _take_away(self, key: str) -> None:
        if not self._deleted(key):
            log.warning("a probe's object stays behind: %s", key)

    def _deleted(self, key: str) -> bool:
        try:
            self._send("delete_object", key)
        except Unreachable:
            raise
        except StoreError:
            return False
        return True


def _is_missing_right(error: ClientError) -> bool:
    """Whether these credentials are known, in this bucket, and only may not do this.

    A refusal without a reason can also be for the time of the request.
    """
    ahead = clock_ahead(error.response)
    code = code_of(error)
    return code == "AccessDenied" or (code == "403" and (ahead is None or abs(ahead) < MOST_SKEW))
