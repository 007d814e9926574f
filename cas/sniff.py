"""What a file is, from its first bytes and never from anybody's word.

The client's declared type must not choose a decoder or a rendering: both have been turned into
code execution elsewhere.
"""

from __future__ import annotations

from typing import Final

HEAD: Final = 1024
"""How many leading bytes tell what a file is; as far as PDF readers look for their header."""

PDF: Final = "application/pdf"

PILLOW_FORMATS: Final = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/avif": "AVIF",
}
"""The image types we accept, each with the one Pillow decoder that may touch it."""

SVG: Final = "image/svg+xml"

ALIASES: Final = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "application/x-pdf": PDF,
}
"""Other names that programs have for the types we accept."""

OPAQUE_TYPE: Final = "application/octet-stream"
"""The type of bytes that nothing is known of."""

UNTYPED: Final = frozenset({"", "binary/octet-stream"})
"""What is said of a file whose type nobody looked at; the second is S3's own default."""

TOLD_BY_BYTES: Final = frozenset({*PILLOW_FORMATS, PDF, SVG, *ALIASES, *UNTYPED})
"""Types that bytes have or have not; what is said of others may be true."""

EXTENSIONS: Final = {
    "image/jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "image/png": (".png",),
    "image/webp": (".webp",),
    "image/gif": (".gif",),
    "image/avif": (".avif", ".avifs"),
    PDF: (".pdf",),
}
"""File name extensions that tell the truth about a type; the first is the usual one."""


def sniff(head: bytes) -> str | None:
    """The content type of a file that starts with `head`, or None if it is none we accept.

    A PDF must begin at its first byte (ISO 32000 7.5.2). Readers tolerate a kilobyte before it,
    which is exactly the room an HTML polyglot needs.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if _is_avif(head):
        return "image/avif"
    if head.startswith(b"%PDF-"):
        return PDF
    return None


def identify(head: bytes) -> str | None:
    """As `sniff`, for files that are there already and may be SVG, which is not accepted."""
    return sniff(head) or (SVG if _is_svg(head) else None)


def stored_type(declared: str, head: bytes) -> str:
    """The type of a file that is there already, was `declared` once, and starts with `head`.

    Where the bytes do not tell, a type that they would have told is not believed.
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
    """Text that begins with an `svg` element, behind what XML allows before it."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return text.startswith(b"<svg") or (
        text.startswith((b"<?xml", b"<!--", b"<!DOCTYPE svg")) and b"<svg" in text
    )


def _is_avif(head: bytes) -> bool:
    """An ISO base media file whose major or a compatible brand is AVIF's."""
    if head[4:8] != b"ftyp":
        return False
    box = head[8 : min(int.from_bytes(head[:4], "big"), len(head))]
    brands = {box[i : i + 4] for i in (0, *range(8, len(box), 4))}
    return bool(brands & {b"avif", b"avis"})
