"""Which of the operations that commands need a bucket permits, each tried by itself.

Rights may depend on the prefix of a key. Below `.cas-probe/` everything is really done. Elsewhere
an object is written only where it can be deleted again for good; otherwise an upload is begun and
given up, which needs the right to write and leaves nothing.
"""

from __future__ import annotations

import logging
import secrets
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from botocore.exceptions import ClientError

from cas.digest import CAS_PREFIX, Digest
from cas.storage.base import (
    Absent,
    Corrupt,
    Denied,
    StoreError,
    Unreachable,
    Unsupported,
    Versioning,
)
from cas.storage.capabilities import PROBE_PREFIX
from cas.storage.preflight import Need, Preflight, Weight
from cas.storage.quarantine import NOT_MOVED_ASIDE, QUARANTINE_PREFIX
from cas.storage.s3 import listing
from cas.storage.s3.client import MIB, MOST_SKEW, Bucket, clock_ahead, code_of, s3_errors

log = logging.getLogger(__name__)

LEGACY_PREFIX: Final = "parts/"
SMALLEST_PART: Final = 5 * MIB
"""What S3 takes of every part but the last."""

_LARGE: Final = "files of more than 64 MiB cannot be stored"
_COSTS: Final = {
    ("put", PROBE_PREFIX): (
        Weight.REPLACEABLE,
        "no capability can be probed, so none is relied on: bytes are read back instead",
    ),
    ("delete", PROBE_PREFIX): (
        Weight.REPLACEABLE,
        "small objects of probes stay below .cas-probe/; anyone may delete them",
    ),
    ("multipart", PROBE_PREFIX): (Weight.NEEDED, _LARGE),
    ("put", CAS_PREFIX): (Weight.ESSENTIAL, "nothing can be uploaded or migrated"),
    ("head", CAS_PREFIX): (Weight.ESSENTIAL, "nothing can be uploaded, migrated or served"),
    ("get", CAS_PREFIX): (Weight.ESSENTIAL, "nothing can be served"),
    ("list", CAS_PREFIX): (
        Weight.NEEDED,
        "verify_cas, cleanup_legacy_blobs and collect_garbage cannot run",
    ),
    ("copy", CAS_PREFIX): (Weight.NEEDED, "migrate_to_cas cannot copy within the store"),
    ("multipart", CAS_PREFIX): (Weight.NEEDED, _LARGE),
    ("abort", CAS_PREFIX): (
        Weight.REPLACEABLE,
        "unfinished uploads stay and take room: have a lifecycle rule of the bucket remove them",
    ),
    ("list uploads", ""): (
        Weight.REPLACEABLE,
        "collect_garbage goes on, but leaves unfinished uploads to a lifecycle rule of the bucket",
    ),
    ("delete", CAS_PREFIX): (Weight.NEEDED, "collect_garbage cannot delete"),
    ("delete many", ""): (Weight.REPLACEABLE, "objects are deleted one by one, a request each"),
    ("list", LEGACY_PREFIX): (Weight.NEEDED, "migrate_to_cas and cleanup_legacy_blobs cannot run"),
    ("get", LEGACY_PREFIX): (Weight.NEEDED, "migrate_to_cas cannot read old objects"),
    ("delete", LEGACY_PREFIX): (Weight.NEEDED, "cleanup_legacy_blobs cannot delete"),
    ("copy", QUARANTINE_PREFIX): (Weight.NEEDED, NOT_MOVED_ASIDE),
    ("read versioning", ""): (
        Weight.REPLACEABLE,
        "whether deleting frees room is not known: old versions may stay",
    ),
}
NEEDS: Final = {
    (operation, prefix): Need(operation, prefix, weight, cost)
    for (operation, prefix), (weight, cost) in _COSTS.items()
}
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
        self._try("list uploads", "", self._list_uploads)
        self._try("delete many", "", self._delete_many)
        self._try("delete", PROBE_PREFIX, self._delete, self._source)
        ordered = {need: self._found[need] for need in NEEDS.values() if need in self._found}
        return Preflight(ordered, ahead, tuple(self._notes))

    def _try(
        self,
        operation: str,
        prefix: str,
        call: Callable[..., Any],
        *arguments: str,
        absent: bool = False,
    ) -> Any:
        """Try one need. Returns what `call` returned, None if the need is not met.

        With `absent` there need be no object: finding that out needs the same right.
        """
        need = NEEDS[operation, prefix]
        self._found[need] = None
        try:
            with s3_errors(prefix):
                return call(*arguments)
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
            answer = self._list(CAS_PREFIX)
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
        self._bucket.request("get_bucket_versioning")

    def _try_cas(self) -> None:
        key = Digest.of(self._body).key
        self._try("delete", CAS_PREFIX, self._delete, key)
        if self._met("delete", CAS_PREFIX) and not self._keeps_versions:
            self._try("put", CAS_PREFIX, self._put, key)
            there = self._met("put", CAS_PREFIX)
            self._try("head", CAS_PREFIX, self._head, key, absent=not there)
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
            self._try("head", CAS_PREFIX, self._head, there_before, absent=True)
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
        page = self._try("list", LEGACY_PREFIX, self._list, LEGACY_PREFIX) or {}
        there = [item["Key"] for item in page.get("Contents", ())]
        self._try("get", LEGACY_PREFIX, self._head, there[0] if there else absent, absent=True)
        self._try("delete", LEGACY_PREFIX, self._delete, absent)

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
                etag = self._bucket.request("upload_part", key, **part)["ETag"]
                parts.append({"PartNumber": number, "ETag": etag})
            self._bucket.request(
                "complete_multipart_upload", key, **upload, MultipartUpload={"Parts": parts}
            )
        except BaseException:
            self._bucket.give_up_upload(key, upload["UploadId"])
            raise
        # The answer may lack the ETag, or be an error with status 200; a HEAD tells.
        if self._head(key)["ContentLength"] != SMALLEST_PART + len(self._body):
            raise Corrupt("an object of two parts has another size than they have", key=key)

    def _put(self, key: str) -> None:
        self._bucket.request("put_object", key, Body=self._body, **self._bucket.extra)

    def _head(self, key: str) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = self._bucket.request("head_object", key)
        return answer

    def _get(self, key: str) -> None:
        with self._bucket.request("get_object", key)["Body"] as body:
            if body.read(len(self._body) + 1) != self._body:
                raise Corrupt("other bytes came back than were written", key=key)

    def _open(self, key: str) -> None:
        self._bucket.request("get_object", key, Range="bytes=0-0")["Body"].close()

    def _copy(self, key: str) -> None:
        self._bucket.request(
            "copy_object",
            key,
            CopySource={"Bucket": self._bucket.bucket_name, "Key": self._source},
            MetadataDirective="REPLACE",
            **self._bucket.extra,
        )

    def _list(self, prefix: str) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = self._bucket.request(
            "list_objects_v2", Prefix=prefix, MaxKeys=1
        )
        return answer

    def _list_uploads(self) -> None:
        self._bucket.request("list_multipart_uploads", Prefix=CAS_PREFIX)

    def _find(self, key: str) -> None:
        if not self._list(key).get("Contents"):
            raise StoreError("an object that was written is not listed", key=key)

    def _delete_for_good(self, key: str) -> None:
        self._delete(key)
        with suppress(Absent, Denied):
            self._head(key)
            raise StoreError("an object that was deleted is still there", key=key)

    def _delete(self, key: str) -> None:
        """One that is not there is no error, to S3."""
        self._bucket.request("delete_object", key)

    def _delete_many(self) -> None:
        named = [{"Key": self._source}]
        answer = self._bucket.request("delete_objects", Delete={"Objects": named})
        for error in answer.get("Errors", ()):
            raise ClientError({"Error": error}, "DeleteObjects")

    def _begin_and_give_up(self, key: str) -> None:
        self._bucket.give_up_upload(key, self._bucket.begin_upload(key))

    def _take_away(self, key: str) -> None:
        if not self._deleted(key):
            log.warning("a probe's object stays behind: %s", key)

    def _deleted(self, key: str) -> bool:
        try:
            self._delete(key)
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
