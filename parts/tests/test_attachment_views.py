import json
from contextlib import closing
from functools import partial
from urllib.parse import parse_qs, urlsplit

import pytest
from rest_framework.test import APIClient

from attachments import locks, references
from attachments.models import Attachment
from attachments.serializers import AttachmentSerializer
from attachments.tests.factories import PDF, legacy_row, named, picture, staged
from cas.digest import Digest
from cas.storage.base import StoreFull, Unreachable
from cas.views import deliver
from parts.models import Part

pytestmark = pytest.mark.django_db


@pytest.fixture
def part():
    return Part.objects.create(description="Voltage regulator")


@pytest.fixture
def client():
    return APIClient()


@pytest.fixture
def url(part):
    return f"/api/parts/{part.key}/attachments"


def send(client, path, data, name="photo.png", **fields):
    return client.post(path, {"file": named(data, name), **fields}, format="multipart")


def body(response):
    with closing(response):
        return b"".join(response.streaming_content)


def test_upload_and_fetch(store, client, url, part):
    data = picture()
    response = send(client, url, data, "Bild 電.png", title="Front")
    assert response.status_code == 201
    shown = response.json()
    digest = Digest.of(data)
    assert shown["title"] == "Front"
    assert shown["part_key"] == part.key
    assert (shown["attachment_type"], shown["content_type"]) == ("image", "image/png")
    assert (shown["filename"], shown["file_size"]) == ("Bild 電.png", len(data))
    for field, disposition in (("download_url", "attachment"), ("view_url", "inline")):
        link = urlsplit(shown[field])
        assert link.path == f"/api/cas/{digest}"
        assert parse_qs(link.query) == {
            "content_type": ["image/png"],
            "disposition": [disposition],
            "filename": ["Bild 電.png"],
        }
    assert shown["thumbnail_url"] == f"/api/cas/{digest}?thumbnail=150"
    assert body(client.get(shown["view_url"])) == data
    with closing(client.get(shown["thumbnail_url"])) as thumbnail:
        assert thumbnail["Content-Type"] == "image/jpeg"


def test_title_defaults_to_the_name(disk_store, client, url):
    assert send(client, url, PDF, "sheet.pdf").json()["title"] == "sheet.pdf"


def test_a_pdf_has_no_thumbnail(disk_store, client, url):
    shown = send(client, url, PDF, "sheet.pdf").json()
    assert shown["thumbnail_url"] is None
    assert "application%2Fpdf" in shown["view_url"]


def test_a_link_has_no_blob_urls(disk_store, client, url):
    given = {"url": "https://example.com/a", "title": "Shop"}
    shown = client.post(url, given, format="json").json()
    assert shown["attachment_type"] == "url"
    assert shown["url"] == given["url"]
    assert (shown["download_url"], shown["view_url"], shown["thumbnail_url"]) == (None,) * 3


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"url": "not a url"},
        {"url": "javascript:alert(1)"},
        {"url": "ftp://example.com/x"},
        {"url": 5},
        {"url": "https://example.com/" + "x" * 2000},
        {"url": "https://example.com", "title": "x" * 256},
        {"title": "alone"},
        {"url": "https://example.com", "title": "nul\0"},
        [],
        "text",
        None,
    ],
)
def test_bad_links_are_400(disk_store, client, url, given):
    response = client.post(url, given, format="json")
    assert response.status_code == 400
    assert set(response.json()["error"]) >= {"code", "message"}
    assert not Attachment.objects.exists()


def test_a_file_and_a_url_at_once_are_400(disk_store, client, url):
    assert send(client, url, PDF, url="https://example.com").status_code == 400


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "empty_file"),
        (b"<html>", 415, "unsupported_type"),
        (PDF + b" " * 2000, 413, "file_too_large"),
        (picture(size=(200, 200)), 422, "too_many_pixels"),
    ],
)
def test_refusals_say_why(disk_store, client, url, settings, data, status, code):
    settings.INVENTORY_MAX_UPLOAD_BYTES = 2000
    settings.CAS_THUMBNAIL_MAX_PIXELS = 10_000
    response = send(client, url, data)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert not Attachment.objects.exists()
    assert list(disk_store.scan("")) == []


@pytest.mark.parametrize(
    ("failure", "status"), [(Unreachable("no answer"), 503), (StoreFull("no room"), 507)]
)
def test_a_store_failure_is_reported_and_leaves_nothing(
    disk_store, client, url, monkeypatch, failure, status
):
    class Failing:
        def create(self, staged, *proofs):
            raise failure

    monkeypatch.setattr(references, "attachment_store", Failing)
    response = send(client, url, PDF)
    assert response.status_code == status
    assert not Attachment.objects.exists()


