"""The limits of what is accepted: the last value that passes, and one beyond, through the API."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.test import APIClient

from attachments.models import Attachment
from attachments.tests.factories import PDF, named, picture
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
    settings.CAS_THUMBNAIL_MAX_PIXELS = 40 * 30 - 1
    response = send(url, IMAGE)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "too_many_pixels")
    assert Attachment.objects.count() == 1
