"""What a picture may cost: a decoder that exceeds it is ended, and only that picture is refused."""

from __future__ import annotations

import errno
import io
import os
import random
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from cas.storage.base import StoreError
from cas.tests.pictures import chunk, encode, gradient, jpeg, png, raw_png, with_chunks
from cas.thumbnails import process
from cas.thumbnails.cache import Busy
from cas.thumbnails.limits import (
    CPU_SECONDS,
    MEMORY,
    NotAnImage,
    TooExpensive,
    TooManyPixels,
    Unrenderable,
)
from cas.thumbnails.process import DecoderProcess, render

MOST = 250_000_000
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "AVIF"]


class Measured(DecoderProcess):
    """A decoder that says what it took at most, also after its end."""

    peak = 0

    def end(self) -> None:
        self.measure()
        super().end()

    def measure(self) -> int:
        if self._process.poll() is None:
            self.peak = self.of("VmHWM")
        return self.peak

    def seconds(self) -> float:
        """The processor time it has had."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cpu_limit(self) -> int:
        """The processor time in seconds at which the kernel ends it."""
        lines = Path(f"/proc/{self.pid}/limits").read_text().splitlines()
        return next(int(line.split()[3]) for line in lines if line.startswith("Max cpu time"))

    def of(self, name: str) -> int:
        """A figure of the process in bytes, as the kernel has it."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Measured]:
    """A decoder that has had no other picture, and is the next one to be used."""
    fresh = Measured()
    monkeypatch.setattr(process, "_idle", [fresh])
    yield fresh
    for one in {fresh, *process._idle}:
        one.end()


def shown(data: bytes) -> Image.Image:
    rendered = render(io.BytesIO(data), 150, MOST)
    rendered.base()
    return Image.open(io.BytesIO(rendered.thumbnail))


def claiming(data: bytes, marker: bytes, offset: int, form: str, *values: int) -> bytes:
    at = data.index(marker) + offset
    return data[:at] + struct.pack(form, *values) + data[at + struct.calcsize(form) :]


EXIF = b"\xff\xe1" + struct.pack(">H", 22) + b"Exif\0\0" + bytes(14)


def test_the_decoder_is_ended_after_its_time(decoder: Measured) -> None:
    """Segments that take the square of their number."""
    picture = jpeg(64, 48)
    with pytest.raises(TooExpensive, match=f"{CPU_SECONDS} seconds"):
        shown(picture[:2] + EXIF * 180_000 + picture[2:])
    assert decoder._process.returncode == -signal.SIGXCPU
    assert shown(picture).size == (64, 48)


