"""The stand-in of the tests misbehaves as real S3 services do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.s3 import S3Server

pytestmark = pytest.mark.sqlite


def refusal(call: Callable[..., Any], **parameters: Any) -> tuple[int, str, dict[str, str]]:
    """Status, code and headers of the error that a call raises."""
    with pytest.raises(ClientError) as refused:
        call(**parameters)
    answer = refused.value.response
    said = answer["ResponseMetadata"]
    return said["HTTPStatusCode"], answer["Error"]["Code"], said["HTTPHeaders"]


@pytest.mark.parametrize("seconds", [-7200, 7200])
def test_a_clock_that_is_off(s3_server: S3Server, s3_bucket: str, seconds: int) -> None:
    """The refusal of a HEAD has no body; only the date of the answer shows why."""
    s3_server.client.put_object(Bucket=s3_bucket, Key="a", Body=b"x")
    s3_server.clock_ahead(seconds)
    named = {"Bucket": s3_bucket, "Key": "a"}
    assert refusal(s3_server.client.head_object, **named)[:2] == (403, "403")
    status, code, headers = refusal(s3_server.client.get_object, **named)
    assert (status, code) == (403, "RequestTimeTooSkewed")
    s3_server.clock_ahead(0)
    right = s3_server.client.head_object(**named)["ResponseMetadata"]["HTTPHeaders"]["date"]
    assert headers["date"] != right
    s3_server.clock_ahead(600)
    s3_server.client.head_object(**named)


def test_etags_that_prove_nothing(s3_server: S3Server, s3_bucket: str) -> None:
    """The same ones everywhere, which conditions are compared with."""
    client = s3_server.client
    s3_server.ignore("opaque_etags")
    etag = client.put_object(Bucket=s3_bucket, Key="a", Body=b"x")["ETag"]
    assert etag.strip('"') != hashlib.md5(b"x", usedforsecurity=False).hexdigest()
    head = client.head_object(Bucket=s3_bucket, Key="a")
    assert (head["ETag"], head["ServerSideEncryption"]) == (etag, "aws:kms")
    assert client.get_object(Bucket=s3_bucket, Key="a")["ETag"] == etag
    (listed,) = client.list_objects_v2(Bucket=s3_bucket)["Contents"]
    assert listed["ETag"] == etag
    source = {"CopySource": {"Bucket": s3_bucket, "Key": "a"}}
    copied = client.copy_object(Bucket=s3_bucket, Key="b", CopySourceIfMatch=etag, **source)
    assert copied["CopyObjectResult"]["ETag"] == etag
    plain = {"CopySourceIfMatch": hashlib.md5(b"x", usedforsecurity=False).hexdigest()}
    assert refusal(client.copy_object, Bucket=s3_bucket, Key="c", **plain, **source)[0] == 412


def test_a_completion_without_an_etag(s3_server: S3Server, s3_bucket: str) -> None:
    s3_server.fault("CompleteMultipartUpload", "empty_etag")
    assert not complete(s3_server, s3_bucket).get("ETag")
    assert s3_server.client.head_object(Bucket=s3_bucket, Key="a")["ContentLength"] == 1


def test_an_error_with_status_200(s3_server: S3Server, s3_bucket: str) -> None:
    s3_server.fault("CompleteMultipartUpload", "error_in_200", times=-1)
    with pytest.raises(ClientError) as refused:
        complete(s3_server, s3_bucket)
    assert refused.value.response["Error"]["Code"] == "InternalError"


def complete(server: S3Server, bucket: str) -> dict[str, Any]:
    client, named = server.client, {"Bucket": bucket, "Key": "a"}
    named["UploadId"] = client.create_multipart_upload(**named)["UploadId"]
    etag = client.upload_part(**named, PartNumber=1, Body=b"x")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    answer: dict[str, Any] = client.complete_multipart_upload(**named, MultipartUpload=parts)
    return answer


@pytest.mark.parametrize(
    ("operation", "status", "code"),
    [
        ("list_objects_v2", 404, "NoSuchBucket"),
        ("head_bucket", 404, "404"),
    ],
)
def test_no_such_bucket(s3_server: S3Server, operation: str, status: int, code: str) -> None:
    call = getattr(s3_server.client, operation)
    assert refusal(call, Bucket="no-such-bucket")[:2] == (status, code)


def test_a_head_in_no_bucket_is_like_a_head_of_no_object(
    s3_server: S3Server, s3_bucket: str
) -> None:
    head = s3_server.client.head_object
    there = refusal(head, Bucket=s3_bucket, Key="a")[:2]
    assert refusal(head, Bucket="no-such-bucket", Key="a")[:2] == there == (404, "404")


def test_another_region(s3_server: S3Server, s3_bucket: str) -> None:
    s3_server.fault(
        "ListObjectsV2",
        "error",
        status=301,
        code="PermanentRedirect",
        headers={"x-amz-bucket-region": "eu-central-1"},
        times=-1,
    )
    _, code, headers = refusal(s3_server.client.list_objects_v2, Bucket=s3_bucket)
    assert code == "PermanentRedirect"
    assert headers["x-amz-bucket-region"] == "eu-central-1"


def test_versions_stay_when_objects_are_deleted(s3_server: S3Server, s3_bucket: str) -> None:
    client = s3_server.client
    enabled = {"Status": "Enabled"}
    client.put_bucket_versioning(Bucket=s3_bucket, VersioningConfiguration=enabled)
    client.put_object(Bucket=s3_bucket, Key="a", Body=b"x")
    client.delete_objects(Bucket=s3_bucket, Delete={"Objects": [{"Key": "a"}]})
    assert "Contents" not in client.list_objects_v2(Bucket=s3_bucket)
    versions = client.list_object_versions(Bucket=s3_bucket)
    assert [len(versions[name]) for name in ("Versions", "DeleteMarkers")] == [1, 1]
    s3_server.empty(s3_bucket)
    left = client.list_object_versions(Bucket=s3_bucket)
    assert "Versions" not in left
    assert "DeleteMarkers" not in left
