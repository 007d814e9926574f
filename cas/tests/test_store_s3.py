"""What only a store on S3 can get wrong, with the server made to misbehave in each way."""

from __future__ import annotations

import multiprocessing
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from cas.digest import Digest
from cas.storage.base import (
    Absent,
    ByteRange,
    Changed,
    Corrupt,
    Denied,
    Outcome,
    StoreError,
    StoreFull,
    Unreachable,
)
from cas.storage.capabilities import probe
from cas.storage.s3 import S3BlobStorage
from cas.storage.s3.client import meaning, read_time
from cas.tests.test_store_contract import DATA, bytes_at, damage, keys, put, stage, staged_at
from tests.s3 import S3Endpoint, S3Server

MIB = 1024 * 1024
LARGE = os.urandom(5 * MIB) * 2 + b"a last part"
"""More than two parts of the smallest size that S3 takes."""


@pytest.fixture
def store(s3_store: Any) -> S3BlobStorage:
    assert isinstance(s3_store, S3BlobStorage)
    s3_store.multipart_threshold = s3_store.part_size = 5 * MIB
    return s3_store


@pytest.fixture
def probed(store: S3BlobStorage, s3_endpoint: S3Endpoint) -> S3BlobStorage:
    """The store with its capabilities probed, so that requests and faults are the test's own."""
    probe(store)
    s3_endpoint.reset()
    return store


def other_store(s3_server: S3Server, bucket: str, **options: Any) -> S3BlobStorage:
    return S3BlobStorage(**{**s3_server.storage_options(bucket), "max_attempts": 1, **options})


