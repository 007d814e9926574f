"""The engine: any accepted picture becomes a small upright sRGB JPEG, anything else is refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, BinaryIO

import pytest
from PIL import Image, ImageCms

from cas.storage.base import Unreachable
from cas.tests.pictures import encode, gradient, jpeg, png
from cas.thumbnails.limits import NotAnImage, TooManyPixels
from cas.thumbnails.process import Rendered, render
from cas.thumbnails.render import render_from_base

LIMIT = 250_000_000
Colour = tuple[int, int, int]


def made(data: bytes, size: int = 150, limit: int = LIMIT) -> tuple[Rendered, bytes]:
    """The thumbnail, and the larger picture, which frees the decoder."""
    rendered = render(io.BytesIO(data), size, limit)
    return rendered, rendered.base()


def thumb(data: bytes, size: int = 150, limit: int = LIMIT) -> Image.Image:
    rendered, _ = made(data, size, limit)
    picture = Image.open(io.BytesIO(rendered.thumbnail))
    assert picture.format == "JPEG"
    assert picture.mode == "RGB"
    assert not picture.info.get("icc_profile")
    assert not picture.getexif()
    return picture


def near(picture: Image.Image, at: tuple[int, int], colour: Colour, by: int = 12) -> bool:
    found: Any = picture.getpixel(at)
    return all(abs(a - b) <= by for a, b in zip(found, colour, strict=True))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
@pytest.mark.parametrize("size", [1, 64, 150, 700, 1024])
def test_every_accepted_type_is_fitted(file_format: str, size: int) -> None:
    data = encode(gradient(1600, 1200), file_format)
    width, height = thumb(data, size).size
    assert width == size
    # Which way half a pixel is rounded is the decoder's affair.
    assert abs(height - max(1, size * 0.75)) <= 0.5


@pytest.mark.parametrize("dimensions", [(1, 1), (30, 20), (150, 10)])
def test_never_enlarged(dimensions: tuple[int, int]) -> None:
    assert thumb(png(*dimensions)).size == dimensions


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
@pytest.mark.parametrize("dimensions", [(5000, 1), (1, 5000), (5000, 7), (16383, 3), (2000, 2)])
def test_extreme_proportions_keep_a_pixel(file_format: str, dimensions: tuple[int, int]) -> None:
    picture = thumb(encode(gradient(*dimensions), file_format), 100)
    assert max(picture.size) == 100
    assert min(picture.size) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("longer", [200, 2400])
def test_upright_by_exif(orientation: int, longer: int) -> None:
    upright = gradient(longer, longer * 3 // 4)
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for step in undo.get(orientation, []):
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = thumb(encode(stored, "JPEG", quality=95, exif=exif), 100)
    assert picture.size == (100, 75)
    plain = thumb(encode(upright, "JPEG", quality=95), 100)
    for corner in ((3, 3), (96, 3), (3, 71), (96, 71)):
        expected: Any = plain.getpixel(corner)
        assert near(picture, corner, expected)


@pytest.mark.parametrize(
    ("mode", "clear", "opaque"),
    [("RGBA", (0, 0, 0, 0), (200, 0, 0, 255)), ("LA", (0, 0), (90, 255))],
)
def test_transparency_is_white(mode: str, clear: Any, opaque: Any) -> None:
    image = Image.new(mode, (400, 400), clear)
    image.paste(opaque, (0, 0, 200, 400))
    picture = thumb(encode(image, "PNG"))
    assert near(picture, (140, 75), (255, 255, 255))
    assert near(picture, (20, 75), (200, 0, 0) if mode == "RGBA" else (90, 90, 90))


def test_half_transparency_mixes_with_white() -> None:
    picture = thumb(encode(Image.new("RGBA", (300, 300), (255, 0, 0, 128)), "PNG"))
    assert near(picture, (75, 75), (255, 127, 127))


def test_a_transparent_palette() -> None:
    image = Image.new("P", (300, 300), 0)
    image.putpalette([10, 200, 10, 0, 0, 250])
    image.paste(1, (150, 0, 300, 300))
    picture = thumb(encode(image, "PNG", transparency=0))
    assert near(picture, (10, 75), (255, 255, 255))
    assert near(picture, (140, 75), (0, 0, 250))
    gif = thumb(encode(image, "GIF", transparency=0))
    assert near(gif, (10, 75), (255, 255, 255))


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16"])
def test_other_pixel_formats(mode: str) -> None:
    if mode == "I;16":
        image = Image.new("I;16", (300, 200), 0x8000)
    else:
        image = gradient(300, 200).convert("L").point(lambda _: 128).convert(mode)
    picture = thumb(encode(image, "PNG"), 100)
    assert near(picture.resize((1, 1), Image.Resampling.BOX), (0, 0), (128, 128, 128))


def test_sixteen_bit_rgba() -> None:
    rows = b"".join(b"\0" + struct.pack(">4H", 0xFFFF, 0, 0, 0x8000) * 64 for _ in range(64))
    picture = thumb(raw_png(64, 64, bit_depth=16, colour_type=6, data=rows))
    assert near(picture, (32, 32), (255, 127, 127))


def test_cmyk() -> None:
    picture = thumb(encode(Image.new("CMYK", (400, 300), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = picture.getpixel((75, 50))  # type: ignore[misc]
    assert red > 200
    assert green < 80
    assert blue < 80


def swapped_profile() -> bytes:
    """sRGB with red and blue primaries exchanged: unmistakable when it is followed."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return (
        profile.replace(b"rXYZ", b"tXYZ", 1)
        .replace(b"bXYZ", b"rXYZ", 1)
        .replace(b"tXYZ", b"bXYZ", 1)
    )


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_an_embedded_profile_is_followed(file_format: str) -> None:
    image = Image.new("RGB", (300, 200), (250, 10, 10))
    picture = thumb(encode(image, file_format, icc_profile=swapped_profile()))
    red, _, blue = picture.getpixel((75, 50))  # type: ignore[misc]
    assert (red < 60, blue > 200) == (True, True)


