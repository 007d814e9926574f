import re
from html import unescape

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from attachments import references
from attachments.admin import DIGEST_SEARCHED
from attachments.models import Attachment
from attachments.tests.factories import (
    PDF,
    attached,
    file_fields,
    legacy_row,
    named,
    picture,
    stored_row,
)
from attachments.uploads import MULTIPART_OVERHEAD
from cas.digest import Digest
from cas.storage.base import Denied, Staged, StoreFull, Unreachable
from parts.forms import fault_message
from parts.models import Part

pytestmark = pytest.mark.django_db

LIST = "/admin/attachments/attachment/"
HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture
def part():
    return Part.objects.create(description="Voltage regulator")


@pytest.fixture
def page(part):
    return f"/admin/parts/part/{part.pk}/change/"


@pytest.fixture
def reader(client):
    """A client whose user may look at everything and change nothing."""
    user = User.objects.create_user("reader", is_staff=True)
    codes = ["view_part", "view_attachment"]
    user.user_permissions.set(Permission.objects.filter(codename__in=codes))
    client.force_login(user)
    return client


def row_page(row):
    return reverse("admin:attachments_attachment_change", args=[row.pk])


def form(*new, rows=(), **part_fields):
    """What a browser posts from a part's page: `rows` that are there, then `new` ones."""
    posted = {"description": "Voltage regulator", **part_fields}
    posted["attachments-INITIAL_FORMS"] = len(rows)
    posted["attachments-TOTAL_FORMS"] = len(rows) + len(new)
    for number, (row, fields) in enumerate(rows):
        fields = {"id": row.pk, "title": row.title, **fields}
        posted |= {f"attachments-{number}-{name}": value for name, value in fields.items()}
    for number, fields in enumerate(new, len(rows)):
        posted |= {f"attachments-{number}-{name}": value for name, value in fields.items()}
    return posted


def text(response):
    return unescape(response.content.decode())


def saved(response):
    return response.status_code == 302


class TestUploads:
    def test_files_and_a_link_in_one_go(self, store, admin_client, page, part):
        photo = picture()
        response = admin_client.post(
            page,
            form(
                {"file": named(photo, "Bild 電.png"), "title": "Front"},
                {"file": named(PDF, "sheet.bin"), "title": ""},
                {"link": "https://example.com/part", "title": ""},
            ),
        )
        assert saved(response), text(response)
        image, pdf, link = part.attachments.all()
        assert (image.title, image.filename, image.content_type, image.file_size) == (
            "Front",
            "Bild 電.png",
            "image/png",
            len(photo),
        )
        assert (pdf.title, pdf.filename, pdf.attachment_type) == ("sheet.bin.pdf",) * 2 + ("pdf",)
        assert (link.url, link.title, link.s3_key) == (
            "https://example.com/part",
            "https://example.com/part",
            None,
        )
        for row, data in ((image, photo), (pdf, PDF)):
            assert row.s3_key == Digest.of(data).key
            with store.read(row.s3_key) as stream:
                assert stream.read() == data
        part.refresh_from_db()
        assert part.cover_attachment == image

    def test_a_new_part_with_its_files(self, store, admin_client):
        posted = form({"file": named(picture()), "title": "Front"}, description="Fuse 1 A")
        assert saved(admin_client.post("/admin/parts/part/add/", posted))
        part = Part.objects.get(description="Fuse 1 A")
        assert re.fullmatch("[A-Z]{4}", part.key)
        assert part.cover_attachment == part.attachments.get()

    def test_the_same_bytes_are_stored_once(self, store, admin_client, page, part):
        twice = form({"file": named(picture())}, {"file": named(picture(), "again.png")})
        assert saved(admin_client.post(page, twice))
        assert part.attachments.count() == 2
        assert len(list(store.scan("cas/"))) == 1

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "The file is empty."),
            (b"<svg onload=alert(1)>", "Only JPEG, PNG, WebP, GIF and AVIF images and PDFs"),
            (picture(size=(200, 100)), "too many pixels: 200 × 100; 10000 are accepted"),
            (PDF + b" " * 2000, "The file is larger than 1,000 bytes"),
        ],
    )
    def test_what_is_refused_says_why(
        self, disk_store, settings, admin_client, page, part, data, message
    ):
        settings.INVENTORY_MAX_PDF_BYTES = 1000
        settings.CAS_THUMBNAIL_MAX_PIXELS = 10_000
        refused = {"file": named(data, "<b>odd.png"), "title": "Front"}
        response = admin_client.post(page, form(refused, description="Changed"))
        assert response.status_code == 200
        assert message in text(response)
        assert "<b>odd" not in response.content.decode()
        part.refresh_from_db()
        assert (part.description, part.attachments.count()) == ("Voltage regulator", 0)

    def test_files_that_are_too_much_together(self, disk_store, settings, admin_client, page, part):
        settings.INVENTORY_MAX_UPLOAD_BYTES = 3000
        over = {"file": named(PDF + b" " * 4000)}
        assert "The file is larger than 3,000 bytes" in text(admin_client.post(page, form(over)))
        half = PDF + b" " * (MULTIPART_OVERHEAD // 2)
        settings.INVENTORY_MAX_UPLOAD_BYTES = len(half)
        both = {"file": named(half)}, {"file": named(half)}, {"file": named(half)}
        response = admin_client.post(page, form(*both))
        assert "What was sent at once is larger than" in text(response)
        assert not part.attachments.exists()

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"title": "Nothing"}, "Choose a file or enter a link."),
            ({"link": "javascript:alert(1)"}, "Enter a web address"),
            ({"link": "ftp://example.com/x"}, "Enter a web address"),
            ({"link": "https://example.com", "file": True}, "Give either a file or a link"),
        ],
    )
    def test_a_row_is_one_file_or_one_web_link(
        self, disk_store, admin_client, page, part, fields, message
    ):
        if "file" in fields:
            fields = fields | {"file": named(picture())}
        response = admin_client.post(page, form(fields))
        assert message in text(response)
        assert not part.attachments.exists()

    def test_nothing_stays_staged(self, disk_store, admin_client, page):
        admin_client.post(page, form({"file": named(picture())}, {"file": named(b"?")}))
        assert list(disk_store.staging_dir.glob("upload-*")) == []


