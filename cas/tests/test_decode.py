"""The engine: any accepted picture becomes a small upright sRGB JPEG, anything else is refused."""

from __future__ import annotations

import io
import struct
from typing import Any, BinaryIO

import pytest
from PIL import Image, ImageCms
from PIL.AvifImagePlugin import AvifImageFile
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from cas.storage.base import Unreachable
from cas.tests.pictures import encode, gif, gif_frame, gradient, jpeg, plain, png, raw_png
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


def test_a_nearly_empty_first_frame_is_not_all_there_is() -> None:
    first = gif_frame((0, 0), plain(1, 1, (0, 0, 0)))
    second = gif_frame((0, 0), plain(120, 90, (250, 10, 10)))
    picture = thumb(gif(120, 90, first, second))
    assert near(picture, (60, 45), (250, 10, 10))


def test_a_drawing_that_grows_is_shown_once_half_is_there() -> None:
    steps = [gif_frame((20 * i, 0), plain(20, 90, (10, 10, 250))) for i in range(6)]
    picture = thumb(gif(120, 90, *steps))
    assert near(picture, (50, 45), (10, 10, 250))
    assert near(picture, (110, 45), (255, 255, 255))


def test_frames_are_disposed_of_as_they_say() -> None:
    hidden = gif_frame((0, 0), plain(50, 90, (250, 10, 10)), disposal=2)
    shown = gif_frame((50, 0), plain(70, 90, (10, 10, 250)))
    # The first frame covers less than half; after it has gone, the second covers more.
    picture = thumb(gif(120, 90, hidden, shown))
    assert near(picture, (20, 45), (250, 10, 10)) or near(picture, (20, 45), (255, 255, 255))
    restored = gif_frame((0, 0), plain(10, 90, (250, 10, 10)), disposal=3)
    picture = thumb(gif(120, 90, restored, shown))
    assert near(picture, (4, 45), (255, 255, 255))
    assert near(picture, (100, 45), (10, 10, 250))


def test_an_entirely_transparent_gif_is_white() -> None:
    frame = gif_frame((0, 0), plain(60, 40, (250, 10, 10)), transparent=0)
    assert near(thumb(gif(60, 40, frame)), (30, 20), (255, 255, 255), by=1)


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
@pytest.mark.parametrize("size", [150, 64])
def test_the_colours_of_drawings_stay_sharp(file_format: str, size: int) -> None:
    """4:4:4, also when made from the kept picture; a photo's are halved, as usual."""
    rendered, base = made(encode(gradient(200, 100), file_format), size)
    smaller = render_from_base(base, 50, whole=rendered.whole)
    for data in (rendered.thumbnail, base, smaller):
        assert data
        assert get_sampling(JpegImageFile(io.BytesIO(data))) == 0
    assert get_sampling(JpegImageFile(io.BytesIO(made(jpeg(200, 100))[0].thumbnail))) == 2


def test_a_thin_red_line_stays_red() -> None:
    image = Image.new("RGB", (16, 16), (0, 0, 255))
    image.paste((255, 0, 0), (7, 0, 8, 16))
    assert near(thumb(encode(image, "PNG")), (7, 8), (255, 0, 0), by=40)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF"])
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.97])
def test_what_there_is_of_a_file_that_was_cut_is_shown(file_format: str, keep: float) -> None:
    options = {"interlace": 0} if file_format == "GIF" else {}
    data = encode(gradient(1600, 1200).effect_spread(20), file_format, **options)
    whole, part = thumb(data), thumb(data[: int(len(data) * keep)])
    assert abs(part.height - whole.height) <= 1
    assert near(part, (75, 2), whole.getpixel((75, 2)))  # type: ignore[arg-type]
    if keep < 0.9:
        assert near(part, (75, 110), (255, 255, 255))


def test_a_progressive_picture_may_be_cut_anywhere_after_its_first_scan() -> None:
    data = encode(gradient(400, 300).effect_spread(5), "JPEG", quality=90, progressive=True)
    first = data.index(b"\xff\xc4", data.index(b"\xff\xda"))
    for at in {*range(first, len(data), len(data) // 40), *range(first, first + 40)}:
        assert near(thumb(data[:at]), (140, 105), (238, 238, 40), by=30), at


def test_a_progressive_picture_with_a_damaged_segment_shows_what_is_before_it() -> None:
    data = encode(gradient(400, 300).effect_spread(5), "JPEG", quality=90, progressive=True)
    at = data.index(b"\xff\xc4", data.index(b"\xff\xda"))
    damaged = data[: at + 1] + b"\xa3" + data[at + 2 :]
    assert near(thumb(damaged), (140, 105), (238, 238, 40), by=30)


@pytest.mark.parametrize("place", [0.05, 0.1, 0.3, 0.6, 0.9])
def test_a_damaged_webp_shows_what_it_has(place: float) -> None:
    whole = encode(gradient(400, 300).effect_spread(5), "WEBP", quality=90)
    data = bytearray(whole)
    at = int(len(data) * place)
    data[at : at + 40] = b"\xff" * 40
    # Without what the damage has taken, the end of the data would be reached too early.
    del data[at + 40 : at + 400]
    data += bytes(400 - 40)
    assert thumb(bytes(data)).size == (150, 112)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "AVIF"])
def test_a_file_cut_before_its_first_row_is_refused(file_format: str) -> None:
    data = encode(gradient(1600, 1200).effect_spread(20), file_format)
    starts = {"JPEG": b"\xff\xda", "PNG": b"IDAT", "GIF": b",\0\0\0\0", "AVIF": b"mdat"}
    at = data.index(starts.get(file_format, b"VP8 ")) + 14
    with pytest.raises(NotAnImage):
        thumb(data[:at])


def groups(data: bytes) -> bytes:
    """An AVIF with a group of a kind that libavif does not know."""
    group = struct.pack(">I4sIIII", 32, b"pymd", 0, 1, 1, 1) + bytes(8)
    box = struct.pack(">I4s", 8 + len(group), b"grpl") + group
    at = data.index(b"meta") - 4
    size = struct.unpack_from(">I", data, at)[0]
    offset = data.index(b"iloc") + 4
    grown = bytearray(data[: at + size] + box + data[at + size :])
    struct.pack_into(">I", grown, at, size + len(box))
    # The only extent moves by as much: version 0, lengths of four bytes, one item.
    assert grown[offset : offset + 8] == bytes([0, 0, 0, 0, 0x44, 0, 0, 1])
    place = offset + 8 + 6
    (start,) = struct.unpack_from(">I", grown, place)
    struct.pack_into(">I", grown, place, start + len(box))
    return bytes(grown)


def test_groups_of_alternatives_do_not_hide_an_avif() -> None:
    data = encode(gradient(120, 90), "AVIF", quality=90)
    with pytest.raises(SyntaxError):
        AvifImageFile(io.BytesIO(groups(data)))
    assert thumb(groups(data)).size == (120, 90)


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