@pytest.mark.parametrize("profile", [b"broken" * 40, None])
def test_an_unusable_profile_is_left_aside(profile: bytes | None) -> None:
    unfit = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    data = encode(Image.new("RGB", (300, 200), "red"), "JPEG", icc_profile=profile or unfit)
    assert near(thumb(data), (75, 50), (255, 0, 0))


def test_the_first_frame_of_an_animation() -> None:
    for file_format in ("GIF", "WEBP"):
        frames = [Image.new("RGB", (300, 200), colour) for colour in ("red", "lime", "blue")]
        data = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
        assert near(thumb(data), (75, 50), (255, 0, 0))


def raw_png(width: int, height: int, *, bit_depth: int, colour_type: int, data: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(data)),
            chunk(b"IEND", b""),
        ]
    )


def test_too_many_pixels_are_refused_before_decoding() -> None:
    with pytest.raises(TooManyPixels):
        thumb(raw_png(60_000, 60_000, bit_depth=8, colour_type=2, data=b"\0" * 10_000))
    with pytest.raises(TooManyPixels):
        thumb(png(101, 100), limit=10_000)
    assert thumb(png(100, 100), limit=10_000).size == (100, 100)


def test_a_second_picture_behind_the_first_is_not_looked_at() -> None:
    """Phones write such files (MPO); the second picture lies where no stream can seek to."""
    first, second = gradient(1600, 1200), Image.new("RGB", (1600, 1200), "blue")
    data = encode(first, "MPO", save_all=True, append_images=[second])
    assert near(thumb(data), (3, 3), thumb(jpeg(1600, 1200)).getpixel((3, 3)))  # type: ignore[arg-type]


def test_previews_and_depth_maps_before_the_pixels_are_passed_over() -> None:
    comment = b"\xff\xfe\xff\xff" + bytes(65_533)
    data = jpeg(64, 48)
    assert thumb(data[:2] + comment * 300 + data[2:]).size == (64, 48)


@pytest.mark.parametrize("field", [5, 7])
def test_a_picture_without_extent_is_refused(field: int) -> None:
    data = bytearray(jpeg(1600, 1200))
    at = data.index(b"\xff\xc0") + field
    data[at : at + 2] = b"\0\0"
    with pytest.raises(NotAnImage):
        thumb(bytes(data))


@pytest.mark.parametrize("exif", [b"Exif\0\0broken", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b""])
def test_damaged_metadata_does_not_hide_the_picture(exif: bytes) -> None:
    assert thumb(jpeg(300, 200, exif=exif)).size == (150, 100)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"%PDF-1.7 nothing",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"II*\0" + b"\0" * 600,
        b"\xff\xd8\xff" + b"\0" * 600,
        b"\x89PNG\r\n\x1a\n" + b"\0" * 600,
        b"GIF89a" + b"\xff" * 600,
        b"RIFF\xff\0\0\0WEBP" + b"\0" * 600,
        b"\0\0\0\x18ftypavif" + b"\0" * 600,
        b"/* XPM */ static char *x[] = {" + b" " * 600,
        b"id=ImageMagick " + b" " * 600,
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(NotAnImage):
        thumb(data)


def test_other_loaders_are_blocked() -> None:
    import pyvips

    import cas.thumbnails.decode  # noqa: F401

    for loader, data in (
        (pyvips.Image.svgload_buffer, b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        (pyvips.Image.tiffload_buffer, encode(gradient(8, 8), "TIFF")),
    ):
        with pytest.raises(pyvips.Error):
            loader(data)


class Failing(io.RawIOBase):
    """A store's stream that fails after some bytes."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        if data := self._stream.read(size):
            return data
        raise Unreachable("the connection was lost")


def test_a_failing_store_is_not_called_a_bad_picture() -> None:
    stream: BinaryIO = Failing(jpeg(1600, 1200)[:20_000])  # type: ignore[assignment]
    with pytest.raises(Unreachable):
        render(stream, 150, LIMIT)


def test_another_size_comes_from_the_kept_picture() -> None:
    rendered, base = made(jpeg(3200, 2400))
    assert not rendered.whole
    smaller = render_from_base(base, 300, whole=False)
    assert smaller
    assert Image.open(io.BytesIO(smaller)).size == (300, 225)
    assert render_from_base(base, 1024, whole=False) is None


def test_a_small_picture_is_kept_whole() -> None:
    rendered, base = made(jpeg(320, 240))
    assert rendered.whole
    larger = render_from_base(base, 1024, whole=True)
    assert larger
    assert Image.open(io.BytesIO(larger)).size == (320, 240)
