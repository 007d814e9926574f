"""Thumbnails, cold and again, against libvips called directly and Pillow as one first writes it."""

from __future__ import annotations

import io
import itertools
import logging
import re
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pyvips
from django.test import override_settings
from PIL import Image, ImageFilter

from benchmarks import blobs
from benchmarks.measurement import Contest, Row, Table, milliseconds, rows
from benchmarks.sites import WORKERS
from cas.digest import Digest
from cas.storage.base import BlobStore, BlobStream, ByteRange
from cas.storage.disk import DiskBlobStorage
from cas.thumbnails.render import thumbnail
from tests.server import Server

# It tells of every step, which would count against it.
logging.getLogger("pyvips").setLevel(logging.ERROR)

SIZE = 150
ANOTHER = 300
CLIENTS = 32
VIPS, PILLOW, COLD, AGAIN = (
    "pyvips, directly",
    "Pillow, plainly",
    "ours, cold",
    "ours, another size",
)
CACHED = "ours, cached"


def run(directory: Path, *, quick: bool) -> list[Table]:
    rounds = 3 if quick else 15
    pictures = {
        "12 MP JPEG": _picture(directory / "large.jpg", (4000, 3000)),
        "12 MP PNG": _picture(directory / "large.png", (4000, 3000)),
        "640 × 480 JPEG": _picture(directory / "small.jpg", (640, 480)),
    }
    tables = [_one_at_a_time(directory, name, path, rounds) for name, path in pictures.items()]
    return [*tables, _at_once(directory / "at-once", pictures["12 MP JPEG"], 1 if quick else 3)]


def _picture(path: Path, size: tuple[int, int]) -> Path:
    """Something between a photo and noise, as hard to compress as a photo."""
    bands = [Image.effect_noise(size, 60).filter(ImageFilter.GaussianBlur(2)) for _ in range(3)]
    shade = Image.radial_gradient("L").resize(size)
    image = Image.merge("RGB", [Image.blend(band, shade, 0.5) for band in bands])
    image.save(path, quality=90)
    return path


class Counting(DiskBlobStorage):
    """Counts how often an object was read."""

    reads = 0

    def read(self, key: str, byte_range: ByteRange | None = None) -> BlobStream:
        Counting.reads += 1
        return super().read(key, byte_range)


def _one_at_a_time(directory: Path, name: str, path: Path, rounds: int) -> Table:
    store = Counting(location=directory / "store")
    digest = blobs.store(store, path)
    cache = directory / "cache"

    # A name that the cache does not know yet is as good as an empty cache.
    fresh = itertools.count()

    def cold() -> float:
        name = f"{digest}-{next(fresh)}"
        return _rate(lambda: _thumbnail(store, digest, name, SIZE))

    def another() -> float:
        for file in cache.rglob(f"*_{ANOTHER}.jpg"):
            file.unlink()
        return _rate(lambda: _thumbnail(store, digest, digest.hex, ANOTHER))

    def cached() -> float:
        return _rate(lambda: _thumbnail(store, digest, digest.hex, SIZE))

    measures = {
        VIPS: lambda: _rate(lambda: _vips(path)),
        PILLOW: lambda: _rate(lambda: _pillow(path)),
        COLD: cold,
        AGAIN: another,
        CACHED: cached,
    }
    with override_settings(CAS_THUMBNAIL_CACHE_DIR=cache):
        cached()
        for measure in measures.values():
            measure()
        before = Counting.reads
        another()
        cached()
        assert Counting.reads == before, "a second size read the store"
        rates = Contest(measures, rounds).run()
    shown = rows(rates, VIPS, milliseconds, {COLD: 0.85} if "12 MP" in name else {})
    if "12 MP" in name:
        gain = rates[AGAIN] / rates[COLD]
        shown.append(Row("another size, to ours cold", f"{gain:.1f} times as fast", gain, 5.0))
    note = "Neither another size nor a cached one read the store. Ours includes store and cache."
    return Table(f"{name} to {SIZE} pixels", VIPS, shown, note=note)


def _rate(task: Callable[[], None]) -> float:
    begun = time.perf_counter()
    task()
    return 1 / (time.perf_counter() - begun)


def _thumbnail(store: BlobStore, digest: Digest, name: str, size: int) -> None:
    thumbnail(store, digest.key, name, size).body.close()


def _vips(path: Path) -> None:
    picture = pyvips.Image.thumbnail(str(path), SIZE, height=SIZE)
    picture.jpegsave_buffer(Q=85, keep="none")


def _pillow(path: Path) -> None:
    with Image.open(path) as image:
        picture = image.convert("RGB")
        picture.thumbnail((SIZE, SIZE))
        picture.save(io.BytesIO(), "JPEG", quality=85)


def _at_once(directory: Path, path: Path, rounds: int) -> Table:
    """The first request for a thumbnail, by 32 clients at once, and how often it was made."""
    times, alone, made = [], [], 0.0
    for number in range(rounds):
        data = directory / str(number)
        digest = blobs.store(DiskBlobStorage(location=data / "attachments"), path)
        with Server(data, INVENTORY_WORKERS=WORKERS) as server:
            url = f"{server.url}/api/cas/{digest}?thumbnail={SIZE}"
            begun = time.perf_counter()
            threads = [threading.Thread(target=_get, args=[url]) for _ in range(CLIENTS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            times.append(time.perf_counter() - begun)
            page = server.get("/metrics")[1].decode()
            made += float(re.findall(r"^cas_thumbnail_cache_misses_total (\S+)", page, re.M)[0])
            begun = time.perf_counter()
            for _ in range(CLIENTS):
                _vips(path)
            alone.append(time.perf_counter() - begun)
    ours, rival = sorted(times)[rounds // 2], sorted(alone)[rounds // 2]
    each = made / rounds
    return Table(
        f"{CLIENTS} first requests at once for a 12 MP JPEG",
        "making it for each",
        [
            Row("making it for each, pyvips", f"{rival * 1000:.0f} ms", 1.0),
            Row("ours, by HTTP", f"{ours * 1000:.0f} ms", rival / ours),
            Row("generations", f"{each:g}", 1 / each, 1.0),
        ],
    )


def _get(url: str) -> None:
    with urllib.request.urlopen(url, timeout=60) as response:
        response.read()
