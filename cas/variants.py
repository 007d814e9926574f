"""Thumbnails on request: from the cache, from a kept larger picture, or from the blob itself."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final

from cas import flight
from cas.cache import JPEG_END, ThumbnailCache
from cas.conf import ServingSettings, serving
from cas.decoders import NotAnImage
from cas.storage.base import BlobStore, CutShort, Unreachable
from cas.thumbnails import RENDERER, Rendered, render, render_from_base

log = logging.getLogger(__name__)

_AFTERWARDS: Final = ThreadPoolExecutor(2, thread_name_prefix="thumbnail-base")
"""What nobody waits for. To begin a thread for each would be waited for."""

REFUSED_SECONDS: Final = 60
"""For so long a damaged picture is not decoded again; it may be healed meanwhile."""


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
    with contextlib.ExitStack() as lock:
        lock.enter_context(flight.alone(locks, name, deadline))
        # Whoever held the lock before us has probably made what we want.
        if cached := cache.open(wanted):
            return Thumbnail(*cached, CacheResult.HIT)
        if data := _from_base(cache, name, size):
            cache.put(wanted, data)
            return Thumbnail(io.BytesIO(data), len(data), CacheResult.BASE)
        with flight.slot(locks, settings.thumbnail_concurrency, deadline):
            rendered = _from_store(store, key, cache, name, size, settings)
        cache.put(wanted, rendered.thumbnail)
        _keep_base(cache, name, rendered, lock.pop_all())
    data = rendered.thumbnail
    return Thumbnail(io.BytesIO(data), len(data), CacheResult.MISS)


def _prepare(directory: Path) -> Path:
    """Create the cache's directories where possible; the one for lock files.

    What other versions of the renderer have kept goes with the first use of this one.
    """
    locks = directory / "locks"
    if not locks.is_dir():
        for other in directory.parent.glob("renderer-*"):
            # Not what another process has made of ours since.
            if other != directory:
                shutil.rmtree(other, ignore_errors=True)
        try:
            locks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.warning("no thumbnail cache at %s: %s", directory, error.strerror)
    return locks


def _keep_base(
    cache: ThumbnailCache, name: str, rendered: Rendered, lock: contextlib.ExitStack
) -> None:
    """Keep the picture for the next size, behind the requester's back.

    The lock goes along: another size must wait for the kept picture, not read the store.
    """

    def keep() -> None:
        with lock:
            try:
                cache.put(f"{name}_{'whole' if rendered.whole else 'base'}.jpg", rendered.base())
            except Exception:
                log.exception("no picture of %s was kept", name)

    _AFTERWARDS.submit(keep)


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
) -> Rendered:
    refused = f"{name}_refused.jpg"
    if cache.put_within(refused, REFUSED_SECONDS):
        raise NotAnImage("the image is damaged or cut short")
    try:
        with store.read(key) as source:
            return render(source, size, settings.thumbnail_max_pixels)
    except CutShort as error:
        # The answer was, which says nothing about the picture.
        raise Unreachable(str(error), key=key) from error
    except NotAnImage:
        # Everybody who waits would otherwise decode it once more to find the same.
        cache.put(refused, JPEG_END)
        raise
