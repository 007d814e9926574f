"""Pictures of every kind look as a browser shows them: each is compared with Chromium's own.

Compared are the decoded pixels, of which thumbnails are made: their mean may differ by one level of
255, and that of no block of 8 × 8 pixels by more than four. Only where an AVIF is half transparent
more is allowed: Chromium stretches its alpha as if that were of limited range, which the file says
it is not.
"""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageCms, ImageStat
from playwright.sync_api import Page, sync_playwright

from cas.content_types import sniff
from cas.tests.pictures import (
    chunk,
    encode,
    gif,
    gif_frame,
    gradient,
    plain,
    raw_png,
    with_chunks,
    with_nclx,
)
from cas.thumbnails.decode import decode
from tests.test_blob_browser import CHROMIUM

pytestmark = pytest.mark.sqlite

P3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--force-color-profile=srgb"]
        )
        yield browser.new_page(viewport={"width": 500, "height": 500})
        browser.close()


def as_chromium_shows(page: Page, data: bytes) -> Image.Image | None:
    """The picture in its own size, on white; None if it is not shown."""
    found = sniff(data)
    assert found
    page.set_content("<style>body{margin:0;background:#fff}img{display:block}</style><img>")
    loaded = page.evaluate(
        """url => new Promise(done => {
            const image = document.querySelector('img');
            image.onload = () => image.decode().then(() => done(true), () => done(false));
            image.onerror = () => done(false);
            image.src = url;
        })""",
        f"data:{found.content_type};base64,{base64.b64encode(data).decode()}",
    )
    if not loaded:
        return None
    return Image.open(io.BytesIO(page.locator("img").screenshot())).convert("RGB")


def as_we_show(data: bytes) -> Image.Image:
    pixels = decode(io.BytesIO(data), 480, 1024, 10**9).pixels
    return Image.frombytes("RGB", (pixels.width, pixels.height), pixels.write_to_memory())


def colourful(mode: str = "RGB") -> Image.Image:
    return gradient(240, 160).convert(mode)


def half_clear() -> Image.Image:
    image = gradient(240, 160)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def avif(image: Image.Image | None = None, **options: Any) -> bytes:
    """Without loss but of eight bits, where colours do not come from a matrix."""
    options = {"quality": 95, "subsampling": "4:4:4", "speed": 9, **options}
    return encode(image or colourful(), "AVIF", **options)


def alpha_not_turned() -> bytes:
    """An AVIF whose orientation is said of its colour and not of its alpha."""
    data = bytearray(avif(half_clear(), exif=turned(6)))
    kinds, at = [], data.index(b"ipco") + 4
    end = at - 8 + struct.unpack_from(">I", data, at - 8)[0]
    while at < end:
        kinds.append(bytes(data[at + 4 : at + 8]))
        at += struct.unpack_from(">I", data, at)[0]
    at = data.index(b"ipma") + 8
    (entries,) = struct.unpack_from(">I", data, at)
    at += 4
    for _ in range(entries):
        item, count = struct.unpack_from(">HB", data, at)
        for i in range(at + 3, at + 3 + count):
            if item == 2 and kinds[(data[i] & 0x7F) - 1] == b"irot":
                data[i] = 0
        at += 3 + count
    return bytes(data)


def shuffled(image: Image.Image) -> Image.Image:
    return image.effect_spread(3)


def png(image: Image.Image | None = None, *chunks: bytes, **options: Any) -> bytes:
    return with_chunks(encode(image or colourful(), "PNG", **options), *chunks)


def damaged_chunk(name: bytes, content: bytes) -> bytes:
    sound = chunk(name, content)
    return sound[:-1] + bytes([sound[-1] ^ 1])


def swapped_profile() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return (
        profile.replace(b"rXYZ", b"tXYZ", 1)
        .replace(b"bXYZ", b"rXYZ", 1)
        .replace(b"tXYZ", b"bXYZ", 1)
    )


