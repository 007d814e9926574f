"""Links with a preview picture, and types that are what the bytes say."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from attachments import references
from attachments.locks import SharedLock
from attachments.models import Attachment
from attachments.tests.factories import PDF, attached, file_fields, picture
from attachments.tests.legacy import legacy_key, make_row, on_disk, put, run, summary_of
from cas.digest import Digest
from cas.storage.base import BlobStore
from parts.covers import NotACover, set_cover
from parts.models import Part
from tests.s3 import S3Server

pytestmark = pytest.mark.django_db(transaction=True)

SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'
PICTURE = picture()


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Buck converter")


def link(part: Part, store: BlobStore | None = None, **fields: Any) -> Attachment:
    """A link with a picture below the older layout, as an older installation records it."""
    key = legacy_key(part, "png")
    if store:
        put(store, key, PICTURE)
    given = {"s3_key": key, "url": "https://shop.example/p/1", "title": "Shop", **fields}
    return Attachment.objects.create(part=part, attachment_type=Attachment.Kind.URL, **given)


def moved(row: Attachment) -> Attachment:
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    return Attachment.objects.get(pk=row.pk)


def test_a_links_picture_comes_over_with_its_size_and_type(
    store: BlobStore, part: Part, settings: Any
) -> None:
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    old = link(part, store)
    twin = link(part, s3_key=old.s3_key, file_size=len(PICTURE), content_type="image/jpg")
    row = moved(old)
    digest = Digest.of(PICTURE)
    assert (row.s3_key, row.file_size) == (digest.key, len(PICTURE))
    assert (row.content_type, row.url, row.filename) == ("image/png", old.url, None)
    twin.refresh_from_db()
    assert (twin.s3_key, twin.content_type) == (digest.key, "image/png")
    assert run("verify_cas")[0] == 0
    status, output = run("migration_status", "--check-objects", "--json")
    assert (status, summary_of(output)["migrated"], summary_of(output)["links"]) == (0, 2, 0)
    status, output = run("cleanup_legacy_blobs", "--yes-i-am-sure", "--verify-content", "--json")
    assert (status, summary_of(output)["deleted"]) == (0, 1)
    assert [stat.key for stat in store.scan("")] == [digest.key]


@on_disk
def test_a_lost_picture_is_missing(store: BlobStore, part: Part) -> None:
    row = link(part)
    link(part, store)
    status, output = run("migrate_to_cas", "--yes-i-am-sure", "--json")
    summary = summary_of(output)
    assert (status, summary["failed"], summary["failures"]) == (3, 1, {"absent": 1})
    row.refresh_from_db()
    assert row.is_legacy
    assert run("cleanup_legacy_blobs", "--dry-run")[0] == 4


@on_disk
def test_a_migration_is_no_update(store: BlobStore, part: Part) -> None:
    row = link(part, store)
    before = Attachment.objects.get(pk=row.pk).updated_at
    assert moved(row).updated_at == before


@pytest.mark.parametrize(
    ("kind", "declared", "content", "stored"),
    [
        ("image", "image/jpg", picture(codec="JPEG"), "image/jpeg"),
        ("image", "image/pjpeg", picture(codec="JPEG"), "image/jpeg"),
        ("image", "binary/octet-stream", PICTURE, "image/png"),
        ("image", "image/png", picture(codec="GIF"), "image/gif"),
        ("pdf", "application/x-pdf", PDF, "application/pdf"),
        ("pdf", "binary/octet-stream", PDF, "application/pdf"),
        ("image", "image/png", SVG, "image/svg+xml"),
        ("image", "image/svg+xml", b"\xef\xbb\xbf <svg></svg>", "image/svg+xml"),
        # What our types' bytes would have told; another type may be true.
        ("image", "image/png", b"<html>no picture</html>", "application/octet-stream"),
        ("image", "IMAGE/JPG", b"no picture", "application/octet-stream"),
        ("pdf", "binary/octet-stream", b"", "application/octet-stream"),
        ("image", "image/tiff", b"II*\x00", "image/tiff"),
        # Readers show a PDF with something before it, but an HTML page may be there as well.
        ("pdf", "application/x-pdf", b"\r\n" * 500 + PDF, "application/pdf"),
        ("pdf", "application/pdf", b"\r\n" * 512 + PDF, "application/octet-stream"),
        ("pdf", "application/pdf", b"<html>" + PDF, "application/octet-stream"),
        ("pdf", "application/zip", b"PK\x03\x04" + PDF, "application/zip"),
        ("pdf", "binary/octet-stream", b"PK\x03\x04" + PDF, "application/octet-stream"),
    ],
)
def test_the_stored_type_is_that_of_the_bytes(
    store: BlobStore, part: Part, kind: str, declared: str, content: bytes, stored: str
) -> None:
    key = legacy_key(part)
    put(store, key, content)
    row = make_row(part, key, len(content))
    Attachment.objects.filter(pk=row.pk).update(attachment_type=kind, content_type=declared)
    row = moved(row)
    assert row.content_type == stored
    shown = kind == "image" and stored in {"image/jpeg", "image/png", "image/gif"}
    assert (row.links().thumbnail is not None) == shown
    assert row.has_picture == shown
    assert Attachment.objects.pictures().filter(pk=row.pk).exists() == shown


def test_the_type_is_found_in_the_bytes_that_are_hashed(
    s3_store: BlobStore, s3_server: S3Server, part: Part
) -> None:
    """No further request is made for it."""
    reads = []
    for objects in (1, 4):
        before = s3_server.counts().get("GetObject", 0)
        for number in range(objects):
            key = legacy_key(part)
            put(s3_store, key, PICTURE + b"%d of %d" % (number, objects))
            row = make_row(part, key, len(PICTURE) + 6)
        assert moved(row).content_type == "image/png"
        reads.append(s3_server.counts()["GetObject"] - before)
    assert reads[1] - reads[0] == 3


@on_disk
@pytest.mark.parametrize(("content", "stays"), [(PICTURE, True), (SVG, False), (PDF, False)])
def test_a_cover_whose_bytes_are_no_picture_is_none_any_more(
    store: BlobStore, part: Part, content: bytes, stays: bool
) -> None:
    """Otherwise the next image that is uploaded would not become the cover."""
    key = legacy_key(part)
    put(store, key, content)
    row = make_row(part, key, len(content))
    Attachment.objects.filter(pk=row.pk).update(attachment_type="image", content_type="image/png")
    row.refresh_from_db()
    set_cover(part.pk, row.pk)
    before = Part.objects.get(pk=part.pk).updated_at
    moved(row)
    part.refresh_from_db()
    assert part.cover_attachment_id == (row.pk if stays else None)
    assert part.updated_at == before


@on_disk
def test_a_dry_run_writes_no_type(store: BlobStore, part: Part) -> None:
    row = link(part, store, content_type="image/jpg")
    assert run("migrate_to_cas", "--dry-run")[0] == 0
    row.refresh_from_db()
    assert (row.content_type, row.file_size, row.is_legacy) == ("image/jpg", None, True)


@pytest.mark.parametrize("content_type", [None, "image/png"])
def test_a_link_has_its_pictures_thumbnail_on_either_layout(
    store: BlobStore, client: Client, part: Part, content_type: str | None
) -> None:
    row = link(part, store, content_type=content_type)
    address = f"/api/parts/{part.key}/attachments/{row.pk}"
    thumbnails = []
    for _layout in ("older", "cas"):
        shown = client.get(address).json()
        assert (shown["attachment_type"], shown["url"]) == ("url", "https://shop.example/p/1")
        assert (shown["view_url"], shown["download_url"]) == (None, None)
        assert "s3_key" not in shown
        answer = client.get(shown["thumbnail_url"])
        assert (answer.status_code, answer["Content-Type"]) == (200, "image/jpeg")
        answer.close()
        thumbnails.append(shown["thumbnail_url"])
        moved(row)
    assert client.get(thumbnails[0])["Location"] == thumbnails[1]


@on_disk
def test_svg_is_a_download_without_a_thumbnail(
    store: BlobStore, client: Client, part: Part
) -> None:
    key = legacy_key(part, "svg")
    put(store, key, SVG)
    row = make_row(part, key, len(SVG))
    rows = Attachment.objects.filter(pk=row.pk)
    rows.update(attachment_type="image", content_type="image/svg+xml", filename="a.svg")
    for _layout in ("older", "cas"):
        shown = client.get(f"/api/parts/{part.key}/attachments/{row.pk}").json()
        assert shown["thumbnail_url"] is None
        answer = client.get(shown["view_url"])
        answer.close()
        assert answer["Content-Disposition"].startswith("attachment")
        moved(row)


def test_a_link_with_a_picture_may_be_the_cover(
    disk_store: BlobStore, client: Client, part: Part
) -> None:
    with_picture = link(part, disk_store)
    without = link(part, s3_key=None)
    part.refresh_from_db()
    assert part.cover_attachment_id is None, "only an image becomes the cover by itself"
    cover = f"/api/parts/{part.key}/cover"
    chosen = client.put(cover, {"attachment_id": with_picture.pk}, "application/json")
    assert chosen.status_code == 200, chosen.content
    assert (
        client.get(f"/api/parts/{part.key}").json()["cover_url"] == with_picture.links().thumbnail
    )
    refused = client.put(cover, {"attachment_id": without.pk}, "application/json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "not_an_image")
    moved(with_picture)
    shown = client.get(f"/api/parts/{part.key}").json()
    assert shown["cover_url"].startswith(f"/api/cas/{Digest.of(PICTURE)}?thumbnail=")


def test_only_what_has_a_picture_is_a_cover(part: Part) -> None:
    fields = file_fields(b"x")
    svg = attached(part, **fields | {"content_type": "image/svg+xml"})
    part.refresh_from_db()
    assert part.cover_attachment_id is None
    with pytest.raises(NotACover):
        set_cover(part.pk, svg.pk)
    first = attached(part, **fields)
    link(part)
    attached(part, **fields | {"attachment_type": "pdf", "content_type": "application/pdf"})
    second = attached(part, **fields)
    part.refresh_from_db()
    assert part.cover_attachment == first
    # A PDF, a link and an SVG are older than the image that follows.
    first.delete()
    part.refresh_from_db()
    assert part.cover_attachment == second


def test_a_copy_of_a_link_has_its_picture(store: BlobStore, part: Part) -> None:
    row = moved(link(part, store))
    other = Part.objects.create(description="Its twin")
    copied = references.copy(row.pk, other.pk)
    assert (copied.s3_key, copied.url) == (row.s3_key, row.url)
    assert copied.links().thumbnail == row.links().thumbnail


def test_the_admin_shows_a_links_picture(
    disk_store: BlobStore, admin_client: Client, part: Part
) -> None:
    row = moved(link(part, disk_store))
    small = (row.links().thumbnail or "").replace("&", "&amp;")
    for address in (f"/admin/parts/part/{part.pk}/change/", "/admin/attachments/attachment/"):
        assert small in admin_client.get(address).content.decode()
    detail = admin_client.get(f"/admin/attachments/attachment/{row.pk}/change/").content.decode()
    assert "thumbnail=480" in detail
    assert str(Digest.of(PICTURE)) in detail
    assert f'href="{row.url}"' in detail


@on_disk
def test_a_file_keeps_the_address_it_came_from(
    store: BlobStore, part: Part, client: Client
) -> None:
    key = legacy_key(part)
    put(store, key, PDF)
    row = make_row(part, key, len(PDF))
    Attachment.objects.filter(pk=row.pk).update(url="https://maker.example/sheet.pdf")
    row = moved(row)
    shown = client.get(f"/api/parts/{part.key}/attachments/{row.pk}").json()
    assert shown["url"] == "https://maker.example/sheet.pdf"
    assert shown["view_url"]


@on_disk
def test_a_size_that_was_not_recorded_is_not_wrong(store: BlobStore, part: Part) -> None:
    status, output = run("mend_row", str(link(part, store).pk), "--json")
    assert (status, summary_of(output)["fault"]) == (0, "")


@on_disk
def test_a_mended_row_has_the_type_of_its_new_object(store: BlobStore, part: Part) -> None:
    blob = moved(link(part, store)).s3_key or ""
    row = link(part, content_type="image/jpg")
    command = ("mend_row", str(row.pk), "--point-at", blob, "--yes-i-am-sure")
    assert run(*command)[0] == 0
    row.refresh_from_db()
    assert (row.s3_key, row.content_type) == (blob, "image/png")


@on_disk
def test_a_row_that_moves_unseen_keeps_its_type(store: BlobStore, part: Part) -> None:
    digest = moved(link(part, store)).digest
    row = link(part, content_type="image/png")
    assert digest is not None
    assert references.repoint(row.pk, row.s3_key or "", digest, len(PICTURE), SharedLock())
    row.refresh_from_db()
    assert (row.digest, row.content_type) == (digest, "image/png")
