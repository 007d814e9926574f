"""The thumbnail cache: atomic, bounded, and never in a reader's way."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from cas.thumbnails.cache import ThumbnailCache


def picture(size: int, fill: bytes = b"x") -> bytes:
    return fill * (size - 2) + b"\xff\xd9"


@pytest.fixture
def cache(tmp_path: Path) -> ThumbnailCache:
    return ThumbnailCache(tmp_path, 1000)


def used(cache: ThumbnailCache) -> int:
    return sum(path.stat().st_size for path in cache.directory.glob("*.jpg"))


def age(cache: ThumbnailCache, name: str, seconds: int) -> None:
    then = time.time() - seconds
    os.utime(cache.directory / name, (then, then))


def test_what_was_put_is_found(cache: ThumbnailCache) -> None:
    assert cache.read("a.jpg") is None
    assert cache.put("a.jpg", picture(10))
    assert cache.read("a.jpg") == picture(10)
    found = cache.open("a.jpg")
    assert found
    with found[0] as file:
        assert (file.read(), found[1]) == (picture(10), 10)


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff\xd8 cut of", b"\0" * 50])
def test_a_cut_off_file_is_not_there(cache: ThumbnailCache, content: bytes) -> None:
    (cache.directory / "a.jpg").write_bytes(content)
    assert cache.read("a.jpg") is None
    assert cache.put("a.jpg", picture(10))
    assert cache.read("a.jpg") == picture(10)


def test_a_reader_never_meets_half_a_file(cache: ThumbnailCache) -> None:
    stop = threading.Event()
    seen: set[bytes | None] = set()

    def read() -> None:
        while not stop.is_set():
            seen.add(cache.read("a.jpg"))

    reader = threading.Thread(target=read)
    reader.start()
    versions = [picture(900, fill) for fill in (b"a", b"b", b"c")]
    for version in versions * 50:
        cache.put("a.jpg", version)
    stop.set()
    reader.join()
    assert seen <= {None, *versions}


def test_the_least_recently_used_go_first(cache: ThumbnailCache) -> None:
    for number in range(9):
        cache.put(f"{number}.jpg", picture(100))
        age(cache, f"{number}.jpg", 1000 - number)
    assert cache.read("0.jpg")
    cache.put("new.jpg", picture(200))
    left = {path.name for path in cache.directory.glob("*.jpg")}
    assert left == {"0.jpg", "3.jpg", "4.jpg", "5.jpg", "6.jpg", "7.jpg", "8.jpg", "new.jpg"}
    assert used(cache) <= 1000


def test_the_limit_holds_for_several_writers(cache: ThumbnailCache) -> None:
    def write(first: int) -> None:
        own = ThumbnailCache(cache.directory, cache.limit)
        for number in range(first, first + 40):
            own.put(f"{number}.jpg", picture(90))

    writers = [threading.Thread(target=write, args=(100 * n,)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert 0 < used(cache) <= 1000


def test_eviction_takes_nothing_from_a_reader(cache: ThumbnailCache) -> None:
    cache.put("a.jpg", picture(600, b"a"))
    found = cache.open("a.jpg")
    assert found
    age(cache, "a.jpg", 100)
    cache.put("b.jpg", picture(600, b"b"))
    assert cache.read("a.jpg") is None
    with found[0] as file:
        assert file.read() == picture(600, b"a")


def test_more_than_the_limit_is_not_kept(cache: ThumbnailCache) -> None:
    cache.put("a.jpg", picture(10))
    assert not cache.put("b.jpg", picture(1001))
    assert cache.read("a.jpg")


def test_a_full_disk_is_no_error(cache: ThumbnailCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cas.thumbnails.cache.os.write", full)
    assert not cache.put("a.jpg", picture(10))
    assert list(cache.directory.iterdir()) == []


def test_a_short_write_is_not_kept(cache: ThumbnailCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cas.thumbnails.cache.os.write", lambda descriptor, data: len(data) // 2)
    assert not cache.put("a.jpg", picture(10))
    assert list(cache.directory.iterdir()) == []


def test_what_killed_writers_left_is_removed(cache: ThumbnailCache) -> None:
    for name, seconds in ((".new-old", 7200), (".new-young", 10)):
        (cache.directory / name).write_bytes(b"half")
        age(cache, name, seconds)
    cache.put("a.jpg", picture(600))
    cache.put("b.jpg", picture(600))
    assert not (cache.directory / ".new-old").exists()
    assert (cache.directory / ".new-young").exists()
