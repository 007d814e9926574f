"""Every answer carries the app's own security headers, whatever middleware is in front of it."""

from __future__ import annotations

from typing import Any

import pytest

from cas.storage.base import BlobStore
from cas.tests.conftest import ReadingClient, put
from cas.tests.pictures import jpeg

POLICY = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}

GIVEN: dict[str, tuple[int, str, dict[str, str]]] = {
    "whole": (200, "content_type=image/jpeg&disposition=inline", {}),
    "a download": (200, "content_type=text/html", {}),
    "a part": (206, "content_type=image/jpeg", {"Range": "bytes=1-3"}),
    "not modified": (304, "content_type=image/jpeg", {"If-None-Match": "*"}),
    "a thumbnail": (200, "thumbnail=150", {}),
}


def carried(response: Any) -> dict[str, str | None]:
    return {name: response.headers.get(name) for name in POLICY}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("delivery", ["stream", "accel"])
def test_blobs_and_thumbnails(
    disk_store: BlobStore, client: ReadingClient, settings: Any, given: str, delivery: str
) -> None:
    settings.CAS_DELIVERY = delivery
    status, query, headers = GIVEN[given]
    digest = put(disk_store, jpeg(400, 300))
    response = client.get(f"/api/cas/{digest}?{query}", headers=headers)
    if delivery == "accel" and status == 206:
        # nginx takes the range out of the whole.
        status = 200
    assert response.status_code == status
    assert carried(response) == POLICY


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("content_type=image/jpeg", {}, 404),
        ("thumbnail=0", {}, 400),
        ("content_type=image/jpeg&stored=1", {"Range": "bytes=9999-"}, 416),
    ],
)
def test_refusals_are_not_sniffed(
    disk_store: BlobStore, client: ReadingClient, query: str, headers: dict[str, str], status: int
) -> None:
    digest = "0" * 64
    if status == 416:
        digest = str(put(disk_store, b"short"))
        query = query.removesuffix("&stored=1")
    response = client.get(f"/api/cas/{digest}?{query}", headers=headers)
    assert response.status_code == status
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"
