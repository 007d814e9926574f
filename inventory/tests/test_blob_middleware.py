"""Blobs without the middleware for pages, but with all that refuses."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import resolve, reverse

from cas.views import blob
from inventory.middleware import BLOBS

DIGEST = "0" * 64
URL = f"{BLOBS}{DIGEST}?content_type=image/png"


def test_the_prefix_is_where_the_urls_have_the_blobs() -> None:
    assert reverse("cas-blob", args=[DIGEST]) == BLOBS + DIGEST
    assert resolve(BLOBS + DIGEST).func is blob


@pytest.fixture
def pages_broken(settings: Any) -> None:
    """All middleware after BlobMiddleware fails."""
    at = settings.MIDDLEWARE.index("inventory.middleware.BlobMiddleware")
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE[: at + 1],
        "inventory.tests.test_blob_middleware.Broken",
    ]


class Broken:
    def __init__(self, get_response: Any) -> None: ...

    def __call__(self, request: Any) -> Any:
        raise AssertionError("a blob went through the middleware for pages")


@pytest.mark.usefixtures("pages_broken", "disk_store")
def test_blobs_skip_what_is_for_pages() -> None:
    found = Client().get(URL)
    assert found.status_code == 404
    assert found.json()["error"]["code"] == "not_found"
    tag = Client().get(URL, headers={"if-none-match": f'"{DIGEST}"'})
    assert tag.status_code == 304
    assert tag["X-Frame-Options"] == "DENY"
    with pytest.raises(AssertionError):
        Client().get("/api/parts")


@pytest.mark.usefixtures("disk_store")
def test_but_nothing_that_refuses() -> None:
    assert Client().get(URL, headers={"host": "evil.example"}).status_code == 400
    assert Client().get(f"{URL}%00").status_code == 400
    assert Client(REMOTE_ADDR="192.0.2.1").get(URL).status_code == 403
    foreign = Client().delete(URL, headers={"origin": "https://evil.example"})
    assert foreign.json()["error"]["code"] == "foreign_origin"
