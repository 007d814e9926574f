"""What `probe_store` finds, says and ends with, on stores that lack one thing each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from django.core.management import CommandError, call_command

from cas.exit_status import ExitStatus
from cas.storage.base import BlobStore, Corrupt, Denied
from cas.storage.capabilities import PROBE_PREFIX, probe
from cas.storage.s3 import S3BlobStorage
from cas.storage.s3.probes import FALLBACKS, NEEDS
from cas.tests.test_store_contract import keys, put
from cas.tests.test_store_s3 import uploads
from tests.s3 import S3Endpoint, S3Server

CAS, PARTS, QUARANTINE = "cas/", "parts/", "quarantine/"


def run(*arguments: str) -> tuple[int, str]:
    out = StringIO()
    try:
        call_command("probe_store", *arguments, stdout=out)
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue()
    return 0, out.getvalue()


def found() -> dict[str, Any]:
    said: dict[str, Any] = json.loads(run("--json")[1])
    return said


def missing() -> set[str]:
    return {need for need, error in found()["needs"].items() if error}


def deny(server: S3Server, operation: str, key_contains: str = "", **options: Any) -> None:
    server.fault(
        operation,
        "error",
        key_contains=key_contains,
        times=-1,
        **{"status": 403, "code": "AccessDenied", **options},
    )


class TestOnS3:
    @pytest.fixture(autouse=True)
    def store(self, s3_store: BlobStore) -> S3BlobStorage:
        assert isinstance(s3_store, S3BlobStorage)
        return s3_store

    def test_everything_works_and_nothing_stays(self, store: S3BlobStorage) -> None:
        status, text = run()
        assert status == ExitStatus.DONE
        assert text.splitlines()[0] == store.identity
        assert "missing" not in text
        assert text.count(" works\n") == len(NEEDS)
        assert text.endswith("The store can be used.\n")
        assert keys(store) == []
        assert uploads(store) == []

    def test_every_operation_is_really_tried(
        self, store: S3BlobStorage, s3_server: S3Server
    ) -> None:
        probe(store)
        s3_server.reset()
        store.preflight()
        tried = s3_server.counts()
        assert tried["UploadPart"] == 2
        assert tried["CompleteMultipartUpload"] == 1
        assert set(tried) >= {
            "AbortMultipartUpload", "CopyObject", "DeleteObject", "DeleteObjects",
            "GetBucketVersioning", "GetObject", "HeadObject", "ListMultipartUploads",
            "ListObjectsV2", "PutObject",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("operation", "prefix", "needs", "status"),
        [
            ("PutObject", CAS, {"put in cas/"}, ExitStatus.UNAVAILABLE),
            ("HeadObject", CAS, {"head in cas/"}, ExitStatus.UNAVAILABLE),
            ("GetObject", CAS, {"get in cas/"}, ExitStatus.UNAVAILABLE),
            ("ListObjectsV2", CAS, {"list in cas/"}, ExitStatus.ITEMS_FAILED),
            ("CopyObject", CAS, {"copy in cas/"}, ExitStatus.ITEMS_FAILED),
            ("DeleteObject", CAS, {"delete in cas/"}, ExitStatus.ITEMS_FAILED),
            ("CreateMultipartUpload", CAS, {"multipart in cas/"}, ExitStatus.ITEMS_FAILED),
            ("AbortMultipartUpload", CAS, {"abort in cas/"}, ExitStatus.DONE),
            ("ListMultipartUploads", "", {"list uploads"}, ExitStatus.DONE),
            ("DeleteObjects", "", {"delete many"}, ExitStatus.DONE),
            ("GetBucketVersioning", "", {"read versioning"}, ExitStatus.DONE),
            ("ListObjectsV2", PARTS, {"list in parts/"}, ExitStatus.ITEMS_FAILED),
            ("HeadObject", PARTS, {"get in parts/"}, ExitStatus.ITEMS_FAILED),
            ("DeleteObject", PARTS, {"delete in parts/"}, ExitStatus.ITEMS_FAILED),
            ("CopyObject", QUARANTINE, {"copy in quarantine/"}, ExitStatus.ITEMS_FAILED),
            (
                "CompleteMultipartUpload",
                PROBE_PREFIX,
                {"multipart in .cas-probe/"},
                ExitStatus.ITEMS_FAILED,
            ),
        ],
    )
    def test_a_missing_right_is_named_once_with_what_it_costs(
        self,
        s3_server: S3Server,
        operation: str,
        prefix: str,
        needs: set[str],
        status: ExitStatus,
    ) -> None:
        deny(s3_server, operation, prefix)
        assert missing() == needs
        ended, text = run()
        assert ended == status
        (need,) = [need for need in NEEDS.values() if str(need) in needs]
        assert text.count(need.cost) == 1
        assert "(denied: " in text

    def test_where_nothing_can_be_deleted_nothing_is_written_below_cas(
        self, store: S3BlobStorage, s3_server: S3Server
    ) -> None:
        deny(s3_server, "DeleteObject")
        deny(s3_server, "DeleteObjects")
        assert missing() == {
            "delete in cas/", "delete in parts/", "delete in .cas-probe/", "delete many",
        }  # fmt: skip
        assert all(key.startswith(PROBE_PREFIX) for key in keys(store))
        assert uploads(store) == []

    def test_where_nothing_can_be_deleted_the_right_to_write_is_tried_nevertheless(
        self, s3_server: S3Server
    ) -> None:
        deny(s3_server, "DeleteObject")
        deny(s3_server, "CreateMultipartUpload", CAS)
        assert "put in cas/" in missing()

    def test_a_store_that_lets_nothing_be_tried_is_usable(self, s3_server: S3Server) -> None:
        deny(s3_server, "PutObject", PROBE_PREFIX)
        status, text = run()
        assert status == ExitStatus.DONE
        assert "none is relied on" in text

    def test_an_operation_that_the_store_does_not_know(self, s3_server: S3Server) -> None:
        for operation in ("DeleteObjects", "ListMultipartUploads"):
            deny(s3_server, operation, status=501, code="NotImplemented")
        assert missing() == {"delete many", "list uploads"}

    def test_other_bytes_come_back(self, s3_server: S3Server) -> None:
        s3_server.fault("GetObject", "alter_body", key_contains=CAS)
        assert found()["needs"]["get in cas/"]["code"] == Corrupt.code

    def test_what_was_written_is_not_there(self, store: S3BlobStorage, s3_server: S3Server) -> None:
        deny(s3_server, "HeadObject", CAS, status=404, code="404")
        deny(s3_server, "GetObject", CAS, status=404, code="NoSuchKey")
        assert missing() == {"head in cas/", "get in cas/"}

    def test_what_was_written_is_not_listed(self, s3_server: S3Server) -> None:
        s3_server.fault("ListObjectsV2", "nothing_listed", key_contains=CAS, times=-1)
        assert missing() == {"list in cas/"}
        assert "is not listed" in run()[1]

    def test_what_was_deleted_is_still_there(self, s3_server: S3Server) -> None:
        s3_server.fault("DeleteObject", "not_done", key_contains=CAS, times=-1)
        assert missing() == {"delete in cas/"}
        assert "is still there" in run()[1]

    def test_versions_are_told(self, store: S3BlobStorage) -> None:
        store.client.put_bucket_versioning(
            Bucket=store.bucket_name, VersioningConfiguration={"Status": "Enabled"}
        )
        status, text = run()
        assert status == ExitStatus.DONE
        assert text.count("The bucket keeps versions") == 1
        versions = store.client.list_object_versions(Bucket=store.bucket_name)["Versions"]
        assert all(version["Key"].startswith(PROBE_PREFIX) for version in versions)

    def test_a_store_that_is_down(self, s3_server: S3Server) -> None:
        deny(s3_server, "*", status=503, code="SlowDown")
        with pytest.raises(CommandError, match="unreachable") as ended:
            run()
        assert ended.value.returncode == ExitStatus.UNAVAILABLE

    def test_the_clock_is_told(self, s3_server: S3Server) -> None:
        s3_server.clock_ahead(-300)
        assert -303 < found()["clock_ahead_seconds"] < -297
        assert "s behind this machine's" in run()[1]

    @pytest.mark.parametrize(("seconds", "said"), [(7200, "behind"), (-7200, "ahead of")])
    def test_a_clock_that_is_off(self, s3_server: S3Server, seconds: int, said: str) -> None:
        s3_server.clock_ahead(seconds)
        with pytest.raises(CommandError, match=rf"clock is 1[12][09] minutes {said}") as ended:
            run()
        assert ended.value.returncode == ExitStatus.UNAVAILABLE

    def test_a_clock_that_is_off_and_no_reason(self, s3_server: S3Server) -> None:
        """As where a proxy answers, or a service says no more of it."""
        s3_server.clock_ahead(800)
        deny(s3_server, "*", code="403")
        with pytest.raises(CommandError, match=r"clock is 1[23] minutes behind"):
            run()

    def test_another_region(self, s3_server: S3Server) -> None:
        headers = {"x-amz-bucket-region": "eu-central-1"}
        deny(s3_server, "*", status=301, code="PermanentRedirect", headers=headers)
        with pytest.raises(CommandError, match="set CAS_S3_REGION to eu-central-1") as ended:
            run()
        assert ended.value.returncode == ExitStatus.UNAVAILABLE

    @pytest.mark.parametrize(
        "code", ["NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch"]
    )
    def test_nothing_can_be_tried(self, s3_server: S3Server, code: str) -> None:
        deny(s3_server, "ListObjectsV2", code=code)
        with pytest.raises(CommandError, match=code) as ended:
            run()
        assert ended.value.returncode == ExitStatus.UNAVAILABLE

    def test_capabilities_are_told_once(
        self, s3_server: S3Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        s3_server.ignore("copy_if_match")
        _, text = run()
        assert f"not supported; {FALLBACKS['copy_if_match']}" in text
        assert text.count("not supported") == 1
        assert "copy_if_match" not in caplog.text

    def test_json(self, store: S3BlobStorage) -> None:
        said = found()
        assert said["store"] == store.identity
        assert said["status"] == "done"
        assert said["capabilities"] == dict(probe(store).results)
        assert said["needs"] == {str(need): None for need in NEEDS.values()}
        assert abs(said["clock_ahead_seconds"]) < 60

    def test_capabilities_are_probed_again_unless_told_not_to(
        self, store: S3BlobStorage, s3_server: S3Server
    ) -> None:
        probe(store)
        s3_server.ignore("if_none_match")
        assert json.loads(run("--json", "--cached")[1])["capabilities"]["if_none_match"] is True
        assert found()["capabilities"]["if_none_match"] is False


class TestOnAnyService:
    """Rights and mistakes as a service has them: a bucket's policy, wrong credentials."""

    @pytest.fixture(autouse=True)
    def store(self, s3_store: BlobStore) -> S3BlobStorage:
        assert isinstance(s3_store, S3BlobStorage)
        return s3_store

    @pytest.mark.parametrize(
        ("action", "below", "needs"),
        [
            ("s3:PutObject", CAS, {"put in cas/", "copy in cas/", "multipart in cas/"}),
            ("s3:GetObject", CAS, {"head in cas/", "get in cas/"}),
            ("s3:DeleteObject", CAS, {"delete in cas/"}),
            ("s3:AbortMultipartUpload", CAS, {"abort in cas/"}),
            ("s3:DeleteObject", PARTS, {"delete in parts/"}),
            ("s3:GetObject", PARTS, {"get in parts/"}),
            ("s3:PutObject", QUARANTINE, {"copy in quarantine/"}),
            ("s3:ListBucket", "", {"list in cas/", "list in parts/"}),
            ("s3:ListBucketMultipartUploads", "", {"list uploads"}),
            ("s3:GetBucketVersioning", "", {"read versioning"}),
        ],
    )
    def test_a_policy_that_denies_one_thing(
        self,
        store: S3BlobStorage,
        s3_endpoint: S3Endpoint,
        tmp_path: Path,
        action: str,
        below: str,
        needs: set[str],
    ) -> None:
        put(store, "parts/1/attachments/a.pdf", b"an old object", tmp_path)
        before = keys(store)
        with denied(s3_endpoint, store.bucket_name, action, below):
            assert missing() == needs
        assert keys(store) == before

    @pytest.mark.parametrize(
        ("option", "value", "code", "setting"),
        [
            ("bucket_name", "no-such-bucket-here", "NoSuchBucket", "CAS_S3_BUCKET"),
            ("access_key", "NOBODY", "InvalidAccessKeyId", "CAS_S3_ACCESS_KEY_ID"),
            ("secret_key", "wrong", "SignatureDoesNotMatch", "CAS_S3_SECRET_ACCESS_KEY"),
        ],
    )
    def test_a_wrong_setting_is_named(
        self,
        s3_endpoint: S3Endpoint,
        s3_bucket: str,
        settings: Any,
        option: str,
        value: str,
        code: str,
        setting: str,
    ) -> None:
        options = {**s3_endpoint.storage_options(s3_bucket), option: value}
        attachments = {**settings.STORAGES["attachments"], "OPTIONS": options}
        settings.STORAGES = {**settings.STORAGES, "attachments": attachments}
        if option != "bucket_name":
            # The stand-in knows no accounts.
            if isinstance(s3_endpoint, S3Server):
                deny(s3_endpoint, "*", code=code)
            else:
                skip_accounts_of_the_stand_in()
        with pytest.raises(CommandError, match=code) as ended:
            run()
        assert ended.value.returncode == ExitStatus.UNAVAILABLE
        assert setting in str(ended.value)

    def test_object_lock(self, s3_endpoint: S3Endpoint, s3_bucket: str, settings: Any) -> None:
        if s3_endpoint.bucket:
            pytest.skip("a bucket can be locked only when it is created")
        name = f"{s3_bucket}-locked"
        s3_endpoint.client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
        options = s3_endpoint.storage_options(name)
        attachments = {**settings.STORAGES["attachments"], "OPTIONS": options}
        settings.STORAGES = {**settings.STORAGES, "attachments": attachments}
        status, text = run()
        assert status == ExitStatus.DONE
        assert text.count("The bucket has object lock") == 1
        s3_endpoint.drop_bucket(name)


