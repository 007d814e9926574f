"""From request to thumbnail: generated once, kept, and never in the way of being served."""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import django
import pytest
from django.test import override_settings
from PIL import Image

from cas.conf import serving
from cas.digest import Digest
from cas.storage.base import BlobStore
from cas.storage.disk import DiskBlobStorage
from cas.tests.conftest import ReadingClient, put
from cas.tests.pictures import jpeg
from cas.thumbnails.cache import semaphore, single_flight
from cas.thumbnails.limits import NotAnImage
from cas.thumbnails.render import RENDERER, Source, Thumbnail, thumbnail
from tests.s3 import S3Server


@pytest.fixture
def digest(store: BlobStore) -> Digest:
    return put(store, jpeg(1600, 1200))


def make(store: BlobStore, digest: Digest, size: int = 150) -> tuple[bytes, Source]:
    made: Thumbnail = thumbnail(store, digest.key, digest.hex, size)
    with made.body as body:
        data = body.read()
    assert len(data) == made.size
    return data, made.source


class Counting:
    """A store that counts what is read from it."""

    def __init__(self, store: Any) -> None:
        self.reads = 0
        self._store = store

    def read(self, key: str) -> Any:
        self.reads += 1
        return self._store.read(key)


def test_the_second_request_is_a_hit(store: BlobStore, digest: Digest) -> None:
    counting: Any = Counting(store)
    first, second = make(counting, digest), make(counting, digest)
    assert (first[1], second[1]) == (Source.BLOB, Source.CACHE)
    assert first[0] == second[0]
    assert counting.reads == 1
    names = {path.name for path in serving().thumbnail_cache_dir.rglob("*.jpg")}
    assert f"{digest}_150.jpg" in names


