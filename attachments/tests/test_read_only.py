"""A file system that stops taking writes: a real one, mounted read-only or full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from attachments.models import Attachment
from attachments.tests.factories import PDF
from attachments.tests.legacy import blobs, make_legacy, run, summary_of
from cas.exit_status import ExitStatus
from cas.storage import attachment_store
from cas.storage.base import BlobStore
from parts.models import Part

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system"),
]

MIGRATE = ("migrate_to_cas", "--yes-i-am-sure", "--json", "--workers", "2")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of the test's own."""
    path = tmp_path / "mounted"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)


@pytest.fixture(params=["blobs", "staging"])
def store(request: pytest.FixtureRequest, mounted: Path, settings: Any) -> BlobStore:
    """Blobs on the mounted file system, or those on S3 with their staging directory there."""
    if request.param == "staging":
        made: BlobStore = request.getfixturevalue("s3_store")
        settings.CAS_STAGING_DIR = str(mounted / "staging")
        request.getfixturevalue("s3_server").ignore("copy_if_match")
        assert made.staging_dir.is_dir()
        return made
    settings.STORAGES = {
        **settings.STORAGES,
        "attachments": {
            "BACKEND": "cas.storage.disk.DiskBlobStorage",
            "OPTIONS": {"location": str(mounted / "blobs")},
        },
    }
    return attachment_store()


@pytest.fixture
def part(db: object) -> Part:
    return Part.objects.create(description="Relay")


@pytest.fixture
def post(part: Part) -> Callable[[bytes], Any]:
    def send(content: bytes) -> Any:
        file = SimpleUploadedFile("sheet.pdf", content, "application/pdf")
        return Client().post(f"/api/parts/{part.key}/attachments", {"file": file})

    return send


def test_an_upload_is_refused_until_it_can_be_written(
    store: BlobStore, mounted: Path, post: Callable[[bytes], Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert post(PDF + b"first").status_code == 201
    remount(mounted, "ro")
    response = post(PDF + b"second")
    assert response.status_code == 503, response.content
    assert response.json()["error"]["code"] == "store_denied"
    assert "Retry-After" in response.headers
    assert "writable again" in caplog.text
    assert Attachment.objects.count() == 1
    remount(mounted, "rw")
    assert post(PDF + b"second").status_code == 201


def test_an_upload_that_finds_no_room_is_refused(
    store: BlobStore, mounted: Path, post: Callable[[bytes], Any]
) -> None:
    response = post(PDF + b"x" * (3 << 20))
    assert response.status_code == 507, response.content
    assert response.json()["error"]["code"] == "store_full"
    assert list(store.staging_dir.iterdir()) == []
    assert post(PDF).status_code == 201


def test_not_even_an_empty_file(
    store: BlobStore, mounted: Path, post: Callable[[bytes], Any]
) -> None:
    """No inode is left: the staging file cannot be created."""
    assert store.staging_dir.is_dir()
    remount(mounted, "nr_inodes=8")
    for number in range(20):
        try:
            (mounted / f"filler-{number}").touch()
        except OSError:
            break
    response = post(PDF)
    assert response.status_code == 507, response.content
    assert not Attachment.objects.exists()


def test_commands_end_with_a_summary(store: BlobStore, mounted: Path, part: Part) -> None:
    made = make_legacy(store, part, b"one")
    remount(mounted, "ro")
    status, output = run(*MIGRATE)
    summary = summary_of(output)
    assert status == ExitStatus.UNAVAILABLE, output
    assert "mount the file system writable again" in summary["reason"]
    assert summary["failed"] == 0
    assert blobs(store) == set()
    made.refresh_from_db()
    assert made.is_legacy
    remount(mounted, "rw")
    assert run(*MIGRATE)[0] == ExitStatus.DONE


@pytest.mark.parametrize("command", ["collect_garbage", "verify_cas"])
def test_a_collection_and_a_verification_end_so_too(
    store: BlobStore, mounted: Path, part: Part, command: str
) -> None:
    remount(mounted, "ro")
    options = ("--json", "--yes-i-am-sure") if command == "collect_garbage" else ("--json",)
    status, output = run(command, *options)
    collects = command == "collect_garbage"
    # Reading needs no room.
    assert status == (ExitStatus.UNAVAILABLE if collects else ExitStatus.DONE), output
    assert ("writable again" in summary_of(output)["reason"]) is collects