def skip_accounts_of_the_stand_in() -> None:
    if os.environ.get("TEST_S3_SERVICE") == "stand-in":
        pytest.skip("the stand-in knows no accounts and no policies")


@contextmanager
def denied(endpoint: S3Endpoint, bucket: str, action: str, below: str) -> Iterator[None]:
    """Have the bucket's policy deny an action; the stand-in has none, so its operations fail."""
    if isinstance(endpoint, S3Server):
        for operation in OPERATIONS[action]:
            deny(endpoint, operation, below)
        yield
        endpoint.reset()
        return
    skip_accounts_of_the_stand_in()
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": action,
        "Resource": f"arn:aws:s3:::{bucket}" + (f"/{below}*" if below else ""),
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    try:
        endpoint.client.put_bucket_policy(Bucket=bucket, Policy=policy)
    except ClientError as error:
        pytest.skip(f"this store has no bucket policies: {error}")
    yield
    endpoint.client.delete_bucket_policy(Bucket=bucket)


OPERATIONS = {
    "s3:PutObject": ("PutObject", "CopyObject", "CreateMultipartUpload"),
    "s3:GetObject": ("HeadObject", "GetObject"),
    "s3:DeleteObject": ("DeleteObject",),
    "s3:AbortMultipartUpload": ("AbortMultipartUpload",),
    "s3:ListBucket": ("ListObjectsV2",),
    "s3:ListBucketMultipartUploads": ("ListMultipartUploads",),
    "s3:GetBucketVersioning": ("GetBucketVersioning",),
}
"""What each right of a policy is needed for."""