def test_the_same_file_on_two_parts_is_one_object(store, client, url):
    other = Part.objects.create(description="Twin")
    first = send(client, url, PDF).json()
    second = send(client, f"/api/parts/{other.key}/attachments", PDF).json()
    assert first["id"] != second["id"]
    assert first["view_url"] == second["view_url"]
    assert len(list(store.scan(""))) == 1


def test_list_and_detail(disk_store, client, url):
    shown = send(client, url, PDF).json()
    assert client.get(url).json() == [shown]
    assert client.get(f"{url}/{shown['id']}").json() == shown


@pytest.mark.parametrize("method", ["put", "patch"])
def test_only_the_title_changes(disk_store, client, url, method):
    shown = send(client, url, PDF).json()
    send_back = partial(getattr(client, method), f"{url}/{shown['id']}", format="json")
    for other in ({"file_size": 1}, {"s3_key": "cas/x"}, {"content_type": "text/html"}):
        assert send_back({"title": "New"} | other).status_code == 400
    assert client.get(f"{url}/{shown['id']}").json() == shown
    changed = send_back(shown | {"title": "New"}).json()
    new = {"title": "New", "updated_at": changed["updated_at"], "version": 2}
    assert changed == shown | new


def test_a_new_title_does_not_undo_a_migration(
    disk_store, client, url, part, tmp_path, monkeypatch
):
    row = legacy_row(part, picture(), tmp_path / "p")
    moved = Digest.of(picture()).key

    def migrated_meanwhile(*args):
        Attachment.objects.filter(pk=row.pk).update(s3_key=moved)
        return update(*args)

    update = AttachmentSerializer.update
    monkeypatch.setattr(AttachmentSerializer, "update", migrated_meanwhile)
    assert client.patch(f"{url}/{row.pk}", {"title": "New"}, format="json").status_code == 200
    row.refresh_from_db()
    assert (row.title, row.s3_key) == ("New", moved)


def test_a_new_title_does_not_bring_back_what_was_deleted(disk_store, client, url, monkeypatch):
    shown = send(client, url, PDF).json()

    def deleted_meanwhile(*args):
        Attachment.objects.all().delete()
        return update(*args)

    update = AttachmentSerializer.update
    monkeypatch.setattr(AttachmentSerializer, "update", deleted_meanwhile)
    response = client.patch(f"{url}/{shown['id']}", {"title": "New"}, format="json")
    assert response.status_code == 404


def test_an_empty_title_is_400(disk_store, client, url):
    shown = send(client, url, PDF).json()
    for given in ({"title": ""}, {"title": None}, {"title": "x" * 256}):
        response = client.patch(f"{url}/{shown['id']}", given, format="json")
        assert response.status_code == 400


def test_delete_leaves_the_object_to_the_collector(store, client, url):
    shown = send(client, url, PDF).json()
    assert client.delete(f"{url}/{shown['id']}").status_code == 204
    assert client.get(f"{url}/{shown['id']}").status_code == 404
    assert store.stat(Digest.of(PDF).key).size == len(PDF)


@pytest.mark.parametrize(
    "path",
    [
        "/api/parts/ZZZZ/attachments",
        "/api/parts/{key}/attachments/4711",
        "/api/parts/ZZZZ/attachments/{id}",
        "/api/parts/{key}/attachments/" + "9" * 30,
        "/api/parts/{key}/attachments/",
        "/api/parts/{key}/attachments/{id}/download",
        "/api/parts/{key}/attachments/{id}/thumbnail",
        "/api/parts/{key}/cover/thumbnail",
    ],
)
def test_what_is_not_there_is_404(disk_store, client, part, url, path):
    shown = send(client, url, PDF).json()
    response = client.get(path.format(key=part.key, id=shown["id"]))
    assert response.status_code == 404
    assert "error" in response.json()


def test_an_attachment_is_found_on_its_own_part_only(disk_store, client, url):
    shown = send(client, url, PDF).json()
    other = Part.objects.create(description="Twin")
    assert client.get(f"/api/parts/{other.key}/attachments/{shown['id']}").status_code == 404


def test_a_key_of_neither_form_is_an_integrity_error(disk_store, client, part, url, caplog):
    shown = send(client, url, picture()).json()
    for key in ("elsewhere/x.png", "cas/nonsense", "cas/" + "A" * 64):
        Attachment.objects.update(s3_key=key)
        found = client.get(url).json()[0]
        assert [found[f"{name}_url"] for name in ("download", "view", "thumbnail")] == [None] * 3
        assert "integrity error" in caplog.text
        caplog.clear()
        assert client.get(f"{url}/{shown['id']}/content?thumbnail=9").status_code == 404
        assert client.get(f"/api/parts/{part.key}").json()["cover_url"] is None


def test_the_object_key_appears_nowhere(disk_store, client, part, url, tmp_path):
    send(client, url, picture())
    legacy_row(part, b"old", tmp_path / "old")
    part_url = f"/api/parts/{part.key}"
    for path in ("/api/parts", part_url, url, f"{part_url}/cover"):
        text = json.dumps(client.get(path).json())
        assert "s3_key" not in text
        assert "has_cover_attachment" not in text
        assert f"parts/{part.pk}/" not in text


