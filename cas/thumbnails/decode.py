"""The process that decodes untrusted pictures: `python -m cas.thumbnails.decode`.

`cas.thumbnails.process` starts it, with one end of a socket as its standard input, and describes
what they say to each other. It has no settings, no secrets and no Django; the kernel ends it when a
picture takes more processor time than it may, and gives it no more memory than that.

A picture becomes upright sRGB pixels, shrunk while they are read. The format follows from the bytes
(`cas.content_types`). libvips decodes PNG and WebP, Pillow the rest: its libjpeg-turbo takes an
eighth less time than the mozjpeg in libvips, and its libavif is what browsers build upon. What a
browser would show is what counts (docs/reference/thumbnails.md).
"""

from __future__ import annotations

import ctypes
import gc
import io
import json
import logging
import os
import re
import resource
import socket
import struct
import sys
import traceback
import warnings
import zlib
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, BinaryIO, Final

import pyvips
from PIL import AvifImagePlugin, ExifTags, Image
from PIL.AvifImagePlugin import AvifImageFile

from cas.content_types import HEAD, sniff
from cas.thumbnails import avif, colour, gif
from cas.thumbnails.limits import (
    CPU_SECONDS,
    IDLE_SECONDS,
    LONGEST_SIDE,
    MEMORY,
    NotAnImage,
    TooExpensive,
    TooManyPixels,
    Unrenderable,
)
from cas.thumbnails.partial import DAMAGED, PartialJpeg, PartialPng, load

THREADS: Final = 4
"""The most that one picture uses: each has a stack, which counts as memory."""

LARGEST_SOURCE: Final = 256 * 1024 * 1024
"""Bytes of a file that is read into memory."""

_LIBRARIES: Final = 64 * 1024 * 1024
"""Resident bytes that `RLIMIT_DATA` does not count."""

_QUALITY: Final = 85
_BASE_QUALITY: Final = 92

_BLOCK: Final = 256 * 1024
"""Bytes Pillow reads at a time."""

_INTERPRETATIONS: Final = {"L": "b-w", "RGB": "srgb", "RGBA": "srgb", "CMYK": "cmyk"}
_ORIENTATION: Final = "orientation"
"""libvips' name of the field that says how EXIF counts a position, from 1 (upright) to 8."""

_NOTHING_SHOWS: Final = "the file ends before its first row"
_OUT_OF_MEMORY: Final = "out of memory"

