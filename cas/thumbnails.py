"""The thumbnail engine: an untrusted picture in, a small sRGB JPEG out, in bounded memory.

libvips does the work (see docs/reference/thumbnails.md for what was measured). It is told which
decoder to use, by the bytes and by nobody's word, and all its other decoders are blocked.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import pyvips

from cas.conf import LARGEST_THUMBNAIL
from cas.digest import CHUNK
from cas.sniff import HEAD, sniff
from cas.storage.base import StoreError

RENDERER: Final = 1
"""Part of cache names and ETags. Raise it whenever the same blob would give other bytes."""

_BASE_AT_LEAST: Final = 480
"""Pixels of the longer side that the kept picture has, where the original has as many."""

_QUALITY: Final = 85
_BASE_QUALITY: Final = 92
_LOADERS: Final = {
    "image/jpeg": "jpegload_source",
    "image/png": "pngload_source",
    "image/webp": "webpload_source",
    "image/gif": "gifload_source",
    "image/avif": "heifload_source",
}
_TYPES: Final = ("Jpeg", "Png", "Webp", "Nsgif", "Heif")

# libvips keeps results for reuse; every picture here is new, so that would only be memory.
pyvips.cache_set_max(0)
pyvips.block_untrusted_set(True)
pyvips.operation_block_set("VipsForeignLoad", True)
for _type in _TYPES:
    pyvips.operation_block_set(f"VipsForeignLoad{_type}", False)
# pyvips repeats libvips' warnings about each damaged file; the answer 422 says it better.
logging.getLogger("pyvips").setLevel(logging.ERROR)


class Unrenderable(Exception):
    """The blob has no picture that could be shown."""

    code = "unrenderable"


class NotAnImage(Unrenderable):
    """Not a picture of a type we accept, or one that is damaged or cut short."""

    code = "not_an_image"


class TooManyPixels(Unrenderable):
    """Decoding would take more memory than a picture may."""

    code = "too_many_pixels"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A thumbnail, and the larger picture it came from for the next size to come from.

    `whole` says that `base` has all of the original's pixels, so any size can be made of it.
    """

    thumbnail: bytes
    base: Callable[[], bytes]
    whole: bool


def render(source: BinaryIO, size: int, max_pixels: int) -> Rendered:
    """A JPEG fitted into `size` × `size` pixels, never enlarged.

    Upright by EXIF, transparency on white, sRGB; of an animation the first frame. Raises
    NotAnImage, TooManyPixels, and whatever StoreError reading `source` raises.
    """
    head = source.read(HEAD)
    content_type = sniff(head)
    if content_type not in _LOADERS:
        raise NotAnImage("not an image of an accepted type")
    feed = _Feed(source, head)
    try:
        picture, whole = _decode(feed.source, content_type, size, max_pixels)
        base = _meanwhile(lambda: _base(picture))
        return Rendered(_encode(_fit(picture, size), _QUALITY), base, whole)
    except pyvips.Error as error:
        if feed.failure:
            raise feed.failure from error
        raise NotAnImage("the image is damaged or cut short") from error


def render_from_base(base: bytes, size: int, *, whole: bool) -> bytes | None:
    """A thumbnail from a kept picture, or None if that one is too small to make it of."""
    try:
        picture = pyvips.Image.jpegload_buffer(base, fail_on="error")
        if not whole and max(picture.width, picture.height) < size:
            return None
        return _encode(_fit(picture, size), _QUALITY)
    except pyvips.Error as error:
        raise NotAnImage("the kept picture is damaged") from error


class _Feed:
    """A stream as a libvips source.

    libvips calls from C, where no exception can pass: the first one ends the data and is kept.
    A file on disk is read by libvips itself.
    """

    def __init__(self, stream: BinaryIO, head: bytes) -> None:
        self.failure: StoreError | None = None
        self._stream = stream
        self._head = head
        try:
            descriptor = stream.fileno()
        except OSError:
            self.source = pyvips.SourceCustom()
            self.source.on_read(self._read)
        else:
            # libvips reads the descriptor, which stands where the buffered reader left it.
            os.lseek(descriptor, 0, os.SEEK_SET)
            self.source = pyvips.Source.new_from_descriptor(descriptor)

    def _read(self, size: int) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        try:
            return self._stream.read(min(size, CHUNK))
        except StoreError as error:
            self.failure = error
            return b""


def _decode(source: Any, content_type: str, size: int, max_pixels: int) -> tuple[Any, bool]:
    """The picture in memory, upright and in sRGB, and whether it has all original pixels.

    It is shrunk by a whole factor while it is decoded, by the decoder itself where that can:
    finer filters than averaging would cost more on so many pixels and show only in the last step.
    """
    load = getattr(pyvips.Image, _LOADERS[content_type])
    options: dict[str, Any] = {"access": "sequential", "fail_on": "truncated"}
    image = load(source, **options)
    if image.width * image.height > max_pixels:
        raise TooManyPixels(f"{image.width} × {image.height} pixels")
    longer = max(image.width, image.height)
    factor = rest = max(1, longer // max(size, _BASE_AT_LEAST))
    if content_type == "image/jpeg" and factor > 1:
        shrink = next(power for power in (8, 4, 2) if power <= factor)
        image, rest = load(source, **options, shrink=shrink), factor // shrink
    elif content_type == "image/webp" and factor > 1:
        image, rest = load(source, **options, scale=1 / factor), 1
    orientation = image.get("orientation") if image.get_typeof("orientation") else 1
    picture = _on_white(image)
    if rest > 1:
        picture = picture.shrink(min(rest, picture.width), min(rest, picture.height))
    picture = _in_srgb(_fit(picture, LARGEST_THUMBNAIL).copy_memory())
    if 1 < orientation <= 8:
        picture = picture.autorot()
    return picture.copy_memory(), factor == 1 and longer <= LARGEST_THUMBNAIL


def _on_white(image: Any) -> Any:
    """Opaque: averaging with white first and shrinking after gives the same as the reverse."""
    if not image.hasalpha():
        return image
    white = 65535 if image.format == "ushort" else 255
    return image.flatten(background=[white] * (image.bands - 1), max_alpha=white)


def _fit(image: Any, size: int) -> Any:
    longer = max(image.width, image.height)
    if longer <= size:
        return image
    width, height = (max(1, round(side * size / longer)) for side in (image.width, image.height))
    return image.resize(width / image.width, vscale=height / image.height)


def _in_srgb(image: Any) -> Any:
    """Eight-bit sRGB, by the embedded profile if it is a usable one."""
    if image.get_typeof("icc-profile-data") or image.interpretation == "cmyk":
        try:
            return image.icc_transform(
                "srgb", embedded=True, input_profile="cmyk", intent="perceptual", depth=8
            ).copy_memory()
        except pyvips.Error:
            # Broken profiles are common and the picture is worth more than its exact colours.
            image = image.copy()
            image.remove("icc-profile-data")
    if image.interpretation == "srgb" and image.format == "uchar":
        return image
    return image.colourspace("srgb").cast("uchar").copy_memory()


def _meanwhile(make: Callable[[], bytes]) -> Callable[[], bytes]:
    """Begin to make it on another core; what is returned waits for it and gives it."""
    executor = ThreadPoolExecutor(1)
    made = executor.submit(make)
    executor.shutdown(wait=False)
    return made.result


def _base(picture: Any) -> bytes:
    return _encode(picture, _BASE_QUALITY)


def _encode(picture: Any, quality: int) -> bytes:
    encoded: bytes = picture.jpegsave_buffer(Q=quality, keep="none")
    return encoded
