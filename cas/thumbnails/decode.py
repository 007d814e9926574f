"""Decoding an untrusted picture to upright sRGB pixels, shrunk while they are read.

The decoder is chosen by the bytes (`cas.content_types`). libvips decodes all formats but JPEG, with
its other loaders blocked; JPEG is decoded by Pillow, whose libjpeg-turbo takes an eighth less time
than the mozjpeg in libvips (docs/reference/thumbnails.md).
"""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
from typing import Any, BinaryIO, Final, cast

import pyvips
from PIL import ExifTags
from PIL.JpegImagePlugin import JpegImageFile

from cas.conf import LARGEST_THUMBNAIL
from cas.content_types import FORMATS, HEAD, Format, sniff
from cas.digest import CHUNK
from cas.storage.base import StoreError

_BLOCK: Final = 256 * 1024
"""Bytes Pillow reads at a time. Between two blocks it takes the interpreter's lock."""

_LARGEST_JPEG_HEADER: Final = 16 * 1024 * 1024
"""Bytes before the pixels: profiles, and the previews and depth maps that cameras add."""

_INTERPRETATIONS: Final = {"L": "b-w", "RGB": "srgb", "CMYK": "cmyk"}
_ORIENTATION: Final = "orientation"
"""libvips' name of the field that says how EXIF counts a position, from 1 (upright) to 8."""

# libvips keeps results for reuse; every picture here is new, so that would only cost memory.
pyvips.cache_set_max(0)
pyvips.block_untrusted_set(True)
pyvips.operation_block_set("VipsForeignLoad", True)
for _format in FORMATS.values():
    if _format.vips_class:
        pyvips.operation_block_set(_format.vips_class, False)
# pyvips logs libvips' warnings about each damaged file, which are in the 422 response as well.
logging.getLogger("pyvips").setLevel(logging.ERROR)
# Damaged metadata is ignored.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


class Unrenderable(Exception):
    """The blob has no picture that could be shown."""

    code = "unrenderable"


class NotAnImage(Unrenderable):
    """Not a picture of a type we accept, or one that is damaged or cut short."""

    code = "not_an_image"


class TooManyPixels(Unrenderable):
    """Decoding would take more memory than a picture may."""

    code = "too_many_pixels"


def decode(source: BinaryIO, at_least: int, max_pixels: int) -> tuple[Any, bool]:
    """A libvips image in memory, opaque, in 8-bit sRGB, and whether it has all of the pixels.

    Shrunk by a whole factor, but not below `at_least` pixels of its longer side, and to the largest
    thumbnail. Of an animation the first frame; what is transparent is white; upright by EXIF. Finer
    filters than averaging would cost more on so many pixels and only show in the last step. Raises
    NotAnImage, TooManyPixels, and whatever StoreError reading `source` raises.
    """
    head = source.read(HEAD)
    found = sniff(head)
    if found is None or not found.pillow:
        raise NotAnImage("not an image of an accepted type")
    if not found.vips_loader:
        pixels, whole = _by_pillow(_Rewindable(head, source), at_least, max_pixels)
    else:
        feed = _Feed(source, head)
        try:
            pixels, whole = _by_libvips(feed.source, found, at_least, max_pixels)
        except pyvips.Error as error:
            feed.raise_store_error()
            raise NotAnImage("the image is damaged or cut short") from error
    try:
        return _upright_srgb(pixels), whole
    except pyvips.Error as error:
        raise NotAnImage("the image cannot be converted") from error


def fit(image: Any, size: int) -> Any:
    """The libvips image, shrunk into `size` × `size` pixels if it is larger."""
    longer = max(image.width, image.height)
    if longer <= size:
        return image
    width, height = (max(1, round(side * size / longer)) for side in (image.width, image.height))
    return image.resize(width / image.width, vscale=height / image.height)


def _upright_srgb(pixels: Any) -> Any:
    picture = _in_srgb(fit(pixels, LARGEST_THUMBNAIL))
    if picture.get_typeof(_ORIENTATION) and picture.get(_ORIENTATION) > 1:
        picture = picture.autorot()
    return picture if picture is pixels else picture.copy_memory()


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