# libvips keeps results for reuse; every picture here is new, so that would only cost memory.
pyvips.cache_set_max(0)
pyvips.block_untrusted_set(True)
pyvips.operation_block_set("VipsForeignLoad", True)
pyvips.operation_block_set("VipsForeignLoadPng", False)
pyvips.operation_block_set("VipsForeignLoadWebp", False)
# pyvips logs libvips' warnings about each damaged file, which are in the 422 response as well.
logging.getLogger("pyvips").setLevel(logging.ERROR)
# Damaged metadata is ignored.
warnings.filterwarnings("ignore", module=r"PIL\.")
AvifImagePlugin.DEFAULT_MAX_THREADS = THREADS
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A libvips image in memory, opaque, upright, in 8-bit sRGB.

    `whole` says that it has all of the original's pixels; `sharp_colours`, that the original's
    colours change from one pixel to the next, as in drawings.
    """

    pixels: Any
    whole: bool
    sharp_colours: bool


@dataclass(frozen=True, slots=True)
class _Wanted:
    at_least: int
    at_most: int
    max_pixels: int

    def factor(self, width: int, height: int) -> int:
        """What to shrink by; no side of a thin picture may become shorter than a pixel.

        Raises TooManyPixels.
        """
        shape = f"too many pixels: {width} × {height}"
        if width * height > self.max_pixels:
            raise TooManyPixels(f"{shape}; {self.max_pixels} are accepted")
        if max(width, height) > LONGEST_SIDE:
            raise TooManyPixels(f"{shape}; {LONGEST_SIDE} are accepted on a side")
        return max(1, min(max(width, height) // self.at_least, width, height))


def decode(source: BinaryIO, at_least: int, at_most: int, max_pixels: int) -> Picture:
    """The picture in `source`, of its format's pixels at most and of `max_pixels`.

    Shrunk by a whole factor, but not below `at_least` pixels of its longer side, and to `at_most`.
    Of an animation the first frame; what is transparent is white; upright by EXIF. Finer filters
    than averaging would cost more on so many pixels and only show in the last step. Raises
    NotAnImage, TooManyPixels, and OSError with an `errno` if `source` cannot be read.
    """
    if not source.seekable():
        source = io.BytesIO(_read_all(source))
    found = sniff(source.read(HEAD))
    source.seek(0)
    if found is None or not found.max_pixels:
        raise NotAnImage("not an image of an accepted type")
    wanted = _Wanted(at_least, at_most, min(max_pixels, found.max_pixels))
    try:
        factor, pixels, encoding = _DECODERS[found.name](source, wanted)
        longer = max(pixels.width, pixels.height)
        pixels = _upright_srgb(fit(pixels, at_most), encoding)
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if _OUT_OF_MEMORY in str(error).lower():
            raise MemoryError from error
        raise NotAnImage("the image is damaged or cut short") from error
    except pyvips.Error as error:
        if _OUT_OF_MEMORY in str(error):
            raise MemoryError from error
        raise NotAnImage("the image is damaged or cut short") from error
    return Picture(pixels, factor == 1 and longer <= at_most, found.name in ("PNG", "GIF"))


def fit(image: Any, size: int) -> Any:
    """The libvips image, shrunk into `size` × `size` pixels if it is larger."""
    longer = max(image.width, image.height)
    if longer <= size:
        return image
    width, height = (max(1, round(side * size / longer)) for side in (image.width, image.height))
    return image.resize(width / image.width, vscale=height / image.height)


def _read_all(source: BinaryIO) -> bytes:
    data = source.read(LARGEST_SOURCE + 1)
    if len(data) > LARGEST_SOURCE:
        raise MemoryError
    return data


def _upright_srgb(pixels: Any, encoding: colour.Encoding | None) -> Any:
    picture = _in_srgb(pixels, encoding)
    if picture.get_typeof(_ORIENTATION) and picture.get(_ORIENTATION) > 1:
        picture = picture.autorot()
    return picture.copy_memory()


def _in_srgb(image: Any, encoding: colour.Encoding | None) -> Any:
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
    if encoding:
        # Its numbers are not sRGB, whatever the decoder calls them.
        if image.bands == 1:
            image = image.bandjoin([image, image])
        try:
            return _keeping_orientation(image, colour.to_srgb(image, encoding))
        except ValueError:
            pass
    if image.interpretation == "srgb" and image.format == "uchar":
        return image
    return image.colourspace("srgb").cast("uchar")


def _keeping_orientation(source: Any, image: Any) -> Any:
    if source.get_typeof(_ORIENTATION):
        image.set_type(pyvips.GValue.gint_type, _ORIENTATION, source.get(_ORIENTATION))
    return image


def _opaque(image: Any) -> Any:
    """Averaging with white first and shrinking after gives the same as the reverse."""
    if not image.hasalpha():
        return image
    white = 65535 if image.format == "ushort" else 255
    return image.flatten(background=[white] * (image.bands - 1), max_alpha=white)


_Shrunk = tuple[int, Any, colour.Encoding | None]
"""By what it was shrunk, an opaque image in memory, and its encoding if that is not sRGB."""


def _jpeg(source: BinaryIO, wanted: _Wanted) -> _Shrunk:
    # Not Image.open, which would let other decoders search for further pictures after this.
    with PartialJpeg(source) as image:
        width, height = image.size
        factor = wanted.factor(width, height)
        if factor > 1:
            image.draft(None, (width // factor, height // factor))
        image.decodermaxblock = _BLOCK
        _check_coefficients(image, width * height)
        whole = load(image)
        if image.mode not in _INTERPRETATIONS:
            raise NotAnImage(f"JPEG with pixels of mode {image.mode}")
        pixels = _from_pillow(image)
        if not whole and _is_blank(pixels):
            return _earlier_scans(source, wanted)
    if (left := factor * pixels.width // width) > 1:
        pixels = pixels.shrink(left, left).copy_memory()
    return factor, pixels, None


_MARKER: Final = re.compile(b"\xff[^\x00\xd0-\xd7\xff]")
"""Of a segment, not one within the data of a scan (ITU-T T.81, B.1.1)."""


def _earlier_scans(source: BinaryIO, wanted: _Wanted) -> _Shrunk:
    """A progressive picture as it was before its last segment, which is damaged or cut short."""
    source.seek(0)
    data = _read_all(source)
    first = data.find(b"\xff\xda")
    markers = [found.start() for found in _MARKER.finditer(data, first + 2)]
    if first < 0 or not markers:
        raise NotAnImage(_NOTHING_SHOWS)
    return _jpeg(io.BytesIO(data[: markers[-1]]), wanted)


def _check_coefficients(image: PartialJpeg, pixels: int) -> None:
    """Those of a progressive picture are all kept, of which libjpeg does not complain clearly."""
    areas = [across * down for _, across, down, _ in image.layer]
    if (
        image.info.get("progressive")
        and 2 * pixels * sum(areas) // (max(areas) or 1) > MEMORY * 3 // 4
    ):
        raise TooExpensive(f"progressive, it takes more than {MEMORY >> 20} MiB of memory")


def _is_blank(pixels: Any) -> bool:
    """Whether every pixel is white, as those are that were never decoded."""
    return bool(pixels.interpretation != "cmyk" and pixels.min() == 255)


def _from_pillow(image: Image.Image) -> Any:
    """The decoded image as one of libvips, with its profile and its orientation."""
    pixels = pyvips.Image.new_from_memory(
        image.tobytes(), image.width, image.height, len(image.getbands()), "uchar"
    ).copy(interpretation=_INTERPRETATIONS[image.mode])
    if profile := image.info.get("icc_profile"):
        pixels.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    try:
        # Not getexif(), which would obey XMP too, which no browser does.
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        orientation = exif.get(ExifTags.Base.Orientation)
    except DAMAGED:
        # Damaged metadata is common and no reason not to show the picture.
        return pixels
    if orientation in range(2, 9):
        pixels.set_type(pyvips.GValue.gint_type, _ORIENTATION, orientation)
    return pixels


def _avif(source: BinaryIO, wanted: _Wanted) -> _Shrunk:
    data = _read_all(source)
    try:
        image = AvifImageFile(io.BytesIO(avif.without_groups(data)))
    except DAMAGED as error:
        raise NotAnImage("the image is damaged, or of a kind of AVIF that is not shown") from error
    with image:
        factor = wanted.factor(*image.size)
        encoding = None if image.info.get("icc_profile") else avif.encoding(data)
        image.load()
        pixels = _from_pillow(image if image.mode in _INTERPRETATIONS else image.convert("RGBA"))
    pixels = _opaque(pixels)
    if factor > 1:
        pixels = pixels.shrink(factor, factor)
    return factor, pixels.copy_memory(), encoding


def _gif(source: BinaryIO, wanted: _Wanted) -> _Shrunk:
    data = _read_all(source)
    factor = wanted.factor(*gif.canvas_size(data))
    pixels = _opaque(_from_pillow(gif.picture(data)))
    return factor, pixels.shrink(factor, factor).copy_memory(), None


def _webp(source: BinaryIO, wanted: _Wanted) -> _Shrunk:
    data = _read_all(source)
    try:
        return _sound_webp(data, wanted)
    except pyvips.Error as error:
        if _OUT_OF_MEMORY in str(error) or not (padded := _padded_webp(data)):
            raise
        return _sound_webp(padded, wanted)


def _sound_webp(data: bytes, wanted: _Wanted) -> _Shrunk:
    options: dict[str, Any] = {"access": "sequential", "fail_on": "truncated"}
    image = pyvips.Image.webpload_buffer(data, **options)
    factor = wanted.factor(image.width, image.height)
    whole_size = (image.width, image.height)
    if factor > 1:
        image = pyvips.Image.webpload_buffer(data, **options, scale=1 / factor)
        if (image.width, image.height) == whole_size:
            image = image.shrink(factor, factor)
    return factor, _opaque(image).copy_memory(), None


_PADDING: Final = 64 * 1024
_LONGEST_PARTITION: Final = (1 << 19) - 1


def _padded_webp(data: bytes) -> bytes:
    """A lossy file, which is all there, with enough data for a damaged decode to reach its end.

    Zeros behind the first partition, whose length is in the frame's tag, and behind the last one
    (RFC 6386, 9.1 and 9.2). Nothing for other files: browsers show none that is cut short either.
    """
    size = int.from_bytes(data[4:8], "little") + 8
    if data[12:16] != b"VP8 " or size > len(data):
        return b""
    frame = data[20:size]
    tag = int.from_bytes(frame[:3], "little")
    length = tag >> 5
    room = min(_PADDING, _LONGEST_PARTITION - length)
    tag += room << 5
    end = 10 + length
    payload = tag.to_bytes(3, "little") + frame[3:end] + bytes(room) + frame[end:] + bytes(_PADDING)
    head = b"WEBPVP8 " + len(payload).to_bytes(4, "little")
    return b"RIFF" + (len(head) + len(payload)).to_bytes(4, "little") + head + payload


_PNG_START: Final = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS: Final = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_USED_CHUNKS: Final = (b"tRNS", b"iCCP", b"eXIf")
_COLOUR_CHUNKS: Final = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
"""Those that say how colours are encoded, and their length."""


def _png(source: BinaryIO, wanted: _Wanted) -> _Shrunk:
    colours = dict[bytes, bytes]()
    usable = _usable_png(_first_frame(_read_all(source)), colours)
    if usable[12:16] != b"IHDR" or len(usable) < 29:
        raise NotAnImage("the image has no header")
    factor = wanted.factor(*struct.unpack_from(">II", usable, 16))
    try:
        image = pyvips.Image.pngload_buffer(usable, access="sequential", fail_on="truncated")
        pixels = _opaque(image).shrink(factor, factor).copy_memory()
    except pyvips.Error as error:
        if _OUT_OF_MEMORY in str(error):
            raise
        pixels = _png_in_part(usable, factor)
    return factor, pixels, _png_encoding(colours)


def _first_frame(data: bytes) -> bytes:
    """An animation whose default image is not among its frames, with the first frame instead.

    PNG (third edition), 11.3.4: that is so if no `fcTL` comes before the first `IDAT`.
    """
    start = data.find(b"IDAT")
    if b"acTL" not in data[:start] or b"fcTL" in data[:start]:
        return data
    parts, frame, at = [data[: start - 4]], 0, start - 4
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        frame += name == b"fcTL"
        if name == b"fcTL" and frame == 1 and content[4:12] != data[16:24]:
            # It does not cover the picture.
            return data
        if name == b"fdAT" and frame == 1:
            pixels = b"IDAT" + content[4:]
            checksum = struct.pack(">I", zlib.crc32(pixels))
            parts += [struct.pack(">I", length - 4), pixels, checksum]
        elif name not in (b"IDAT", b"fdAT", b"fcTL"):
            parts.append(data[at : at + 12 + length])
        at += 12 + length
    return b"".join(parts)


def _usable_png(data: bytes, colours: dict[bytes, bytes]) -> bytes:
    """The file with only the chunks that are used and sound; puts the colours' into `colours`.

    Others are often damaged, longer than a decoder takes, or a million, and no reason to refuse
    the picture. Raises struct.error for a file without any.
    """
    view = memoryview(data)
    kept = [_PNG_START]
    seen = set[bytes]()
    begin = at = len(_PNG_START)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        keep = name in _PIXEL_CHUNKS
        if not keep and name not in seen and (name in _USED_CHUNKS or name in _COLOUR_CHUNKS):
            seen.add(name)
            checksum = zlib.crc32(view[at + 4 : end - 4])
            if end <= len(data) and checksum == int.from_bytes(view[end - 4 : end], "big"):
                keep = name in _USED_CHUNKS
                if length == _COLOUR_CHUNKS.get(name):
                    colours[name] = data[at + 8 : end - 4]
        if not keep:
            kept.append(view[begin:at])  # type: ignore[arg-type]
            begin = end
        at = end
    kept.append(view[begin:])  # type: ignore[arg-type]
    return b"".join(kept)


def _png_encoding(colours: dict[bytes, bytes]) -> colour.Encoding | None:
    """PNG (third edition), 12.1: `cICP` comes first, then a profile, `sRGB`, `gAMA` with `cHRM`."""
    if found := colours.get(b"cICP"):
        return colour.by_code_points(found[0], found[1])
    gamma = int.from_bytes(colours.get(b"gAMA", b""), "big") / 100_000
    if b"sRGB" in colours or not gamma:
        return None
    points = struct.unpack(">8I", colours.get(b"cHRM", bytes(32)))
    if not any(points):
        return colour.Encoding(gamma=gamma)
    return colour.Encoding(gamma=gamma, chromaticities=tuple(value / 100_000 for value in points))


def _png_in_part(data: bytes, factor: int) -> Any:
    """What a damaged file has, opaque and shrunk. Raises NotAnImage if that is nothing."""
    with PartialPng(io.BytesIO(data)) as image:
        load(image)
        if image.mode in ("L", "RGB") and "transparency" not in image.info:
            pixels = _from_pillow(image.reduce(factor))
        else:
            pixels = _opaque(_from_pillow(image.convert("RGBA")))
            pixels = pixels.shrink(factor, factor).copy_memory()
    if _is_blank(pixels):
        raise NotAnImage(_NOTHING_SHOWS)
    return pixels


_DECODERS: Final = {"JPEG": _jpeg, "PNG": _png, "WebP": _webp, "GIF": _gif, "AVIF": _avif}


def main() -> None:
    """Serve until the other end is closed or has nothing to decode for a while."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY - _LIBRARIES, MEMORY - _LIBRARIES))
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    gc.freeze()
    channel, connection = socket.socket(fileno=os.dup(0)), Connection(os.dup(0))
    while connection.poll(IDLE_SECONDS):
        _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not descriptors:
            return
        request = json.loads(connection.recv_bytes())
        _allow_time()
        _answer(connection, descriptors[0], request)
        # What the picture took is given back, and not kept for the next one.
        gc.collect()
        if trim:
            trim(0)


