"""No room left: the operating system refuses a write in the middle of a file, as a full disk does.

The refusal is a limit on the size of files (EFBIG), which is real, takes no rights to set up, and
leaves the small files of everything else alone.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from attachments.models import Attachment
from attachments.tests.factories import PDF
from attachments.tests.legacy import assert_whole, blobs, make_legacy, run, summary_of
from cas.exit_status import ExitStatus
from cas.storage import capabilities
from cas.storage.base import BlobStore
from parts.models import Part
from tests.s3 import S3Server

pytestmark = pytest.mark.django_db(transaction=True)

ROOM = 8 << 20
"""Bytes that a file may have: room for SQLite's own."""

MIGRATE = ("migrate_to_cas", "--yes-i-am-sure", "--json", "--workers", "2")


@contextmanager
def full_disk() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def left_in_staging(store: BlobStore) -> list[str]:
    return [path.name for path in store.staging_dir.iterdir()]


@pytest.fixture
def part(db: object) -> Part:
    return Part.objects.create(description="Relay")


@pytest.fixture
def carrying(request: pytest.FixtureRequest) -> BlobStore:
    """A store that keeps a source's bytes in a file of this machine while it migrates them.

    On S3 that is what it does where copies in the store cannot be relied on.
    """
    if request.param == "s3":
        made: BlobStore = request.getfixturevalue("s3_store")
        server: S3Server = request.getfixturevalue("s3_server")
        server.ignore("copy_if_match")
        capabilities.probe(made, force=True)
        return made
    return request.getfixturevalue("disk_store")  # type: ignore[no-any-return]


@pytest.mark.parametrize("carrying", ["disk", "s3"], indirect=True)
def test_a_migration_ends_and_goes_on_when_there_is_room(carrying: BlobStore, part: Part) -> None:
    made = [
        make_legacy(carrying, part, content)
        for content in (b"small", b"x" * (ROOM + 1), b"y" * (ROOM + 2), b"small as well")
    ]
    with full_disk():
        status, output = run(*MIGRATE)
    summary = summary_of(output)
    assert status == ExitStatus.UNAVAILABLE, output
    # The rows are not to blame.
    assert (summary["failed"], summary["balances"]) == (0, True)
    assert summary["remaining"] >= 2
    assert "File too large" in summary["reason"]
    assert left_in_staging(carrying) == []
    assert all(stat.size < ROOM for stat in carrying.scan("cas/"))
    assert run(*MIGRATE)[0] == ExitStatus.DONE
    assert_whole(carrying)
    assert len(blobs(carrying)) == len(made)


def test_an_upload_is_refused_and_leaves_nothing(store: BlobStore, part: Part) -> None:
    url = f"/api/parts/{part.key}/attachments"
    file = SimpleUploadedFile("sheet.pdf", PDF + b"\0" * ROOM, "application/pdf")
    with full_disk():
        response = Client().post(url, {"file": file})
    assert response.status_code == 507, response.content
    assert response.json()["error"]["code"] == "store_full"
    assert not Attachment.objects.exists()
    assert blobs(store) == set()
    assert left_in_staging(store) == []
    file.seek(0)
    assert Client().post(url, {"file": file}).status_code == 201
