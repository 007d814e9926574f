"""What the page on stores says of a service is what the service does."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from cas.storage.base import BlobStore
from cas.storage.capabilities import probe
from cas.storage.s3 import S3BlobStorage
from tests.s3 import ROOT, S3Endpoint

SERVICE = "TEST_S3_SERVICE"
"""Environment variable: the column of the table that the service is in."""

pytestmark = pytest.mark.sqlite


def table() -> dict[str, dict[str, str]]:
    """By service and capability: what the table says."""
    page = (ROOT / "docs" / "howto" / "stores.md").read_text().partition("## What was found")[2]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("|")
    ]
    services = rows[0][1:]
    found: dict[str, dict[str, str]] = {service: {} for service in services}
    for first, *cells in rows[2:]:
        for name in re.findall("`([a-z0-9_]+)`", first):
            for service, cell in zip(services, cells, strict=True):
                found[service][name] = cell
    return found


@pytest.fixture
def store(s3_store: BlobStore) -> S3BlobStorage:
    assert isinstance(s3_store, S3BlobStorage)
    return s3_store


@pytest.fixture
def listed(s3_endpoint: S3Endpoint) -> dict[str, str]:
    name = os.environ.get(SERVICE, "") if S3Endpoint.given() else "stand-in"
    if not name:
        pytest.skip("this service is not in the table of the page on stores")
    return table()[name]


def test_the_table(store: S3BlobStorage, listed: dict[str, str]) -> None:
    supported = {name for name, cell in listed.items() if cell == "supported"}
    results = probe(store).results
    assert set(listed) == set(results)
    assert supported == {name for name, seen in results.items() if seen}


def test_every_operation_works(store: S3BlobStorage, listed: dict[str, str]) -> None:
    assert store.preflight().missing == []


def test_a_completion_told_twice(
    s3_endpoint: S3Endpoint, s3_bucket: str, listed: dict[str, str]
) -> None:
    """Ceph answers the first without an ETag, and the same request sent again with one."""
    client: Any = s3_endpoint.client
    named = {"Bucket": s3_bucket, "Key": "a"}
    named["UploadId"] = client.create_multipart_upload(**named)["UploadId"]
    etag = client.upload_part(**named, PartNumber=1, Body=b"x")["ETag"]
    whole = {**named, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": etag}]}}
    first = client.complete_multipart_upload(**whole).get("ETag")
    assert bool(first) == (listed != table()["Ceph RGW 16.2"])
    assert client.complete_multipart_upload(**whole)["ETag"]
