"""The shipped nginx configuration, in a real nginx before the real service."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from PIL import Image

from cas.digest import Digest, Hasher
from cas.storage.base import BlobStore, Staged
from cas.storage.disk import DiskBlobStorage
from cas.storage.s3 import S3BlobStorage
from tests.nginx import nginx
from tests.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server
from tests.server import Server

DATA = bytes(range(256)) * 8192
IMMUTABLE = "public, max-age=31536000, immutable"
SAFETY = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


@dataclass
class Site:
    """Where nginx listens, what it serves, and what Python was asked."""

    address: str
    digest: Digest
    picture: Digest
    log: Path

    def url(self, digest: Digest | None = None, query: str = "content_type=image/png") -> str:
        return f"{self.address}/api/cas/{digest or self.digest}?{query}"

    def reached_python(self, digest: Digest) -> int:
        return self.log.read_text().count(f"for {digest.key}:") + self.log.read_text().count(
            f"served {digest.key}"
        )


def put(store: BlobStore, data: bytes) -> Digest:
    hasher = Hasher()
    hasher.update(data)
    path = store.staging_dir / "staged"
    path.write_bytes(data)
    store.create(Staged(path, hasher.digest, hasher.md5, hasher.size))
    path.unlink()
    return hasher.digest


def picture() -> bytes:
    sink = io.BytesIO()
    Image.radial_gradient("L").save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture(scope="module")
def caching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data = tmp_path_factory.mktemp("caching")
    store = DiskBlobStorage(location=data / "attachments")
    digests = put(store, DATA), put(store, picture())
    with (
        Server(data, INVENTORY_WORKERS="1") as upstream,
        nginx(upstream.port, data / "nginx", data / "attachments") as front,
    ):
        yield Site(front, *digests, upstream.log)


@pytest.fixture(scope="module", params=["disk", "s3"])
def accelerated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server
) -> Iterator[Site]:
    data = tmp_path_factory.mktemp("accelerated")
    environment = {"CAS_DELIVERY": "accel", "INVENTORY_WORKERS": "1"}
    store: BlobStore
    if request.param == "s3":
        bucket = s3_server.new_bucket()
        store = S3BlobStorage(**s3_server.storage_options(bucket))
        environment |= {
            "CAS_S3_BUCKET": bucket,
            "CAS_S3_ENDPOINT_URL": s3_server.endpoint,
            "CAS_S3_REGION": REGION,
            "CAS_S3_ACCESS_KEY_ID": ACCESS_KEY,
            "CAS_S3_SECRET_ACCESS_KEY": SECRET_KEY,
            "CAS_S3_ADDRESSING_STYLE": "path",
        }
    else:
        store = DiskBlobStorage(location=data / "attachments")
    digests = put(store, DATA), put(store, picture())
    with (
        Server(data, **environment) as upstream,
        nginx(
            upstream.port,
            data / "nginx",
            data / "attachments",
            s3_origin=s3_server.endpoint,
            content_cache="off",
        ) as front,
    ):
        yield Site(front, *digests, upstream.log)


def test_the_first_request_fills_the_cache(caching: Site) -> None:
    url = caching.url(query="content_type=image/png&filename=first.png")
    first, second = requests.get(url, timeout=60), requests.get(url, timeout=60)
    assert (first.status_code, first.content) == (200, DATA)
    assert second.content == DATA
    assert (first.headers["X-Cache"], second.headers["X-Cache"]) == ("MISS", "HIT")
    assert caching.reached_python(caching.digest) == 1
    for name, value in SAFETY.items():
        assert second.headers[name] == value
    assert second.headers["Cache-Control"] == IMMUTABLE
    assert second.headers["Content-Disposition"] == 'inline; filename="first.png"'
    head = requests.head(url, timeout=60)
    assert head.headers["Content-Length"] == str(len(DATA))
    same = requests.get(url, headers={"If-None-Match": first.headers["ETag"]}, timeout=60)
    assert same.status_code == 304
    assert caching.reached_python(caching.digest) == 1


def test_a_thumbnail_is_made_once(caching: Site) -> None:
    url = caching.url(caching.picture, "thumbnail=64")
    answers = [requests.get(url, timeout=60) for _ in range(3)]
    assert [answer.headers["X-Cache"] for answer in answers] == ["MISS", "HIT", "HIT"]
    assert Image.open(io.BytesIO(answers[2].content)).size == (64, 64)
    assert caching.reached_python(caching.picture) == 1


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=-1", len(DATA) - 1, len(DATA)),
        ("bytes=1000-", 1000, len(DATA)),
        (f"bytes=-{len(DATA) * 2}", 0, len(DATA)),
    ],
)
def test_ranges_of_a_cached_blob(caching: Site, header: str, start: int, stop: int) -> None:
    # Its own URL, so the first one finds nothing in the cache and the second one does.
    url = caching.url(query=f"content_type=image/png&filename={start}")
    for _ in range(2):
        answer = requests.get(url, headers={"Range": header}, timeout=60)
        assert answer.status_code == 206
        assert answer.content == DATA[start:stop]
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"


def test_errors_are_not_cached(caching: Site) -> None:
    for url, status in (
        (caching.url(Digest.of(b"missing")), 404),
        (caching.url(query="content_type=x"), 400),
        (caching.url(query="thumbnail=10"), 422),
    ):
        answers = [requests.get(url, timeout=60) for _ in range(2)]
        assert [a.status_code for a in answers] == [status, status]
        assert [a.headers["X-Cache"] for a in answers] == ["MISS", "MISS"]


def test_internal_paths_are_closed(caching: Site) -> None:
    url = f"{caching.address}/_cas/disk/{caching.digest.key}"
    assert requests.get(url, timeout=60).status_code == 404


def test_accel_sends_what_python_would(accelerated: Site) -> None:
    url = accelerated.url(query="content_type=image/png&filename=%C3%BC.png")
    answer = requests.get(url, timeout=60)
    assert (answer.status_code, answer.content) == (200, DATA)
    for name, value in SAFETY.items():
        assert answer.headers[name] == value
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Cache-Control"] == IMMUTABLE
    assert answer.headers["ETag"] == f'"{accelerated.digest}"'
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Disposition"] == (
        "inline; filename=\"_.png\"; filename*=UTF-8''%C3%BC.png"
    )
    assert "X-Accel-Redirect" not in answer.headers
    assert accelerated.reached_python(accelerated.digest) >= 1


def test_accel_ranges_and_conditions(accelerated: Site) -> None:
    url = accelerated.url()

    def get(**headers: str) -> requests.Response:
        return requests.get(url, headers=headers, timeout=60)

    part = get(Range="bytes=100-199")
    assert (part.status_code, part.content) == (206, DATA[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(DATA)}"
    assert get(Range="bytes=-1").content == DATA[-1:]
    behind = get(Range=f"bytes={len(DATA)}-")
    assert behind.status_code == 416
    assert behind.headers["Cache-Control"] == "no-store"
    assert get(**{"If-None-Match": f'"{accelerated.digest}"'}).status_code == 304
    same = get(**{"Range": "bytes=0-1", "If-Range": f'"{accelerated.digest}"'})
    assert same.content in (DATA[:2], DATA)
    changed = get(**{"Range": "bytes=0-1", "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, DATA)
    head = requests.head(url, timeout=60)
    assert head.headers["Content-Length"] == str(len(DATA))


def test_accel_still_answers_what_is_no_blob(accelerated: Site) -> None:
    missing = requests.get(accelerated.url(Digest.of(b"missing")), timeout=60)
    assert missing.status_code == 404
    assert missing.headers["Cache-Control"] == "no-store"
    active = requests.get(accelerated.url(query="content_type=text/html"), timeout=60)
    assert active.headers["Content-Type"] == "application/octet-stream"
    assert active.headers["Content-Disposition"] == "attachment"
    thumbnail = requests.get(accelerated.url(accelerated.picture, "thumbnail=32"), timeout=60)
    assert Image.open(io.BytesIO(thumbnail.content)).size == (32, 32)
