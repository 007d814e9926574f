"""The formats that are accepted, and everything that is particular to one of them: one table.

What a file is follows from its first bytes. The type that a client declares must not choose a
decoder or a way of display: both have been turned into code execution elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

HEAD: Final = 1024
"""How many leading bytes tell what a file is; as far as PDF readers look for their header."""

OPAQUE_TYPE: Final = "application/octet-stream"
"""The type of bytes that nothing is known of."""

PDF: Final = "application/pdf"
SVG: Final = "image/svg+xml"
"""Identified in files that are there already, but not accepted."""

UNTYPED: Final = frozenset({"", "binary/octet-stream"})
"""Declared types of files whose type nobody determined; the second is S3's own default."""


@dataclass(frozen=True, slots=True)
class Format:
    """An accepted format. `starts` tells whether a file that starts with these bytes has it.

    A format of which a picture may have no pixels (`max_pixels`) is no image. Those that may are
    decoded by `cas.thumbnails.decode`, at upload as for a thumbnail; how many pixels fit into the
    memory of a decoder was measured (docs/reference/thumbnails.md). Browsers display only an
    `inline` format, which must not run script in the origin of the application.
    """

    name: str
    content_type: str
    extensions: tuple[str, ...]
    """File name extensions that fit; the first is the usual one."""
    starts: Callable[[bytes], bool]
    aliases: tuple[str, ...] = ()
    """Other names that programs have for the content type."""
    inline: bool = True
    max_pixels: int = 0


def _is_avif(head: bytes) -> bool:
    """An ISO base media file whose major or a compatible brand is AVIF's."""
    if head[4:8] != b"ftyp":
        return False
    box = head[8 : min(int.from_bytes(head[:4], "big"), len(head))]
    brands = {box[i : i + 4] for i in (0, *range(8, len(box), 4))}
    return bool(brands & {b"avif", b"avis"})


_TABLE: Final = (
    Format("JPEG", "image/jpeg", (".jpg", ".jpeg", ".jpe", ".jfif"),
           lambda head: head.startswith(b"\xff\xd8\xff"),
           aliases=("image/jpg", "image/pjpeg"), max_pixels=250_000_000),
    Format("PNG", "image/png", (".png", ".apng"),
           lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"),
           aliases=("image/x-png",), max_pixels=250_000_000),
    Format("WebP", "image/webp", (".webp",),
           lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", max_pixels=100_000_000),
    Format("GIF", "image/gif", (".gif",),
           lambda head: head.startswith((b"GIF87a", b"GIF89a")), max_pixels=25_000_000),
    Format("AVIF", "image/avif", (".avif", ".avifs"), _is_avif, max_pixels=36_000_000),
    # A PDF must begin at its first byte (ISO 32000 7.5.2). Readers tolerate a kilobyte before it,
    # which is exactly the room that a file needs to be HTML as well.
    Format("PDF", PDF, (".pdf",), lambda head: head.startswith(b"%PDF-"),
           aliases=("application/x-pdf",)),
)  # fmt: skip

FORMATS: Final = {found.content_type: found for found in _TABLE}
ALIASES: Final = {alias: found.content_type for found in _TABLE for alias in found.aliases}
TOLD_BY_BYTES: Final = frozenset({*FORMATS, *ALIASES, *UNTYPED, SVG})
"""Declared types that the first bytes confirm or disprove; other ones may be true anyway."""

_IMAGES: Final = [found.name for found in _TABLE if found.max_pixels]
_OTHERS: Final = [f" and {found.name}s" for found in _TABLE if not found.max_pixels]
ACCEPTED: Final = f"{', '.join(_IMAGES[:-1])} and {_IMAGES[-1]} images{''.join(_OTHERS)}"
"""The formats in words."""

INLINE_TYPES: Final = frozenset(found.content_type for found in _TABLE if found.inline)


def sniff(head: bytes) -> Format | None:
    """The format of a file that starts with `head`, or None if it is not an accepted one."""
    return next((found for found in _TABLE if found.starts(head)), None)


def identify(head: bytes) -> str | None:
    """The content type of a file that is there already, which may be SVG too, or None."""
    found = sniff(head)
    return found.content_type if found else SVG if _is_svg(head) else None


def stored_type(declared: str, head: bytes) -> str:
    """The type of a file that is there already, was `declared` once, and starts with `head`.

    Where the bytes do not tell, a type that they would have told is not accepted from anybody.
    """
    if told := identify(head):
        return told
    if may_be_pdf(head) and canonical(declared) == PDF:
        return PDF
    return OPAQUE_TYPE if declared.lower() in TOLD_BY_BYTES else declared


def may_be_pdf(head: bytes) -> bool:
    """Whether readers would show it as a PDF although something stands before its header.

    Only of use for files of which that was said when they were stored. No markup may be there.
    """
    before, header, _ = head[:HEAD].partition(b"%PDF-")
    return bool(header) and b"<" not in before


def canonical(declared: str) -> str:
    """A declared media type under its usual name, without parameters."""
    essence = declared.partition(";")[0].strip().lower()
    return ALIASES.get(essence, essence)


def _is_svg(head: bytes) -> bool:
    """Text that begins with an `svg` element, after what XML allows before it."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return text.startswith(b"<svg") or (
        text.startswith((b"<?xml", b"<!--", b"<!DOCTYPE svg")) and b"<svg" in text
    )
