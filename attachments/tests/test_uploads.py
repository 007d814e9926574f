import contextlib
import io
import os
import time
import unicodedata

import pytest
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attachments import uploads
from attachments.models import Attachment
from attachments.tests.factories import PDF, named, picture
from cas.digest import Digest
from cas.storage import attachment_store
from cas.thumbnails.cache import semaphore
from cas.thumbnails.render import RENDERER, Source, thumbnail


@pytest.fixture
def received(disk_store):
    """Makes of a file what the handlers that settings name make of it in a request."""
    requests = []

    def receive(data: bytes, name: str = "photo.png") -> uploads.ReceivedFile:
        request = RequestFactory().post("/", {"file": named(data, name)})
        requests.append(request)
        file = request.FILES["file"]
        assert isinstance(file, uploads.ReceivedFile)
        return file

    yield receive
    for request in requests:
        request.close()


def left_staged() -> list[str]:
    return [path.name for path in attachment_store().staging_dir.glob("upload-*")]


@pytest.mark.parametrize("codec", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_images_are_known_by_their_bytes(received, codec):
    upload = uploads.stage(received(picture(codec=codec), "whatever.exe"))
    assert upload.content_type == f"image/{codec.lower()}"
    assert upload.kind == Attachment.Kind.IMAGE


def test_digest_md5_and_size_are_those_of_the_bytes(received, disk_store):
    data = picture(size=(900, 700), codec="PNG") + b"x" * 700_000
    file = received(data)
    assert file.staged.digest == Digest.of(data)
    assert file.staged.size == len(data) == file.size
    assert file.staged.path.read_bytes() == data
    assert file.staged.path.parent == disk_store.staging_dir


def test_a_pdf_is_a_pdf_whatever_the_client_says(received):
    upload = uploads.stage(received(PDF, "page.html"))
    assert (upload.content_type, upload.kind) == ("application/pdf", Attachment.Kind.PDF)
    assert upload.filename == "page.html.pdf"


@pytest.mark.parametrize(
    "data",
    [
        b"<html><script>alert(1)</script>",
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"<script>alert(1)</script>\n%PDF-1.4",
        b"GIF89a<script>alert(1)</script>",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
        b"MZ\x90\0",
        picture()[:30],
    ],
)
def test_what_is_neither_image_nor_pdf_is_unsupported(received, data):
    with pytest.raises(uploads.UnsupportedType):
        uploads.stage(received(data))


def test_an_empty_file_is_refused(received):
    with pytest.raises(uploads.EmptyFile):
        uploads.stage(received(b""))


def test_the_limit_counts_received_bytes(received, settings):
    settings.INVENTORY_MAX_UPLOAD_BYTES = 1000
    over = received(PDF + b" " * 1000)
    with pytest.raises(uploads.TooLarge):
        uploads.stage(over)
    assert over.staged.path.stat().st_size == 0, "a refused file must give its room back"


def test_each_kind_has_its_own_limit(received, settings):
    settings.INVENTORY_MAX_PDF_BYTES = len(PDF) - 1
    settings.INVENTORY_MAX_IMAGE_BYTES = len(picture())
    uploads.stage(received(picture()))
    with pytest.raises(uploads.TooLarge):
        uploads.stage(received(PDF))


def test_a_bomb_is_refused_before_it_is_decoded(received, settings):
    settings.CAS_THUMBNAIL_MAX_PIXELS = 99 * 100
    with pytest.raises(uploads.ImageTooLarge):
        uploads.stage(received(picture(size=(100, 100))))


def test_closing_the_request_removes_what_was_staged(disk_store):
    request = RequestFactory().post("/", {"file": named(picture())})
    request.FILES  # noqa: B018
    assert left_staged()
    request.close()
    assert left_staged() == []


def test_what_a_crash_left_goes_with_a_later_upload(disk_store, monkeypatch):
    crashed = disk_store.staging_dir / "upload-of-a-crash"
    crashed.write_bytes(b"left")
    fresh = disk_store.staging_dir / "upload-of-another-process"
    fresh.write_bytes(b"arriving")
    os.utime(crashed, (0, 0))
    monkeypatch.setattr(uploads.HashingUploadHandler, "tidied", 0.0)
    with contextlib.closing(RequestFactory().post("/", {"file": named(picture())})) as request:
        request.FILES  # noqa: B018
        assert not crashed.exists()
        assert fresh.exists()
        os.utime(fresh, (0, 0))
        request = RequestFactory().post("/", {"file": named(picture())})
        request.FILES  # noqa: B018
        request.close()
        assert fresh.exists()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd.png"),
        ("C:\\Users\\me\\Bild.PNG", "Bild.PNG"),
        ("Schaltplan für Ω-Meter 电路.png", "Schaltplan für Ω-Meter 电路.png"),
        ('a"b;c\r\nX: y.png', 'a"b;cX y.png'),
        ("12%22 screen.png", '12" screen.png'),
        ("\u0646\u200c\u0645.png", "\u0646\u200c\u0645.png"),
        ("\U0001f469\u200d\U0001f4bb.png", "\U0001f469\u200d\U0001f4bb.png"),
        ("\u200d.png", "attachment.png"),
        ("???.png", "attachment.png"),
        ("shot.apng", "shot.apng"),
        ("con.png", "con_.png"),
        ("COM1.v2.png", "COM1_.v2.png"),
        ("LPT².png", "LPT²_.png"),
        ("nul", "nul_.png"),
        ("console.png", "console.png"),
        ("photo\u202egnp.exe", "photognp.exe.png"),
        (".png", "attachment.png"),
        ("", "attachment.png"),
        ("...", "attachment.png"),
        ("shot.jpeg", "shot.jpeg.png"),
        ("e\u0301.png", "é.png"),
    ],
)
def test_safe_names(given, kept):
    assert uploads.safe_name(given, "image/png") == kept