def uploads(store: S3BlobStorage) -> list[Any]:
    found = store.client.list_multipart_uploads(Bucket=store.bucket_name)
    return list(found.get("Uploads", []))


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2026-03-01T12:30:00.250Z", datetime(2026, 3, 1, 12, 30, 0, 250_000, UTC)),
        ("Sun, 01 Mar 2026 12:30:00 GMT", datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
        ("1772368200", datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
        (1772368200, datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
        ("March 1, 2026 12:30:00 UTC", datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
    ],
)
def test_times_are_read_in_every_form(written: Any, moment: datetime) -> None:
    assert read_time(written) == moment


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="soon"):
        read_time("soon")


def test_a_listing_and_a_look_tell_one_time(store: S3BlobStorage, tmp_path: Path) -> None:
    put(store, "legacy/a", DATA, tmp_path)
    (listed,) = store.scan("legacy/")
    assert listed.modified.replace(microsecond=0) == store.stat("legacy/a").modified
    assert abs(listed.modified - datetime.now(UTC)) < timedelta(minutes=1)


class TestRequests:
    """How many requests a thing costs, and how many bytes."""

    def test_a_range_fetches_only_its_bytes(
        self, probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        put(probed, "legacy/a", DATA, tmp_path)
        s3_server.reset()
        with probed.read("legacy/a", ByteRange(1000, 1100)) as stream:
            assert stream.read() == DATA[1000:1100]
        assert s3_server.counts() == {"GetObject": 1}
        assert s3_server.sent() == {"GetObject": 100}

    def test_an_object_that_is_there_costs_one_head(
        self, probed: S3BlobStorage, s3_server: S3Server
    ) -> None:
        staged = stage(probed)
        probed.create(staged)
        assert s3_server.counts() == {"HeadObject": 1, "PutObject": 1}
        s3_server.reset()
        assert probed.create(staged) is Outcome.PRESENT
        assert s3_server.counts() == {"HeadObject": 1}

    def test_ingest_downloads_once_and_uploads_nothing(
        self, probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        put(probed, "legacy/a", DATA, tmp_path)
        s3_server.reset()
        probed.ingest("legacy/a")
        assert s3_server.counts() == {"GetObject": 1, "CopyObject": 1}
        assert s3_server.sent()["GetObject"] == len(DATA)
        s3_server.reset()
        assert probed.ingest("legacy/a").outcome is Outcome.PRESENT
        assert s3_server.counts() == {"GetObject": 1, "CopyObject": 1, "HeadObject": 1}

    def test_a_store_that_copies_over_anything_is_asked_first(
        self, store: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        s3_server.ignore("copy_if_none_match")
        probe(store)
        put(store, "legacy/a", DATA, tmp_path)
        before = s3_server.counts()
        store.ingest("legacy/a")
        assert s3_server.counts()["HeadObject"] == before["HeadObject"] + 1
        assert store.ingest("legacy/a").outcome is Outcome.PRESENT
        assert s3_server.counts()["CopyObject"] == before["CopyObject"] + 1

    def test_parts_are_not_copied_to_what_is_there(
        self, probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        probed.copy_threshold = probed.copy_part_size = 5 * MIB
        put(probed, "legacy/a", LARGE, tmp_path)
        probed.ingest("legacy/a")
        s3_server.reset()
        assert probed.ingest("legacy/a").outcome is Outcome.PRESENT
        assert s3_server.counts().get("UploadPartCopy") is None

    def test_reading_probes_nothing(
        self, store: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        s3_server.reset()
        store.stat("legacy/a")
        assert bytes_at(store, "legacy/a") == DATA
        assert s3_server.counts() == {"GetObject": 1, "HeadObject": 1}

    def test_a_thousand_and_one_keys_go_in_two_batches(
        self, store: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        named = [f"legacy/{n:04}" for n in range(1001)]
        put(store, named[-1], DATA, tmp_path)
        outcomes = list(store.remove_many(named))
        assert outcomes == [(key, None) for key in named]
        assert s3_server.counts()["DeleteObjects"] == 2
        assert keys(store) == []

    def test_a_listing_of_several_pages(self, store: S3BlobStorage, s3_server: S3Server) -> None:
        s3_server.fill(store.bucket_name, [f"legacy/{n:04}" for n in range(1005)])
        assert keys(store) == [f"legacy/{n:04}" for n in range(1005)]
        assert keys(store, after="legacy/1001") == ["legacy/1002", "legacy/1003", "legacy/1004"]


class TestMultipart:
    def test_a_large_object_goes_in_checked_parts(
        self, probed: S3BlobStorage, s3_server: S3Server
    ) -> None:
        staged = stage(probed, LARGE)
        assert probed.create(staged) is Outcome.STORED
        assert s3_server.counts()["UploadPart"] == 3
        assert "PutObject" not in s3_server.counts()
        assert bytes_at(probed, staged.digest.key) == LARGE
        assert probed.create(staged) is Outcome.PRESENT

    def test_a_part_damaged_on_the_way_is_refused(
        self, probed: S3BlobStorage, s3_server: S3Server
    ) -> None:
        s3_server.fault("UploadPart", "alter_request", skip=1)
        with pytest.raises(Corrupt):
            probed.create(stage(probed, LARGE))
        assert keys(probed) == []
        assert uploads(probed) == []

    def test_bytes_altered_after_hashing_are_refused(self, probed: S3BlobStorage) -> None:
        staged = stage(probed, LARGE)
        staged.path.write_bytes(LARGE[::-1])
        with pytest.raises(Corrupt):
            probed.create(staged)
        assert keys(probed) == []
        assert uploads(probed) == []

    @pytest.mark.parametrize("operation", ["UploadPart", "CompleteMultipartUpload"])
    def test_a_failure_gives_the_parts_back(
        self, probed: S3BlobStorage, s3_server: S3Server, operation: str
    ) -> None:
        s3_server.fault(operation, "error", status=500, times=-1)
        with pytest.raises(Unreachable):
            probed.create(stage(probed, LARGE))
        assert uploads(probed) == []
        assert keys(probed) == []

    def test_somebody_else_is_first(self, probed: S3BlobStorage, s3_server: S3Server) -> None:
        staged = stage(probed, LARGE)
        s3_server.fault(
            "CompleteMultipartUpload",
            "overwrite_first",
            key=staged.digest.key,
            body=LARGE.decode("latin-1"),
        )
        assert probed.create(staged) is Outcome.PRESENT
        assert uploads(probed) == []

    def test_completed_but_the_answer_got_lost(
        self, probed: S3BlobStorage, s3_server: S3Server
    ) -> None:
        staged = stage(probed, LARGE)
        s3_server.fault("CompleteMultipartUpload", "act_then_close")
        assert probed.create(staged) is Outcome.STORED
        assert bytes_at(probed, staged.digest.key) == LARGE

    def test_a_wrong_object_is_healed(self, probed: S3BlobStorage, tmp_path: Path) -> None:
        staged = stage(probed, LARGE)
        damage(probed, staged.digest.key, b"short", tmp_path)
        assert probed.create(staged) is Outcome.HEALED
        assert bytes_at(probed, staged.digest.key) == LARGE

    def test_copies_in_parts(
        self, probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        probed.copy_threshold = probed.copy_part_size = 5 * MIB
        put(probed, "legacy/a", LARGE, tmp_path)
        assert probed.ingest("legacy/a").outcome is Outcome.STORED
        assert s3_server.counts()["UploadPartCopy"] == 3
        assert bytes_at(probed, Digest.of(LARGE).key) == LARGE
        probed.copy("legacy/a", "aside/a")
        assert s3_server.counts()["UploadPartCopy"] == 6
        assert bytes_at(probed, "aside/a") == LARGE

    def test_a_source_overwritten_between_two_parts(
        self, probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        probed.copy_threshold = probed.copy_part_size = 5 * MIB
        put(probed, "legacy/a", LARGE, tmp_path)
        s3_server.fault(
            "UploadPartCopy",
            "overwrite_first",
            skip=1,
            key="legacy/a",
            body=LARGE[::-1].decode("latin-1"),
        )
        with pytest.raises(Changed):
            probed.ingest("legacy/a")
        assert keys(probed, "cas/") == []
        assert uploads(probed) == []

    def test_a_source_made_of_parts_is_no_checksum(
        self, probed: S3BlobStorage, tmp_path: Path
    ) -> None:
        """Its ETag is no MD5, and its SHA-256 is one of checksums; neither is taken for one."""
        upload_in_parts(probed, "legacy/a", LARGE)
        assert probed.stat("legacy/a").sha256 is None
        done = probed.ingest("legacy/a")
        assert done.digest == Digest.of(LARGE)
        assert bytes_at(probed, done.digest.key) == LARGE

    def test_abandoned_uploads_go(self, store: S3BlobStorage, tmp_path: Path) -> None:
        for key in (Digest.of(DATA).key, "somebody/elses"):
            store.client.create_multipart_upload(Bucket=store.bucket_name, Key=key)
        assert list(store.remove_abandoned(datetime.now(UTC) - timedelta(days=1))) == []
        later = datetime.now(UTC) + timedelta(days=1)
        assert len(list(store.remove_abandoned(later, dry_run=True))) == 1
        assert len(uploads(store)) == 2
        assert len(list(store.remove_abandoned(later))) == 1
        assert [upload["Key"] for upload in uploads(store)] == ["somebody/elses"]

    @pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (501, "NotImplemented")])
    def test_uploads_that_may_not_be_listed_are_named_once_and_passed_by(
        self,
        store: S3BlobStorage,
        s3_server: S3Server,
        caplog: pytest.LogCaptureFixture,
        status: int,
        code: str,
    ) -> None:
        s3_server.fault("ListMultipartUploads", "error", status=status, code=code, times=-1)
        stage(store, name="left-behind")
        later = datetime.now(UTC) + timedelta(days=1)
        assert len(list(store.remove_abandoned(later))) == 1
        assert caplog.text.count("are not cleared") == 1
        assert list(store.staging_dir.iterdir()) == []


def upload_in_parts(store: S3BlobStorage, key: str, data: bytes) -> None:
    names = {"Bucket": store.bucket_name, "Key": key}
    answer = store.client.create_multipart_upload(**names, ChecksumAlgorithm="SHA256")
    names["UploadId"] = answer["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(data), 5 * MIB), 1):
        piece = data[start : start + 5 * MIB]
        part = store.client.upload_part(
            **names, PartNumber=number, Body=piece, ChecksumAlgorithm="SHA256"
        )
        # A store that does not support the checksum leaves it out.
        stated = {name: part[name] for name in ("ETag", "ChecksumSHA256") if name in part}
        parts.append({"PartNumber": number, **stated})
    store.client.complete_multipart_upload(**names, MultipartUpload={"Parts": parts})


class TestDamage:
    """Bytes that are not what they should be never stay below `cas/`."""

    @pytest.mark.parametrize("ignored", [[], ["checksum_sha256"], ["content_md5"]])
    def test_on_the_way_up(
        self, store: S3BlobStorage, s3_server: S3Server, ignored: list[str]
    ) -> None:
        """The store refuses it by either checksum: it is never there to be taken back."""
        s3_server.ignore(*ignored)
        probe(store)
        before = s3_server.counts()["DeleteObject"]
        s3_server.fault("PutObject", "alter_request")
        with pytest.raises(Corrupt):
            store.create(stage(store))
        assert s3_server.counts()["DeleteObject"] == before
        assert keys(store) == []

    def test_in_the_staged_file(self, probed: S3BlobStorage) -> None:
        staged = stage(probed)
        staged.path.write_bytes(DATA[::-1])
        with pytest.raises(Corrupt):
            probed.create(staged)
        assert keys(probed) == []

    def test_on_the_way_down(
        self, probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        put(probed, "legacy/a", DATA, tmp_path)
        s3_server.fault("GetObject", "alter_body")
        with pytest.raises(Corrupt):
            probed.ingest("legacy/a")
        assert keys(probed, "cas/") == []

    def test_a_source_overwritten_between_reading_and_copying(
        self, probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        put(probed, "legacy/a", DATA, tmp_path)
        s3_server.fault("CopyObject", "overwrite_first", key="legacy/a", body="other")
        with pytest.raises(Changed):
            probed.ingest("legacy/a")
        assert keys(probed, "cas/") == []

    def test_a_source_deleted_between_reading_and_copying(
        self, probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        put(probed, "legacy/a", DATA, tmp_path)
        s3_server.fault("CopyObject", "remove_first", key="legacy/a")
        with pytest.raises((Absent, Changed)):
            probed.ingest("legacy/a")
        assert keys(probed, "cas/") == []

    def test_a_target_whose_etag_tells_nothing_is_read(
        self, probed: S3BlobStorage, tmp_path: Path
    ) -> None:
        """An object made of parts has neither an MD5 nor a SHA-256 of its bytes."""
        put(probed, "legacy/a", LARGE, tmp_path)
        key = Digest.of(LARGE).key
        upload_in_parts(probed, key, LARGE)
        assert probed.ingest("legacy/a").outcome is Outcome.PRESENT
        upload_in_parts(probed, key, LARGE[::-1])
        assert probed.ingest("legacy/a").outcome is Outcome.HEALED
        assert bytes_at(probed, key) == LARGE

    def test_what_was_healed_meanwhile_is_not_taken_back(
        self, store: S3BlobStorage, s3_server: S3Server
    ) -> None:
        """Only the version that we wrote and know to be wrong is removed."""
        s3_server.ignore("content_md5", "checksum_sha256")
        probe(store)
        staged = stage(store)
        s3_server.fault("PutObject", "alter_request")
        s3_server.fault("DeleteObject", "overwrite_first", key=staged.digest.key, body="healed")
        with pytest.raises(Corrupt):
            store.create(staged)
        assert bytes_at(store, staged.digest.key) == b"healed"

    def test_a_checksum_that_does_not_fit_is_healed(
        self, probed: S3BlobStorage, tmp_path: Path
    ) -> None:
        """Bytes of the right size are trusted no further than the checksum the store has."""
        put(probed, "legacy/a", DATA, tmp_path)
        wrong = DATA[::-1]
        probed.client.put_object(
            Bucket=probed.bucket_name,
            Key=Digest.of(DATA).key,
            Body=wrong,
            ChecksumAlgorithm="SHA256",
        )
        assert probed.ingest("legacy/a").outcome is Outcome.HEALED
        assert bytes_at(probed, Digest.of(DATA).key) == DATA


class TestStoredChecksum:
    def test_saves_the_download(
        self, probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        probed.client.put_object(
            Bucket=probed.bucket_name, Key="legacy/a", Body=LARGE, ChecksumAlgorithm="SHA256"
        )
        assert probed.stat("legacy/a").sha256 == Digest.of(LARGE)
        seen: list[int] = []
        done = probed.ingest("legacy/a", seen.append)
        assert (done.digest, done.outcome) == (Digest.of(LARGE), Outcome.STORED)
        assert seen == []
        assert bytes_at(probed, done.digest.key) == LARGE
        # From then on it is asked for before anything is downloaded, until one has none.
        s3_server.reset()
        assert probed.ingest("legacy/a").outcome is Outcome.PRESENT
        assert s3_server.counts().get("GetObject") is None
        put(probed, "legacy/b", DATA, tmp_path)
        assert probed.ingest("legacy/b").digest == Digest.of(DATA)
        s3_server.reset()
        probed.ingest("legacy/b")
        assert s3_server.counts()["GetObject"] == 1

    def test_is_not_used_where_the_store_does_not_check_it(
        self, store: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        s3_server.ignore("checksum_sha256")
        store.client.put_object(
            Bucket=store.bucket_name,
            Key="legacy/a",
            Body=DATA,
            ChecksumSHA256="n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=",
        )
        assert store.ingest("legacy/a").digest == Digest.of(DATA)
        assert store.stat("legacy/a").sha256 is None


class TestLostRaces:
    def test_somebody_else_stores_it_first(
        self, probed: S3BlobStorage, s3_server: S3Server
    ) -> None:
        staged = stage(probed)
        s3_server.fault(
            "PutObject", "overwrite_first", key=staged.digest.key, body=DATA.decode("latin-1")
        )
        assert probed.create(staged) is Outcome.PRESENT

    def test_somebody_else_stores_half_of_it_first(
        self, probed: S3BlobStorage, s3_server: S3Server
    ) -> None:
        staged = stage(probed)
        s3_server.fault("PutObject", "overwrite_first", key=staged.digest.key, body="half")
        assert probed.create(staged) is Outcome.HEALED
        assert bytes_at(probed, staged.digest.key) == DATA

    def test_a_conflict_is_tried_again(self, probed: S3BlobStorage, s3_server: S3Server) -> None:
        s3_server.fault("PutObject", "error", status=409, code="ConditionalRequestConflict")
        assert probed.create(stage(probed)) is Outcome.STORED

    def test_but_not_for_ever(self, probed: S3BlobStorage, s3_server: S3Server) -> None:
        s3_server.fault(
            "PutObject", "error", status=409, code="ConditionalRequestConflict", times=-1
        )
        with pytest.raises(Unreachable):
            probed.create(stage(probed))
        assert s3_server.counts()["PutObject"] == 5

    def test_stored_but_the_answer_got_lost(
        self, probed: S3BlobStorage, s3_server: S3Server
    ) -> None:
        staged = stage(probed)
        s3_server.fault("PutObject", "act_then_close")
        assert probed.create(staged) is Outcome.STORED
        assert bytes_at(probed, staged.digest.key) == DATA


class TestFaults:
    """Each failure has its own exception, and passing ones pass."""

    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            (500, "InternalError", Unreachable),
            (503, "SlowDown", Unreachable),
            (502, "Whatever", Unreachable),
            (429, "TooManyRequests", Unreachable),
            (403, "AccessDenied", Denied),
            (400, "ExpiredToken", Denied),
            (403, "SignatureDoesNotMatch", Denied),
            (404, "NoSuchBucket", Denied),
            (404, "NoSuchKey", Absent),
            (507, "XMinioStorageFull", StoreFull),
            (418, "Teapot", StoreError),
        ],
    )
    def test_each_has_its_meaning(
        self,
        s3_server: S3Server,
        s3_bucket: str,
        status: int,
        code: str,
        kind: type[StoreError],
    ) -> None:
        store = other_store(s3_server, s3_bucket)
        s3_server.fault("GetObject", "error", status=status, code=code)
        with pytest.raises(StoreError) as caught:
            store.read("legacy/a")
        assert type(caught.value) is kind
        assert caught.value.key == "legacy/a"

    def test_passing_ones_are_tried_again(self, probed: S3BlobStorage, s3_server: S3Server) -> None:
        s3_server.fault("PutObject", "error", status=503, code="SlowDown")
        s3_server.fault("HeadObject", "error", status=500)
        assert probed.create(stage(probed)) is Outcome.STORED

    def test_silence_ends(self, s3_server: S3Server, s3_bucket: str) -> None:
        store = other_store(s3_server, s3_bucket, read_timeout=0.2)
        s3_server.fault("HeadObject", "act_then_hang", seconds=20)
        with pytest.raises(Unreachable):
            store.stat("legacy/a")

    def test_a_port_where_no_server_listens(self, s3_server: S3Server, s3_bucket: str) -> None:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            port = reserved.getsockname()[1]
            store = other_store(s3_server, s3_bucket, endpoint_url=f"http://127.0.0.1:{port}")
            with pytest.raises(Unreachable):
                store.stat("legacy/a")

    def test_no_credentials(
        self, s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        store = other_store(s3_server, s3_bucket, access_key=None, secret_key=None)
        with pytest.raises(Denied):
            store.stat("legacy/a")

    def test_no_bucket(self, s3_server: S3Server, s3_bucket: str) -> None:
        store = other_store(s3_server, "no-such-bucket")
        with pytest.raises(Denied):
            keys(store, "cas/")

    def test_an_answer_that_breaks_off_is_noticed(
        self, probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        put(probed, "legacy/a", DATA, tmp_path)
        s3_server.fault("GetObject", "close_mid_body", bytes=1000)
        with probed.read("legacy/a") as stream, pytest.raises((Corrupt, Unreachable)):
            stream.read()

    @pytest.mark.parametrize("work", ["ingest", "digest_of"])
    def test_but_does_not_call_the_object_wrong(
        self, probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path, work: str
    ) -> None:
        put(probed, "legacy/a", DATA, tmp_path)
        s3_server.fault("GetObject", "close_mid_body", bytes=1000)
        with pytest.raises(Unreachable):
            getattr(probed, work)("legacy/a")
        assert keys(probed, "cas/") == []

    def test_an_answer_shorter_than_the_range_is_noticed(
        self, probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        put(probed, "legacy/a", DATA, tmp_path)
        s3_server.fault("GetObject", "short_body", bytes=5)
        with pytest.raises(Corrupt):
            probed.read("legacy/a", ByteRange(0, 100))

    def test_an_answer_shorter_than_the_object_is_noticed(
        self, probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        put(probed, "legacy/a", DATA, tmp_path)
        s3_server.fault("GetObject", "short_body", bytes=1000)
        with pytest.raises(Corrupt):
            probed.ingest("legacy/a")
        assert keys(probed, "cas/") == []

    def test_a_copy_that_fails_with_200(
        self, probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        put(probed, "legacy/a", DATA, tmp_path)
        s3_server.fault("CopyObject", "error_in_200", times=-1)
        with pytest.raises(Unreachable):
            probed.ingest("legacy/a")
        assert keys(probed, "cas/") == []
        s3_server.reset()
        s3_server.fault("CopyObject", "error_in_200")
        assert probed.ingest("legacy/a").outcome is Outcome.STORED

    def test_a_connection_is_not_spoilt_by_a_stream_left_half_read(
        self, probed: S3BlobStorage, tmp_path: Path
    ) -> None:
        put(probed, "legacy/a", LARGE, tmp_path)
        for _ in range(3):
            with probed.read("legacy/a") as stream:
                stream.read(10)
        assert probed.stat("legacy/a").size == len(LARGE)

    def test_every_code_means_the_same_by_its_status(self) -> None:
        assert meaning("404") is Absent
        assert meaning("403") is Denied
        assert meaning("", 503) is Unreachable


class TestListingsThatLie:
    @pytest.fixture
    def filled(self, probed: S3BlobStorage, s3_server: S3Server) -> S3BlobStorage:
        s3_server.fill(probed.bucket_name, [f"legacy/{n:04}" for n in range(1005)])
        return probed

    def test_one_page_and_then_a_failure(self, filled: S3BlobStorage, s3_server: S3Server) -> None:
        s3_server.fault("ListObjectsV2", "error", status=500, skip=1, times=-1)
        listing = filled.scan("legacy/")
        for _ in range(1000):
            next(listing)
        with pytest.raises(Unreachable):
            next(listing)

    @pytest.mark.parametrize(("lie", "said"), [("no_token", "middle"), ("unsorted", "order")])
    def test_a_page_that_cannot_be_continued_or_ordered(
        self, filled: S3BlobStorage, s3_server: S3Server, lie: str, said: str
    ) -> None:
        s3_server.fault("ListObjectsV2", lie)
        with pytest.raises(StoreError, match=said):
            keys(filled, "legacy/")

    def test_a_batch_delete_that_leaves_some(
        self, filled: S3BlobStorage, s3_server: S3Server
    ) -> None:
        s3_server.fault("DeleteObjects", "delete_errors", text="0007", code="AccessDenied")
        named = [f"legacy/{n:04}" for n in range(10)]
        outcomes = dict(filled.remove_many(named))
        assert isinstance(outcomes["legacy/0007"], Denied)
        assert [key for key, error in outcomes.items() if error] == ["legacy/0007"]
        assert keys(filled, "legacy/000") == ["legacy/0007"]

    def test_a_batch_delete_that_fails_as_a_whole(
        self, filled: S3BlobStorage, s3_server: S3Server
    ) -> None:
        s3_server.fault("DeleteObjects", "error", status=400, code="MalformedXML")
        outcomes = list(filled.remove_many(["legacy/0001", "legacy/0002"]))
        assert [key for key, _ in outcomes] == ["legacy/0001", "legacy/0002"]
        assert all(isinstance(error, StoreError) for _, error in outcomes)

    @pytest.mark.parametrize(
        ("status", "code"), [(403, "AccessDenied"), (501, "NotImplemented"), (405, "")]
    )
    def test_a_store_without_batch_deletes_deletes_one_by_one(
        self, filled: S3BlobStorage, s3_server: S3Server, status: int, code: str
    ) -> None:
        s3_server.fault("DeleteObjects", "error", status=status, code=code, times=-1)
        named = [f"legacy/{n:04}" for n in range(3)]
        assert list(filled.remove_many(named)) == [(key, None) for key in named]
        assert keys(filled, "legacy/000")[0] == "legacy/0003"

    def test_who_may_delete_nothing_is_refused_each_key_by_one_request(
        self, filled: S3BlobStorage, s3_server: S3Server
    ) -> None:
        for operation in ("DeleteObjects", "DeleteObject"):
            s3_server.fault(operation, "error", status=403, code="AccessDenied", times=-1)
        outcomes = list(filled.remove_many(["legacy/0001", "legacy/0002"]))
        assert [(key, type(error)) for key, error in outcomes] == [
            ("legacy/0001", Denied),
            ("legacy/0002", Denied),
        ]
        assert s3_server.counts()["DeleteObject"] == 1
        assert len(keys(filled, "legacy/")) == 1005

    def test_a_delete_that_was_sent_twice_may_not_be_over(
        self, filled: S3BlobStorage, s3_server: S3Server
    ) -> None:
        """The first request was not answered; it may be carried out after the second."""
        for operation, key in (("DeleteObjects", "legacy/a"), ("DeleteObject", "legacy/\x01")):
            s3_server.fault(operation, "error", status=503, code="SlowDown")
            (outcome,) = filled.remove_many([key])
            assert isinstance(outcome[1], Unreachable)
            assert list(filled.remove_many([key])) == [(key, None)]

    def test_keys_that_xml_cannot_carry(self, store: S3BlobStorage, tmp_path: Path) -> None:
        put(store, "legacy/a\x01b", DATA, tmp_path)
        assert list(store.remove_many(["legacy/a\x01b"])) == [("legacy/a\x01b", None)]
        with pytest.raises(Absent):
            store.stat("legacy/a\x01b")


class TestProcesses:
    def test_threads_share_one_client(self, store: S3BlobStorage) -> None:
        assert store.client is store.client

    def test_a_forked_child_makes_its_own(self, store: S3BlobStorage, tmp_path: Path) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        mine = store.client
        context = multiprocessing.get_context("fork")
        answers = context.Queue()

        def child() -> None:
            answers.put((store.client is mine, store.stat("legacy/a").size))

        process = context.Process(target=child)
        process.start()
        assert answers.get(timeout=30) == (False, len(DATA))
        process.join()


def test_options_that_would_alter_keys_or_bytes_are_refused(s3_server: S3Server) -> None:
    for option in ({"location": "somewhere"}, {"gzip": True}):
        with pytest.raises(ImproperlyConfigured):
            other_store(s3_server, "bucket", **option)


def test_every_object_gets_the_operators_parameters(
    s3_server: S3Server, s3_bucket: str, s3_store: Any, tmp_path: Path
) -> None:
    store = other_store(s3_server, s3_bucket, object_parameters={"ServerSideEncryption": "AES256"})
    put(store, "legacy/a", DATA, tmp_path)
    staged = staged_at(tmp_path / "staged", b"x")
    staged.path.write_bytes(b"x")
    store.create(staged)
    store.ingest("legacy/a")
    for key in (staged.digest.key, Digest.of(DATA).key):
        head = store.client.head_object(Bucket=s3_bucket, Key=key)
        assert head["ServerSideEncryption"] == "AES256"
        assert head["ContentType"] == "application/octet-stream"
