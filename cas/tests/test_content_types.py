"""The table of formats is all there is to a format: every row is found, shown and made small."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from cas import http
from cas.content_types import ACCEPTED, FORMATS, Format, sniff
from cas.tests.pictures import encode, gradient
from cas.tests.test_decode import made

IMAGES = [row for row in FORMATS.values() if row.max_pixels]


def example(row: Format) -> bytes:
    return encode(gradient(60, 40), row.name.upper()) if row.max_pixels else b"%PDF-1.7\n"


@pytest.mark.parametrize("row", FORMATS.values(), ids=lambda row: row.name)
def test_a_format_is_known_by_its_first_bytes_alone(row: Format) -> None:
    assert sniff(example(row)) is row
    assert [other for other in FORMATS.values() if other.starts(example(row))] == [row]
    assert sniff(b"x" + example(row)) is None


@pytest.mark.parametrize("row", IMAGES, ids=lambda row: row.name)
def test_every_image_format_has_a_thumbnail(row: Format) -> None:
    thumbnail = made(example(row), 30)[0].thumbnail
    assert Image.open(io.BytesIO(thumbnail)).size == (30, 20)


@pytest.mark.parametrize("row", FORMATS.values(), ids=lambda row: row.name)
def test_only_an_inline_format_is_displayed(row: Format) -> None:
    shown = http.effective_type(row.content_type, "inline")
    assert shown == (row.content_type, "inline" if row.inline else "attachment")


def test_the_accepted_formats_in_words() -> None:
    assert ACCEPTED == "JPEG, PNG, WebP, GIF and AVIF images and PDFs"