class TestStoreFaults:
    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            (Unreachable("connection refused"), "does not answer at the moment"),
            (StoreFull("no space left"), "has no room left"),
            (Denied("secret bucket policy"), "did not take the file"),
        ],
    )
    def test_a_fault_is_told_and_nothing_is_half_saved(
        self, disk_store, admin_client, page, part, monkeypatch, fault, message
    ):
        create = type(disk_store).create
        created: list[Staged] = []

        def second_fails(self, staged, *proofs):
            if created:
                # The row is written, and inside the transaction, before the bytes are.
                assert Attachment.objects.filter(s3_key=staged.digest.key).exists()
                raise fault
            created.append(staged)
            return create(self, staged)

        monkeypatch.setattr(type(disk_store), "create", second_fails)
        posted = form(
            {"file": named(picture()), "title": "Front"},
            {"file": named(PDF, "sheet.pdf"), "title": "Typed title"},
            description="Typed description",
        )
        response = admin_client.post(page, posted)
        assert response.status_code == 200
        shown = text(response)
        assert message in shown
        assert "Nothing was saved" in shown
        assert str(fault) not in shown
        # What was typed is still there to be sent again.
        assert "Typed description</textarea>" in shown
        assert 'value="Typed title"' in shown
        part.refresh_from_db()
        assert (part.description, part.cover_attachment_id) == ("Voltage regulator", None)
        assert not Attachment.objects.exists()

    def test_a_new_part_is_not_half_saved_either(self, disk_store, admin_client, monkeypatch):
        def fails(self, staged, *proofs):
            raise Unreachable("connection refused")

        monkeypatch.setattr(type(disk_store), "create", fails)
        response = admin_client.post(
            "/admin/parts/part/add/", form({"file": named(picture())}, description="Fuse 1 A")
        )
        assert fault_message(Unreachable("")) in text(response)
        assert not Part.objects.exists()

    def test_a_store_that_is_down(self, s3_store, s3_server, admin_client, page, part):
        s3_server.fault("*", "error", status=503, times=-1)
        response = admin_client.post(page, form({"file": named(picture())}))
        assert fault_message(Unreachable("")) in text(response)
        assert not part.attachments.exists()

    def test_no_room_to_stage(self, disk_store, admin_client, page, part, monkeypatch):
        def full(received):
            raise StoreFull("disk full")

        monkeypatch.setattr("parts.forms.stage", full)
        response = admin_client.post(page, form({"file": named(picture())}))
        assert "has no room left" in text(response)
        assert not part.attachments.exists()


