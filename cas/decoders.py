"""Decoding an untrusted picture: its pixels, shrunk while they are read, in bounded memory.

The decoder is chosen by the bytes and by nobody's word. libvips does all but JPEG, with every
other loader of its blocked; JPEG is left to Pillow, whose libjpeg-turbo takes an eighth less time
than the mozjpeg that libvips comes with (docs/reference/thumbnails.md).
"""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, cast

import pyvips
from PIL.JpegImagePlugin import JpegImageFile

from cas.digest import CHUNK
from cas.sniff import HEAD, sniff
from cas.storage.base import StoreError

_LOADERS: Final = {
    "image/png": "pngload_source",
    "image/webp": "webpload_source",
    "image/gif": "gifload_source",
    "image/avif": "heifload_source",
}

_BLOCK: Final = 256 * 1024
"""Bytes Pillow takes at a time. Between two blocks it waits for the interpreter's lock."""

_LARGEST_JPEG_HEADER: Final = 16 * 1024 * 1024
"""Bytes before the pixels: profiles, and the previews and depth maps that cameras add."""

_WEIGHTS: Final = {"image/avif": 3}
"""What a pixel counts against the limit where it takes more memory than about five bytes."""

_INTERPRETATIONS: Final = {"L": "b-w", "RGB": "srgb", "CMYK": "cmyk"}
_ORIENTATION: Final = 0x0112

# libvips keeps results for reuse; every picture here is new, so that would only be memory.
pyvips.cache_set_max(0)
pyvips.block_untrusted_set(True)
pyvips.operation_block_set("VipsForeignLoad", True)
for _type in ("Jpeg", "Png", "Webp", "Nsgif", "Heif"):
    pyvips.operation_block_set(f"VipsForeignLoad{_type}", False)
# pyvips repeats libvips' warnings about each damaged file; the answer 422 says it better.
logging.getLogger("pyvips").setLevel(logging.ERROR)
# As does Pillow with those about damaged metadata, in files that are shown all the same.
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


@dataclass(frozen=True, slots=True)
class Decoded:
    """Opaque pixels in memory, in whatever colours and position the file has them.

    `longer` is the original's longer side in pixels, `orientation` as EXIF counts (1 to 8), and
    `whole` says that nothing was shrunk.
    """

    image: Any
    longer: int
    orientation: int
    whole: bool


def decode(source: BinaryIO, at_least: int, max_pixels: int) -> Decoded:
    """The picture, shrunk by a whole factor but not below `at_least` pixels of its longer side.

    Finer filters than averaging would cost more on so many pixels and show only in the last step.
    Of an animation the first frame; what is transparent is white. Raises NotAnImage,
    TooManyPixels, and whatever StoreError reading `source` raises.
    """
    head = source.read(HEAD)
    content_type = sniff(head)
    if content_type == "image/jpeg":
        return _by_pillow(_Rewindable(head, source), at_least, max_pixels)
    if content_type not in _LOADERS:
        raise NotAnImage("not an image of an accepted type")
    feed = _Feed(source, head)
    try:
        return _by_libvips(feed.source, content_type, at_least, max_pixels)
    except pyvips.Error as error:
        feed.blame_the_store()
        raise NotAnImage("the image is damaged or cut short") from error


def _refuse_bombs(width: int, height: int, weight: int, max_pixels: int) -> None:
    if width * height * weight > max_pixels:
        raise TooManyPixels(f"{width} × {height} pixels")


def _factor(width: int, height: int, at_least: int) -> int:
    """Of a thin picture no side may come to nothing."""
    return max(1, min(max(width, height) // at_least, width, height))


class _Rewindable(io.RawIOBase):
    """A stream whose start can be read twice: Pillow reads the header, then all from its start."""

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
            # Behind all that is kept, which is where the last read has ended.
            self._kept.write(more)
            data += more
        if self._kept.tell() > _LARGEST_JPEG_HEADER:
            raise NotAnImage("there is too much before the pixels")
        return data

    def tell(self) -> int:
        return self._kept.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if (offset, whence) != (0, io.SEEK_SET):
            raise OSError("only the start can be gone back to")
        self._rewound = True
        return self._kept.seek(0)


def _by_pillow(stream: _Rewindable, at_least: int, max_pixels: int) -> Decoded:
    try:
        # Not Image.open, which would let other decoders look for further pictures behind this.
        with JpegImageFile(cast(BinaryIO, stream)) as image:
            width, height = image.size
            _refuse_bombs(width, height, 1, max_pixels)
            factor = _factor(width, height, at_least)
            if factor > 1:
                image.draft(None, (width // factor, height // factor))
            image.decodermaxblock = _BLOCK
            image.load()
            orientation = _orientation(image)
            pixels = _from_pillow(image)
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise NotAnImage("the image is damaged or cut short") from error
    if (left := factor * pixels.width // width) > 1:
        pixels = pixels.shrink(left, left).copy_memory()
    return Decoded(pixels, max(width, height), orientation, whole=factor == 1)


def _from_pillow(image: JpegImageFile) -> Any:
    if image.mode not in _INTERPRETATIONS:
        raise NotAnImage(f"JPEG with pixels of mode {image.mode}")
    pixels = pyvips.Image.new_from_memory(
        image.tobytes(), image.width, image.height, len(image.getbands()), "uchar"
    ).copy(interpretation=_INTERPRETATIONS[image.mode])
    if profile := image.info.get("icc_profile"):
        pixels.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return pixels


def _orientation(image: JpegImageFile) -> int:
    try:
        said = image.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        # Damaged metadata is common and no reason not to show the picture.
        return 1
    return said if said in range(1, 9) else 1


class _Feed:
    """A stream as a libvips source.

    libvips calls from C, where no exception can pass: the first one ends the data and is kept.
    A file on disk is read by libvips itself.
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

    def blame_the_store(self) -> None:
        """Raise the StoreError that ended the data, if it was one that did."""
        if self._failure:
            raise self._failure
        if self._descriptor is not None:
            # libvips does not tell a disk that fails from a file that ends.
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


def _by_libvips(source: Any, content_type: str, at_least: int, max_pixels: int) -> Decoded:
    load = getattr(pyvips.Image, _LOADERS[content_type])
    options: dict[str, Any] = {"access": "sequential", "fail_on": "truncated"}
    image = load(source, **options)
    weight = 2 if image.get_typeof("interlaced") else _WEIGHTS.get(content_type, 1)
    _refuse_bombs(image.width, image.height, weight, max_pixels)
    longer = max(image.width, image.height)
    factor = left = _factor(image.width, image.height, at_least)
    if content_type == "image/webp" and factor > 1:
        image, left = load(source, **options, scale=1 / factor), 1
    orientation = image.get("orientation") if image.get_typeof("orientation") else 1
    picture = _on_white(image)
    if left > 1:
        picture = picture.shrink(left, left)
    return Decoded(picture.copy_memory(), longer, orientation, whole=factor == 1)


def _on_white(image: Any) -> Any:
    """Opaque: averaging with white first and shrinking after gives the same as the reverse."""
    if not image.hasalpha():
        return image
    white = 65535 if image.format == "ushort" else 255
    return image.flatten(background=[white] * (image.bands - 1), max_alpha=white)
