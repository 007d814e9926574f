"""Which attachment takes the place of a cover that is deleted, through the API."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.test import APIClient

from attachments.tests.factories import PDF, named, picture
from cas.storage.base import BlobStore
from parts.models import Part

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> APIClient:
    return APIClient()


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Sensor")


def attach(client: APIClient, part: Part, data: bytes, name: str) -> Any:
    response = client.post(
        f"/api/parts/{part.key}/attachments", {"file": named(data, name)}, format="multipart"
    )
    assert response.status_code == 201, response.content
    return response.json()


def delete(client: APIClient, part: Part, shown: Any) -> None:
    assert client.delete(f"/api/parts/{part.key}/attachments/{shown['id']}").status_code == 204


def cover_of(part: Part) -> int | None:
    return Part.objects.values_list("cover_attachment", flat=True).get(pk=part.pk)


@pytest.mark.parametrize("links", [False, True])
def test_neither_a_pdf_nor_a_link_follows_a_cover(
    disk_store: BlobStore, client: APIClient, part: Part, links: bool
) -> None:
    """An older one is passed by for an image, and none takes the place of the last image."""
    first = attach(client, part, picture("red"), "first.png")
    if links:
        path = f"/api/parts/{part.key}/attachments"
        assert client.post(path, {"url": "https://example.org/a"}, format="json").status_code == 201
    else:
        attach(client, part, PDF, "sheet.pdf")
    second = attach(client, part, picture("blue"), "second.png")
    assert cover_of(part) == first["id"]
    delete(client, part, first)
    assert cover_of(part) == second["id"]
    delete(client, part, second)
    assert cover_of(part) is None


def test_no_other_parts_image_follows_a_cover(
    disk_store: BlobStore, client: APIClient, part: Part
) -> None:
    other = Part.objects.create(description="Twin")
    theirs = attach(client, other, picture("red"), "theirs.png")
    ours = attach(client, part, picture("red"), "ours.png")
    delete(client, part, ours)
    assert cover_of(part) is None
    assert cover_of(other) == theirs["id"]