def _factor(width: int, height: int, weight: int, at_least: int, max_pixels: int) -> int:
    """What to shrink by; no side of a thin picture may become shorter than a pixel.

    Raises TooManyPixels.
    """
    if width * height * weight > max_pixels:
        raise TooManyPixels(f"{width} × {height} pixels")
    return max(1, min(max(width, height) // at_least, width, height))


class _Rewindable(io.RawIOBase):
    """A stream whose start can be read twice: Pillow reads the header, then everything again."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        super().__init__()
        self._kept = io.BytesIO(head)
        self._stream = stream
        self._rewound = False

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        wanted = CHUNK if size is None or size < 0 else size
        data = self._kept.read(wanted)
        if self._rewound:
            return data or self._stream.read(wanted)
        if missing := wanted - len(data):
            more = self._stream.read(missing)
            # The position is at the end of what is kept, where the last read ended.
            self._kept.write(more)
            data += more
        if self._kept.tell() > _LARGEST_JPEG_HEADER:
            raise NotAnImage("there is too much before the pixels")
        return data

    def tell(self) -> int:
        return self._kept.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if (offset, whence) != (0, io.SEEK_SET):
            raise OSError("this stream can only be rewound to its start")
        self._rewound = True
        return self._kept.seek(0)


def _by_pillow(stream: _Rewindable, at_least: int, max_pixels: int) -> tuple[Any, bool]:
    """Opaque pixels in memory, as they are in the file; whether a thumbnail can have them all."""
    try:
        # Not Image.open, which would let other decoders search for further pictures after this.
        with JpegImageFile(cast(BinaryIO, stream)) as image:
            width, height = image.size
            factor = _factor(width, height, 1, at_least, max_pixels)
            if factor > 1:
                image.draft(None, (width // factor, height // factor))
            image.decodermaxblock = _BLOCK
            image.load()
            pixels = _from_pillow(image)
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise NotAnImage("the image is damaged or cut short") from error
    if (left := factor * pixels.width // width) > 1:
        pixels = pixels.shrink(left, left).copy_memory()
    return pixels, factor == 1 and max(width, height) <= LARGEST_THUMBNAIL


def _from_pillow(image: JpegImageFile) -> Any:
    if image.mode not in _INTERPRETATIONS:
        raise NotAnImage(f"JPEG with pixels of mode {image.mode}")
    pixels = pyvips.Image.new_from_memory(
        image.tobytes(), image.width, image.height, len(image.getbands()), "uchar"
    ).copy(interpretation=_INTERPRETATIONS[image.mode])
    if profile := image.info.get("icc_profile"):
        pixels.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        # Damaged metadata is common and no reason not to show the picture.
        return pixels
    if orientation in range(2, 9):
        pixels.set_type(pyvips.GValue.gint_type, _ORIENTATION, orientation)
    return pixels


class _Feed:
    """A stream as a libvips source.

    libvips calls it from C, through which no exception passes: the first one ends the data and is
    kept. libvips reads a file on disk by itself.
    """

    def __init__(self, stream: BinaryIO, head: bytes) -> None:
        self._failure: StoreError | None = None
        self._stream = stream
        self._head = head
        try:
            self._descriptor: int | None = stream.fileno()
        except OSError:
            self._descriptor = None
            self.source = pyvips.SourceCustom()
            self.source.on_read(self._read)
        else:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self.source = pyvips.Source.new_from_descriptor(self._descriptor)

    def raise_store_error(self) -> None:
        """Raise the StoreError that ended the data, if there was one."""
        if self._failure:
            raise self._failure
        if self._descriptor is not None:
            # libvips reports a failing disk as a file that ends early; reading tells them apart.
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            while self._stream.read(CHUNK):
                pass

    def _read(self, size: int) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        try:
            return self._stream.read(min(size, CHUNK))
        except StoreError as error:
            self._failure = error
            return b""


def _by_libvips(source: Any, found: Format, at_least: int, max_pixels: int) -> tuple[Any, bool]:
    load = getattr(pyvips.Image, found.vips_loader)
    options: dict[str, Any] = {"access": "sequential", "fail_on": "truncated"}
    image = load(source, **options)
    weight = 2 if image.get_typeof("interlaced") else found.weight
    factor = left = _factor(image.width, image.height, weight, at_least, max_pixels)
    whole = factor == 1 and max(image.width, image.height) <= LARGEST_THUMBNAIL
    if found.shrinks_on_load and factor > 1:
        image, left = load(source, **options, scale=1 / factor), 1
    if image.hasalpha():
        # Averaging with white first and shrinking after gives the same as the reverse.
        white = 65535 if image.format == "ushort" else 255
        image = image.flatten(background=[white] * (image.bands - 1), max_alpha=white)
    if left > 1:
        image = image.shrink(left, left)
    return image.copy_memory(), whole
