"""Buckets that keep what is deleted: versions and object lock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cas.storage.base import BlobStore, Denied, Unreachable, Versioning
from cas.storage.s3 import S3BlobStorage, listing
from cas.tests.test_store_contract import DATA, keys, put
from cas.tests.test_store_s3 import other_store
from tests.s3 import S3Server


@pytest.fixture
def store(s3_store: Any) -> S3BlobStorage:
    made: S3BlobStorage = s3_store
    return made


def keep_versions(store: S3BlobStorage, status: str = "Enabled") -> None:
    store.client.put_bucket_versioning(
        Bucket=store.bucket_name, VersioningConfiguration={"Status": status}
    )


def versions(store: S3BlobStorage, prefix: str = "") -> list[str]:
    found = store.client.list_object_versions(Bucket=store.bucket_name, Prefix=prefix)
    return [one["Key"] for kind in ("Versions", "DeleteMarkers") for one in found.get(kind, [])]


def test_files_and_plain_buckets_keep_nothing(disk_store: BlobStore, store: S3BlobStorage) -> None:
    assert disk_store.versioning() is Versioning.NONE
    assert store.versioning() is Versioning.NONE


def test_versions_and_their_suspension_are_seen(store: S3BlobStorage) -> None:
    keep_versions(store)
    assert store.versioning() is Versioning.KEPT
    keep_versions(store, "Suspended")
    assert store.versioning() is Versioning.SUSPENDED


def test_object_lock_is_seen(s3_server: S3Server) -> None:
    s3_server.client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    assert other_store(s3_server, "locked").versioning() is Versioning.LOCKED
    s3_server.fault("GetBucketVersioning", "error", status=403, code="AccessDenied")
    assert other_store(s3_server, "locked").versioning() is Versioning.LOCKED
    s3_server.fault("GetObjectLockConfiguration", "error", status=403, code="AccessDenied")
    assert other_store(s3_server, "locked").versioning() is Versioning.KEPT
    s3_server.drop_bucket("locked")


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (501, "NotImplemented")])
def test_who_may_not_ask_does_not_know(
    store: S3BlobStorage, s3_server: S3Server, status: int, code: str
) -> None:
    s3_server.fault("GetBucketVersioning", "error", status=status, code=code)
    assert store.versioning() is Versioning.UNKNOWN


def test_a_store_that_is_away_is_not_taken_for_a_plain_one(
    store: S3BlobStorage, s3_server: S3Server
) -> None:
    for operation in ("GetBucketVersioning", "GetObjectLockConfiguration"):
        keep_versions(store)
        s3_server.fault(operation, "error", status=503, code="SlowDown", times=2)
        with pytest.raises(Unreachable):
            store.versioning()


class TestRemoval:
    @pytest.fixture(autouse=True)
    def filled(self, store: S3BlobStorage, tmp_path: Path) -> None:
        """Two objects of three versions, one of them deleted, and a neighbour of like name."""
        keep_versions(store)
        for number in range(3):
            for name in ("a", "b"):
                put(store, f"legacy/{name}", DATA[number:], tmp_path)
        put(store, "legacy/aa", DATA, tmp_path)
        store.remove("legacy/b")

    def test_old_versions_stay(self, store: S3BlobStorage) -> None:
        assert list(store.remove_many(["legacy/a"])) == [("legacy/a", None)]
        assert keys(store) == ["legacy/aa"]
        assert versions(store, "legacy/a").count("legacy/a") == 4

    def test_unless_they_are_deleted_as_well(
        self, store: S3BlobStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listing, "BATCH", 2)
        named = ["legacy/a", "legacy/b", "legacy/none"]
        assert list(store.remove_many(named, versions=True)) == [(key, None) for key in named]
        assert versions(store) == ["legacy/aa"]

    @pytest.mark.parametrize("operation", ["ListObjectVersions", "DeleteObject"])
    def test_a_right_that_is_missing_is_said_of_each_key(
        self, store: S3BlobStorage, s3_server: S3Server, operation: str
    ) -> None:
        for one in (operation, "DeleteObjects"):
            s3_server.fault(one, "error", status=403, code="AccessDenied", times=-1)
        outcomes = list(store.remove_many(["legacy/a", "legacy/b"], versions=True))
        assert [(key, type(error)) for key, error in outcomes] == [
            ("legacy/a", Denied),
            ("legacy/b", Denied),
        ]
        s3_server.reset()
        assert len(versions(store, "legacy/b")) == 4

    def test_a_version_that_is_refused_leaves_its_key(
        self, store: S3BlobStorage, s3_server: S3Server
    ) -> None:
        s3_server.fault(
            "DeleteObjects", "delete_errors", text="legacy/a", code="AccessDenied", times=1
        )
        outcomes = dict(store.remove_many(["legacy/a", "legacy/b"], versions=True))
        assert isinstance(outcomes["legacy/a"], Denied)
        assert outcomes["legacy/b"] is None

    def test_one_by_one_where_that_is_all_there_is(
        self, store: S3BlobStorage, s3_server: S3Server
    ) -> None:
        s3_server.fault("DeleteObjects", "error", status=501, code="NotImplemented", times=-1)
        assert list(store.remove_many(["legacy/a"], versions=True)) == [("legacy/a", None)]
        assert "legacy/a" not in versions(store)


def test_on_disk_it_makes_no_difference(disk_store: BlobStore, tmp_path: Path) -> None:
    put(disk_store, "legacy/a", DATA, tmp_path)
    assert list(disk_store.remove_many(["legacy/a"], versions=True)) == [("legacy/a", None)]
    assert keys(disk_store) == []
