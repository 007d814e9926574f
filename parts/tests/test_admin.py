from concurrent.futures import ThreadPoolExecutor
from html import unescape

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext

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
from attachments.tests.waiting import in_thread, wait_for_lock_or_end
from parts.admin import PartAdmin
from parts.models import Part, Tag, Type, new_key

pytestmark = pytest.mark.django_db

LIST = "/admin/parts/part/"
TAGS = "/admin/parts/tag/"


@pytest.fixture
def part():
    return Part.objects.create(description="Voltage regulator")


def page(part):
    return f"{LIST}{part.pk}/change/"


def form(**fields):
    """What a browser posts from a part's page that shows no attachment."""
    management = {"attachments-INITIAL_FORMS": 0, "attachments-TOTAL_FORMS": 0}
    return {"description": "Voltage regulator", **management, **fields}


def shown(response):
    return unescape(response.content.decode())


def found(client, **query):
    return [part.description for part in client.get(LIST, query).context["cl"].result_list]


def queries(client, path, query=None):
    """How many a page takes, once what is kept from the first request on is there."""
    client.get(path, query)
    with CaptureQueriesContext(connection) as captured:
        assert client.get(path, query).status_code == 200
    return len(captured)


class TestList:
    def test_what_a_row_shows(self, disk_store, tmp_path, admin_client, part):
        row = stored_row(part, picture(), tmp_path / "p")
        part.refresh_from_db()
        part.manufacturer = "Fairchild"
        part.type = Type.objects.create(name="Regulator")
        part.save()
        part.tags.add(Tag.objects.create(name="5 V & up"))
        html = shown(admin_client.get(LIST))
        assert f"/api/cas/{row.digest}?thumbnail=150" in html
        for fact in (part.key, "Voltage regulator", "Fairchild", ">Regulator<", "5 V & up"):
            assert fact in html

    def test_search_is_that_of_the_api(self, admin_client):
        capacitor = Part.objects.create(description="Kondensator 10 µF", manufacturer="WÜRTH")
        Part.objects.create(description="Fuse", manufacturer="Würth")
        assert found(admin_client, q="10 uf wurth") == ["Kondensator 10 µF"]
        assert found(admin_client, q="Resistor") == []
        assert len(found(admin_client, q=" ")) == 2
        Part.objects.create(description=f"Looks like {capacitor.key}", key="AAAA")
        assert found(admin_client, q=capacitor.key.lower())[0] == "Kondensator 10 µF"

    def test_an_exact_key_is_first_whatever_the_order(self, admin_client):
        wanted = Part.objects.create(description="Zener", key="ZZZY")
        Part.objects.create(description=f"Adapter for {wanted.key}", key="AAAA")
        assert found(admin_client, q="zzzy", o="2") == ["Zener", "Adapter for ZZZY"]

    def test_filters(self, disk_store, tmp_path, admin_client, part):
        stored_row(part, picture(), tmp_path / "p")
        kind, tag = Type.objects.create(name="Fuse"), Tag.objects.create(name="glass")
        fuse = Part.objects.create(description="Fuse", type=kind)
        fuse.tags.add(tag, Tag.objects.create(name="safety"))
        assert found(admin_client, has_cover="yes") == ["Voltage regulator"]
        assert found(admin_client, has_cover="no") == ["Fuse"]
        assert len(found(admin_client, has_cover="odd")) == 2
        assert found(admin_client, type__id__exact=kind.pk) == ["Fuse"]
        assert found(admin_client, tags__id__exact=tag.pk) == ["Fuse"]

    @pytest.mark.parametrize("query", [{}, {"q": "part"}])
    def test_queries_do_not_grow_with_rows(self, disk_store, tmp_path, admin_client, query):
        def add(number):
            part = Part.objects.create(
                description=f"Part {number}", type=Type.objects.create(name=f"Type {number}")
            )
            part.tags.add(*[Tag.objects.create(name=f"Tag {number}.{n}") for n in range(3)])
            make = legacy_row if number % 2 else stored_row
            make(part, picture(), tmp_path / "p")

        for number in range(2):
            add(number)
        few = queries(admin_client, LIST, query)
        for number in range(2, 9):
            add(number)
        assert queries(admin_client, LIST, query) == few

    def test_queries_of_a_page_do_not_grow_with_attachments(
        self, disk_store, tmp_path, admin_client, part
    ):
        legacy_row(part, picture(), tmp_path / "p")
        few = queries(admin_client, page(part))
        for color in ("blue", "green", "white"):
            legacy_row(part, picture(color), tmp_path / "p")
            stored_row(part, PDF, tmp_path / "p", attachment_type="pdf")
        assert queries(admin_client, page(part)) == few