class TestOnDisk:
    @pytest.fixture(autouse=True)
    def store(self, disk_store: BlobStore) -> Any:
        return disk_store

    def test_everything_works_and_nothing_stays(self, store: Any) -> None:
        status, text = run()
        assert status == ExitStatus.DONE
        assert "hard_links              supported" in text
        assert "GiB are free" in text
        assert "missing" not in text
        assert keys(store) == []
        assert list(store.staging_dir.iterdir()) == []

    @pytest.mark.parametrize(
        ("prefix", "status"),
        [
            (CAS, ExitStatus.UNAVAILABLE),
            (PARTS, ExitStatus.ITEMS_FAILED),
            (QUARANTINE, ExitStatus.ITEMS_FAILED),
        ],
    )
    def test_a_directory_that_cannot_be_written_to(
        self, store: Any, monkeypatch: pytest.MonkeyPatch, prefix: str, status: ExitStatus
    ) -> None:
        """Root may write everywhere, so the system call is made to refuse."""
        directory = Path(store.location, prefix)
        directory.mkdir(parents=True)
        rename = Path.rename

        def refuse(path: Path, target: Path) -> Path:
            if target.parent == directory:
                raise PermissionError(13, "Permission denied")
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", refuse)
        assert found()["needs"][f"write in {prefix}"]["code"] == Denied.code
        assert run()[0] == status
        assert list(store.staging_dir.iterdir()) == []

    def test_what_cannot_be_made_durable(self, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(descriptor: int) -> None:
            raise OSError(22, "Invalid argument")

        assert store.staging_dir.is_dir()
        monkeypatch.setattr("os.fsync", refuse)
        assert missing() == {"fsync"}
        assert run()[0] == ExitStatus.ITEMS_FAILED

    def test_another_filesystem(self, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path, target: Path) -> Path:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(Path, "rename", refuse)
        status, text = run()
        assert status == ExitStatus.UNAVAILABLE
        assert "cross-device" in text

    def test_nothing_can_be_written(self, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path, data: bytes) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "write_bytes", refuse)
        with pytest.raises(CommandError, match="denied") as ended:
            run()
        assert ended.value.returncode == ExitStatus.UNAVAILABLE
