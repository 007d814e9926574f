"""The shipped nginx configuration, in a real nginx before the real service."""

from __future__ import annotations

import http.client
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from PIL import Image

from cas.digest import Digest, Hasher
from cas.storage.base import BlobStore, Staged
from cas.storage.disk import DiskBlobStorage
from cas.storage.s3 import S3BlobStorage
from tests.nginx import nginx
from tests.s3 import S3Server
from tests.server import Server

pytestmark = pytest.mark.sqlite

DATA = bytes(range(256)) * 8192
SIZE = len(DATA)
DIGEST = Digest.of(DATA)
ETAG = f'"{DIGEST}"'
IMMUTABLE = "public, max-age=31536000, immutable"
PAGE = "https://shop.example"
LONG_AGO, FAR_OFF = "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2037 07:28:00 GMT"
PASSING = {"date", "server", "connection", "keep-alive", "transfer-encoding", "x-cache"}
"""Headers that are about the connection or the hop, and not about the answer."""

REQUESTS: list[tuple[str, dict[str, str]]] = [
    ("GET", {}),
    ("HEAD", {}),
    ("GET", {"Accept-Encoding": "gzip, br, zstd"}),
    ("GET", {"Origin": PAGE}),
    ("GET", {"Origin": "https://evil.example"}),
    ("GET", {"Range": "bytes=0-0"}),
    ("GET", {"Range": "bytes=-1", "Origin": PAGE}),
    ("GET", {"Range": "bytes=1000-"}),
    ("GET", {"Range": f"bytes=-{SIZE * 2}"}),
    ("GET", {"Range": f"bytes=9-{SIZE * 2}"}),
    ("GET", {"Range": "bytes=9-" + "9" * 40}),
    ("GET", {"Range": "bytes= 2-3 ,"}),
    ("GET", {"Range": "bytes=0-0,2-3"}),
    ("GET", {"Range": "bytes=x"}),
    ("GET", {"Range": "items=0-1"}),
    ("HEAD", {"Range": "bytes=0-1"}),
    ("GET", {"Range": "bytes=0-1", "If-Range": ETAG}),
    ("GET", {"Range": "bytes=0-1", "If-Range": f"W/{ETAG}"}),
    ("GET", {"Range": "bytes=0-1", "If-Range": '"other"'}),
    ("GET", {"Range": "bytes=0-1", "If-Range": FAR_OFF}),
    ("GET", {"If-None-Match": ETAG}),
    ("HEAD", {"If-None-Match": f'"a", W/{ETAG}'}),
    ("GET", {"If-None-Match": "*", "Origin": PAGE}),
    ("GET", {"If-None-Match": '"other"', "If-Modified-Since": FAR_OFF}),
    ("GET", {"If-Match": ETAG}),
    ("GET", {"If-Match": "*", "Range": "bytes=0-1"}),
    ("GET", {"If-Match": '"other"'}),
    ("GET", {"If-Modified-Since": FAR_OFF}),
    ("GET", {"If-Unmodified-Since": LONG_AGO}),
    ("OPTIONS", {"Origin": PAGE}),
    ("POST", {"Content-Length": "0"}),
]