class TestFields:
    def test_the_key_is_shown_and_never_taken(self, admin_client, part):
        assert f"{part.key}</div>" in shown(admin_client.get(page(part)))
        admin_client.post(page(part), form(key="AAAA", shown_key="AAAA", description="Changed"))
        key = part.key
        part.refresh_from_db()
        assert (part.key, part.description) == (key, "Changed")

    def test_a_part_goes_round(self, admin_client, part):
        kind, tag = Type.objects.create(name="LDO"), Tag.objects.create(name="5 V")
        given = {
            "manufacturer": "Microchip",
            "manufacturer_code": "MCP1700",
            "series": "MCP",
            "product_page": "example.com/mcp1700",
            "seller": "Shop",
            "seller_link": "http://example.com/1",
            "package": "SOT-23",
            "mounting_type": "surface-mount",
            "pin_count": "3",
            "pin_pitch": "0.95 mm",
            "dimensions": "3 × 1.3 mm",
            "voltage_rating": "6 V",
            "input_voltage": "2.3–6 V",
            "output_voltage": "3.3 V",
        }
        response = admin_client.post(page(part), form(type=kind.pk, tags=[tag.pk], **given))
        assert response.status_code == 302, shown(response)
        part.refresh_from_db()
        given["product_page"] = "https://example.com/mcp1700"
        assert {name: str(getattr(part, name)) for name in given} == given
        assert (part.type, list(part.tags.all())) == (kind, [tag])
        assert found(admin_client, q="microchip ldo 5") == ["Voltage regulator"]

    @pytest.mark.parametrize(
        "fields",
        [
            {"description": " "},
            {"pin_count": "0"},
            {"pin_count": "3000000000"},
            {"product_page": "javascript:alert(1)"},
            {"seller_link": "ftp://example.com/"},
        ],
    )
    def test_what_makes_no_sense_is_refused(self, admin_client, part, fields):
        response = admin_client.post(page(part), form(**fields))
        assert response.status_code == 200
        assert response.context["errors"]

    def test_free_text_of_an_older_installation_can_stay(self, admin_client, part):
        texts = {"product_page": "see catalogue,\np. 5", "seller_link": "javascript:alert(1)"}
        Part.objects.filter(pk=part.pk).update(**texts)
        html = shown(admin_client.get(page(part)))
        assert 'type="url" name="product_page"' not in html
        assert 'href="javascript' not in html
        sent = {**texts, "product_page": "see catalogue,p. 5", "manufacturer": "New"}
        response = admin_client.post(page(part), form(**sent))
        assert response.status_code == 302, shown(response)
        part.refresh_from_db()
        assert part.manufacturer == "New"
        assert {name: getattr(part, name) for name in texts} == texts

    def test_a_part_that_is_gone(self, admin_client, part):
        part.delete()
        assert admin_client.post(f"{LIST}1/change/", form())["Location"] == "/admin/"


