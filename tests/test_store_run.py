"""`make test-store` works where nothing can be lost, cleans up, and says what it did not test."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.s3 import ROOT, S3Server
from tests.store import REFUSED

pytestmark = pytest.mark.sqlite

TESTS = "cas/tests/test_store_contract.py"


def run(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.store", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_without_a_service_it_says_how_to_name_one() -> None:
    status, output = run({})
    assert status == 2
    assert "CAS_S3_ENDPOINT_URL" in output


def test_a_bucket_that_is_not_empty_is_left_alone(s3_server: S3Server, s3_bucket: str) -> None:
    s3_server.client.put_object(Bucket=s3_bucket, Key="somebody/elses", Body=b"x")
    status, output = run(s3_server.environment(s3_bucket))
    assert status == REFUSED
    assert "somebody/elses" in output
    assert s3_server.client.head_object(Bucket=s3_bucket, Key="somebody/elses")


def test_an_old_version_keeps_it_from_being_empty(s3_server: S3Server, s3_bucket: str) -> None:
    client, enabled = s3_server.client, {"Status": "Enabled"}
    client.put_bucket_versioning(Bucket=s3_bucket, VersioningConfiguration=enabled)
    client.put_object(Bucket=s3_bucket, Key="a", Body=b"x")
    client.delete_object(Bucket=s3_bucket, Key="a")
    assert run(s3_server.environment(s3_bucket))[0] == REFUSED


def test_capabilities_and_tests_in_a_given_bucket(s3_server: S3Server, s3_bucket: str) -> None:
    status, output = run(s3_server.environment(s3_bucket), TESTS, "-k", "test_a_duplicate")
    assert status == 0, output
    assert "put in cas/               works" in output
    assert "1 passed, 0 failed, 0 not tested" in output
    assert "Contents" not in s3_server.client.list_objects_v2(Bucket=s3_bucket)


def test_what_only_the_stand_in_can_do_is_named(s3_server: S3Server) -> None:
    before = buckets(s3_server)
    environment = s3_server.environment("") | {"CAS_S3_BUCKET": ""}
    test = "attachments/tests/test_migrate_faults.py"
    status, output = run(environment, test, "-n", "0", "-k", "test_store_faults")
    assert status == 0, output
    assert "0 passed, 0 failed" in output
    assert f"  {test}::test_store_faults (" in output
    assert buckets(s3_server) == before


def buckets(server: S3Server) -> set[str]:
    return {bucket["Name"] for bucket in server.client.list_buckets()["Buckets"]}
