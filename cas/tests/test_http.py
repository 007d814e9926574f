"""The rules of HTTP as functions."""

from __future__ import annotations

import io
import os
from pathlib import Path
from urllib.parse import unquote

import pytest

from cas import http
from cas.storage.base import ByteRange, Corrupt

ETAG = '"abc"'


def resolve(header: str, size: int = 10, if_range: str = "") -> ByteRange | None:
    wanted = http.requested_range(header, if_range, ETAG)
    return wanted.resolve(size) if wanted else None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=9-", (9, 10)),
        ("bytes=-1", (9, 10)),
        ("bytes=-10", (0, 10)),
        ("bytes=-11", (0, 10)),
        ("bytes=0-999", (0, 10)),
        ("bytes=00-01", (0, 2)),
        ("Bytes=2-3", (2, 4)),
        ("bytes= 2-3 ,", (2, 4)),
        ("bytes=0-" + "9" * 5000, (0, 10)),
    ],
)
def test_satisfiable_ranges(header: str, expected: tuple[int, int]) -> None:
    assert resolve(header) == ByteRange(*expected)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=5-2",
        "bytes=0-1,3-4",
        "bytes=a-b",
        "bytes=1",
        "bytes=1--2",
        "bytes=+1-2",
        "bytes=1 - 2",
        "bytes=١-٢",
        "items=0-1",
    ],
)
def test_ignored_ranges(header: str) -> None:
    assert resolve(header) is None


@pytest.mark.parametrize("header", ["bytes=0-0", "bytes=7-", "bytes=-3", "bytes=00-99"])
def test_plain_ranges(header: str) -> None:
    assert http.is_plain_range(header)


@pytest.mark.parametrize(
    "header",
    [
        "bytes=-", "Bytes=0-1", "bytes= 0-1", "bytes=0-1,", "bytes=0-1,2-3", "bytes=0-1\n",
        "bytes=\u0661-", "bytes=" + "9" * 19 + "-",
    ],
)  # fmt: skip
def test_ranges_that_some_server_reads_otherwise(header: str) -> None:
    assert not http.is_plain_range(header)


@pytest.mark.parametrize(
    ("header", "size"),
    [("bytes=10-", 10), ("bytes=10-10", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-0", 0)],
)
def test_unsatisfiable_ranges(header: str, size: int) -> None:
    with pytest.raises(http.Unsatisfiable) as raised:
        resolve(header, size)
    assert raised.value.size == size


def test_a_suffix_of_an_empty_file_is_the_empty_whole() -> None:
    assert resolve("bytes=-5", size=0) is None


@pytest.mark.parametrize(
    ("if_range", "counts"),
    [
        ("", True),
        (ETAG, True),
        (f"W/{ETAG}", False),
        ('"other"', False),
        ("Wed, 21 Oct 2025 07:28:00 GMT", False),
    ],
)
def test_if_range_is_compared_strongly(if_range: str, counts: bool) -> None:
    assert (resolve("bytes=0-1", if_range=if_range) is not None) == counts


def test_entity_tags() -> None:
    assert http.match_etags('"x", W/"abc"', ETAG, weak=True) is http.Match.TAG
    assert http.match_etags('"x", W/"abc"', ETAG, weak=False) is http.Match.NONE
    assert http.match_etags('"x","abc"', ETAG, weak=False) is http.Match.TAG
    assert http.match_etags(" * ", ETAG, weak=True) is http.Match.ANY
    assert http.match_etags("abc", ETAG, weak=True) is http.Match.NONE
    assert http.match_etags("", ETAG, weak=True) is http.Match.NONE


@pytest.mark.parametrize(
    "name",
    [
        "photo.png",
        "naïve résumé.pdf",
        "回路図.pdf",
        "📷.jpg",
        'a"b\\c.png',
        "100%25.pdf",
        "a;b=c, d.txt",
        "x'y*z(1).png",
        "line\r\nSet-Cookie: a=b",
        "../../etc/passwd",
        "\x00\x1f\x7f\x85",
        "\u202egnp.exe",
        "\u200egnp\u200f.\u061cexe",
        "\ud800.png",
    ],
)
def test_any_name_makes_one_header_line_that_says_it(name: str) -> None:
    header = http.content_disposition("attachment", name)
    assert header.isascii()
    assert header.isprintable()
    assert header.startswith("attachment; filename=")
    forbidden = "\r\n\x00\x1f\x7f\x85/\\\u061c\u200e\u200f\u202e\ud800"
    assert said_name(header) == "".join("_" if c in forbidden else c for c in name)


def said_name(header: str) -> str:
    """The name as a client reads it (RFC 6266 §4.3): the extended form wins."""
    plain, _, extended = header.partition("; filename*=UTF-8''")
    return unquote(extended) if extended else plain.partition("filename=")[2].strip('"')


def test_no_name_is_no_parameter() -> None:
    assert http.content_disposition("attachment", "") == "attachment"
    assert http.content_disposition("inline", " ") == "inline"


def test_an_old_client_gets_an_approximation() -> None:
    assert http.content_disposition("inline", "Maß.pdf") == (
        "inline; filename=\"Ma_.pdf\"; filename*=UTF-8''Ma%C3%9F.pdf"
    )


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (("image/png", "inline"), ("image/png", "inline")),
        (("application/pdf", "attachment"), ("application/pdf", "attachment")),
        (("text/plain", "inline"), ("text/plain", "attachment")),
        (("image/tiff", "inline"), ("image/tiff", "attachment")),
        (("text/html", "inline"), (http.OPAQUE_TYPE, "attachment")),
        (("image/svg+xml", "inline"), (http.OPAQUE_TYPE, "attachment")),
        (("application/xhtml+xml", "attachment"), (http.OPAQUE_TYPE, "attachment")),
        (("text/css", "attachment"), (http.OPAQUE_TYPE, "attachment")),
        (("multipart/x-mixed-replace", "inline"), (http.OPAQUE_TYPE, "attachment")),
    ],
)
def test_types_that_could_act_are_downloads(asked: tuple[str, str], sent: tuple[str, str]) -> None:
    assert http.effective_type(*asked) == sent


def test_a_bounded_reader_stops_at_its_bound() -> None:
    reader = http.BoundedReader(io.BytesIO(b"0123456789"), 4)
    assert (reader.read(3), reader.read(3), reader.read(3)) == (b"012", b"3", b"")
    assert not reader.cut_short


def test_a_bounded_reader_refuses_to_end_early() -> None:
    reader = http.BoundedReader(io.BytesIO(b"012"), 4)
    assert reader.read(8) == b"012"
    with pytest.raises(Corrupt):
        reader.read(8)


def test_a_bounded_reader_keeps_the_descriptor_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("rb", buffering=0) as file:
        file.seek(5)
        reader = http.BoundedReader(file, 5)
        assert reader.fileno() == file.fileno()
        whole = reader.cut_short
        os.truncate(path, 8)
        assert (whole, reader.cut_short) == (False, True)
    with pytest.raises(OSError, match="fileno"):
        http.BoundedReader(io.BytesIO(), 0).fileno()