class TestTransitional:
    """Rows on their old keys: nothing is out of reach while a migration runs."""

    @pytest.fixture
    def row(self, store, part, tmp_path):
        return legacy_row(part, picture(), tmp_path / "old")

    def test_urls_serve_the_old_object(self, client, url, row, settings):
        # Django's own middleware sets some of these headers too.
        settings.MIDDLEWARE = []
        shown = client.get(f"{url}/{row.pk}").json()
        assert urlsplit(shown["view_url"]).path == f"{url}/{row.pk}/content"
        response = client.get(shown["view_url"])
        assert body(response) == picture()
        assert response["Cache-Control"] == "private, no-cache"
        assert response["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in response["Content-Security-Policy"]

    def test_thumbnails_are_cached_under_the_id(self, client, url, row, settings, tmp_path):
        settings.CAS_THUMBNAIL_CACHE_DIR = tmp_path / "thumbnails"
        shown = client.get(f"{url}/{row.pk}").json()
        with closing(client.get(shown["thumbnail_url"])) as thumbnail:
            assert thumbnail["Content-Type"] == "image/jpeg"
        assert list((tmp_path / "thumbnails").rglob("*_150.jpg"))

    def test_html_is_never_shown_inline(self, client, url, row):
        response = client.get(f"{url}/{row.pk}/content?content_type=text/html")
        response.close()
        assert response["Content-Disposition"].startswith("attachment")
        assert response["Content-Type"] == "application/octet-stream"

    def test_ranges(self, client, url, row):
        response = client.get(
            f"{url}/{row.pk}/content?content_type=image/png", headers={"Range": "bytes=1-3"}
        )
        assert (response.status_code, body(response)) == (206, b"PNG")

    def test_a_bad_query_is_400(self, client, url, row):
        assert client.get(f"{url}/{row.pk}/content").status_code == 400

    def test_a_moved_row_redirects(self, store, client, url, row, tmp_path):
        shown = client.get(f"{url}/{row.pk}").json()
        digest = Digest.of(picture())
        store.create(staged(picture(), tmp_path / "staged"))
        assert references.repoint(
            row.pk, row.s3_key, digest, len(picture()), locks.SharedLock(), picture()
        )
        now = client.get(f"{url}/{row.pk}").json()
        for field in ("view_url", "download_url", "thumbnail_url"):
            response = client.get(shown[field])
            assert response.status_code == 302
            assert response["Location"] == now[field]
            assert response["Location"].startswith(f"/api/cas/{digest}?")
            assert response["Cache-Control"] == "private, no-cache"

    def test_a_row_that_moves_between_the_looks_redirects(
        self, store, client, url, row, tmp_path, monkeypatch
    ):
        shown = client.get(f"{url}/{row.pk}").json()

        def moved_meanwhile(*args, **kwargs):
            store.create(staged(picture(), tmp_path / "staged"))
            references.repoint(
                row.pk,
                row.s3_key,
                Digest.of(picture()),
                len(picture()),
                locks.SharedLock(),
                picture(),
            )
            store.remove(row.s3_key)
            return deliver(*args, **kwargs)

        monkeypatch.setattr("parts.views.deliver", moved_meanwhile)
        assert client.get(shown["view_url"]).status_code == 302

    @pytest.mark.parametrize("field", ["view_url", "download_url", "thumbnail_url"])
    def test_urls_have_the_public_host_and_a_signature(self, client, url, row, settings, field):
        settings.CAS_PUBLIC_BASE_URL = "https://cdn.example"
        settings.CAS_SIGNED_URLS, settings.CAS_URL_SIGNING_KEYS = True, ["k" * 40]
        host, _, target = client.get(f"{url}/{row.pk}").json()[field].partition("/api/")
        assert host == "https://cdn.example"
        for wrong in (target.partition("&signature=")[0], f"{target}&x=1"):
            assert client.get(f"/api/{wrong}").status_code == 403
        assert body(client.get(f"/api/{target}"))

    def test_a_content_type_that_is_none_makes_no_bad_link(self, client, url, row):
        type(row).objects.filter(pk=row.pk).update(content_type="nonsense")
        response = client.get(client.get(f"{url}/{row.pk}").json()["download_url"])
        assert body(response) == picture()

    def test_a_missing_object_is_404(self, store, client, url, row):
        store.remove(row.s3_key)
        response = client.get(f"{url}/{row.pk}/content?content_type=image/png")
        assert response.status_code == 404
        assert response["Cache-Control"] == "no-store"

    def test_a_link_has_no_content(self, client, url, part):
        link = references.attach_url(part.pk, "https://example.com", "")
        assert client.get(f"{url}/{link.pk}/content?content_type=a/b").status_code == 404
