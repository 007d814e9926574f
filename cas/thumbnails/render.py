"""Thumbnails: small sRGB JPEGs, from the cache, from a kept larger picture, or from the blob."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final

from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from cas import metrics
from cas.conf import THUMBNAIL_SIZE, serving
from cas.storage.base import BlobStore, CutShort, Unreachable
from cas.thumbnails.cache import JPEG_END, ThumbnailCache, semaphore, single_flight
from cas.thumbnails.limits import NotAnImage, TooManyPixels, Unrenderable
from cas.thumbnails.process import Rendered, refusal, render

log = logging.getLogger(__name__)

RENDERER: Final = 3
"""Part of cache names and ETags. Raise it whenever the same blob would give other bytes."""

REFUSED_SECONDS: Final = 600
"""For so long a picture that was refused is not decoded again; it may be healed meanwhile."""

_REFUSED: Final = "{}_refused.jpg"
"""Name in the cache of why a picture was refused, as JSON; the end is what all files there have."""

UNUSED_SECONDS: Final = 86_400
_PREPARED: Final[set[Path]] = set()

_QUALITY: Final = 85

_BACKGROUND: Final = ThreadPoolExecutor(2, thread_name_prefix="thumbnail-base")
"""Keeps pictures after the response. Starting a thread for each would delay the response."""


class Source(StrEnum):
    """Where a thumbnail came from; BASE is the kept larger picture."""

    CACHE = "cache"
    BASE = "base"
    BLOB = "blob"


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A finished JPEG of `size` bytes. The receiver closes `body`."""

    body: BinaryIO
    size: int
    source: Source


def thumbnail(store: BlobStore, key: str, name: str, size: int) -> Thumbnail:
    """The picture of the object at `key`, fitted into `size` × `size` pixels.

    `name` is what the object is called in the cache. Of concurrent requests for a name one makes
    the thumbnail and the others wait for it. Raises Busy, Unrenderable and the store's errors.
    """
    started = time.perf_counter()
    picture = _find_or_make(lambda: store.read(key), name, size)
    if picture.source is Source.CACHE:
        metrics.THUMBNAIL_HITS.inc()
    else:
        metrics.THUMBNAIL_MISSES.inc()
        seconds = time.perf_counter() - started
        metrics.THUMBNAIL_SECONDS.labels(picture.source.value).observe(seconds)
    return picture


def check(name: str, open_source: Callable[[], BinaryIO]) -> None:
    """Make the first thumbnail of a picture that is about to be stored: it can be shown.

    `name` is its digest. Raises Busy, Unrenderable and what opening and reading it raises.
    """
    _find_or_make(open_source, name, THUMBNAIL_SIZE).body.close()


def _find_or_make(open_source: Callable[[], BinaryIO], name: str, size: int) -> Thumbnail:
    settings = serving()
    directory = settings.thumbnail_cache_dir / f"renderer-{RENDERER}"
    cache = ThumbnailCache(directory, settings.thumbnail_cache_bytes)
    wanted = f"{name}_{size}.jpg"
    if cached := cache.open(wanted):
        return Thumbnail(*cached, Source.CACHE)
    locks = _prepare(directory)
    deadline = time.monotonic() + settings.thumbnail_wait
    with contextlib.ExitStack() as held:
        held.enter_context(single_flight(locks, name, deadline))
        # The request that held the lock before has probably made this very thumbnail.
        if cached := cache.open(wanted):
            return Thumbnail(*cached, Source.CACHE)
        if data := _from_base(cache, name, size):
            cache.put(wanted, data)
            return Thumbnail(io.BytesIO(data), len(data), Source.BASE)
        _raise_refused(cache, name)
        held.enter_context(semaphore(locks, settings.thumbnail_concurrency, deadline))
        rendered = _render(open_source, cache, name, size)
        cache.put(wanted, rendered.thumbnail)
        # The locks are released there: a request for another size waits for the kept picture.
        _BACKGROUND.submit(_keep_base, cache, name, rendered, held.pop_all())
    data = rendered.thumbnail
    return Thumbnail(io.BytesIO(data), len(data), Source.BLOB)


def _prepare(directory: Path) -> Path:
    """Create the cache's directories where possible; returns the one for lock files.

    When a process first uses this one, it deletes those of other versions of the renderer into
    which nothing was put for a day: during an upgrade both are in use.
    """
    locks = directory / "locks"
    if directory not in _PREPARED:
        _PREPARED.add(directory)
        for other in directory.parent.glob("renderer-*"):
            with contextlib.suppress(OSError):
                unused = time.time() - other.stat().st_mtime > UNUSED_SECONDS
                if other != directory and unused:
                    shutil.rmtree(other, ignore_errors=True)
    if not locks.is_dir():
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
                log.warning("the kept picture %s is damaged and is made again", kept)
    return None


def _render(
    open_source: Callable[[], BinaryIO], cache: ThumbnailCache, name: str, size: int
) -> Rendered:
    try:
        with open_source() as source:
            return render(source, size, serving().thumbnail_max_pixels)
    except CutShort as error:
        # The store's response was cut short, which says nothing about the picture.
        raise Unreachable(str(error), key=error.key) from error
    except TooManyPixels:
        # Found out at once, and the limit may be raised.
        raise
    except Unrenderable as error:
        # Every waiting request would otherwise decode it again, with the same result.
        told = json.dumps([error.code, str(error)]).encode()
        cache.put(_REFUSED.format(name), told + JPEG_END)
        raise


def _raise_refused(cache: ThumbnailCache, name: str) -> None:
    """Refuse again what was refused a moment ago."""
    kept = _REFUSED.format(name)
    if cache.put_within(kept, REFUSED_SECONDS) and (told := cache.read(kept)):
        raise refusal(*json.loads(told.removesuffix(JPEG_END)))


def _keep_base(
    cache: ThumbnailCache, name: str, rendered: Rendered, held: contextlib.ExitStack
) -> None:
    """Keep the larger picture for other sizes; releases the locks. Runs in the background."""
    with held:
        try:
            cache.put(f"{name}_{'whole' if rendered.whole else 'base'}.jpg", rendered.base())
        except Exception:
            log.exception("no picture of %s was kept", name)


def render_from_base(base: bytes, size: int, *, whole: bool) -> bytes | None:
    """A thumbnail of a kept picture, or None if that is smaller than `size` and not whole.

    By Pillow: with so few pixels libvips spends most of the time on starting its threads.
    """
    sink = io.BytesIO()
    try:
        with JpegImageFile(io.BytesIO(base)) as picture:
            if not whole and max(picture.size) < size:
                return None
            sampling = get_sampling(picture)
            picture.thumbnail((size, size))
            picture.save(sink, "JPEG", quality=_QUALITY, subsampling=sampling)
    except (OSError, SyntaxError) as error:
        raise NotAnImage("the kept picture is damaged") from error
    return sink.getvalue()
