"""Computed URLs: their spelling, their host and their signature."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest

from cas import signed_urls
from cas.digest import Digest
from cas.storage.base import BlobStore
from cas.tests.conftest import ReadingClient, put

DIGEST = Digest.of(b"blob")
NEW, OLD = "n" * 40, "o" * 40


def view_url(digest: Digest = DIGEST, filename: str = "a b&c=ü.png") -> str:
    return signed_urls.blob_url(
        digest, content_type="image/png", disposition="inline", filename=filename
    )


def test_one_spelling() -> None:
    assert view_url() == (
        f"/api/cas/{DIGEST}?content_type=image%2Fpng&disposition=inline"
        "&filename=a%20b%26c%3D%C3%BC.png"
    )
    assert signed_urls.thumbnail_url(DIGEST) == f"/api/cas/{DIGEST}?thumbnail=150"


@pytest.mark.parametrize(
    ("stored", "linked"),
    [
        ("image/PNG; q=1", "image/png"),
        ("nonsense", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_an_older_rows_content_type_never_makes_a_bad_link(stored: str, linked: str) -> None:
    url = signed_urls.blob_url(DIGEST, content_type=stored, disposition="inline", filename="x")
    assert parse_qs(urlsplit(url).query)["content_type"] == [linked]


def test_a_cdn_in_front(settings: Any) -> None:
    settings.CAS_PUBLIC_BASE_URL = "https://cdn.example"
    for url in (signed_urls.thumbnail_url(DIGEST), view_url()):
        assert url.startswith(f"https://cdn.example/api/cas/{DIGEST}?")


@pytest.fixture
def signed(settings: Any) -> Any:
    settings.CAS_SIGNED_URLS = True
    settings.CAS_URL_SIGNING_KEYS = [NEW]
    return settings


def test_signed_urls_are_served_and_stay_the_same(
    signed: Any, disk_store: BlobStore, client: ReadingClient
) -> None:
    digest = put(disk_store, b"data")
    url = view_url(digest, "ü%\x01\ud800.png")
    assert url == view_url(digest, "ü%\x01\ud800.png")
    assert client.get(url).status_code == 200


def test_anything_else_is_forbidden(
    signed: Any, disk_store: BlobStore, client: ReadingClient
) -> None:
    digest = put(disk_store, b"data")
    path, _, query = view_url(digest).partition("?")
    right = dict(parse_qsl(query))
    unsigned = {name: value for name, value in right.items() if name != "signature"}
    for wrong in (
        unsigned,
        {**right, "signature": ""},
        {**right, "signature": right["signature"][:-1] + "é"},
        {**right, "disposition": "attachment"},
        {**right, "filename": "other"},
        {**right, "content_type": "image/jpeg"},
        {**right, "utm": "1"},
        {"thumbnail": "10", "signature": right["signature"]},
    ):
        response = client.get(f"{path}?{urlencode(wrong)}")
        assert response.status_code == 403, wrong
        assert response.headers["Cache-Control"] == "no-store"
    other = path.replace(digest.hex, Digest.of(b"other").hex)
    assert client.get(f"{other}?{query}").status_code == 403


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("image%2Fpng", "image/png"),
        ("image%2Fpng", "IMAGE%2Fpng"),
        ("image%2Fpng", "image%2fpng"),
        ("%20", "+"),
        ("&filename", "&&filename"),
        ("inline", "%69nline"),
        ("&signature", "&%73ignature"),
        ("&disposition=inline", ""),
        ("filename", "empty=&filename"),
    ],
)
def test_another_spelling_of_the_same_is_forbidden(
    signed: Any, disk_store: BlobStore, client: ReadingClient, ours: str, theirs: str
) -> None:
    """A cache would keep a copy for each."""
    url = view_url(put(disk_store, b"data"))
    assert client.get(url).status_code == 200
    assert ours in url
    assert client.get(url.replace(ours, theirs, 1)).status_code == 403


def test_another_order_is_forbidden(
    signed: Any, disk_store: BlobStore, client: ReadingClient
) -> None:
    path, _, query = view_url(put(disk_store, b"data")).partition("?")
    backwards = "&".join(reversed(query.split("&")))
    assert client.get(f"{path}?{backwards}").status_code == 403


def test_a_304_needs_the_signature_too(signed: Any, client: ReadingClient) -> None:
    headers = {"If-None-Match": f'"{DIGEST}"'}
    assert client.get(view_url(), headers=headers).status_code == 304
    bare = view_url().partition("&signature")[0]
    assert client.get(bare, headers=headers).status_code == 403


def test_a_signature_begins_with_the_id_of_its_key(
    signed: Any, disk_store: BlobStore, client: ReadingClient
) -> None:
    url = view_url(put(disk_store, b"data"))
    path, _, signature = url.partition("&signature=")
    key_id, _, bare = signature.partition(".")
    assert key_id == signed_urls.key_id(NEW)
    # Releases before made signatures without one.
    assert client.get(f"{path}&signature={bare}").status_code == 200
    other = signed_urls.key_id(OLD)
    assert client.get(f"{path}&signature={other}.{bare}").status_code == 403
    assert client.get(f"{path}&signature={key_id}.").status_code == 403


def test_keys_rotate(signed: Any, disk_store: BlobStore, client: ReadingClient) -> None:
    digest = put(disk_store, b"data")
    signed.CAS_URL_SIGNING_KEYS = [OLD]
    old = view_url(digest)
    signed.CAS_URL_SIGNING_KEYS = [NEW, OLD]
    assert view_url(digest) != old
    assert client.get(old).status_code == 200
    assert client.get(view_url(digest)).status_code == 200
    signed.CAS_URL_SIGNING_KEYS = [NEW]
    assert client.get(old).status_code == 403