def _allow_time() -> None:
    """From now on. The limit is on whole seconds since the process was started."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _answer(connection: Connection, descriptor: int, request: dict[str, int]) -> None:
    size = request.pop("size")
    try:
        with os.fdopen(descriptor, "rb") as source:
            picture = decode(source, **request)
        thumbnail = _encode(picture, size, _QUALITY)
    except Unrenderable as error:
        _refuse(connection, error)
    except MemoryError:
        _refuse(connection, TooExpensive(f"it takes more than {MEMORY >> 20} MiB of memory"))
    except OSError as error:
        connection.send_bytes(json.dumps({"errno": error.errno, "message": str(error)}).encode())
    except Exception as error:  # noqa: BLE001
        # A decoder that fails in a way nobody knew is one that cannot show this picture.
        traceback.print_exc(file=sys.stderr)
        _refuse(connection, TooExpensive(f"the decoder failed: {type(error).__name__}"))
    else:
        connection.send_bytes(json.dumps({"whole": picture.whole}).encode())
        connection.send_bytes(thumbnail)
        connection.send_bytes(_encode(picture, request["at_most"], _BASE_QUALITY))


def _refuse(connection: Connection, error: Unrenderable) -> None:
    connection.send_bytes(json.dumps({"code": error.code, "message": str(error)}).encode())


def _encode(picture: Picture, size: int, quality: int) -> bytes:
    """A JPEG by Pillow, whose encoder is the faster one."""
    pixels: Any = fit(picture.pixels, size)
    data = pixels.write_to_memory()
    image = Image.frombuffer("RGB", (pixels.width, pixels.height), data, "raw", "RGB", 0, 1)
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality, subsampling=0 if picture.sharp_colours else 2)
    return sink.getvalue()


if __name__ == "__main__":
    main()
