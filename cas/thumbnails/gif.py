"""The picture that stands for a GIF: mostly its first frame, on the canvas as browsers compose it.

Pillow unpacks the pixels of each frame; what a frame leaves uncovered stays transparent.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageChops

from cas.thumbnails.partial import PartialGif, load

MOST_FRAMES: Final = 20
"""Frames looked at until one covers as much as half of what the fullest of them does."""

_RESTORE_BACKGROUND: Final = 2
_RESTORE_PREVIOUS: Final = 3
_TRUNCATED: Final = (IndexError, struct.error)


@dataclass(frozen=True, slots=True)
class Frame:
    """One image of the file. `colours` is a palette, `pixels` the packed data blocks."""

    left: int
    top: int
    width: int
    height: int
    interlaced: bool
    colours: bytes
    pixels: bytes
    transparent: int | None
    disposal: int
    whole: bool


def canvas_size(data: bytes) -> tuple[int, int]:
    """Width and height: the logical screen, enlarged to hold the first frame as in browsers.

    Raises ValueError if there is no frame.
    """
    width, height = struct.unpack_from("<HH", data, 6)
    first = next(frames(data), None)
    if first is None:
        raise ValueError("there is no image in the file")
    return max(width, first.left + first.width), max(height, first.top + first.height)


def picture(data: bytes) -> Image.Image:
    """RGBA, of `canvas_size`, which is for the caller to check first. Raises ValueError."""
    canvas = Image.new("RGBA", canvas_size(data))
    best, best_cover = None, 0
    for number, frame in enumerate(frames(data)):
        if number == MOST_FRAMES:
            break
        before = canvas.copy() if frame.disposal == _RESTORE_PREVIOUS else None
        drawn = _unpack(frame)
        canvas.paste(drawn, (frame.left, frame.top), drawn)
        cover = sum(canvas.getchannel("A").histogram()[1:])
        if cover > 2 * best_cover:
            best, best_cover = canvas.copy(), cover
        if 2 * best_cover >= canvas.width * canvas.height or not frame.whole:
            break
        if before is not None:
            canvas = before
        elif frame.disposal == _RESTORE_BACKGROUND:
            canvas.paste((0, 0, 0, 0), (frame.left, frame.top,
                         frame.left + frame.width, frame.top + frame.height))  # fmt: skip
    if best is None and not frame.whole:
        raise ValueError("the file ends before its first pixels")
    return best or canvas


def _unpack(frame: Frame) -> Image.Image:
    """The frame as RGBA; of a damaged one, what is missing is clear."""
    image, whole = _decode(frame, 0)
    if whole:
        return image
    # What the data did not reach keeps what it was filled with.
    other, _ = _decode(frame, 1)
    missing = ImageChops.difference(image.convert("RGB"), other.convert("RGB")).convert("L")
    missing = missing.point(lambda value: 255 if value else 0)
    image.paste((0, 0, 0, 0), (0, 0), missing)
    if frame.interlaced:
        _repeat_rows(image, missing)
    return image


def _repeat_rows(image: Image.Image, missing: Image.Image) -> None:
    """Rows of later passes, which are missing, are those of the earlier pass above them."""
    for row in range(image.height):
        for above in (row, row & ~1, row & ~3, row & ~7):
            if missing.crop((0, above, image.width, above + 1)).getextrema()[1] == 0:
                image.paste(image.crop((0, above, image.width, above + 1)), (0, row))
                break


def _decode(frame: Frame, fill: int) -> tuple[Image.Image, bool]:
    """The frame on top of `fill`, and whether all of it is there."""
    bits = (len(frame.colours) // 3).bit_length() - 2
    parts = [
        b"GIF89a",
        struct.pack("<HHBBB", frame.width, frame.height, 0x80 | bits, 0, 0),
        frame.colours,
    ]
    if frame.transparent is not None:
        parts.append(bytes([0x21, 0xF9, 4, 1, 0, 0, frame.transparent, 0]))
    shape = struct.pack("<HHHHB", 0, 0, frame.width, frame.height, 0x40 if frame.interlaced else 0)
    parts += [b",", shape, frame.pixels, b"\0;"]
    with PartialGif(io.BytesIO(b"".join(parts))) as image:
        image.fill = fill
        whole = load(image)
        return image.convert("RGBA"), whole and frame.whole


def frames(data: bytes) -> Iterator[Frame]:
    """The frames in order, until the end or until the file is damaged."""
    try:
        yield from _frames(data)
    except _TRUNCATED:
        return


def _frames(data: bytes) -> Iterator[Frame]:
    flags = data[10]
    at, shared = _colours(data, 13, flags)
    transparent, disposal = None, 0
    while True:
        kind = data[at]
        if kind == 0x21:
            label, content = data[at + 1], data[at + 3 : at + 7]
            if label == 0xF9 and len(content) == 4:
                transparent = content[3] if content[0] & 1 else None
                disposal = content[0] >> 2 & 7
            at, _ = _blocks(data, at + 2)
        elif kind == 0x2C:
            left, top, width, height, flags = struct.unpack_from("<HHHHB", data, at + 1)
            at, own = _colours(data, at + 10, flags)
            start = at
            at, whole = _blocks(data, at + 1)
            if width and height:
                colours, interlaced = own or shared or _GREY, bool(flags & 0x40)
                yield Frame(left, top, width, height, interlaced, colours, data[start:at],
                            transparent, disposal, whole)  # fmt: skip
            transparent, disposal = None, 0
        else:
            # The end, or what no reader understands.
            return


_GREY: Final = bytes(value for grey in range(256) for value in (grey, grey, grey))
"""For a file without any palette."""


def _colours(data: bytes, at: int, flags: int) -> tuple[int, bytes]:
    """Where the palette ends that `flags` announces, and its bytes, if there is one."""
    if not flags & 0x80:
        return at, b""
    end = at + (3 << ((flags & 7) + 1))
    return end, data[at:end].ljust(end - at, b"\0")


def _blocks(data: bytes, at: int) -> tuple[int, bool]:
    """Where the data blocks end that begin at `at`, before the empty one; whether it is there."""
    while at < len(data):
        if not data[at]:
            return at + 1, True
        at += data[at] + 1
    return len(data), False
