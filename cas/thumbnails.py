"""The thumbnail engine: an untrusted picture in, a small sRGB JPEG out, in bounded memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import pyvips
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from cas.conf import LARGEST_THUMBNAIL
from cas.decoders import Decoded, NotAnImage, decode

RENDERER: Final = 2
"""Part of cache names and ETags. Raise it whenever the same blob would give other bytes."""

_BASE_AT_LEAST: Final = 480
"""Pixels of the longer side that the kept picture has, where the original has as many."""

_QUALITY: Final = 85
_BASE_QUALITY: Final = 92


@dataclass(frozen=True, slots=True)
class Rendered:
    """A thumbnail, and the larger picture it came from for the next size to come from.

    `base` encodes that one; `whole` says that it has all of the original's pixels, so any size
    can be made of it.
    """

    thumbnail: bytes
    base: Callable[[], bytes]
    whole: bool


def render(source: BinaryIO, size: int, max_pixels: int) -> Rendered:
    """A JPEG fitted into `size` × `size` pixels, never enlarged.

    Upright by EXIF, transparency on white, sRGB; of an animation the first frame. Raises
    NotAnImage, TooManyPixels, and whatever StoreError reading `source` raises.
    """
    decoded = decode(source, max(size, _BASE_AT_LEAST), max_pixels)
    try:
        picture = _shown(decoded)
        thumbnail = _encode(_fit(picture, size), _QUALITY)
    except pyvips.Error as error:
        raise NotAnImage("the image cannot be converted") from error
    whole = decoded.whole and decoded.longer <= LARGEST_THUMBNAIL
    return Rendered(thumbnail, lambda: _encode(picture, _BASE_QUALITY), whole)


def render_from_base(base: bytes, size: int, *, whole: bool) -> bytes | None:
    """A thumbnail from a kept picture, or None if that one is too small to make it of.

    By Pillow: on so few pixels libvips spends most of the time on waking its threads.
    """
    sink = io.BytesIO()
    try:
        with JpegImageFile(io.BytesIO(base)) as picture:
            if not whole and max(picture.size) < size:
                return None
            picture.thumbnail((size, size))
            picture.save(sink, "JPEG", quality=_QUALITY)
    except (OSError, SyntaxError) as error:
        raise NotAnImage("the kept picture is damaged") from error
    return sink.getvalue()


def _shown(decoded: Decoded) -> Any:
    """The picture in memory, upright and in sRGB, no larger than the largest thumbnail."""
    picture = _in_srgb(_fit(decoded.image, LARGEST_THUMBNAIL))
    if decoded.orientation > 1:
        picture = picture.copy()
        picture.set_type(pyvips.GValue.gint_type, "orientation", decoded.orientation)
        picture = picture.autorot()
    return picture if picture is decoded.image else picture.copy_memory()


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


def _encode(picture: Any, quality: int) -> bytes:
    size = (picture.width, picture.height)
    image = Image.frombuffer("RGB", size, picture.write_to_memory(), "raw", "RGB", 0, 1)
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()
