"""What Pillow's AVIF decoder does not tell of a file: how its colours are encoded.

The boxes are those of ISO/IEC 14496-12 and 23008-12.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from cas.thumbnails.colour import Encoding, by_code_points

_CONTAINERS: Final = {b"meta": 4, b"iprp": 0, b"ipco": 0}
"""Boxes that hold others, and the bytes before these."""


def without_groups(data: bytes) -> bytes:
    """The file with its groups of alternatives (`grpl`) marked as unused.

    libavif refuses files whose groups it does not know (pyramids), or whose gain map it cannot
    read; the primary picture needs none of them.
    """
    if b"grpl" not in data:
        return data
    changed = bytearray(data)
    for kind, start, _ in _walk(data, 0, len(data), b"meta"):
        if kind == b"grpl":
            # Before the content stands the kind, and between them a size of eight bytes, if any.
            at = start - 4 if data[start - 4 : start] == kind else start - 12
            changed[at : at + 4] = b"free"
    return bytes(changed)


def encoding(data: bytes) -> Encoding | None:
    """The colour encoding of the primary picture, unless that is sRGB or cannot be made out."""
    try:
        return _encoding(data)
    except (IndexError, struct.error):
        return None


def _encoding(data: bytes) -> Encoding | None:
    found = dict[bytes, bytes]()
    properties: list[tuple[bytes, int, int]] = []
    primary, associations = _primary(data)
    for kind, start, end in _walk(data, 0, len(data), b"ipco"):
        properties.append((kind, start, end))
    for index in associations.get(primary, ()):
        if 0 < index <= len(properties):
            kind, start, end = properties[index - 1]
            if kind == b"colr" and data[start : start + 4] != b"nclx":
                continue
            found[kind] = data[start:end]
    primaries, transfer = 2, 2
    if len(colour := found.get(b"colr", b"")) >= 8:
        primaries, transfer = struct.unpack_from(">HH", colour, 4)
    peak: float | None = None
    if len(light := found.get(b"clli", b"")) >= 2:
        peak = float(struct.unpack_from(">H", light)[0]) or None
    if peak is None and len(display := found.get(b"mdcv", b"")) >= 20:
        peak = struct.unpack_from(">I", display, 16)[0] / 10_000 or None
    return by_code_points(primaries, transfer, peak)


def _primary(data: bytes) -> tuple[int, dict[int, list[int]]]:
    """The primary item, and for each item the numbers of its properties."""
    primary, associations = 0, dict[int, list[int]]()
    for kind, start, _ in _walk(data, 0, len(data), b"meta"):
        if kind == b"pitm":
            wide = data[start]
            primary = struct.unpack_from(">I" if wide else ">H", data, start + 4)[0]
    for kind, start, end in _walk(data, 0, len(data), b"iprp"):
        if kind == b"ipma":
            associations.update(_associations(data[start:end]))
    return primary, associations


def _associations(box: bytes) -> Iterator[tuple[int, list[int]]]:
    version, flags = box[0], box[3]
    (entries,) = struct.unpack_from(">I", box, 4)
    at = 8
    for _ in range(entries):
        (item,) = struct.unpack_from(">I" if version else ">H", box, at)
        at += 4 if version else 2
        count, at = box[at], at + 1
        width = 2 if flags & 1 else 1
        numbers = [
            int.from_bytes(box[at + i * width : at + (i + 1) * width], "big")
            & (0x7FFF if width == 2 else 0x7F)
            for i in range(count)
        ]
        at += count * width
        yield item, numbers


def _walk(data: bytes, start: int, end: int, inside: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The boxes in the (first level of) box `inside`, wherever that is."""
    for kind, at, until in _boxes(data, start, end):
        if kind in _CONTAINERS:
            at += _CONTAINERS[kind]
            if kind == inside:
                yield from _boxes(data, at, until)
            else:
                yield from _walk(data, at, until, inside)


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start of the content and end of each box. Ends where one is damaged."""
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        header = 8
        if size == 1 and at + 16 <= end:
            (size,), header = struct.unpack_from(">Q", data, at + 8), 16
        elif size == 0:
            size = end - at
        if size < header or at + size > end:
            return
        yield kind, at + header, at + size
        at += size
