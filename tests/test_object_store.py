"""The S3 stand-in that benchmarks measure against refuses what a strict store refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from benchmarks.installation import stand_in
from benchmarks.object_store import Objects, Stored, legacy_key
from cas.storage.s3 import S3BlobStorage

pytestmark = pytest.mark.sqlite

BUCKET = "bench"


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with stand_in() as control:
        control("legacy", count=3, size=20)
        yield boto3.session.Session().client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{control.port}",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )


def refusal(operation: Any, **parameters: Any) -> str:
    with pytest.raises(ClientError) as refused:
        operation(Bucket=BUCKET, **parameters)
    return str(refused.value.response["Error"]["Code"])


def test_the_capabilities_that_a_migration_relies_on_are_supported(client: Any) -> None:
    store = S3BlobStorage(
        bucket_name=BUCKET,
        endpoint_url=client.meta.endpoint_url,
        access_key="key",
        secret_key="secret",
        region_name="us-east-1",
        addressing_style="path",
    )
    results = store.probe_capabilities("probes/")
    # It has no multipart uploads.
    missing = {"complete_if_none_match", "part_copy_if_match"}
    assert {name for name, supported in results.items() if supported} == set(
        store.fallbacks
    ) - missing


def test_a_copy_can_be_told_to_leave_what_is_there(client: Any) -> None:
    copy = {"CopySource": {"Bucket": BUCKET, "Key": legacy_key(0)}, "Key": "cas/copied"}
    client.copy_object(Bucket=BUCKET, IfNoneMatch="*", **copy)
    other = {**copy, "CopySource": {"Bucket": BUCKET, "Key": legacy_key(1)}}
    assert refusal(client.copy_object, IfNoneMatch="*", **other) == "PreconditionFailed"
    first = client.get_object(Bucket=BUCKET, Key=legacy_key(0))["Body"].read()
    assert client.get_object(Bucket=BUCKET, Key="cas/copied")["Body"].read() == first
    client.copy_object(Bucket=BUCKET, **other)
    assert client.get_object(Bucket=BUCKET, Key="cas/copied")["Body"].read() != first


def test_another_version_than_asked_for_is_not_read(client: Any) -> None:
    etag = client.head_object(Bucket=BUCKET, Key=legacy_key(0))["ETag"]
    client.get_object(Bucket=BUCKET, Key=legacy_key(0), IfMatch=etag)["Body"].read()
    read = {"Key": legacy_key(1), "IfMatch": etag}
    assert refusal(client.get_object, **read) == "PreconditionFailed"


def test_large_bodies_arrive_whole(client: Any, tmp_path: Path) -> None:
    """Larger than a socket's buffers, so that both sides have to wait for each other."""
    body = hashlib.shake_128(b"large").digest(20_000_001)
    client.put_object(Bucket=BUCKET, Key="large", Body=body)
    assert client.get_object(Bucket=BUCKET, Key="large")["Body"].read() == body


def test_a_client_that_leaves_in_the_middle_is_let_go(client: Any) -> None:
    client.put_object(Bucket=BUCKET, Key="abandoned", Body=bytes(20_000_000))
    client.get_object(Bucket=BUCKET, Key="abandoned")["Body"].close()
    assert client.head_object(Bucket=BUCKET, Key="abandoned")["ContentLength"] == 20_000_000


def test_a_batch_is_deleted_and_no_longer_listed(client: Any) -> None:
    keys = [f"batch/{number}&<" for number in range(4)]
    for key in keys:
        client.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    named = {"Objects": [{"Key": key} for key in keys[1:]]}
    deleted = client.delete_objects(Bucket=BUCKET, Delete=named)["Deleted"]
    assert [item["Key"] for item in deleted] == keys[1:]
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix="batch/")["Contents"]
    assert [item["Key"] for item in listed] == keys[:1]


def test_pages_are_complete_and_in_order_whatever_was_put_and_removed() -> None:
    objects = Objects()
    stored = Stored(b"", "", "", 0)
    keys = [f"k/{number:05d}" for number in range(2500)]

    def listed() -> list[str]:
        found: list[str] = []
        more = True
        while more:
            page, more = objects.page("k/", found[-1] if found else "")
            found += page
        return found

    for key in (*keys[::2], "a", "z"):
        objects.put(key, stored)
    assert listed() == keys[::2]
    for key in keys[1::2]:
        objects.put(key, stored)
    for key in keys[:500]:
        objects.remove(key)
    objects.remove(keys[0])
    for key in keys[:10]:
        objects.put(key, stored)
    objects.put("k/x", stored)
    assert listed() == [*keys[:10], *keys[500:], "k/x"]
