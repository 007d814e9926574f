"""The blob endpoint over both stores, without a database."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from django.test import Client

from cas.digest import Digest
from cas.storage.base import BlobStore, Denied, Unreachable, Unsupported
from cas.tests.conftest import ReadingClient, put
from cas.tests.pictures import jpeg

DATA = bytes(range(256)) * 40
IMMUTABLE = "public, max-age=31536000, immutable"


@pytest.fixture
def digest(store: BlobStore) -> Digest:
    return put(store, DATA)


def url(digest: Digest | str, query: str = "content_type=image/png") -> str:
    return f"/api/cas/{digest}?{query}"


def test_the_whole_blob(client: ReadingClient, digest: Digest) -> None:
    response = client.get(url(digest, "content_type=image/png&filename=photo.png"))
    assert response.status_code == 200
    assert response.body == DATA
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers["Content-Length"] == str(len(DATA))
    assert response.headers["ETag"] == f'"{digest}"'
    assert response.headers["Cache-Control"] == IMMUTABLE
    assert response.headers["Content-Disposition"] == 'inline; filename="photo.png"'
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "Vary" not in response.headers
    assert not response.cookies


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=-1", (len(DATA) - 1, len(DATA))),
        ("bytes=100-", (100, len(DATA))),
        ("bytes=9-20000", (9, len(DATA))),
        (f"bytes=-{len(DATA) * 2}", (0, len(DATA))),
    ],
)
def test_a_range(
    client: ReadingClient, digest: Digest, header: str, expected: tuple[int, int]
) -> None:
    response = client.get(url(digest), headers={"Range": header})
    first, stop = expected
    assert response.status_code == 206
    assert response.body == DATA[first:stop]
    assert response.headers["Content-Range"] == f"bytes {first}-{stop - 1}/{len(DATA)}"
    assert response.headers["Content-Length"] == str(stop - first)
    assert response.headers["Cache-Control"] == IMMUTABLE


@pytest.mark.parametrize("header", ["bytes=5-2", "bytes=0-1,5-6", "lines=0-1", "bytes=x", "0-1"])
def test_a_range_that_is_ignored(client: ReadingClient, digest: Digest, header: str) -> None:
    response = client.get(url(digest), headers={"Range": header})
    assert response.status_code == 200
    assert response.body == DATA


@pytest.mark.parametrize("header", [f"bytes={len(DATA)}-", "bytes=-0", "bytes=" + "9" * 4000 + "-"])
def test_a_range_behind_the_end(client: ReadingClient, digest: Digest, header: str) -> None:
    response = client.get(url(digest), headers={"Range": header})
    assert response.status_code == 416
    assert response.headers["Content-Range"] == f"bytes */{len(DATA)}"
    assert response.headers["Cache-Control"] == "no-store"


def test_if_range(client: ReadingClient, digest: Digest) -> None:
    def status(tag: str) -> Any:
        headers = {"Range": "bytes=0-1", "If-Range": tag}
        return client.get(url(digest), headers=headers).status_code

    assert status(f'"{digest}"') == 206
    assert status(f'W/"{digest}"') == 200
    assert status('"other"') == 200
    assert status("Wed, 21 Oct 2025 07:28:00 GMT") == 200


@pytest.mark.parametrize("query", ["content_type=image/png&filename=x.png", "thumbnail=20"])
def test_head_has_the_headers_of_get(client: ReadingClient, store: BlobStore, query: str) -> None:
    digest = put(store, jpeg(60, 40))
    head = client.head(url(digest, query), headers={"Range": "bytes=0-1"})
    get = client.get(url(digest, query))
    assert head.status_code == 200
    assert head.body == b""
    assert dict(head.headers) == dict(get.headers)


@pytest.mark.parametrize("query", ["content_type=image/png", "thumbnail=20"])
@pytest.mark.parametrize("tags", ["{}", "W/{}", '"a", W/{}, "b"'])
def test_304_does_not_touch_the_store(
    client: ReadingClient, store: BlobStore, monkeypatch: pytest.MonkeyPatch, query: str, tags: str
) -> None:
    digest = put(store, jpeg(60, 40))
    etag = client.get(url(digest, query)).headers["ETag"]
    monkeypatch.setattr("cas.answers.attachment_store", lambda: None)
    sent = tags.format(etag.removeprefix("W/"))
    response = client.get(url(digest, query), headers={"If-None-Match": sent})
    assert response.status_code == 304
    assert response.body == b""
    assert response.headers["ETag"] == etag
    assert response.headers["Cache-Control"] == IMMUTABLE
    assert "Content-Type" not in response.headers


def test_preconditions(client: ReadingClient, digest: Digest) -> None:
    def status(blob: Digest, **headers: str) -> Any:
        return client.get(url(blob), headers=headers).status_code

    missing = Digest.of(b"missing")
    assert status(digest, **{"If-None-Match": "*"}) == 304
    assert status(missing, **{"If-None-Match": "*"}) == 404
    assert status(digest, **{"If-None-Match": '"other"'}) == 200
    assert status(digest, **{"If-Match": f'"{digest}"'}) == 200
    assert status(digest, **{"If-Match": "*"}) == 200
    assert status(digest, **{"If-Match": '"other"'}) == 412
    assert status(digest, **{"If-Match": f'W/"{digest}"'}) == 412


@pytest.mark.parametrize(
    "query",
    [
        "",
        "content_type=image/png&thumbnail=10",
        "content_type=",
        "content_type=png",
        "content_type=image/png%0d%0aX:1",
        "content_type=image/png;q=1",
        "content_type=image/png&content_type=text/html",
        "content_type=image/png&disposition=show",
        "content_type=image/png&filename=" + "x" * 256,
        "thumbnail=",
        "thumbnail=0",
        "thumbnail=1025",
        "thumbnail=-1",
        "thumbnail=1e2",
        "thumbnail=%D9%A1",
        "thumbnail=150&thumbnail=150",
    ],
)
def test_a_malformed_query(client: ReadingClient, query: str) -> None:
    response = client.get(url(Digest.of(b""), query))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "bad_request"
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "name", ["0" * 63, "0" * 65, "A" * 64, "g" * 64, "x/../y", "0" * 63 + "%00"]
)
def test_a_malformed_digest(client: ReadingClient, disk_store: BlobStore, name: str) -> None:
    response = client.get(url(name))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "bad_request"


@pytest.mark.parametrize("query", ["content_type=image/png", "thumbnail=20"])
@pytest.mark.parametrize("method", ["get", "head"])
def test_an_unknown_blob(client: ReadingClient, store: BlobStore, query: str, method: str) -> None:
    response = getattr(client, method)(url(Digest.of(b"missing"), query))
    assert response.status_code == 404
    length = len(client.get(url(Digest.of(b"missing"), query)).body)
    assert response.headers["Content-Length"] == str(length)
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("query", ["content_type=image/png", "thumbnail=20"])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Unreachable("down", key="k"), 503, "unreachable"),
        (Denied("no", key="k"), 503, "store_denied"),
        (Unsupported("no", key="k"), 500, "unsupported"),
    ],
)
def test_a_failing_store(
    client: ReadingClient,
    disk_store: BlobStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    query: str,
    error: Exception,
    status: int,
    code: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    digest = put(disk_store, DATA)
    monkeypatch.setattr(type(disk_store), "read", fail)
    response = client.get(url(digest, query))
    assert response.status_code == status
    assert json.loads(response.body)["error"]["code"] == code
    assert response.headers["Cache-Control"] == "no-store"
    assert ("Retry-After" in response.headers) == (status == 503)
    assert digest.key in caplog.text


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_other_methods(client: ReadingClient, method: str) -> None:
    strict = Client(enforce_csrf_checks=True)
    response = getattr(strict, method)(url(Digest.of(b"")))
    assert response.status_code == 405
    assert response.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_options_without_cors(client: ReadingClient) -> None:
    response = client.options(url(Digest.of(b"")))
    assert response.status_code == 204
    assert response.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert "Access-Control-Allow-Origin" not in response.headers


def test_cors(client: ReadingClient, digest: Digest, settings: Any) -> None:
    settings.CAS_CORS_ALLOWED_ORIGINS = ["https://shop.example"]
    allowed = client.get(url(digest), headers={"Origin": "https://shop.example"})
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    assert allowed.headers["Vary"] == "Origin"
    assert allowed.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    foreign = client.get(url(digest), headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in foreign.headers
    assert foreign.headers["Vary"] == "Origin"
    # A client may send any; caches would have kept what it got for everybody.
    starred = client.get(url(digest), headers={"Origin": "*"})
    assert "Access-Control-Allow-Origin" not in starred.headers
    assert starred.headers["Vary"] == "Origin"
    preflight = client.options(url(digest), headers={"Origin": "https://shop.example"})
    assert preflight.headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"
    asked = preflight.headers["Access-Control-Allow-Headers"]
    assert asked == "If-Match, If-None-Match, If-Range, Range"
    assert "Retry-After" in preflight.headers["Access-Control-Expose-Headers"]
    for headers, status in (
        ({"Range": "bytes=0-1"}, 206),
        ({"Range": "bytes=99999-"}, 416),
        ({"If-None-Match": f'"{digest}"'}, 304),
    ):
        response = client.get(url(digest), headers={**headers, "Origin": "https://shop.example"})
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    settings.CAS_CORS_ALLOWED_ORIGINS = ["*"]
    anyone = client.get(url(digest), headers={"Origin": "https://evil.example"})
    assert anyone.headers["Access-Control-Allow-Origin"] == "*"
    assert "Vary" not in anyone.headers


@pytest.mark.parametrize(
    "content_type", ["text/html", "image/svg+xml", "text/xml", "application/javascript", "x/y"]
)
def test_active_types_are_never_rendered(
    client: ReadingClient, digest: Digest, content_type: str
) -> None:
    quoted = content_type.replace("+", "%2B")
    response = client.get(url(digest, f"content_type={quoted}&disposition=inline"))
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["Content-Disposition"] == "attachment"
    assert response.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")


def test_only_the_range_is_read(
    client: ReadingClient, digest: Digest, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    read = type(store).read

    def counting(self: Any, key: str, byte_range: Any = None) -> Any:
        asked.append(byte_range)
        return read(self, key, byte_range)

    monkeypatch.setattr(type(store), "read", counting)
    client.get(url(digest), headers={"Range": "bytes=10-19"})
    assert [(r.start, r.stop) for r in asked] == [(10, 20)]


def test_an_empty_blob(client: ReadingClient, store: BlobStore) -> None:
    digest = put(store, b"")
    assert client.get(url(digest)).body == b""
    assert client.get(url(digest), headers={"Range": "bytes=-5"}).status_code == 200
    assert client.get(url(digest), headers={"Range": "bytes=0-"}).status_code == 416


def test_served_blobs_are_logged_and_counted(
    client: ReadingClient, digest: Digest, caplog: pytest.LogCaptureFixture
) -> None:
    from prometheus_client import REGISTRY

    def count(status: str, kind: str) -> float:
        labels = {"status": status, "kind": kind}
        return REGISTRY.get_sample_value("cas_requests_total", labels) or 0

    before = count("200", "content"), count("404", "thumbnail")
    with caplog.at_level(logging.INFO, logger="cas"):
        client.get(url(digest))
    client.get(url(Digest.of(b"missing"), "thumbnail=5"))
    assert (count("200", "content"), count("404", "thumbnail")) == (before[0] + 1, before[1] + 1)
    assert f"served {digest.key}: 200" in caplog.text
