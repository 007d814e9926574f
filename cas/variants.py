"""Thumbnails on request: from the cache, from a kept larger picture, or from the blob itself."""

from __future__ import annotations

import io
import logging
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from cas import flight
from cas.cache import ThumbnailCache
from cas.conf import ServingSettings, serving
from cas.storage.base import BlobStore
from cas.thumbnails import RENDERER, NotAnImage, render, render_from_base

log = logging.getLogger(__name__)


class CacheResult(StrEnum):
    """Where an answer came from. NONE: the cache was not asked."""

    HIT = "hit"
    BASE = "base"
    MISS = "miss"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A finished JPEG of `size` bytes. The receiver closes `body`."""

    body: BinaryIO
    size: int
    found: CacheResult


def thumbnail(store: BlobStore, key: str, name: str, size: int) -> Thumbnail:
    """The picture of the object at `key`, fitted into `size` × `size` pixels.

    `name` is what the object is called in the cache. One request at a time works on it; those
    that wait take what it made. Raises Busy, Unrenderable and what the store raises.
    """
    settings = serving()
    directory = settings.thumbnail_cache_dir / f"renderer-{RENDERER}"
    cache = ThumbnailCache(directory, settings.thumbnail_cache_bytes)
    wanted = f"{name}_{size}.jpg"
    if cached := cache.open(wanted):
        return Thumbnail(*cached, CacheResult.HIT)
    locks = _prepare(directory)
    deadline = time.monotonic() + settings.thumbnail_wait
    with flight.alone(locks, name, deadline):
        # Whoever held the lock before us has probably made what we want.
        if cached := cache.open(wanted):
            return Thumbnail(*cached, CacheResult.HIT)
        data = _from_base(cache, name, size)
        found = CacheResult.BASE
        if data is None:
            with flight.slot(locks, settings.thumbnail_concurrency, deadline):
                data = _from_store(store, key, cache, name, size, settings)
            found = CacheResult.MISS
        cache.put(wanted, data)
    return Thumbnail(io.BytesIO(data), len(data), found)


def _prepare(directory: Path) -> Path:
    """Create the cache's directories where possible; the one for lock files."""
    locks = directory / "locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("no thumbnail cache at %s: %s", directory, error.strerror)
    return locks


def _from_base(cache: ThumbnailCache, name: str, size: int) -> bytes | None:
    for whole, kept in ((True, f"{name}_whole.jpg"), (False, f"{name}_base.jpg")):
        if base := cache.read(kept):
            try:
                return render_from_base(base, size, whole=whole)
            except NotAnImage:
                log.warning("the kept picture %s is damaged; making it anew", kept)
    return None


def _from_store(
    store: BlobStore,
    key: str,
    cache: ThumbnailCache,
    name: str,
    size: int,
    settings: ServingSettings,
) -> bytes:
    with store.read(key) as source:
        rendered = render(source, size, settings.thumbnail_max_pixels)
    cache.put(f"{name}_{'whole' if rendered.whole else 'base'}.jpg", rendered.base())
    return rendered.thumbnail