class TestExistingRows:
    def test_only_the_title_can_be_changed(self, disk_store, tmp_path, admin_client, page, part):
        row = stored_row(part, picture(), tmp_path / "p")
        other = named(picture("blue"), "blue.png")
        changes = {"title": "Back", "file": other, "link": "https://example.com", "s3_key": "cas/x"}
        assert saved(admin_client.post(page, form(rows=[(row, changes)])))
        before = {name: getattr(row, name) for name in file_fields(b"")} | {"title": "Back"}
        row = part.attachments.get()
        assert {name: getattr(row, name) for name in before} == before
        assert row.url is None

    def test_a_title_cannot_be_emptied(self, disk_store, tmp_path, admin_client, page, part):
        row = stored_row(part, picture(), tmp_path / "p")
        response = admin_client.post(page, form(rows=[(row, {"title": " "})]))
        assert "This field is required." in text(response)

    @pytest.mark.parametrize("own_page", [True, False])
    def test_a_new_title_does_not_undo_a_migration(
        self, disk_store, tmp_path, admin_client, page, part, own_page, monkeypatch
    ):
        row = legacy_row(part, picture(), tmp_path / "p")
        moved = Digest.of(picture()).key
        clean = Attachment.full_clean

        def migrated_meanwhile(self, *args, **kwargs):
            Attachment.objects.filter(pk=row.pk).update(s3_key=moved)
            return clean(self, *args, **kwargs)

        monkeypatch.setattr(Attachment, "full_clean", migrated_meanwhile)
        if own_page:
            response = admin_client.post(row_page(row), {"title": "Back"})
        else:
            response = admin_client.post(page, form(rows=[(row, {"title": "Back"})]))
        assert saved(response)
        row.refresh_from_db()
        assert (row.title, row.s3_key) == ("Back", moved)

    def test_deleting_moves_the_cover_on_and_leaves_the_blob(
        self, store, tmp_path, admin_client, page, part
    ):
        first = stored_row(part, picture(), tmp_path / "p")
        second = stored_row(part, picture("blue"), tmp_path / "q")
        part.refresh_from_db()
        assert part.cover_attachment == first
        rows = [(first, {"DELETE": "on"}), (second, {})]
        assert saved(admin_client.post(page, form(rows=rows, cover=first.pk)))
        part.refresh_from_db()
        assert part.cover_attachment == second
        assert store.stat(first.s3_key).size == first.file_size

    def test_a_row_that_was_deleted_meanwhile(self, disk_store, tmp_path, admin_client, page, part):
        first = stored_row(part, picture(), tmp_path / "p")
        second = stored_row(part, picture("blue"), tmp_path / "q")
        posted = form(rows=[(first, {}), (second, {"title": "Back"})])
        first.delete()
        response = admin_client.post(page, posted)
        assert response.status_code == 200
        assert "were deleted meanwhile" in text(response)
        assert part.attachments.get().title == "Photo"


class TestEscaping:
    def test_hostile_names_and_links_stay_text(
        self, disk_store, tmp_path, admin_client, page, part
    ):
        part.description = HOSTILE
        part.save()
        row = stored_row(part, picture(), tmp_path / "p", title=HOSTILE, filename=HOSTILE)
        link = Attachment.objects.create(
            part=part, attachment_type="url", title="x", url="javascript:alert(1)"
        )
        for path in (page, LIST, row_page(row), row_page(link), "/admin/parts/part/"):
            html = admin_client.get(path).content.decode()
            assert "<script>alert" not in html, path
            assert 'href="javascript' not in html.lower(), path

    def test_what_readers_see_is_no_worse(self, reader, page, part):
        Part.objects.filter(pk=part.pk).update(
            product_page="javascript:alert(1)", seller_link="javascript:alert(2)"
        )
        Attachment.objects.create(
            part=part, attachment_type="url", title="x", url="javascript:alert(3)"
        )
        html = reader.get(page).content.decode()
        assert all(f"javascript:alert({number})" in html for number in (1, 2, 3))
        assert 'href="javascript' not in html.lower()


