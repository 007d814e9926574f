"""What large pictures and bombs take of a decoder, beside its bounds."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageFile

from benchmarks.measurement import Row, Table
from cas.tests.pictures import chunk, encode, jpeg, png, raw_png, with_chunks
from cas.thumbnails import process
from cas.thumbnails.limits import CPU_SECONDS, MEMORY, Unrenderable
from cas.thumbnails.process import DecoderProcess

SIZE = 150
BOUND = "the bounds"


class Measured(DecoderProcess):
    """A decoder that says what it took, also after its end."""

    peak = cpu = 0.0

    def end(self) -> None:
        self.measure()
        super().end()

    def measure(self) -> None:
        """Peak resident MiB and seconds of processor time, its start included."""
        if self._process.poll() is not None:
            return
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        self.peak = next(int(line.split()[1]) / 1024 for line in lines if "VmHWM" in line)
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        self.cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(directory: Path, *, quick: bool) -> list[Table]:
    ImageFile.MAXBLOCK = 1 << 28
    large = [_measured(directory, name, data) for name, data in _large(8 if quick else 1)]
    bombs = [_measured(directory, name, data) for name, data in _bombs(8 if quick else 1)]
    bounds = Row(BOUND, f"{CPU_SECONDS} s, {MEMORY >> 20} MiB", 1.0)
    note = "Processor time and peak resident memory of the process; the ratio is of memory."
    return [
        Table("Large pictures", BOUND, [bounds, *large], note=note),
        Table("Pictures made to be expensive", BOUND, [bounds, *bombs], note=note),
    ]


def _measured(directory: Path, name: str, data: bytes) -> Row:
    path = directory / "picture"
    path.write_bytes(data)
    decoder = Measured()
    process._idle[:] = [decoder]
    outcome = ""
    try:
        with path.open("rb", buffering=0) as source:
            process.render(source, SIZE, 10**9).base()
    except Unrenderable as refusal:
        outcome = f": {refusal}"
    decoder.measure()
    if not decoder.peak:
        return Row(name, f"ended{outcome}")
    decoder.end()
    took = f"{decoder.cpu:.1f} s, {decoder.peak:.0f} MiB{outcome}"
    return Row(name, took, MEMORY / 1024**2 / decoder.peak, 1.0)


def _large(shrink: int) -> Iterator[tuple[str, bytes]]:
    for title, (width, height) in {"50 MP": (8192, 6144), "64 MP": (9248, 6936)}.items():
        photo = _photo(width // shrink, height // shrink)
        yield f"JPEG, {title}", encode(photo, "JPEG", quality=85)
        yield (
            f"JPEG, {title}, progressive, 4:4:4",
            encode(photo, "JPEG", quality=85, progressive=True, subsampling=0),
        )
        yield f"PNG, {title}", encode(photo, "PNG", compress_level=1)
        yield f"PNG, {title}, RGBA", encode(photo.convert("RGBA"), "PNG", compress_level=1)
        yield f"WebP, {title}", encode(photo, "WEBP", quality=60, method=0)
        yield (
            f"WebP, {title}, lossless",
            encode(photo, "WEBP", lossless=True, method=0, quality=0),
        )
    photo = _photo(5712 // shrink, 4284 // shrink)
    for sampling in ("4:2:0", "4:4:4"):
        options = {"quality": 60, "speed": 10, "subsampling": sampling}
        yield f"AVIF, 24 MP, {sampling}", encode(photo, "AVIF", **options)
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    yield "AVIF, 24 MP, 4:4:4 with alpha", encode(photo, "AVIF", **options)


def _photo(width: int, height: int) -> Image.Image:
    tile = Image.merge("RGB", [Image.effect_noise((1024, 1024), 12) for _ in range(3)])
    photo = Image.new("RGB", (width, height))
    for left in range(0, width, 1024):
        for top in range(0, height, 1024):
            photo.paste(tile, (left, top))
    return photo


def _bombs(shrink: int) -> Iterator[tuple[str, bytes]]:
    small = jpeg(64, 48)
    exif = b"\xff\xe1\0\x16Exif\0\0" + bytes(14)
    yield "JPEG, 200 scans of 12 MP", _scans(4000 // shrink, 3000 // shrink, 200)
    yield "JPEG, 180,000 Exif segments", small[:2] + exif * (180_000 // shrink) + small[2:]
    yield "JPEG, 20 MB of fill bytes", small[:2] + b"\xff" * (20_000_000 // shrink) + small[2:]
    texts = chunk(b"tEXt", b"a\0b") * 1_000_000
    yield "PNG, a million text chunks", with_chunks(png(64, 48), texts)
    profile = zlib.compress(bytes(1 << 30))
    yield "PNG, a profile of 1 GiB", with_chunks(png(64, 48), chunk(b"iCCP", b"a\0\0" + profile))
    for width, height in ((50_000_000, 1), (1, 49_000_000), (1_000_000, 1), (1, 1_000_000)):
        rows = bytes((3 * width + 1) * height)
        name = f"PNG, {width:,} × {height:,}"
        yield name, raw_png(width, height, bit_depth=8, colour_type=2, data=rows)
    rows = bytes(8 * 63_000_000 + 20_000)
    yield (
        "PNG, 63 MP, 16 bits, RGBA, interlaced",
        raw_png(9000, 7000, bit_depth=16, colour_type=6, data=rows, interlaced=True),
    )


def _scans(width: int, height: int, count: int) -> bytes:
    """A progressive JPEG with its second scan again and again."""
    data = encode(_photo(width, height), "JPEG", quality=80, progressive=True)
    starts = [data.index(b"\xff\xda")]
    while (at := data.find(b"\xff\xda", starts[-1] + 2)) >= 0:
        starts.append(at)
    begin = data.rindex(b"\xff\xc4", 0, starts[1])
    end = data.rindex(b"\xff\xc4", 0, starts[2])
    return data[:end] + data[begin:end] * count + data[end:]
