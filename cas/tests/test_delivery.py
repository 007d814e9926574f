"""Who sends the bytes: hostile files and every mode of delivery."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from cas.digest import Digest
from cas.storage.base import BlobStore
from cas.tests.conftest import ReadingClient, put

DATA = b"0123456789" * 1000


@pytest.fixture
def digest(store: BlobStore) -> Digest:
    return put(store, DATA)


def url(digest: Digest, query: str = "content_type=image/png&filename=a.png") -> str:
    return f"/api/cas/{digest}?{query}"


def test_accel_names_the_file(client: ReadingClient, disk_store: BlobStore, settings: Any) -> None:
    settings.CAS_DELIVERY = "accel"
    digest = put(disk_store, DATA)
    response = client.get(url(digest))
    assert response.headers["X-Accel-Redirect"] == f"/_cas/disk/{digest.key}"
    assert response.body == b""
    assert response.headers["ETag"] == f'"{digest}"'
    # nginx would send Cache-Control on its own error page as well.
    assert "Cache-Control" not in response.headers
    assert response.headers["X-Cas-Cache-Control"] == "public, max-age=31536000, immutable"
    assert response.headers["Content-Length"] == "0"
    settings.CAS_ACCEL_PREFIX = "/internal"
    assert client.get(url(digest)).headers["X-Accel-Redirect"] == f"/internal/disk/{digest.key}"


def test_accel_names_a_presigned_path(
    client: ReadingClient, s3_store: BlobStore, settings: Any, s3_bucket: str
) -> None:
    settings.CAS_DELIVERY = "accel"
    digest = put(s3_store, DATA)
    target = client.get(url(digest)).headers["X-Accel-Redirect"]
    assert target.startswith(f"/_cas/s3/{s3_bucket}/{digest.key}?")
    assert "X-Amz-Signature" in parse_qs(urlsplit(target).query)


@pytest.mark.parametrize("mode", ["accel", "redirect"])
def test_answers_that_need_no_bytes_stay_ours(
    client: ReadingClient, digest: Digest, settings: Any, mode: str
) -> None:
    settings.CAS_DELIVERY = mode

    def status(blob: Digest, **headers: str) -> Any:
        return client.get(url(blob), headers=headers).status_code

    assert status(Digest.of(b"missing")) == 404
    assert status(digest, Range="bytes=10000-") == 416
    assert status(digest, **{"If-None-Match": f'"{digest}"'}) == 304


def test_head_under_accel_is_ours(client: ReadingClient, digest: Digest, settings: Any) -> None:
    """A URL presigned for GET is none for HEAD, and we know all there is to say."""
    settings.CAS_DELIVERY = "accel"
    head = client.head(url(digest))
    assert (head.status_code, head.headers["Content-Length"]) == (200, "10000")
    settings.CAS_DELIVERY = "stream"
    assert dict(head.headers) == dict(client.get(url(digest)).headers)


@pytest.mark.parametrize("mode", ["accel", "redirect"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Range": "bytes=5-2"}, 200),
        ({"Range": "bytes=0-1,3-4"}, 200),
        ({"Range": "items=0-1"}, 200),
        ({"Range": "bytes= 0-1"}, 206),
        ({"Range": "bytes=0-" + "9" * 30}, 206),
        ({"If-Match": "{etag}"}, 200),
        ({"If-Unmodified-Since": "Wed, 21 Oct 2015 07:28:00 GMT"}, 200),
        ({"Range": "bytes=0-1", "If-Range": "{etag}"}, 206),
        ({"Range": "bytes=0-1", "If-Range": '"other"'}, 200),
    ],
)
def test_what_others_would_read_otherwise_is_streamed(
    client: ReadingClient,
    s3_store: BlobStore,
    settings: Any,
    mode: str,
    headers: dict[str, str],
    status: int,
) -> None:
    settings.CAS_DELIVERY = mode
    digest = put(s3_store, DATA)
    sent = {name: value.format(etag=f'"{digest}"') for name, value in headers.items()}
    response = client.get(url(digest), headers=sent)
    assert response.status_code == status
    assert len(response.body) == int(response.headers["Content-Length"]) > 0
    plain = client.get(url(digest), headers={"Range": "bytes=0-1"})
    assert plain.body == b""


def test_a_redirect_leads_to_the_bytes(
    client: ReadingClient, s3_store: BlobStore, settings: Any
) -> None:
    settings.CAS_DELIVERY = "redirect"
    settings.CAS_REDIRECT_TTL = 120
    digest = put(s3_store, DATA)
    response = client.get(url(digest, "content_type=image/png&filename=%C3%BC.png"))
    assert response.status_code == 302
    assert response.headers["Cache-Control"] == "private, max-age=60"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    location = response.headers["Location"]
    assert parse_qs(urlsplit(location).query)["X-Amz-Expires"] == ["120"]
    there = requests.get(location, headers={"Range": "bytes=5-9"}, timeout=30)
    assert (there.status_code, there.content) == (206, b"56789")
    assert response.headers["Content-Length"] == "0"
    assert there.headers["Content-Type"] == "image/png"
    assert there.headers["Content-Disposition"] == (
        "inline; filename=\"_.png\"; filename*=UTF-8''%C3%BC.png"
    )


def test_head_is_redirected_as_get_is(
    client: ReadingClient, s3_store: BlobStore, settings: Any
) -> None:
    settings.CAS_DELIVERY = "redirect"
    digest = put(s3_store, DATA)
    get, head = client.get(url(digest)), client.head(url(digest))
    assert head.status_code == 302
    for response in (get, head):
        response.headers["Location"], _, signature = response.headers["Location"].partition("?")
        assert "X-Amz-Signature" in signature
    assert dict(head.headers) == dict(get.headers)
    location = client.head(url(digest)).headers["Location"]
    there = requests.head(location, timeout=30)
    assert (there.status_code, there.headers["Content-Length"]) == (200, str(len(DATA)))


@pytest.mark.parametrize("mode", ["stream", "accel", "redirect"])
@pytest.mark.parametrize("content_type", ["text/html", "image/svg%2Bxml", "text/xml", "text/plain"])
@pytest.mark.parametrize("disposition", ["inline", "attachment"])
def test_no_mode_displays_what_is_not_listed(
    client: ReadingClient,
    digest: Digest,
    settings: Any,
    mode: str,
    content_type: str,
    disposition: str,
) -> None:
    settings.CAS_DELIVERY = mode
    response = client.get(url(digest, f"content_type={content_type}&disposition={disposition}"))
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    if response.status_code == 302:
        assert disposition == "attachment"
        sent = parse_qs(urlsplit(response.headers["Location"]).query)
        assert sent["response-content-disposition"] == ["attachment"]
        kind = sent["response-content-type"][0]
    else:
        assert response.headers["Content-Disposition"] == "attachment"
        kind = response.headers["Content-Type"]
    assert kind == ("text/plain" if content_type == "text/plain" else "application/octet-stream")


@pytest.mark.parametrize("mode", ["accel", "redirect"])
def test_thumbnails_are_always_ours(
    client: ReadingClient, store: BlobStore, settings: Any, mode: str
) -> None:
    from cas.tests.pictures import png

    settings.CAS_DELIVERY = mode
    response = client.get(url(put(store, png(40, 30)), "thumbnail=20"))
    assert response.status_code == 200
    assert response.body.startswith(b"\xff\xd8")