class TestList:
    def test_what_a_row_shows(self, disk_store, tmp_path, admin_client, part):
        data = picture()
        row = stored_row(part, data, tmp_path / "p")
        references.copy(row.pk, Part.objects.create(description="Another").pk)
        html = text(admin_client.get(LIST))
        digest = Digest.of(data)
        assert f"/api/cas/{digest}?thumbnail=150" in html
        assert f'title="{digest}">{digest.hex[:12]}…' in html
        assert "disposition=inline" in html
        assert "disposition=attachment" in html
        assert f"{len(data)} bytes".replace(" ", "\xa0") in html
        assert html.count(">2 rows</a>") == 2

    def test_sharing_counts_rows_of_one_object(self, disk_store, tmp_path, admin_client, part):
        row = stored_row(part, picture(), tmp_path / "p")
        stored_row(part, picture("blue"), tmp_path / "q")
        html = text(admin_client.get(row_page(row)))
        assert "1 row: this one" in html
        other = Part.objects.create(description="Another")
        references.copy(row.pk, other.pk)
        html = text(admin_client.get(row_page(row)))
        assert ">2 rows</a>, the others on:" in html
        assert f"/admin/parts/part/{other.pk}/change/" in html

    def test_the_page_of_a_row_tells_operators_everything(
        self, disk_store, tmp_path, admin_client, part
    ):
        row = stored_row(part, picture(), tmp_path / "p")
        html = text(admin_client.get(row_page(row)))
        for fact in (row.s3_key, f">{row.digest}<", "image/png", "photo.png", "thumbnail=480"):
            assert fact in html
        assert 'name="s3_key"' not in html

    @pytest.mark.parametrize("length", [DIGEST_SEARCHED, 12, 64])
    def test_search_by_digest(self, disk_store, tmp_path, admin_client, part, length):
        row = stored_row(part, picture(), tmp_path / "p", title="Wanted")
        stored_row(part, picture("blue"), tmp_path / "q", title="Unwanted")
        digits = Digest.of(picture()).hex[:length]
        for term in (digits, digits.upper(), f"{digits}…", row.s3_key):
            found = admin_client.get(LIST, {"q": term}).context["cl"].result_list
            assert list(found) == [row], term

    def test_search_by_title_name_part_and_old_key(self, disk_store, tmp_path, admin_client, part):
        row = legacy_row(part, picture(), tmp_path / "p", title="Pinout", filename="scan.png")
        other = Part.objects.create(description="Another")
        stored_row(other, picture("blue"), tmp_path / "q", title="Unwanted")
        for term in ("pinout", "SCAN", part.key, part.key.lower(), row.s3_key, "pin scan"):
            found = admin_client.get(LIST, {"q": term}).context["cl"].result_list
            assert list(found) == [row], term
        assert not admin_client.get(LIST, {"q": "nothing"}).context["cl"].result_list

    def test_filters(self, disk_store, tmp_path, admin_client, part):
        old = legacy_row(part, picture(), tmp_path / "p")
        new = stored_row(part, PDF, tmp_path / "q", attachment_type="pdf")
        link = references.attach_url(part.pk, "https://example.com", "")

        def found(**query):
            return set(admin_client.get(LIST, query).context["cl"].result_list)

        assert found(storage="migrated") == {new}
        assert found(storage="legacy") == {old}
        assert found(attachment_type__exact="url") == {link}
        assert found() == {old, new, link}

    def test_a_damaged_key_is_shown_as_such(self, disk_store, admin_client, page, part):
        row = attached(part, **file_fields(b"x") | {"s3_key": "odd"})
        for path in (LIST, page, row_page(row), "/admin/parts/part/"):
            response = admin_client.get(path)
            assert "damaged" in text(response), path

    def test_attachments_are_added_on_their_part(self, admin_client):
        assert admin_client.get(f"{LIST}add/").status_code == 403

    def test_queries_do_not_grow_with_rows(self, disk_store, tmp_path, admin_client, part):
        def queries():
            with CaptureQueriesContext(connection) as captured:
                assert admin_client.get(LIST).status_code == 200
            return len(captured)

        stored_row(part, picture(), tmp_path / "p")
        few = queries()
        for number in range(6):
            other = Part.objects.create(description=f"Part {number}")
            legacy_row(other, picture(), tmp_path / "p")
            stored_row(other, picture(), tmp_path / "p")
            references.attach_url(other.pk, "https://example.com", "")
        assert queries() == few

    def test_small_thumbnails_only_where_sizes_are_fixed(
        self, disk_store, tmp_path, settings, admin_client, part
    ):
        settings.CAS_THUMBNAIL_SIZES = [150, 300]
        row = stored_row(part, picture(), tmp_path / "p")
        html = text(admin_client.get(row_page(row)))
        assert "thumbnail=150" in html
        assert "thumbnail=480" not in html

    def test_deleting_in_bulk_leaves_blobs(self, disk_store, tmp_path, admin_client, part):
        row = stored_row(part, picture(), tmp_path / "p")
        chosen = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
        assert saved(admin_client.post(LIST, chosen))
        assert not Attachment.objects.exists()
        assert disk_store.stat(row.s3_key)


class TestPermissions:
    def test_a_reader_sees_and_cannot_write(self, disk_store, tmp_path, reader, page, part):
        row = stored_row(part, picture(), tmp_path / "p")
        html = text(reader.get(page))
        assert "disposition=inline" in html
        assert 'type="file"' not in html
        for path in (LIST, row_page(row), "/admin/parts/part/"):
            assert reader.get(path).status_code == 200
        posted = form({"file": named(PDF)}, description="Changed")
        assert reader.post(page, posted).status_code == 403
        assert reader.post(row_page(row), {"title": "Back"}).status_code == 403
        assert part.attachments.count() == 1

    def test_who_may_not_add_attachments_cannot(self, disk_store, client, page, part):
        user = User.objects.create_user("editor", is_staff=True)
        codes = ["view_part", "change_part", "view_attachment"]
        user.user_permissions.set(Permission.objects.filter(codename__in=codes))
        client.force_login(user)
        client.post(page, form({"file": named(PDF)}, description="Changed"))
        assert not part.attachments.exists()

    def test_strangers_are_sent_to_the_login(self, client, page):
        for path in (page, LIST):
            assert "/admin/login/" in client.get(path)["Location"]