class TestCover:
    @pytest.fixture
    def images(self, disk_store, tmp_path, part):
        rows = [stored_row(part, picture(c), tmp_path / c, title=c) for c in ("red", "blue")]
        part.refresh_from_db()
        return rows

    def choose(self, client, part, **fields):
        response = client.post(page(part), form(**fields))
        part.refresh_from_db()
        return response

    def test_it_is_chosen_among_the_parts_images(self, admin_client, part, images, tmp_path):
        other = Part.objects.create(description="Another")
        stored_row(other, picture("green"), tmp_path / "g", title="green")
        stored_row(part, PDF, tmp_path / "pdf", attachment_type="pdf", title="sheet")
        response = admin_client.get(page(part))
        choices = response.context["adminform"].form.fields["cover"].choices
        assert [str(value) for value, _ in choices] == ["", *(str(row.pk) for row in images)]
        radios = shown(response).split('id="id_cover"')[1].split("Without a cover")[0]
        assert radios.count("thumbnail=150") == 2
        assert self.choose(admin_client, part, cover=images[1].pk).status_code == 302
        assert part.cover_attachment == images[1]

    def test_nothing_else_is_taken(self, admin_client, part, images, tmp_path):
        other = Part.objects.create(description="Another")
        foreign = stored_row(other, picture("green"), tmp_path / "g")
        sheet = stored_row(part, PDF, tmp_path / "pdf", attachment_type="pdf")
        for wrong in (foreign.pk, sheet.pk, 10**6, "x"):
            response = self.choose(admin_client, part, cover=wrong)
            assert "Select a valid choice" in shown(response), wrong
            assert part.cover_attachment == images[0]

    def test_it_can_be_taken_away(self, admin_client, part, images):
        self.choose(admin_client, part, cover="")
        assert part.cover_attachment is None

    def test_saving_other_fields_leaves_it(self, admin_client, part, images):
        self.choose(admin_client, part, cover=images[0].pk, description="Changed")
        assert (part.cover_attachment, part.description) == (images[0], "Changed")

    def test_one_that_is_deleted_at_once_does_not_become_it(self, admin_client, part, images):
        first, second = images
        posted = {
            "cover": second.pk,
            "attachments-INITIAL_FORMS": 1,
            "attachments-TOTAL_FORMS": 1,
            "attachments-0-id": second.pk,
            "attachments-0-title": "blue",
            "attachments-0-DELETE": "on",
        }
        assert self.choose(admin_client, part, **posted).status_code == 302
        assert part.cover_attachment == first
        assert not Attachment.objects.filter(pk=second.pk).exists()

    def test_the_first_image_becomes_it_though_none_is_chosen(self, disk_store, admin_client, part):
        posted = {"attachments-TOTAL_FORMS": 1, "attachments-0-file": named(picture())}
        self.choose(admin_client, part, cover="", **posted)
        assert part.cover_attachment == part.attachments.get()

    def test_a_cover_that_is_no_image_breaks_no_page(self, disk_store, admin_client, part):
        row = attached(part, **file_fields(PDF) | {"attachment_type": "pdf"})
        Part.objects.filter(pk=part.pk).update(cover_attachment=row.pk)
        assert admin_client.get(LIST).status_code == 200
        assert admin_client.get(page(part)).status_code == 200


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_cover_deleted_while_the_page_is_saved(
    disk_store, tmp_path, admin_client, part, monkeypatch
):
    row = stored_row(part, picture(), tmp_path / "p")
    save_model = PartAdmin.save_model

    def delete():
        Attachment.objects.get(pk=row.pk).delete()

    deletions = []

    def save_while_it_is_deleted(self, *args):
        deletions.append(in_thread(pool, delete))
        # It ends at once, or it waits for our transaction: either way we go on.
        wait_for_lock_or_end(deletions[0])
        save_model(self, *args)

    monkeypatch.setattr(PartAdmin, "save_model", save_while_it_is_deleted)
    with ThreadPoolExecutor(1) as pool:
        response = admin_client.post(page(part), form(cover=row.pk, description="Changed"))
    deletions[0].result()
    assert response.status_code == 302
    part.refresh_from_db()
    assert (part.description, part.cover_attachment_id) == ("Changed", None)


class TestTypesAndTags:
    def test_pages(self, admin_client, part):
        part.type = Type.objects.create(name="Regulator")
        part.save()
        part.tags.add(Tag.objects.create(name="smd"))
        assert f'type__id__exact={part.type.pk}">1</a>' in shown(
            admin_client.get("/admin/parts/type/")
        )
        assert "tags__id__exact" in shown(admin_client.get(TAGS))

    def test_a_type_in_use_is_not_deleted(self, admin_client, part):
        part.type = Type.objects.create(name="Regulator")
        part.save()
        url = f"/admin/parts/type/{part.type.pk}/delete/"
        assert "would require deleting" in shown(admin_client.get(url))
        admin_client.post(url, {"post": "yes"})
        assert Type.objects.exists()

    def test_a_renamed_tag_is_found_under_its_new_name(self, admin_client, part):
        tag = Tag.objects.create(name="smd")
        part.tags.add(tag)
        admin_client.post(f"{TAGS}{tag.pk}/change/", {"name": "surface"})
        assert found(admin_client, q="surface") == ["Voltage regulator"]
        assert found(admin_client, q="smd") == []


