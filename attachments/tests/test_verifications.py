"""What was read and found right is remembered until something is written there."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import OperationalError, transaction
from django.test import Client

from attachments import verifications
from attachments.models import Verification
from attachments.tests.factories import PDF
from attachments.tests.legacy import assert_whole, make_legacy, run, summary_of
from cas.digest import Digest
from cas.exit_status import ExitStatus
from cas.storage.base import BlobStat, BlobStore
from cas.tests.test_store_contract import bytes_at, damage, keys
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

DIGEST = Digest.of(PDF)
WRONG = PDF[::-1]
MIGRATE = ("migrate_to_cas", "--yes-i-am-sure", "--json")


@pytest.fixture
def part(db: object) -> Part:
    return Part.objects.create(description="Relay")


def upload(part: Part, content: bytes = PDF) -> Any:
    file = SimpleUploadedFile("sheet.pdf", content, "application/pdf")
    return Client().post(f"/api/parts/{part.key}/attachments", {"file": file})


@pytest.fixture
def blob(store: BlobStore, part: Part) -> BlobStat:
    assert upload(part).status_code == 201
    return store.stat(DIGEST.key)


def test_a_version_is_remembered(blob: BlobStat) -> None:
    assert not verifications.holds(blob)
    verifications.record([blob])
    assert verifications.holds(blob)
    verifications.record([blob])
    assert Verification.objects.count() == 1


def test_another_version_is_not(blob: BlobStat) -> None:
    verifications.record([blob])
    assert not verifications.holds(replace(blob, etag="other"))
    assert not verifications.holds(replace(blob, etag=""))
    assert not verifications.holds(replace(blob, key=Digest.of(b"other").key))


def test_nor_one_that_was_written_later(blob: BlobStat) -> None:
    """By a store whose ETags do not tell versions apart."""
    verifications.record([blob])
    row = Verification.objects.get()
    assert not verifications.holds(replace(blob, modified=row.verified_at + timedelta(seconds=1)))


def test_a_store_whose_clock_is_ahead_is_remembered_too(blob: BlobStat) -> None:
    ahead = replace(blob, modified=blob.modified + timedelta(hours=2))
    verifications.record([ahead])
    assert verifications.holds(ahead)


def test_an_enrolled_blob_is_not_a_verified_one(blob: BlobStat) -> None:
    Verification.objects.create(digest=DIGEST.hex, verified_at=blob.modified + timedelta(days=1))
    assert not verifications.holds(blob)
    assert not verifications.holds(replace(blob, etag=""))


def test_a_transaction_that_fails_takes_no_memory_along(blob: BlobStat) -> None:
    with transaction.atomic():
        verifications.record_at_commit(blob)
        transaction.set_rollback(True)
    assert not verifications.holds(blob)
    verifications.record_at_commit(blob)
    assert verifications.holds(blob)


@pytest.mark.parametrize("in_transaction", [True, False])
def test_a_memory_that_fails_fails_nothing_else(
    blob: BlobStat,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    in_transaction: bool,
) -> None:
    def fail(blobs: object) -> None:
        raise OperationalError("the connection is lost")

    monkeypatch.setattr(verifications, "record", fail)
    with transaction.atomic() if in_transaction else nullcontext():
        verifications.record_at_commit(blob)
    assert "the connection is lost" in caplog.text


def test_a_verification_spares_an_upload_the_reading(
    disk_store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert upload(part).status_code == 201
    assert run("verify_cas", "--json")[0] == ExitStatus.DONE

    def refuse(key: str) -> None:
        raise AssertionError(f"{key} is read")

    monkeypatch.setattr(disk_store, "digest_of", refuse)
    assert upload(part).status_code == 201


def test_an_upload_reads_what_is_there_once(disk_store: BlobStore, part: Part) -> None:
    for _ in range(2):
        assert upload(part).status_code == 201
    assert verifications.holds(disk_store.stat(DIGEST.key))


@pytest.mark.parametrize("way", ["upload", "migration"])
def test_right_bytes_heal_damaged_ones_of_the_same_size(
    store: BlobStore, part: Part, tmp_path: Path, way: str
) -> None:
    assert upload(part).status_code == 201
    assert run("verify_cas", "--json")[0] == ExitStatus.DONE
    damage(store, DIGEST.key, WRONG, tmp_path)
    if way == "upload":
        assert upload(part).status_code == 201
    else:
        make_legacy(store, part, PDF)
        assert run(*MIGRATE)[0] == ExitStatus.DONE
    assert bytes_at(store, DIGEST.key) == PDF
    assert keys(store, "quarantine/") == [f"quarantine/{DIGEST}.{Digest.of(WRONG)}"]
    assert_whole(store)


def test_another_size_than_the_rows_is_found_before_anything_is_stored(
    store: BlobStore, part: Part
) -> None:
    row = make_legacy(store, part, b"one")
    type(row).objects.filter(pk=row.pk).update(file_size=4)
    status, output = run(*MIGRATE)
    assert status == ExitStatus.ITEMS_FAILED
    assert summary_of(output)["failures"] == {"size_mismatch": 1}
    assert keys(store, "cas/") == []