@dataclass(frozen=True)
class Answer:
    """A response: its status, its headers in lower case and sorted, and its body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def __getitem__(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    @property
    def lasting(self) -> list[tuple[str, str]]:
        # nginx says that ranges are accepted where it sends the whole, and is told a name for
        # what it keeps, which a 304 need not repeat (RFC 9110 §15.4.5).
        freely = {206: {"accept-ranges"}, 304: {"accept-ranges", "content-disposition"}}
        passing = PASSING | freely.get(self.status, set())
        return [(name, value) for name, value in self.headers if name not in passing]


def ask(address: str, target: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    try:
        # Nothing but what the test asks for: no Accept-Encoding, no Content-Length.
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
        pairs = sorted((name.lower(), value) for name, value in response.getheaders())
        return Answer(response.status, pairs, body)
    finally:
        connection.close()


def target(digest: Digest = DIGEST, query: str = "content_type=image/png") -> str:
    return f"/api/cas/{digest}?{query}"


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


PICTURE = Digest.of(picture())


def serve(data: Path, **environment: str) -> Server:
    return Server(data, INVENTORY_WORKERS="1", CAS_CORS_ALLOWED_ORIGINS=PAGE, **environment)


def in_bucket(s3_server: S3Server) -> dict[str, str]:
    """Environment for a new bucket with the blobs, which says CORS headers of its own."""
    bucket = s3_server.new_bucket()
    rule = {"AllowedOrigins": ["*"], "AllowedMethods": ["GET"], "ExposeHeaders": ["x-amz-id-2"]}
    s3_server.client.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
    store = S3BlobStorage(**s3_server.storage_options(bucket))
    put(store, DATA), put(store, picture())
    return s3_server.environment(bucket)


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blobs")
    store = DiskBlobStorage(location=folder / "attachments")
    put(store, DATA), put(store, picture())
    return folder


@pytest.fixture(scope="module")
def direct(blobs: Path) -> Iterator[Server]:
    """The service itself, which streams."""
    with serve(blobs) as server:
        yield server


@pytest.fixture(scope="module")
def cached(direct: Server, blobs: Path) -> Iterator[str]:
    with nginx(direct.port, blobs / "nginx", blobs / "attachments") as front:
        yield front


@pytest.fixture(scope="module")
def accel(blobs: Path) -> Iterator[Server]:
    with serve(blobs, CAS_DELIVERY="accel") as server:
        yield server


@pytest.fixture(scope="module")
def accel_disk(accel: Server, blobs: Path) -> Iterator[str]:
    folder = blobs / "attachments"
    with nginx(accel.port, blobs / "accel", folder, content_cache="$cas_thumbnails") as front:
        yield front


@pytest.fixture(scope="module")
def accel_s3(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[str]:
    data = tmp_path_factory.mktemp("accel-s3")
    with (
        serve(data, CAS_DELIVERY="accel", **in_bucket(s3_server)) as server,
        nginx(
            server.port,
            data / "nginx",
            data,
            s3_origin=s3_server.endpoint,
            content_cache="$cas_thumbnails",
        ) as front,
    ):
        yield front


@pytest.fixture(params=["cached", "accel_disk", "accel_s3"])
def front(request: pytest.FixtureRequest) -> str:
    """nginx in each of its ways; a test that uses this runs once for each."""
    address: str = request.getfixturevalue(request.param)
    return address


@pytest.mark.parametrize(("method", "headers"), REQUESTS)
def test_every_way_answers_as_the_service_does(
    front: str, direct: Server, method: str, headers: dict[str, str]
) -> None:
    url = target(query=f"content_type=image/png&filename={REQUESTS.index((method, headers))}.png")
    expected = ask(direct.url, url, method, **headers)
    assert not expected.all("content-encoding")
    for _ in range(2):  # the first one may find nothing in a cache
        answer = ask(front, url, method, **headers)
        assert answer.lasting == expected.lasting
        assert (answer.status, answer.body) == (expected.status, expected.body)


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", f"bytes={SIZE * 2}-{SIZE * 3}", "bytes=-0"])
def test_a_range_behind_the_end(front: str, direct: Server, header: str) -> None:
    expected = ask(direct.url, target(), Range=header, Origin=PAGE)
    for _ in range(2):
        answer = ask(front, target(), Range=header, Origin=PAGE)
        assert (answer.status, answer.body) == (416, expected.body)
        assert answer["content-range"] == f"bytes */{SIZE}"
        assert answer["content-type"] == "application/json"
        assert answer["access-control-allow-origin"] == PAGE
        # Of two lines the stricter one holds (RFC 9111 §5.2).
        assert "no-store" in answer.all("cache-control")


def test_a_backward_range_is_ignored(front: str) -> None:
    for _ in range(2):
        answer = ask(front, target(), Range="bytes=5-2")
        assert (answer.status, answer.body) == (200, DATA)
        assert answer["etag"] == ETAG
        assert set(answer.all("cache-control")) == {IMMUTABLE}


@pytest.mark.parametrize("letter", ["📷", "回", "я"])
def test_the_longest_names(front: str, direct: Server, letter: str) -> None:
    url = target(query=f"content_type=image/png&filename={quote(letter * 255)}")
    answer = ask(front, url)
    assert answer.status == 200
    assert answer["content-disposition"] == ask(direct.url, url)["content-disposition"]


def test_a_thumbnail_is_made_once(front: str) -> None:
    url = target(PICTURE, "thumbnail=64")
    answers = [ask(front, url) for _ in range(3)]
    assert [answer["x-cache"] for answer in answers] == ["MISS", "HIT", "HIT"]
    assert Image.open(io.BytesIO(answers[2].body)).size == (64, 64)


def test_the_first_request_fills_the_cache(cached: str) -> None:
    url = target(query="content_type=image/png&filename=first.png")
    assert ask(cached, url)["x-cache"] == "MISS"
    for method, headers, status in (
        ("GET", {}, 200),
        ("HEAD", {}, 200),
        ("GET", {"Range": "bytes=5-9"}, 206),
        ("GET", {"Range": "bytes=5-9", "If-Range": ETAG}, 206),
        ("GET", {"If-None-Match": ETAG}, 304),
    ):
        answer = ask(cached, url, method, **headers)
        assert (answer.status, answer["x-cache"]) == (status, "HIT")


def test_pages_of_each_origin_have_a_copy_of_their_own(cached: str) -> None:
    url = target(query="content_type=image/png&filename=origins.png")
    for state in ("MISS", "HIT"):
        for origin in (PAGE, "https://evil.example"):
            answer = ask(cached, url, Origin=origin)
            assert (answer["x-cache"], answer["vary"]) == (state, "Origin")
            assert answer.all("access-control-allow-origin") == [PAGE] * (origin == PAGE)


@pytest.mark.parametrize("spelled", ["/api/cas/{}%3Fcontent_type=image/png", "/api//cas/{}?{}"])
def test_an_invalid_url_is_not_answered_from_a_valid_ones_copy(cached: str, spelled: str) -> None:
    query = "content_type=image/png"
    assert ask(cached, target(query=query)).status == 200
    assert ask(cached, spelled.format(DIGEST, query)).status in (400, 404)


def test_errors_are_not_kept(front: str) -> None:
    for url, status in (
        (target(Digest.of(b"missing")), 404),
        (target(query="content_type=x"), 400),
        (target(query="thumbnail=10"), 422),
    ):
        for _ in range(2):
            answer = ask(front, url)
            assert (answer.status, answer["cache-control"]) == (status, "no-store")
            assert answer.all("x-cache") in ([], ["MISS"])


def test_internal_paths_are_closed(front: str, accel: Server) -> None:
    for path in (f"/_cas/disk/{DIGEST.key}", f"/_cas/s3/bucket/{DIGEST.key}"):
        assert ask(front, path).status == 404
    named: Any = ask(accel.url, target())["x-accel-redirect"]
    assert ask(front, named).status == 404