class TestMergingTags:
    @pytest.fixture
    def tags(self):
        """Three ways to write one thing, on three parts; one part has two of them."""
        tags = [Tag.objects.create(name=name) for name in ("smd", "SMT", "surface")]
        for number, chosen in enumerate((tags[:1], tags[1:2], tags[1:])):
            Part.objects.create(description=f"Part {number}").tags.add(*chosen)
        return tags

    def merge(self, client, tags, **answer):
        chosen = {"action": "merge_tags", "_selected_action": [tag.pk for tag in tags]}
        return client.post(TAGS, chosen | answer, follow=True)

    def test_it_asks_first(self, admin_client, tags):
        html = shown(self.merge(admin_client, tags))
        assert all(tag.name in html for tag in tags)
        assert Tag.objects.count() == 3
        html = shown(self.merge(admin_client, tags, merge="Merge"))
        assert "This field is required." in html
        assert Tag.objects.count() == 3

    def test_parts_move_and_are_found(self, admin_client, tags):
        keep = tags[0]
        response = self.merge(admin_client, tags, merge="Merge", kept=keep.pk)
        assert "Merged “SMT”, “surface” into “smd”: 2 parts moved." in shown(response)
        assert list(Tag.objects.all()) == [keep]
        assert {tuple(part.tags.all()) for part in Part.objects.all()} == {(keep,)}
        assert len(found(admin_client, q="smd")) == 3
        assert found(admin_client, q="surface") == []
        assert LogEntry.objects.get().object_repr == "smd"

    def test_a_tag_outside_the_selection_is_not_kept(self, admin_client, tags):
        other = Tag.objects.create(name="other")
        self.merge(admin_client, tags, merge="Merge", kept=other.pk)
        assert Tag.objects.count() == 4

    def test_one_alone_has_nothing_to_merge_with(self, admin_client, tags):
        assert "Select two tags or more" in shown(self.merge(admin_client, tags[:1]))

    def test_a_kept_tag_that_vanishes_leaves_the_others(self, admin_client, tags, monkeypatch):
        monkeypatch.setattr("parts.forms.MergeForm.clean", lambda form: tags[0].delete() and None)
        html = shown(self.merge(admin_client, tags, merge="Merge", kept=tags[0].pk))
        assert "was deleted meanwhile; nothing was merged." in html
        assert Tag.objects.count() == 2

    def test_it_takes_the_right_to_delete(self, client, tags):
        user = User.objects.create_user("editor", is_staff=True)
        codes = ["view_tag", "change_tag"]
        user.user_permissions.set(Permission.objects.filter(codename__in=codes))
        client.force_login(user)
        self.merge(client, tags, merge="Merge", kept=tags[0].pk)
        assert Tag.objects.count() == 3


class TestHostileAddresses:
    @pytest.mark.parametrize(
        "query",
        [
            "description__regex=((((",
            "type__name__iregex=((",
            "type=abc",
            "type__id__exact=abc",
            "tags__id__exact=99999999999999999999999",
            "has_cover=perhaps",
            "created_at__gte=never",
            "o=1.2.99",
            "p=99999999999999999999",
            "q=" + "x%20y%20" * 600,
            "q=" + "\ufdfa" * 333,
        ],
    )
    def test_a_list_is_shown_or_its_address_corrected(self, admin_client, part, query):
        for name in ("parts/part", "parts/type", "parts/tag", "attachments/attachment"):
            response = admin_client.get(f"/admin/{name}/?{query}", follow=True)
            assert response.status_code == 200

    def test_a_filter_that_is_left_out_is_told(self, admin_client, part):
        response = admin_client.get(f"{LIST}?description__regex=((((", follow=True)
        assert "cannot be used" in shown(response)
        response = admin_client.get(LIST, {"q": "x y " * 100})
        assert "at most 32 words" not in shown(response)  # Each word counts once.
        words = " ".join(f"w{number}" for number in range(40))
        assert "at most 32 words" in shown(admin_client.get(LIST, {"q": words}))

    def test_thousands_of_rows_are_deleted_at_once(self, admin_client):
        Part.objects.bulk_create(
            Part(key=key, description="x") for key in sorted({new_key() for _ in range(1500)})
        )
        chosen = list(Part.objects.values_list("pk", flat=True))
        given = {"action": "delete_selected", "_selected_action": chosen, "post": "yes"}
        assert admin_client.post(LIST, given).status_code == 302
        assert not Part.objects.exists()

    def test_a_part_with_a_thousand_attachments_is_saved(self, admin_client, part):
        Attachment.objects.bulk_create(
            Attachment(part=part, attachment_type="url", url="http://nas/x", title=f"{number}")
            for number in range(1000)
        )
        rows = list(part.attachments.order_by("pk"))
        given = {"description": "Saved", "read_version": part.version}
        given |= {"attachments-TOTAL_FORMS": 1000, "attachments-INITIAL_FORMS": 1000}
        for at, row in enumerate(rows):
            given |= {
                f"attachments-{at}-id": row.pk,
                f"attachments-{at}-part": part.pk,
                f"attachments-{at}-title": f"{row.title}!",
                f"attachments-{at}-read_version": row.version,
                f"attachments-{at}-x": "",
            }
        response = admin_client.post(f"{LIST}{part.pk}/change/", given)
        assert response.status_code == 302
        part.refresh_from_db()
        assert part.description == "Saved"
        assert part.attachments.filter(title__endswith="!").count() == 1000