def sixteen_bit() -> bytes:
    rows = b"".join(
        b"\0" + b"".join(struct.pack(">3H", x * 600, y * 900, 0x4000) for x in range(100))
        for y in range(70)
    )
    return raw_png(100, 70, bit_depth=16, colour_type=2, data=rows)


KINDS: dict[str, Callable[[], bytes]] = {
    "avif": avif,
    "avif 4:2:0": lambda: avif(subsampling="4:2:0"),
    "avif limited range": lambda: avif(range="limited"),
    "avif monochrome": lambda: avif(colourful("L"), subsampling="4:0:0"),
    "avif monochrome limited range": lambda: avif(
        colourful("L"), subsampling="4:0:0", range="limited"
    ),
    "avif unspecified": lambda: with_nclx(avif(), 2, 2),
    "avif PQ": lambda: with_nclx(avif(), 9, 16),
    "avif PQ in P3": lambda: with_nclx(avif(), 12, 16),
    "avif PQ grey": lambda: with_nclx(avif(colourful("L").convert("RGB")), 9, 16),
    "avif HLG": lambda: with_nclx(avif(), 9, 18),
    "avif P3": lambda: with_nclx(avif(), 12, 13),
    "avif BT.2020": lambda: with_nclx(avif(), 9, 1),
    "avif linear": lambda: with_nclx(avif(), 1, 8),
    "avif gamma 2.8": lambda: with_nclx(avif(), 5, 5),
    "avif SMPTE 240": lambda: with_nclx(avif(), 7, 7),
    "avif alpha": lambda: avif(half_clear()),
    "avif turned": lambda: avif(exif=turned(6)),
    "avif mirrored": lambda: avif(exif=turned(5)),
    "avif alpha turned": lambda: avif(half_clear(), exif=turned(6)),
    "avif alpha not turned": alpha_not_turned,
    "avif profile": lambda: avif(icc_profile=swapped_profile()),
    "png": png,
    "png turned": lambda: png(exif=turned(8)),
    "png grey": lambda: png(colourful("L")),
    "png palette": lambda: png(colourful("P")),
    "png alpha": lambda: png(half_clear()),
    "png 16 bit": sixteen_bit,
    "png profile": lambda: png(icc_profile=swapped_profile()),
    "png bad checksum of text": lambda: png(None, damaged_chunk(b"zTXt", b"Comment\0\0nothing")),
    "png bad checksum of gamma": lambda: png(
        None, damaged_chunk(b"gAMA", struct.pack(">I", 100_000))
    ),
    "png short pHYs": lambda: png(None, chunk(b"pHYs", bytes(5))),
    "png short cHRM": lambda: png(None, chunk(b"cHRM", bytes(20))),
    "png long gAMA": lambda: png(None, chunk(b"gAMA", bytes(5))),
    "png broken profile": lambda: png(None, chunk(b"iCCP", b"name\0\x01nothing")),
    "png 2 MB of text": lambda: png(None, chunk(b"tEXt", b"Comment\0" + b"a" * 2_000_000)),
    "png gamma 1": lambda: png(None, chunk(b"gAMA", struct.pack(">I", 100_000))),
    "png gamma 1 but sRGB": lambda: png(
        None, chunk(b"gAMA", struct.pack(">I", 100_000)), chunk(b"sRGB", b"\0")
    ),
    "png gamma and chromaticities": lambda: png(
        None, chunk(b"gAMA", struct.pack(">I", 45_455)), chunk(b"cHRM", struct.pack(">8I", *P3))
    ),
    "png chromaticities alone": lambda: png(None, chunk(b"cHRM", struct.pack(">8I", *P3))),
    "png cICP P3": lambda: png(None, chunk(b"cICP", bytes([12, 13, 0, 1]))),
    "png cICP PQ": lambda: png(None, chunk(b"cICP", bytes([9, 16, 0, 1]))),
    "png animated": lambda: png(
        save_all=True, append_images=[colourful().rotate(180)], duration=10_000
    ),
    "png animated beside its default image": lambda: png(
        save_all=True, append_images=[colourful().rotate(180), colourful()], duration=10_000,
        default_image=True,
    ),
    "png cut": lambda: cut(png(shuffled(colourful())), 0.5),
    "png palette cut": lambda: cut(png(shuffled(colourful("P"))), 0.5),
    "png alpha cut": lambda: cut(png(shuffled(half_clear())), 0.5),
    "png without its end": lambda: png(shuffled(colourful()))[:-20],
    "jpeg": lambda: encode(colourful(), "JPEG", quality=92),
    "jpeg grey": lambda: encode(colourful("L"), "JPEG", quality=92),
    "jpeg turned": lambda: encode(colourful(), "JPEG", quality=92, exif=turned(6)),
    "jpeg turned in XMP alone": lambda: encode(
        colourful(), "JPEG", quality=92,
        xmp=b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
        b'"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:tiff='
        b'"http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>',
    ),
    "jpeg profile": lambda: encode(colourful(), "JPEG", quality=92, icc_profile=swapped_profile()),
    "jpeg cut": lambda: cut(encode(shuffled(colourful()), "JPEG", quality=92), 0.5),
    "jpeg grey cut": lambda: cut(encode(shuffled(colourful("L")), "JPEG", quality=92), 0.5),
    "jpeg progressive cut": lambda: cut(
        encode(shuffled(colourful()), "JPEG", quality=92, progressive=True), 0.6
    ),
    "gif": lambda: encode(colourful("P"), "GIF"),
    "gif clear": lambda: encode(colourful("P"), "GIF", transparency=40),
    "gif part of the canvas": lambda: gif(
        200, 100, gif_frame((20, 10), plain(100, 80, (200, 10, 90)))
    ),
    "gif first frame beyond the canvas": lambda: gif(
        100, 80, gif_frame((60, 40), plain(80, 60, (200, 10, 90)))
    ),
    "gif without a canvas": lambda: gif(0, 0, gif_frame((0, 0), plain(80, 60, (200, 10, 90)))),
    "gif cut": lambda: cut(encode(shuffled(colourful("P")), "GIF", interlace=0), 0.5),
    "gif interlaced and cut": lambda: cut(encode(colourful("P"), "GIF", interlace=1), 0.6),
    "webp": lambda: encode(colourful(), "WEBP", quality=92),
    "webp alpha": lambda: encode(half_clear(), "WEBP", quality=92),
    "webp lossless": lambda: encode(colourful(), "WEBP", lossless=True),
    "webp profile": lambda: encode(colourful(), "WEBP", quality=92, icc_profile=swapped_profile()),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_it_looks_as_in_the_browser(page: Page, kind: str) -> None:
    data = KINDS[kind]()
    theirs, ours = as_chromium_shows(page, data), as_we_show(data)
    assert theirs is not None, "Chromium does not show it"
    assert ours.size == theirs.size
    mean, block = (8.0, 18.0) if "avif alpha" in kind else (1.0, 4.0)
    if "cut" in kind:
        # The row in which the file ends is shown up to there, or not.
        block = 40.0
    assert max(ImageStat.Stat(ImageChops.difference(ours, theirs)).mean) <= mean
    blocks: Any = ImageChops.difference(ours.reduce(8), theirs.reduce(8)).getextrema()
    assert max(high for _, high in blocks) <= block


def test_a_browser_obeys_no_orientation_in_webp_and_we_do(page: Page) -> None:
    """The one wanted difference: the WebP container specification says that Exif counts."""
    data = encode(colourful(), "WEBP", quality=92, exif=turned(6))
    shown = as_chromium_shows(page, data)
    assert shown is not None
    assert shown.size == (240, 160)
    assert as_we_show(data).size == (160, 240)