def test_time_is_counted_for_each_picture(decoder: Measured) -> None:
    """The kernel's limit is on all that the process has had: it is moved for each picture."""
    data = raw_png(1, 1_000_000, bit_depth=8, colour_type=2, data=bytes(4_000_000))
    while decoder.seconds() < 1.5:
        shown(data)
    had = decoder.seconds()
    shown(png(30, 20))
    assert had + CPU_SECONDS - 1 <= decoder.cpu_limit() <= had + CPU_SECONDS + 1
    assert process._idle == [decoder]


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        pytest.param(
            raw_png(50_000_000, 1, bit_depth=8, colour_type=2, data=bytes(1000)),
            TooManyPixels, id="png-wide",
        ),
        pytest.param(
            raw_png(1, 49_000_000, bit_depth=8, colour_type=2, data=bytes(1000)),
            TooManyPixels, id="png-high",
        ),
        pytest.param(
            raw_png(60_000, 60_000, bit_depth=8, colour_type=2, data=bytes(1000)),
            TooManyPixels, id="png",
        ),
        pytest.param(
            raw_png(9000, 7000, bit_depth=16, colour_type=6, data=bytes(1000), interlaced=True),
            TooExpensive, id="png-interlaced",
        ),
        pytest.param(
            raw_png(1_000_000, 64, bit_depth=16, colour_type=6, data=bytes(1000)),
            TooExpensive, id="png-rows",
        ),
        pytest.param(
            claiming(jpeg(64, 48), b"\xff\xc0", 5, ">HH", 60_000, 60_000),
            TooManyPixels, id="jpeg",
        ),
        pytest.param(
            claiming(jpeg(64, 48, progressive=True, subsampling=0), b"\xff\xc2", 5, ">HH",
                     12_000, 12_000),
            TooExpensive, id="jpeg-progressive",
        ),
        pytest.param(
            claiming(encode(gradient(64, 48), "AVIF"), b"ispe", 8, ">II", 60_000, 60_000),
            Unrenderable, id="avif",
        ),
        pytest.param(
            claiming(encode(gradient(64, 48), "GIF"), b"GIF8", 6, "<HH", 60_000, 60_000),
            TooManyPixels, id="gif",
        ),
    ],
)  # fmt: skip
def test_what_claims_to_be_large_is_refused_in_bounded_memory(
    decoder: Measured, data: bytes, refusal: type[Unrenderable]
) -> None:
    with pytest.raises(refusal):
        shown(data)
    assert decoder.measure() <= MEMORY
    assert shown(png(30, 20)).size == (30, 20)
    if process._idle == [decoder]:
        assert decoder.of("RssAnon") < 100 * 1024 * 1024, "the memory must be given back"


def test_a_million_chunks_are_passed_over(decoder: Measured) -> None:
    assert shown(with_chunks(png(64, 48), chunk(b"tEXt", b"a\0b") * 1_000_000)).size == (64, 48)
    assert decoder.measure() <= MEMORY


@pytest.mark.parametrize(
    ("file_format", "dimensions", "options"),
    [
        ("JPEG", (9248, 6936), {"progressive": True}),
        ("PNG", (9248, 6936), {"compress_level": 1}),
        ("WEBP", (9248, 6936), {"lossless": True, "method": 0, "quality": 0}),
        ("AVIF", (5712, 4284), {"speed": 10, "subsampling": "4:4:4"}),
    ],
)
def test_pictures_of_phones_fit(
    decoder: Measured, file_format: str, dimensions: tuple[int, int], options: dict[str, int]
) -> None:
    """64 million pixels, and 24 in AVIF."""
    # Of one colour, WebP is encoded in a tenth of the time.
    image = Image.new("RGB", dimensions) if file_format == "WEBP" else gradient(*dimensions)
    assert shown(encode(image, file_format, **options)).width == 150
    assert decoder.measure() <= MEMORY


class Ending(io.BytesIO):
    """The stream of a picture, during which its decoder gets a signal."""

    def __init__(self, decoder: Measured, number: int) -> None:
        super().__init__(jpeg(1600, 1200))
        self._decoder, self._signal = decoder, number

    def read(self, size: int | None = -1) -> bytes:
        os.kill(self._decoder.pid, self._signal)
        return super().read(size)


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGSEGV, TooExpensive), (signal.SIGABRT, TooExpensive), (signal.SIGKILL, Busy)],
)
def test_a_decoder_that_ends_is_a_refusal_and_is_replaced(
    decoder: Measured, number: int, error: type[Exception]
) -> None:
    """A crash is the picture's fault; what the system killed is nobody's."""
    with pytest.raises(error):
        render(Ending(decoder, number), 150, MOST)
    assert shown(png(30, 20)).size == (30, 20)
    assert process._idle[0].pid != decoder.pid


def test_one_that_ended_while_idle_is_not_noticed(decoder: Measured) -> None:
    os.kill(decoder.pid, signal.SIGKILL)
    decoder._process.wait()
    assert shown(png(30, 20)).size == (30, 20)


def test_a_decoder_is_kept_for_the_next_picture(decoder: Measured) -> None:
    for _ in range(3):
        shown(png(30, 20))
        with pytest.raises(NotAnImage):
            shown(b"nothing")
    assert [one.pid for one in process._idle] == [decoder.pid]