def test_another_size_does_not_read_the_store(store: BlobStore, digest: Digest) -> None:
    counting: Any = Counting(store)
    make(counting, digest, 150)
    for size in (32, 300, 400):
        data, found = make(counting, digest, size)
        assert found is Source.BASE
        assert Image.open(io.BytesIO(data)).size == (size, size * 3 // 4)
    assert counting.reads == 1


def test_a_size_larger_than_the_kept_picture_is_made_anew(store: BlobStore, digest: Digest) -> None:
    counting: Any = Counting(store)
    make(counting, digest, 150)
    data, found = make(counting, digest, 1024)
    assert found is Source.BLOB
    assert Image.open(io.BytesIO(data)).size == (1024, 768)
    make(counting, digest, 900)
    assert counting.reads == 2


def test_a_damaged_kept_picture_is_made_anew(store: BlobStore, digest: Digest) -> None:
    make(store, digest, 150)
    # It is kept after the first response; a request for another size waits for it.
    assert make(store, digest, 100)[1] is Source.BASE
    (base,) = serving().thumbnail_cache_dir.rglob(f"{digest}_base.jpg")
    base.write_bytes(base.read_bytes()[:300] + b"\xff\xd9")
    assert make(store, digest, 50)[1] is Source.BLOB


def test_threads_share_one_generation(
    disk_store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(disk_store, jpeg(1600, 1200))
    counting: Any = Counting(disk_store)
    with ThreadPoolExecutor(32) as pool:
        results = list(pool.map(lambda _: make(counting, digest), range(32)))
    assert counting.reads == 1
    assert len({data for data, _ in results}) == 1
    assert [found for _, found in results].count(Source.BLOB) == 1


def _process(location: Path, cache: Path, digest: Digest, gate: Any, results: Any) -> None:
    django.setup()
    store = DiskBlobStorage(location=location)
    with override_settings(CAS_THUMBNAIL_CACHE_DIR=cache), ThreadPoolExecutor(16) as pool:
        gate.wait()
        results.put(list(pool.map(lambda _: make(store, digest)[1].value, range(16))))


def test_processes_share_one_generation(disk_store: Any, settings: Any) -> None:
    digest = put(disk_store, jpeg(1600, 1200))
    # Forked children would inherit libvips' threads without the threads.
    spawned = multiprocessing.get_context("spawn")
    gate, results = spawned.Barrier(2), spawned.Queue()
    cache = settings.CAS_THUMBNAIL_CACHE_DIR
    arguments = (disk_store.location, cache, digest, gate, results)
    workers = [spawned.Process(target=_process, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [result for _ in workers for result in results.get(timeout=60)]
    for worker in workers:
        worker.join()
    assert len(found) == 32
    assert found.count("blob") == 1


def test_waiting_too_long_is_a_503(
    disk_store: BlobStore, client: ReadingClient, settings: Any
) -> None:
    digest = put(disk_store, jpeg(40, 30))
    settings.CAS_THUMBNAIL_WAIT = 0.05
    settings.CAS_THUMBNAIL_CONCURRENCY = 1
    settings.CAS_RETRY_AFTER = 17
    locks = settings.CAS_THUMBNAIL_CACHE_DIR / f"renderer-{RENDERER}" / "locks"
    locks.mkdir(parents=True)
    with semaphore(locks, 1, time.monotonic()):
        response = client.get(f"/api/cas/{digest}?thumbnail=20")
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "17"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json()["error"]["code"] == "busy"
    assert client.get(f"/api/cas/{digest}?thumbnail=20").status_code == 200


def test_a_lock_falls_with_its_process(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with single_flight(tmp_path, "name", time.monotonic()):
            os._exit(0)
    os.waitpid(child, 0)
    with single_flight(tmp_path, "name", time.monotonic()):
        pass


@pytest.mark.parametrize("size", [150, 100])
def test_an_unusable_cache_does_not_stop_service(
    store: BlobStore, digest: Digest, settings: Any, tmp_path: Path, size: int
) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    settings.CAS_THUMBNAIL_CACHE_DIR = blocked
    data, found = make(store, digest, size)
    assert found is Source.BLOB
    assert Image.open(io.BytesIO(data)).width == size


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"%PDF-1.7", "not_an_image"), (jpeg(800, 600)[:200], "not_an_image"), (b"", "not_an_image")],
)
def test_what_cannot_be_shown_is_a_422(
    store: BlobStore, client: ReadingClient, data: bytes, code: str
) -> None:
    response = client.get(f"/api/cas/{put(store, data)}?thumbnail=20")
    assert response.status_code == 422
    assert response.json()["error"]["code"] == code
    assert response.headers["Cache-Control"] == "no-store"


def test_a_bomb_is_a_422(store: BlobStore, client: ReadingClient, settings: Any) -> None:
    settings.CAS_THUMBNAIL_MAX_PIXELS = 10_000
    response = client.get(f"/api/cas/{put(store, jpeg(101, 100))}?thumbnail=20")
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "too_many_pixels"


def test_only_listed_sizes(disk_store: BlobStore, client: ReadingClient, settings: Any) -> None:
    settings.CAS_THUMBNAIL_SIZES = [20, 150]
    digest = put(disk_store, jpeg(40, 30))
    assert client.get(f"/api/cas/{digest}?thumbnail=20").status_code == 200
    assert client.get(f"/api/cas/{digest}?thumbnail=21").status_code == 400


def test_thumbnail_answers(store: BlobStore, client: ReadingClient, digest: Digest) -> None:
    """A miss and a hit differ in nothing; sizes differ in their tags."""
    url = f"/api/cas/{digest}?thumbnail=150"
    miss, hit = client.get(url), client.get(url)
    assert miss.body == hit.body
    assert dict(miss.headers) == dict(hit.headers)
    assert hit.headers["Content-Type"] == "image/jpeg"
    assert hit.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    other = client.get(f"/api/cas/{digest}?thumbnail=100")
    tags = {r.headers["ETag"] for r in (hit, other)} | {f'"{digest}"'}
    assert len(tags) == 3
    part = client.get(url, headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.body) == (206, hit.body[2:6])
    assert client.get(url, headers={"Range": "bytes=9999999-"}).status_code == 416


def test_bytes_that_differ_have_no_strong_tag_in_common(
    store: BlobStore, client: ReadingClient
) -> None:
    """A thumbnail of a kept picture is not that of the blob, byte for byte: parts do not mix."""
    digest = put(store, jpeg(3200, 2400))
    url = f"/api/cas/{digest}?thumbnail=150"
    first = client.get(url)
    # The larger picture is kept in the background.
    while not list(serving().thumbnail_cache_dir.rglob("*_base.jpg")):
        time.sleep(0.01)
    shutil.rmtree(serving().thumbnail_cache_dir)
    client.get(f"/api/cas/{digest}?thumbnail=300")
    second = client.get(url)
    assert first.body != second.body
    tag = second.headers["ETag"]
    assert tag.startswith("W/")
    unsure = client.get(url, headers={"Range": "bytes=2-5", "If-Range": tag})
    assert (unsure.status_code, unsure.body) == (200, second.body)
    assert client.get(url, headers={"If-Match": tag}).status_code == 412
    assert client.get(url, headers={"If-None-Match": tag}).status_code == 304


def test_a_condition_does_not_make_a_picture_of_what_is_none(
    store: BlobStore, client: ReadingClient
) -> None:
    url = f"/api/cas/{put(store, b'%PDF-1.7')}?thumbnail=20"
    assert client.get(url, headers={"If-None-Match": "*"}).status_code == 422
    picture = f"/api/cas/{put(store, jpeg(40, 30))}?thumbnail=20"
    assert client.get(picture, headers={"If-None-Match": "*"}).status_code == 304


def test_a_damaged_picture_is_decoded_once_for_all_who_wait(
    disk_store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = jpeg(1600, 1200)
    digest = put(disk_store, whole[:200])
    counting: Any = Counting(disk_store)

    def refused(_: int) -> bool:
        with pytest.raises(NotAnImage):
            make(counting, digest)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(refused, range(8)))
    assert counting.reads == 1
    # It may have been healed since.
    monkeypatch.setattr("cas.thumbnails.render.REFUSED_SECONDS", 0)
    assert refused(0)
    assert counting.reads == 2


def test_a_response_cut_short_says_nothing_about_the_picture(
    s3_store: BlobStore, s3_server: S3Server, client: ReadingClient
) -> None:
    digest = put(s3_store, jpeg(1600, 1200))
    s3_server.fault("GetObject", "close_mid_body", bytes=1000)
    url = f"/api/cas/{digest}?thumbnail=20"
    assert client.get(url).status_code == 503
    assert client.get(url).status_code == 200


def test_generations_are_bounded_where_no_lock_file_can_be_had(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    working, most = 0, 0
    counted = threading.Lock()
    both = threading.Barrier(2)

    def work(_: int) -> None:
        nonlocal working, most
        with semaphore(blocked, 2, time.monotonic() + 30):
            with counted:
                working += 1
                most = max(most, working)
            # Nobody goes on alone, so two are inside together; a third one would be counted.
            both.wait(30)
            with counted:
                working -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    assert most == 2


def test_what_another_renderer_kept_goes(store: BlobStore, digest: Digest) -> None:
    caches = serving().thumbnail_cache_dir
    for name in ("renderer-0", "renderer-1"):
        (caches / name).mkdir(parents=True)
        (caches / name / "kept.jpg").write_bytes(b"x")
    os.utime(caches / "renderer-0", (0, 0))
    make(store, digest)
    assert not (caches / "renderer-0").exists()
    # During an upgrade another process may be filling it.
    assert (caches / "renderer-1" / "kept.jpg").exists()
