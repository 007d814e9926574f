"""Which of the operations that commands need a bucket permits, each tried by itself.

Rights may depend on the prefix of a key. Below `.cas-probe/` everything is really done. Elsewhere
an object is written only where it can be deleted again for good; otherwise an upload is begun and
given up, which needs the right to write and leaves nothing.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
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
)
from cas.storage.guards import PROBE_PREFIX
from cas.storage.preflight import Need, Preflight
from cas.storage.quarantine import QUARANTINE_PREFIX
from cas.storage.s3 import listing
from cas.storage.s3.errors import translated
from cas.storage.s3.needs import LEGACY_PREFIX, NEEDS, VERSIONS_NOTES

log = logging.getLogger(__name__)

SMALLEST_PART: Final = 5 * 1024 * 1024
"""What S3 takes of every part but the last."""

MOST_SKEW: Final = timedelta(minutes=10)
"""S3 refuses requests whose time is off by more than 15 minutes."""


class RightsTrial:
    """Tries every need on one bucket. `extra` goes with every request that creates an object."""

    def __init__(self, client: Any, bucket: str, extra: Mapping[str, Any]) -> None:
        self._client = client
        self._bucket = bucket
        self._extra = dict(extra)
        self._found: dict[Need, StoreError | None] = {}
        self._notes: list[str] = []
        self._blobs: list[str] = []
        self._keeps_versions = False
        self._body = b"rights are tried " + secrets.token_bytes(20)
        self._name = uuid.uuid4().hex

    def run(self) -> Preflight:
        """Raises Unreachable, and whatever says that nothing can be tried in this bucket."""
        ahead = self._reach()
        source = f"{PROBE_PREFIX}{self._name}/source"
        self._try("read versioning", "", self._look_for_versions)
        self._try("put", PROBE_PREFIX, lambda: self._put(source))
        self._try_cas(source)
        self._try_legacy()
        self._try_quarantine(source)
        self._try_multipart()
        self._try_bucket(source)
        ordered = {need: self._found[need] for need in NEEDS.values() if need in self._found}
        return Preflight(ordered, ahead, tuple(self._notes))

    def _reach(self) -> timedelta | None:
        """Ask for a listing, whose errors say more than those of a HEAD.

        Missing the right to list is no reason not to go on.
        """
        try:
            with translated():
                answer = self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=CAS_PREFIX, MaxKeys=1
                )
        except StoreError as error:
            cause = error.__cause__
            if not isinstance(cause, ClientError) or not _is_missing_right(cause):
                raise
            self._found[NEEDS["list", CAS_PREFIX]] = error
            return clock_ahead(cause.response)
        self._found[NEEDS["list", CAS_PREFIX]] = None
        self._blobs = [item["Key"] for item in answer.get("Contents", ())]
        return clock_ahead(answer)

    def _try_cas(self, source: str) -> None:
        key = Digest(hashlib.sha256(self._body).hexdigest()).key
        self._try("delete", CAS_PREFIX, lambda: self._delete(key))
        if self._met("delete", CAS_PREFIX) and not self._keeps_versions:
            self._try("put", CAS_PREFIX, lambda: self._put(key))
            there = self._met("put", CAS_PREFIX)
            self._try("head", CAS_PREFIX, lambda: self._head(key), absent=not there)
            self._try("get", CAS_PREFIX, lambda: self._get(key), absent=not there)
            if there and self._met("list", CAS_PREFIX):
                self._try("list", CAS_PREFIX, lambda: self._find(key))
            if self._met("put", PROBE_PREFIX):
                self._try("copy", CAS_PREFIX, lambda: self._copy(source, key))
            self._try("delete", CAS_PREFIX, lambda: self._delete_for_good(key))
        else:
            self._try("put", CAS_PREFIX, lambda: self._give_up(self._begin(key)))
            # Ceph looks for the object before it looks at the policy.
            there_before = self._blobs[0] if self._blobs else key
            self._try("head", CAS_PREFIX, lambda: self._head(there_before), absent=True)
            self._try("get", CAS_PREFIX, lambda: self._open(there_before), absent=True)
        upload: list[Mapping[str, Any]] = []
        self._try("multipart", CAS_PREFIX, lambda: upload.append(self._begin(key)))
        if upload:
            self._try("abort", CAS_PREFIX, lambda: self._abort(upload[0]))

    def _try_legacy(self) -> None:
        """Nothing is written here: whatever is below this prefix is somebody's.

        Where nothing is, a store that looks for the object first, as Ceph does, cannot be seen to
        forbid reading it.
        """
        there: list[str] = []

        def look() -> None:
            page = self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=LEGACY_PREFIX, MaxKeys=1
            )
            there.extend(item["Key"] for item in page.get("Contents", ()))

        self._try("list", LEGACY_PREFIX, look)
        absent = f"{LEGACY_PREFIX}.cas-probe-{self._name}"
        self._try(
            "get", LEGACY_PREFIX, lambda: self._head(there[0] if there else absent), absent=True
        )
        self._try("delete", LEGACY_PREFIX, lambda: self._delete(absent))

    def _try_quarantine(self, source: str) -> None:
        key = f"{QUARANTINE_PREFIX}.cas-probe-{self._name}"
        if self._keeps_versions or not self._deleted(key):
            self._try("copy", QUARANTINE_PREFIX, lambda: self._give_up(self._begin(key)))
        elif self._met("put", PROBE_PREFIX):
            self._try("copy", QUARANTINE_PREFIX, lambda: self._copy(source, key))
            self._take_away(key)

    def _try_multipart(self) -> None:
        """A whole upload in two parts."""
        key = f"{PROBE_PREFIX}{self._name}/parts"
        size = SMALLEST_PART + len(self._body)

        def upload() -> None:
            names = self._begin(key)
            try:
                parts = [
                    {
                        "PartNumber": number,
                        "ETag": self._client.upload_part(**names, PartNumber=number, Body=body)[
                            "ETag"
                        ],
                    }
                    for number, body in enumerate((bytes(SMALLEST_PART), self._body), 1)
                ]
                self._client.complete_multipart_upload(**names, MultipartUpload={"Parts": parts})
            except BaseException:
                self._give_up(names)
                raise
            # The answer may lack the ETag, or be an error with status 200; the object tells.
            if self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"] != size:
                raise Corrupt("an object of two parts has another size than they have", key=key)

        if self._met("put", PROBE_PREFIX):
            self._try("multipart", PROBE_PREFIX, upload)
            self._take_away(key)

    def _look_for_versions(self) -> None:
        with suppress(Denied, Unsupported):
            kept = listing.versioning(self._client, self._bucket)
            if note := VERSIONS_NOTES.get(kept):
                self._notes.append(note)
                self._keeps_versions = True
        self._client.get_bucket_versioning(Bucket=self._bucket)

    def _try_bucket(self, source: str) -> None:
        named = {"Bucket": self._bucket, "Prefix": CAS_PREFIX}
        self._try("list uploads", "", lambda: self._client.list_multipart_uploads(**named))

        def delete_many() -> None:
            answer = self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": [{"Key": source}]}
            )
            for error in answer.get("Errors", ()):
                raise ClientError({"Error": error}, "DeleteObjects")

        self._try("delete many", "", delete_many)
        self._try("delete", PROBE_PREFIX, lambda: self._delete(source))

    def _try(
        self, operation: str, prefix: str, call: Callable[[], Any], *, absent: bool = False
    ) -> None:
        """With `absent` there need be no object: finding that out needs the same right."""
        need = NEEDS[operation, prefix]
        try:
            with translated(prefix):
                call()
        except Unreachable:
            raise
        except StoreError as error:
            self._found[need] = None if absent and isinstance(error, Absent) else error
        else:
            self._found[need] = None

    def _met(self, operation: str, prefix: str) -> bool:
        return self._found.get(NEEDS[operation, prefix], Absent("")) is None

    def _put(self, key: str) -> None:
        self._client.put_object(Bucket=self._bucket, Key=key, Body=self._body, **self._extra)

    def _head(self, key: str) -> None:
        self._client.head_object(Bucket=self._bucket, Key=key)

    def _get(self, key: str) -> None:
        with self._client.get_object(Bucket=self._bucket, Key=key)["Body"] as body:
            if body.read(len(self._body) + 1) != self._body:
                raise Corrupt("other bytes came back than were written", key=key)

    def _open(self, key: str) -> None:
        self._client.get_object(Bucket=self._bucket, Key=key, Range="bytes=0-0")["Body"].close()

    def _copy(self, source: str, key: str) -> None:
        self._client.copy_object(
            Bucket=self._bucket,
            Key=key,
            CopySource={"Bucket": self._bucket, "Key": source},
            MetadataDirective="REPLACE",
            **self._extra,
        )

    def _find(self, key: str) -> None:
        page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=key)
        if not page.get("Contents"):
            raise StoreError("an object that was written is not listed", key=key)

    def _delete_for_good(self, key: str) -> None:
        self._delete(key)
        with suppress(Absent, Denied), translated(key):
            self._head(key)
            raise StoreError("an object that was deleted is still there", key=key)

    def _delete(self, key: str) -> None:
        """One that is not there is no error, to S3."""
        self._client.delete_object(Bucket=self._bucket, Key=key)

    def _begin(self, key: str) -> dict[str, Any]:
        answer = self._client.create_multipart_upload(Bucket=self._bucket, Key=key, **self._extra)
        return {"Bucket": self._bucket, "Key": key, "UploadId": answer["UploadId"]}

    def _abort(self, names: Mapping[str, Any]) -> None:
        self._client.abort_multipart_upload(**names)

    def _give_up(self, names: Mapping[str, Any]) -> None:
        try:
            self._abort(names)
        except ClientError as error:
            log.warning("a trial's upload of %s stays behind: %s", names["Key"], error)

    def _take_away(self, key: str) -> None:
        if not self._deleted(key):
            log.warning("a trial's object stays behind: %s", key)

    def _deleted(self, key: str) -> bool:
        try:
            with translated(key):
                self._delete(key)
        except StoreError as error:
            if isinstance(error, Unreachable):
                raise
            return False
        return True


def clock_ahead(answer: Mapping[str, Any]) -> timedelta | None:
    """How far the clock that dated an answer is ahead of this machine's."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return parsedate_to_datetime(headers["date"]) - datetime.now(UTC)
    except (KeyError, ValueError):
        return None


def _is_missing_right(error: ClientError) -> bool:
    """Whether these credentials are known, in this bucket, and only may not do this.

    A refusal without a reason can also be for the time of the request.
    """
    ahead = clock_ahead(error.response)
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code == "AccessDenied" or (code == "403" and (ahead is None or abs(ahead) < MOST_SKEW))
