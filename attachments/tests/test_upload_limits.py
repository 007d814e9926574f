"""The limits of what is accepted: the last value that passes, and one beyond, through the API."""

from __future__ import annotations

import io
from typing import Any

import pytest
from django.core.exceptions import TooManyFilesSent
from django.http import HttpRequest
from django.test import RequestFactory
from rest_framework.test import APIClient

from attachments.models import Attachment
from attachments.tests.factories import PDF, named, picture
from attachments.uploads import (
    MULTIPART_OVERHEAD,
    HashingUploadHandler,
    ReceivedFile,
    TooLarge,
    stage,
)
from cas.storage.base import BlobStore
from parts.models import Part

pytestmark = pytest.mark.django_db

IMAGE = picture(size=(40, 30))


@pytest.fixture
def url() -> str:
    part = Part.objects.create(description="Voltage regulator")
    return f"/api/parts/{part.key}/attachments"


def send(url: str, data: bytes) -> Any:
    return APIClient().post(url, {"file": named(data)}, format="multipart")


@pytest.mark.parametrize(
    ("setting", "data"),
    [
        ("INVENTORY_MAX_IMAGE_BYTES", IMAGE),
        ("INVENTORY_MAX_PDF_BYTES", PDF),
        ("INVENTORY_MAX_UPLOAD_BYTES", IMAGE),
        ("INVENTORY_MAX_UPLOAD_BYTES", PDF),
    ],
)
def test_each_limit_is_enforced(
    disk_store: BlobStore, url: str, settings: Any, setting: str, data: bytes
) -> None:
    setattr(settings, setting, len(data))
    assert send(url, data).status_code == 201
    setattr(settings, setting, len(data) - 1)
    response = send(url, data)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "file_too_large")
    assert Attachment.objects.count() == 1
    assert len(list(disk_store.scan(""))) == 1


def test_the_limit_of_pixels_is_enforced(disk_store: BlobStore, url: str, settings: Any) -> None:
    settings.CAS_THUMBNAIL_MAX_PIXELS = 40 * 30
    assert send(url, IMAGE).status_code == 201
    settings.CAS_THUMBNAIL_MAX_PIXELS = 41 * 30 - 1
    response = send(url, picture(size=(41, 30)))
    assert (response.status_code, response.json()["error"]["code"]) == (422, "too_many_pixels")
    assert Attachment.objects.count() == 1


CHUNK = HashingUploadHandler.chunk_size
"""Bytes of a file that the handler is given at a time."""


def staged_now(store: BlobStore) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in store.staging_dir.glob("upload-*")}


def received(body: bytes, content_type: str = "") -> HttpRequest:
    """A request whose body is parsed as the server's would be."""
    boundary = "b" * 30
    return RequestFactory().generic(
        "POST", "/", body, content_type or f"multipart/form-data; boundary={boundary}"
    )


def part_of_form(data: bytes, number: int = 0) -> bytes:
    head = f'Content-Disposition: form-data; name="file{number}"; filename="a.png"'
    return b"--" + b"b" * 30 + b"\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n"


END = b"--" + b"b" * 30 + b"--\r\n"


def test_what_follows_a_refused_part_of_a_file_is_not_kept(
    disk_store: BlobStore, settings: Any
) -> None:
    """Its last bytes alone would be below the limit again."""
    settings.INVENTORY_MAX_UPLOAD_BYTES = CHUNK + 1000
    request = received(part_of_form(b"x" * (2 * CHUNK + 10)) + END)
    file = request.FILES["file0"]
    assert isinstance(file, ReceivedFile)
    with pytest.raises(TooLarge):
        stage(file)
    assert list(staged_now(disk_store).values()) == [0]
    request.close()
    assert staged_now(disk_store) == {}


def test_many_files_that_are_too_much_together_take_no_room(
    disk_store: BlobStore, settings: Any
) -> None:
    """What the request announces is known before its first byte is kept."""
    settings.INVENTORY_MAX_UPLOAD_BYTES = 1000
    files = MULTIPART_OVERHEAD // 1000 + 3
    request = received(b"".join(part_of_form(b"x" * 1000, n) for n in range(files)) + END)
    with pytest.raises(TooManyFilesSent):
        request.FILES  # noqa: B018
    settings.DATA_UPLOAD_MAX_NUMBER_FILES = files
    request = received(b"".join(part_of_form(b"x" * 1000, n) for n in range(files)) + END)
    for name in ("file0", f"file{files - 1}"):
        file = request.FILES[name]
        assert isinstance(file, ReceivedFile)
        with pytest.raises(TooLarge):
            stage(file)
    assert set(staged_now(disk_store).values()) == {0}
    request.close()
    assert staged_now(disk_store) == {}


@pytest.mark.parametrize("kept", [1, CHUNK, 2 * CHUNK + 1])
def test_a_body_that_ends_within_a_file_leaves_nothing(disk_store: BlobStore, kept: int) -> None:
    """The client went away, and the server says only that there are no more bytes."""
    body = part_of_form(b"x" * (3 * CHUNK))[: -3 * CHUNK + kept]
    request = received(body)
    assert not request.FILES
    request.close()
    assert staged_now(disk_store) == {}


@pytest.mark.parametrize("complete", [0, 2])
def test_a_connection_that_breaks_within_a_file_leaves_nothing(
    disk_store: BlobStore, complete: int
) -> None:
    """Neither of that file nor of those before it: nobody gets to see them."""
    before = b"".join(part_of_form(b"x" * 1000, number) for number in range(complete))
    body = before + part_of_form(b"x" * (3 * CHUNK), complete) + END
    seen: list[dict[str, int]] = []

    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 2 * CHUNK:
                seen.append(staged_now(disk_store))
                raise ConnectionResetError("the client is gone")
            return super().read(size)

    request = received(body)
    request._stream = Breaking(body)
    with pytest.raises(OSError, match="gone"):
        request.FILES  # noqa: B018
    request.close()
    assert len(seen[0]) == complete + 1, "the file was not being staged"
    assert staged_now(disk_store) == {}


def _parts_after(count: int) -> bytes:
    """A multipart body: `count` files, then more fields than a request may have."""
    file = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n%s\r\n'
    field = b'--x\r\nContent-Disposition: form-data; name="f%d"\r\n\r\n1\r\n'
    fields = b"".join(field % number for number in range(1001))
    return file % PDF * count + fields + b"--x--\r\n"


def test_a_request_that_is_refused_midway_leaves_nothing(disk_store: BlobStore, url: str) -> None:
    kind = "multipart/form-data; boundary=x"
    response = APIClient().generic("POST", url, _parts_after(3).decode(), content_type=kind)
    assert response.status_code == 400, response.content
    assert staged_now(disk_store) == {}


def test_files_that_no_view_takes_leave_nothing(disk_store: BlobStore, url: str) -> None:
    part = url.removesuffix("/attachments")
    files = {"description": "x", "one": named(PDF), "two": named(PDF)}
    assert APIClient().put(part, files, format="multipart").status_code == 400
    assert staged_now(disk_store) == {}
