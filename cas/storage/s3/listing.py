"""Walking a bucket, and deleting from it in batches, without believing too much.

Both have answers that look like success and are not: a page that says there is more and does
not say how to get it, a batch delete that is 200 and lists what it did not delete.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final

from cas.storage.base import BlobStat, StoreError, Unreachable
from cas.storage.s3.errors import meaning, translated

BATCH: Final = 1000
"""Keys that one DeleteObjects may name, S3's limit."""

_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that a key may have and the XML 1.0 of a batch delete may not (section 2.2)."""


def scan(client: Any, bucket: str, prefix: str, after: str) -> Iterator[BlobStat]:
    """The objects below `prefix`, a page at a time.

    Raises StoreError if a page is cut off without a continuation or keys do not ascend, as on
    S3's directory buckets: whoever merges a listing with something else relies on its order.
    """
    params: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
    if after:
        params["StartAfter"] = after
    last = after.encode()
    while True:
        with translated(prefix):
            page = client.list_objects_v2(**params)
        for item in page.get("Contents", ()):
            key = item["Key"].encode()
            if key <= last:
                raise StoreError("the listing is not in order", key=item["Key"])
            last = key
            yield BlobStat(item["Key"], item["Size"], item["LastModified"], _bare(item["ETag"]))
        if not page.get("IsTruncated"):
            return
        token = page.get("NextContinuationToken")
        if not token or token == params.get("ContinuationToken"):
            raise StoreError("the listing ended in the middle", key=prefix)
        params["ContinuationToken"] = token


def remove_many(
    client: Any, bucket: str, keys: Iterable[str]
) -> Iterator[tuple[str, StoreError | None]]:
    """Delete `keys`, yielding each key's own outcome, batch by batch.

    A key that the store says nothing of counts as not deleted.
    """
    waiting = iter(keys)
    while batch := list(islice(waiting, BATCH)):
        plain = [key for key in batch if not _NOT_XML.search(key)]
        outcomes = _remove_batch(client, bucket, plain) if plain else {}
        for key in batch:
            if key not in outcomes:
                outcomes[key] = _remove_one(client, bucket, key)
            yield key, outcomes[key]


def _remove_batch(client: Any, bucket: str, keys: Sequence[str]) -> dict[str, StoreError | None]:
    listed = {"Objects": [{"Key": key} for key in dict.fromkeys(keys)]}
    try:
        with translated():
            answer = client.delete_objects(Bucket=bucket, Delete=listed)
    except StoreError as error:
        return {key: type(error)(str(error), key=key) for key in keys}
    if unsure := _doubt(answer, keys[0]):
        return {key: type(unsure)(str(unsure), key=key) for key in keys}
    outcomes: dict[str, StoreError | None] = {
        key: StoreError("the store did not say what became of it", key=key) for key in keys
    }
    for item in answer.get("Deleted", ()):
        outcomes[item["Key"]] = None
    for item in answer.get("Errors", ()):
        code = str(item.get("Code", ""))
        key = item.get("Key", "")
        absent = code in ("NoSuchKey", "NotFound")
        message = f"{code}: {item.get('Message', '')}"
        outcomes[key] = None if absent else meaning(code)(message, key=key)
    return outcomes


def _remove_one(client: Any, bucket: str, key: str) -> StoreError | None:
    try:
        with translated(key):
            answer = client.delete_object(Bucket=bucket, Key=key)
    except StoreError as error:
        return error
    return _doubt(answer, key)


def _doubt(answer: Mapping[str, Any], key: str) -> Unreachable | None:
    """What speaks against a delete's being over: the client sent it more than once.

    A request that was not answered may be carried out after the one that was.
    """
    if not answer.get("ResponseMetadata", {}).get("RetryAttempts"):
        return None
    return Unreachable("it was deleted, but an earlier request may yet be carried out", key=key)


def abandoned_uploads(
    client: Any, bucket: str, prefix: str, older_than: datetime
) -> Iterator[dict[str, Any]]:
    """Multipart uploads below `prefix` that were begun before `older_than`."""
    with translated(prefix):
        pages = client.get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=bucket, Prefix=prefix):
            for upload in page.get("Uploads", ()):
                if upload["Initiated"] < older_than:
                    yield upload


def _bare(etag: str) -> str:
    return etag.strip('"')
