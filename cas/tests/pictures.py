"""Pictures to make thumbnails of."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards: every corner has its own colour."""
    red = Image.linear_gradient("L").rotate(90).resize((width, height))
    green = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (red, green, Image.new("L", (width, height), 40)))


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, file_format, **options)
    return sink.getvalue()


def jpeg(width: int, height: int, **options: Any) -> bytes:
    return encode(gradient(width, height), "JPEG", quality=92, **options)


def png(width: int, height: int) -> bytes:
    return encode(gradient(width, height), "PNG")


PNG_START = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG, with its length and checksum."""
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def raw_png(
    width: int,
    height: int,
    *,
    bit_depth: int,
    colour_type: int,
    data: bytes,
    interlaced: bool = False,
    chunks: bytes = b"",
) -> bytes:
    """A PNG of these rows, each behind the number of its filter, with `chunks` before them."""
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, interlaced)
    pixels = chunk(b"IDAT", zlib.compress(data, 1))
    return PNG_START + chunk(b"IHDR", header) + chunks + pixels + chunk(b"IEND", b"")


def with_chunks(data: bytes, *chunks: bytes) -> bytes:
    """A PNG with more chunks behind its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def with_nclx(data: bytes, primaries: int, transfer: int) -> bytes:
    """An AVIF of Pillow that says its colours are encoded so (ITU-T H.273)."""
    at = data.index(b"colrnclx") + len(b"colrnclx")
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def gif_frame(
    at: tuple[int, int], picture: Image.Image, *, disposal: int = 1, transparent: int | None = None
) -> bytes:
    """One image of a GIF, in mode P, with its own palette."""
    alone = encode(picture, "GIF", interlace=0)
    start = alone.index(b",\0\0\0\0")
    palette = alone[13 : 13 + (3 << ((alone[10] & 7) + 1))]
    flags = bytes([disposal << 2 | (transparent is not None)])
    control = b"!\xf9\x04" + flags + b"\x0a\0" + bytes([transparent or 0]) + b"\0"
    shape = struct.pack("<HHHH", *at, *picture.size) + bytes([0x80 | alone[10] & 7])
    return control + b"," + shape + palette + alone[start + 10 : -1]


def gif(width: int, height: int, *frames: bytes) -> bytes:
    """A GIF with this canvas."""
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b"".join(frames) + b";"


def plain(width: int, height: int, colour: tuple[int, int, int]) -> Image.Image:
    """One colour, in mode P."""
    image = Image.new("P", (width, height), 1)
    image.putpalette([0, 0, 0, *colour])
    return image