def test_a_decoder_learns_no_secret(monkeypatch: pytest.MonkeyPatch, decoder: Measured) -> None:
    monkeypatch.setenv("DJANGO_SECRET_KEY", "a secret")
    started = DecoderProcess()
    assert b"secret" not in Path(f"/proc/{started.pid}/environ").read_bytes()
    assert started.render(io.BytesIO(png(30, 20)), {
        "size": 20, "at_least": 480, "at_most": 1024, "max_pixels": MOST
    })  # fmt: skip
    links = [os.readlink(f"/proc/{started.pid}/fd/{fd}") for fd in os.listdir(  # noqa: PTH208, PTH115
        f"/proc/{started.pid}/fd")]  # fmt: skip
    assert not [link for link in links if "sqlite" in link or link.startswith("/work")]
    started.end()


def test_a_file_that_cannot_be_read_is_a_fault_of_the_store(
    decoder: Measured, tmp_path: Path
) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)

    class Directory(io.BytesIO):
        def fileno(self) -> int:
            return directory

    with pytest.raises(StoreError, match="directory"):
        render(Directory(), 150, MOST)
    os.close(directory)
    assert process._idle == [decoder]


def mutated(number: int) -> bytes:
    """A picture with some of its bytes changed, or with a part left out or repeated."""
    chosen = random.Random(number)  # noqa: S311
    file_format = FORMATS[number % len(FORMATS)]
    options = {"progressive": True} if chosen.random() < 0.5 and file_format == "JPEG" else {}
    image = gradient(chosen.randrange(1, 300), chosen.randrange(1, 300))
    data = bytearray(encode(image, file_format, **options))
    for _ in range(chosen.choice([1, 1, 3, 20])):
        # Half of the time in the header, where it matters.
        at = chosen.randrange(len(data) if chosen.random() < 0.5 else min(len(data), 400))
        length = chosen.choice([1, 1, 2, 4, 40])
        kind = chosen.randrange(4)
        if kind == 0:
            data[at : at + length] = chosen.randbytes(length)
        elif kind == 1:
            data[at : at + length] = chosen.choice([b"\0", b"\xff", b"\x7f"]) * length
        elif kind == 2:
            del data[at : at + length]
        else:
            data[at:at] = data[at : at + length]
    return bytes(data)


def test_a_thousand_mutated_pictures(decoder: Measured) -> None:
    outcomes, failed = {"shown": 0, "refused": 0}, list[str]()
    for number in range(1000):
        try:
            assert max(shown(mutated(number)).size) <= 150
            outcomes["shown"] += 1
        except Unrenderable as refusal:
            outcomes["refused"] += 1
            if "decoder" in str(refusal):
                failed.append(f"{number}: {refusal}")
    assert not failed
    assert decoder.measure() <= MEMORY
    assert min(outcomes.values()) > 100, outcomes


def test_a_decoder_that_cannot_be_started_is_a_lack_of_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(process, "_idle", [])
    monkeypatch.setattr(subprocess, "Popen", no_more)
    with pytest.raises(Busy):
        shown(png(30, 20))


@pytest.mark.parametrize("as_a_file", [True, False])
def test_a_decoder_that_does_nothing_any_more_is_given_up(
    decoder: Measured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, as_a_file: bool
) -> None:
    monkeypatch.setattr(process, "PATIENCE", 0.5)
    os.kill(decoder.pid, signal.SIGSTOP)
    path = tmp_path / "picture"
    # More than a socket takes in at once.
    path.write_bytes(jpeg(64, 48) + bytes(4_000_000))
    with path.open("rb", buffering=0) as file, pytest.raises(Busy):
        render(file if as_a_file else io.BytesIO(path.read_bytes()), 150, MOST)
    assert decoder._process.returncode == -signal.SIGKILL
    monkeypatch.undo()
    assert shown(png(30, 20)).size == (30, 20)
