"""Listing a bucket, and deleting from it in batches, with every answer checked.

Both have answers that look like success and are not: a page that says there is more and does not
say how to get it, a batch delete with status 200 that names what it did not delete.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final

from cas.storage.base import BlobStat, Denied, StoreError, Unreachable, Unsupported, Versioning
from cas.storage.s3.client import Bucket, meaning, s3_errors

log = logging.getLogger(__name__)

BATCH: Final = 1000
"""Keys that one DeleteObjects may name, S3's limit."""

_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that a key may have and the XML 1.0 of a batch delete may not (section 2.2)."""


def scan(bucket: Bucket, prefix: str, after: str) -> Iterator[BlobStat]:
    """The objects below `prefix`, a page at a time.

    Raises StoreError if a page is cut off without a continuation or keys do not ascend, as on
    S3's directory buckets: callers merge the listing with others in the same order.
    """
    params = {"StartAfter": after} if after else {}
    last = after.encode()
    while True:
        page = bucket.request("list_objects_v2", about=prefix, Prefix=prefix, **params)
        for item in page.get("Contents", ()):
            key = item["Key"].encode()
            if key <= last:
                raise StoreError("the listing is not in order", key=item["Key"])
            last = key
            etag = item["ETag"].strip('"')
            yield BlobStat(item["Key"], item["Size"], item["LastModified"], etag)
        if not page.get("IsTruncated"):
            return
        token = page.get("NextContinuationToken")
        if not token or token == params.get("ContinuationToken"):
            raise StoreError("the listing ended in the middle", key=prefix)
        params["ContinuationToken"] = token


Version = tuple[str, str]
"""A key and the id of one of its versions; no id means the object as it is now."""

Outcomes = dict[Version, StoreError | None]


def remove_many(
    bucket: Bucket, keys: Iterable[str], *, versions: bool
) -> Iterator[tuple[str, StoreError | None]]:
    """Delete `keys`, or with `versions` every version of each, yielding each key's own outcome.

    A key that the store's answer does not name counts as not deleted.
    """
    waiting = iter(keys)
    while batch := list(islice(waiting, BATCH)):
        if versions:
            yield from ((key, _remove_versions(bucket, key)) for key in batch)
        else:
            outcomes = _remove(bucket, [(key, "") for key in batch])
            yield from ((key, outcomes[key, ""]) for key in batch)


def _remove_versions(bucket: Bucket, key: str) -> StoreError | None:
    """A key counts as deleted when all its versions are and no others have come."""
    try:
        found = versions_of(bucket, key)
        while batch := list(islice(found, BATCH)):
            for error in _remove(bucket, batch).values():
                if error:
                    return error
    except StoreError as error:
        return error
    return None


def versions_of(bucket: Bucket, key: str) -> Iterator[Version]:
    """Every version of the object, and every mark of a deletion, lazily."""
    with s3_errors(key):
        pages = bucket.client.get_paginator("list_object_versions")
        for page in pages.paginate(Bucket=bucket.bucket_name, Prefix=key):
            entries = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            yield from ((key, one["VersionId"]) for one in entries if one["Key"] == key)
            if any(one["Key"] > key for one in entries):
                return


def _remove(bucket: Bucket, objects: Sequence[Version]) -> Outcomes:
    """Delete at most a batch of objects, together where the store permits it."""
    together = [one for one in dict.fromkeys(objects) if not _NOT_XML.search(one[0])]
    outcomes: Outcomes = {}
    if together:
        try:
            outcomes = _remove_batch(bucket, together)
        except (Denied, Unsupported) as error:
            log.warning("objects are deleted one by one: %s", error)
        except StoreError as error:
            outcomes = {one: type(error)(str(error), key=one[0]) for one in together}
    denied: Denied | None = None
    for one in objects:
        if one in outcomes:
            continue
        # After a refused batch, the first object that is refused by itself stands for the others.
        if denied:
            outcomes[one] = Denied(str(denied), key=one[0])
            continue
        key, version = one
        try:
            answer = bucket.request("delete_object", key, **_version(version))
            outcomes[one] = _sent_again(answer, key)
        except StoreError as error:
            outcomes[one] = error
            denied = error if isinstance(error, Denied) and len(together) > 1 else None
    return outcomes


def _remove_batch(bucket: Bucket, objects: Sequence[Version]) -> Outcomes:
    """Raises StoreError if the store refuses the batch as a whole."""
    named = [{"Key": key, **_version(version)} for key, version in objects]
    answer = bucket.request("delete_objects", Delete={"Objects": named})
    if unsure := _sent_again(answer, objects[0][0]):
        return {one: type(unsure)(str(unsure), key=one[0]) for one in objects}
    outcomes: Outcomes = {
        one: StoreError("the answer does not say what became of it", key=one[0]) for one in objects
    }
    by_key: dict[str, list[Version]] = {}
    for one in objects:
        by_key.setdefault(one[0], []).append(one)

    def meant(item: Mapping[str, Any]) -> list[Version]:
        """What an item of the answer names; without a version id, all the key's versions."""
        version = item.get("VersionId", "")
        named = by_key.get(item.get("Key", ""), ())
        return [one for one in named if not version or one[1] in ("", version)]

    for item in answer.get("Deleted", ()):
        outcomes.update(dict.fromkeys(meant(item)))
    for item in answer.get("Errors", ()):
        code = str(item.get("Code", ""))
        absent = code in ("NoSuchKey", "NoSuchVersion", "NotFound")
        error = meaning(code)(f"{code}: {item.get('Message', '')}", key=item.get("Key", ""))
        outcomes.update(dict.fromkeys(meant(item), None if absent else error))
    return outcomes


def _version(version_id: str) -> dict[str, str]:
    return {"VersionId": version_id} if version_id else {}


def _sent_again(answer: Mapping[str, Any], key: str) -> Unreachable | None:
    """The error of a delete that the client sent more than once.

    A request that was not answered may be carried out after the one that was.
    """
    if not answer.get("ResponseMetadata", {}).get("RetryAttempts"):
        return None
    return Unreachable("it was deleted, but an earlier request may yet be carried out", key=key)


def versioning(bucket: Bucket) -> Versioning:
    """What the bucket does with what is deleted. Raises Unreachable, and Denied for the bucket."""
    try:
        status = bucket.request("get_bucket_versioning").get("Status", "")
    except (Denied, Unsupported) as error:
        log.info("whether %s keeps versions is not known: %s", bucket.bucket_name, error)
        status = None
    if status == "":
        return Versioning.NONE
    if _locked(bucket):
        return Versioning.LOCKED
    if status is None:
        return Versioning.UNKNOWN
    return Versioning.SUSPENDED if status == "Suspended" else Versioning.KEPT


def _locked(bucket: Bucket) -> bool:
    try:
        answer = bucket.request("get_object_lock_configuration")
    except Unreachable:
        raise
    except StoreError as error:
        log.info("no object lock is known of %s: %s", bucket.bucket_name, error)
        return False
    found = answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled")
    return bool(found == "Enabled")


def remove_uploads(
    bucket: Bucket, prefix: str, older_than: datetime, *, dry_run: bool
) -> Iterator[str]:
    """Give up multipart uploads below `prefix` begun before `older_than`, describing each."""
    with s3_errors(prefix):
        pages = bucket.client.get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=bucket.bucket_name, Prefix=prefix):
            for upload in page.get("Uploads", ()):
                key, begun = upload["Key"], upload["Initiated"]
                if begun < older_than:
                    if not dry_run:
                        bucket.abort_upload(key, upload["UploadId"])
                    yield f"unfinished upload of {key}, begun {begun:%Y-%m-%d %H:%M}"