@given(st.text(max_size=400))
def test_any_name_becomes_a_safe_one(name):
    safe = uploads.safe_name(name, "image/png")
    assert 0 < len(safe.encode()) <= uploads.MAX_NAME_BYTES
    assert safe.lower().endswith(".png")
    assert not set(safe) & set("/\\<>:|?*")
    assert not any(unicodedata.category(char)[0] == "C" for char in set(safe) - set("\u200c\u200d"))
    assert uploads.safe_name(safe, "image/png") == safe


@pytest.fixture
def no_cache(settings, tmp_path):
    settings.CAS_THUMBNAIL_CACHE_DIR = tmp_path / "thumbnails"


def test_what_is_accepted_has_its_thumbnail_already(received, disk_store, no_cache, monkeypatch):
    upload = uploads.stage(received(picture(size=(400, 300))))
    disk_store.create(upload.staged)
    monkeypatch.setattr("cas.thumbnails.render.render", None)
    made = thumbnail(disk_store, upload.staged.digest.key, upload.staged.digest.hex, 150)
    with made.body:
        assert made.source is Source.CACHE


def test_an_image_of_which_nothing_can_be_shown_is_refused(received, no_cache):
    data = picture(codec="JPEG", size=(400, 300))
    with pytest.raises(uploads.UnsupportedType, match="before its first row"):
        uploads.stage(received(data[: data.index(b"\xff\xda") + 14]))


def test_an_image_that_is_cut_short_is_accepted(received, no_cache):
    file = io.BytesIO()
    Image.effect_noise((400, 300), 60).save(file, "JPEG")
    assert uploads.stage(received(file.getvalue()[: file.tell() // 2])).content_type == "image/jpeg"


def test_an_expensive_image_is_refused_with_its_reason(received, no_cache):
    junk = b"\xff\xe1\0\x16Exif\0\0" + bytes(14)
    data = picture(codec="JPEG", size=(40, 30))
    bomb = data[:2] + junk * 180_000 + data[2:]
    for _ in range(2):
        # The second time it is known by its digest.
        with pytest.raises(uploads.ImageTooExpensive, match="5 seconds of processor time"):
            uploads.stage(received(bomb))


def test_an_upload_waits_its_turn_and_is_told_to_come_again(
    received, no_cache, settings, monkeypatch
):
    settings.CAS_THUMBNAIL_WAIT = 1
    settings.CAS_THUMBNAIL_CONCURRENCY = 1
    locks = settings.CAS_THUMBNAIL_CACHE_DIR / f"renderer-{RENDERER}" / "locks"
    locks.mkdir(parents=True)
    with semaphore(locks, 1, time.monotonic() + 1), pytest.raises(uploads.TooBusy) as refused:
        uploads.stage(received(picture(size=(400, 300))))
    assert refused.value.status == 503
