"""Answers of S3 that say neither that an object was written nor that it was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cas.digest import Digest
from cas.storage.base import Outcome, StoreError, Unreachable
from cas.storage.capabilities import probe
from cas.storage.s3 import S3BlobStorage
from cas.tests.test_store_contract import DATA, bytes_at, damage, keys, put, stage
from cas.tests.test_store_s3 import LARGE, MIB, upload_in_parts, uploads
from tests.s3 import S3Server

UNCLEAR: list[tuple[str, dict[str, Any]]] = [
    ("empty_etag", {}),
    ("act_then_error", {"status": 200, "code": "InternalError"}),
    ("act_then_error", {"status": 500, "code": "InternalError"}),
    ("act_then_close", {}),
]
"""The object was written each time."""


@pytest.fixture
def probed(s3_store: Any, s3_server: S3Server) -> S3BlobStorage:
    store: S3BlobStorage = s3_store
    store.multipart_threshold = store.part_size = 5 * MIB
    probe(store)
    s3_server.reset()
    return store


@pytest.mark.parametrize(("action", "options"), UNCLEAR)
@pytest.mark.parametrize("times", [1, -1])
def test_a_completed_upload_is_stored(
    probed: S3BlobStorage, s3_server: S3Server, action: str, options: dict[str, Any], times: int
) -> None:
    s3_server.fault("CompleteMultipartUpload", action, times=times, **options)
    staged = stage(probed, LARGE)
    assert probed.create(staged) is Outcome.STORED
    assert bytes_at(probed, staged.digest.key) == LARGE
    assert uploads(probed) == []
    # One pass over the parts, and no abortion of what was completed.
    assert s3_server.counts()["UploadPart"] == 3
    assert "AbortMultipartUpload" not in s3_server.counts()


@pytest.mark.parametrize(("action", "options"), UNCLEAR)
@pytest.mark.parametrize("times", [1, -1])
def test_a_copy_that_was_made_is_stored(
    probed: S3BlobStorage,
    s3_server: S3Server,
    tmp_path: Path,
    action: str,
    options: dict[str, Any],
    times: int,
) -> None:
    put(probed, "legacy/a", DATA, tmp_path)
    s3_server.fault("CopyObject", action, times=times, **options)
    assert probed.ingest("legacy/a").outcome is Outcome.STORED
    assert bytes_at(probed, Digest.of(DATA).key) == DATA


@pytest.mark.parametrize(("action", "options"), UNCLEAR)
def test_an_object_that_was_put_is_stored(
    probed: S3BlobStorage, s3_server: S3Server, action: str, options: dict[str, Any]
) -> None:
    s3_server.fault("PutObject", action, times=-1, **options)
    staged = stage(probed)
    assert probed.create(staged) is Outcome.STORED
    assert bytes_at(probed, staged.digest.key) == DATA


@pytest.mark.parametrize("operation", ["UploadPartCopy", "CompleteMultipartUpload"])
def test_a_copy_in_parts_is_stored(
    probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path, operation: str
) -> None:
    probed.copy_threshold = probed.copy_part_size = 5 * MIB
    put(probed, "legacy/a", LARGE, tmp_path)
    s3_server.fault(operation, "empty_etag", times=-1)
    assert probed.ingest("legacy/a").outcome is Outcome.STORED
    assert bytes_at(probed, Digest.of(LARGE).key) == LARGE
    assert s3_server.counts()["UploadPartCopy"] == 3


def test_a_part_without_an_etag_is_looked_up(probed: S3BlobStorage, s3_server: S3Server) -> None:
    s3_server.fault("UploadPart", "empty_etag", times=-1)
    assert probed.create(stage(probed, LARGE)) is Outcome.STORED
    assert s3_server.counts()["ListParts"] == 3


def test_what_was_not_written_is_an_error(probed: S3BlobStorage, s3_server: S3Server) -> None:
    s3_server.fault("CompleteMultipartUpload", "error_in_200", times=-1)
    with pytest.raises(Unreachable):
        probed.create(stage(probed, LARGE))
    assert keys(probed) == []
    assert uploads(probed) == []


def test_the_object_that_was_to_be_replaced_is_no_answer(
    probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
) -> None:
    """Of the same size, it would be taken for what was to be written."""
    staged = stage(probed, LARGE)
    damage(probed, staged.digest.key, LARGE[::-1], tmp_path)
    s3_server.fault("CompleteMultipartUpload", "error_in_200", times=-1)
    with pytest.raises(Unreachable):
        probed.create(staged)
    assert uploads(probed) == []


def test_other_bytes_of_the_right_size_are_not_ours(
    probed: S3BlobStorage, s3_server: S3Server
) -> None:
    """Somebody else's wrong object, where our own completion failed."""
    staged = stage(probed, LARGE)
    s3_server.fault(
        "CompleteMultipartUpload",
        "overwrite_first",
        key=staged.digest.key,
        body=LARGE[::-1].decode("latin-1"),
    )
    assert probed.create(staged) is Outcome.HEALED
    assert bytes_at(probed, staged.digest.key) == LARGE


def test_what_is_there_after_a_copy_and_proves_nothing_is_read(
    probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
) -> None:
    """The source has no MD5 to compare with; somebody else wrote wrong bytes meanwhile."""
    probed.copy_threshold = probed.copy_part_size = 5 * MIB
    upload_in_parts(probed, "legacy/a", LARGE)
    key = Digest.of(LARGE).key
    s3_server.fault("CompleteMultipartUpload", "error", status=500, code="InternalError")
    wrong = LARGE[::-1].decode("latin-1")
    s3_server.fault("CompleteMultipartUpload", "overwrite_first", key=key, body=wrong)
    assert probed.ingest("legacy/a").outcome is Outcome.HEALED
    assert bytes_at(probed, key) == LARGE


def test_a_copy_that_no_checksum_proves_is_read(probed: S3BlobStorage, s3_server: S3Server) -> None:
    probed.copy_threshold = probed.copy_part_size = 5 * MIB
    upload_in_parts(probed, "legacy/a", LARGE)
    s3_server.reset()
    assert probed.ingest("legacy/a").outcome is Outcome.STORED
    # Once to know the digest, once to know that the copy has it.
    assert s3_server.counts()["GetObject"] == 2


def test_an_object_of_another_size_is_not_the_copy(
    probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path
) -> None:
    """Somebody else wrote the target before the copy was sent again."""
    put(probed, "legacy/a", DATA, tmp_path)
    s3_server.fault("CopyObject", "error", status=500, code="InternalError")
    s3_server.fault("CopyObject", "overwrite_first", key="aside/b", body="another")
    with pytest.raises(StoreError):
        probed.copy("legacy/a", "aside/b")
    assert bytes_at(probed, "aside/b") == b"another"


def test_an_upload_that_is_gone_when_aborted_has_left_nothing(
    probed: S3BlobStorage, s3_server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    s3_server.fault("UploadPart", "error", status=500, code="InternalError", times=-1)
    s3_server.fault("AbortMultipartUpload", "act_then_error", status=404, code="NoSuchUpload")
    with pytest.raises(Unreachable):
        probed.create(stage(probed, LARGE))
    assert "stays for the collector" not in caplog.text
