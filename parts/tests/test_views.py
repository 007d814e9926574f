import json

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from attachments.models import Attachment
from attachments.tests.factories import PDF, attached, file_fields, legacy_row, picture, stored_row
from parts.models import Part, Tag, Type

pytestmark = pytest.mark.django_db


@pytest.fixture
def client():
    return APIClient()


@pytest.fixture
def part():
    return Part.objects.create(description="Voltage regulator")


def post(client, url, data):
    return client.post(url, data, format="json")


class TestTypes:
    def test_create_list_rename_delete(self, client):
        made = post(client, "/api/types", {"name": "Fuse"})
        assert made.status_code == 201
        assert client.get("/api/types").json()["results"] == [made.json()]
        url = f"/api/types/{made.json()['id']}"
        assert client.patch(url, {"name": "Breaker"}, format="json").json()["name"] == "Breaker"
        assert client.delete(url).status_code == 204

    @pytest.mark.parametrize("name", ["", None, "x" * 101, "\u200b"])
    def test_bad_names_are_400(self, client, name):
        Type.objects.create(name="Fuse")
        assert post(client, "/api/types", {"name": name}).status_code == 400

    def test_a_type_in_use_stays(self, client):
        kind = Type.objects.create(name="Fuse")
        Part.objects.create(description="Fuse 1 A", type=kind)
        response = client.delete(f"/api/types/{kind.pk}")
        assert response.status_code == 409
        assert response.json()["error"]["code"] == "in_use"


class TestParts:
    def test_a_part_goes_round(self, client):
        Type.objects.create(name="MCU")
        given = {
            "description": "32-bit microcontroller",
            "manufacturer": "ST",
            "manufacturer_code": "STM32F030",
            "type": "MCU",
            "tags": ["arm", "cortex"],
            "product_page": "https://example.com/p",
            "seller": "Shop",
            "seller_link": "https://example.com/s",
            "package": "LQFP-48",
            "pin_count": 48,
            "pin_pitch": "0.5 mm",
            "voltage_rating": "3.6 V",
            "input_voltage": "2.4–3.6 V",
            "output_voltage": "",
            "mounting_type": "surface-mount",
            "series": "F0",
            "dimensions": "7 × 7 mm",
        }
        made = post(client, "/api/parts", given)
        assert made.status_code == 201
        shown = made.json()
        assert {name: shown[name] for name in given} == given
        assert shown["cover_url"] is None
        url = f"/api/parts/{shown['key']}"
        assert client.get(url).json() == shown
        changed = client.patch(url, {"tags": ["risc"], "type": None}, format="json").json()
        assert (changed["tags"], changed["type"]) == (["risc"], None)
        assert client.delete(url).status_code == 204
        assert client.get(url).status_code == 404

    def test_the_key_is_ours_to_give(self, client, part):
        refused = post(client, "/api/parts", {"description": "x", "key": "MINE"})
        assert refused.json()["error"]["code"] == "read_only"
        url = f"/api/parts/{part.key}"
        refused = client.patch(url, {"key": "MINE"}, format="json")
        assert refused.json()["error"]["code"] == "read_only"
        assert client.get(url).json()["key"] == part.key

    @pytest.mark.parametrize(
        "given",
        [
            {},
            {"description": ""},
            {"description": "x", "pin_count": 0},
            {"description": "x", "pin_count": 2**40},
            {"description": "x", "pin_count": "many"},
            {"description": "x", "type": "no such type"},
            {"description": "x", "tags": "text"},
            {"description": "x", "tags": [""]},
            {"description": "x", "tags": [{}]},
            {"description": "x", "product_page": "javascript:alert(1)"},
            {"description": "x", "seller_link": "nonsense"},
            {"description": "nul\0"},
            {"description": "x", "voltage_rating": "x" * 101},
            [],
            None,
            "text",
        ],
    )
    def test_bad_parts_are_400(self, client, given):
        response = post(client, "/api/parts", given)
        assert response.status_code == 400
        assert response.json()["error"]["code"]
        assert not Part.objects.exists()

    def test_what_an_older_installation_had_stays_editable(self, client):
        """Nothing that is not changed is refused; nothing is shown that a browser would run."""
        part = Part.objects.create(
            description="x" * 9000,
            product_page="see catalogue, p. 5",
            seller_link=" java\tscript:alert(1)",
            voltage_rating="v" * 100,
        )
        address = f"/api/parts/{part.key}"
        response = client.patch(address, {"manufacturer": "New"}, content_type="application/json")
        assert response.status_code == 200, response.json()
        shown = response.json()
        assert (shown["product_page"], shown["seller_link"]) == ("see catalogue, p. 5", "")
        same = {**shown, "manufacturer": "Newer", "seller_link": part.seller_link}
        response = client.put(address, same, content_type="application/json")
        assert response.status_code == 200, response.json()
        part.refresh_from_db()
        assert (part.manufacturer, part.seller_link) == ("Newer", " java\tscript:alert(1)")
        other = {"product_page": "see p. 6"}
        assert client.patch(address, other, content_type="application/json").status_code == 400

    def test_tags_keep_their_order(self, client):
        given = ["zener", "3 V", "smd", "x" * 300]
        Tag.objects.create(name="smd")
        key = post(client, "/api/parts", {"description": "x", "tags": given}).json()["key"]
        address = f"/api/parts/{key}"
        assert client.get(address).json()["tags"] == given
        other = ["smd", "zener", "new"]
        response = client.patch(address, {"tags": other}, content_type="application/json")
        assert response.json()["tags"] == other
        assert client.get("/api/parts").json()["results"][0]["tags"] == other
        assert client.get("/api/parts?search=new").json()["results"][0]["tags"] == other
        assert client.get("/api/parts", {"tag": other}).json()["results"][0]["tags"] == other

    @pytest.mark.parametrize(
        "body", [b"{", b"\xff\xfe", b'{"description": "\\ud800"}', b"[" * 9999]
    )
    def test_what_is_not_json_is_400(self, client, body):
        response = client.generic("POST", "/api/parts", body, content_type="application/json")
        assert response.status_code == 400

    @pytest.mark.parametrize("key", ["zzzz", "ZZZZ", "TOOLONG", "é"])
    def test_unknown_keys_are_404(self, client, part, key):
        assert client.get(f"/api/parts/{key}").status_code == 404


class TestList:
    def keys(self, client, query=""):
        response = client.get(f"/api/parts{query}")
        assert response.status_code == 200, response.content
        return [shown["key"] for shown in response.json()["results"]]

    def test_search_filters_and_order(self, client):
        fuse = Type.objects.create(name="Fuse")
        one = Part.objects.create(key="AAAA", description="Fuse 1 A", type=fuse)
        two = Part.objects.create(key="BBBB", description="Fuse 2 A", type=fuse)
        cap = Part.objects.create(key="CCCC", description="Cap 1 µF")
        two.tags.set([Tag.objects.create(name="slow"), Tag.objects.create(name="glass")])
        attached(cap, **file_fields(b"x"))
        assert self.keys(client, "?search=1+uf") == [cap.key]
        assert set(self.keys(client, "?type=fuse")) == {one.key, two.key}
        assert self.keys(client, "?tag=slow&tag=GLASS") == [two.key]
        assert self.keys(client, "?tag=slow&tag=none") == []
        assert self.keys(client, "?has_cover=true") == [cap.key]
        assert set(self.keys(client, "?has_cover=false")) == {one.key, two.key}
        order = [cap.key, one.key, two.key]
        assert self.keys(client, "?ordering=description") == order
        assert self.keys(client, "?ordering=-description") == order[::-1]
        assert self.keys(client, f"?search={two.key.lower()}")[0] == two.key

    def test_pages(self, client):
        for number in range(5):
            Part.objects.create(description=f"Part {number}")
        first = client.get("/api/parts?page_size=2").json()
        assert (first["count"], len(first["results"])) == (5, 2)
        assert first["next"]
        assert client.get("/api/parts?page_size=2&page=4").status_code == 404

    @pytest.mark.parametrize(
        "query", ["?has_cover=perhaps", "?ordering=secret", "?search=%00", "?page=x", "?page=0"]
    )
    def test_bad_queries_are_4xx(self, client, query):
        assert client.get(f"/api/parts{query}").status_code in {400, 404}

    def test_the_number_of_queries_is_constant(
        self, client, disk_store, tmp_path, django_assert_num_queries
    ):
        def make(number):
            made = Part.objects.create(
                description=f"Part {number}", type=Type.objects.create(name=f"T{number}")
            )
            made.tags.set([Tag.objects.create(name=f"{number}")])
            stored_row(made, picture("red", (number, 9)), tmp_path / "a")
            stored_row(made, b"%d" % number, tmp_path / "b")
            if number % 2:
                legacy_row(made, b"old%d" % number, tmp_path / "c")
                made.attachments.all()[0].delete()

        make(1)
        make(2)
        with django_assert_num_queries(3):
            client.get("/api/parts")
        for number in range(3, 13):
            make(number)
        with django_assert_num_queries(3):
            assert len(client.get("/api/parts").json()["results"]) == 12


class TestCover:
    @pytest.fixture
    def image(self, disk_store, part, tmp_path):
        return stored_row(part, picture(), tmp_path / "staged")

    def test_get_put_delete(self, client, part, image, tmp_path):
        url = f"/api/parts/{part.key}/cover"
        assert client.get(url).json()["id"] == image.pk
        second = stored_row(part, picture("blue"), tmp_path / "staged")
        response = client.put(url, {"attachment_id": second.pk}, format="json")
        assert response.json()["id"] == second.pk
        assert client.delete(url).status_code == 204
        assert client.get(url).status_code == 404
        assert client.get(f"/api/parts/{part.key}").json()["cover_url"] is None

    def test_cover_url(self, client, part, image):
        shown = client.get(f"/api/parts/{part.key}").json()
        assert shown["cover_url"] == f"/api/cas/{image.digest}?thumbnail=150"

    def test_the_cover_of_a_row_on_its_old_key(self, client, disk_store, part, tmp_path):
        row = legacy_row(part, picture(), tmp_path / "old")
        expected = f"/api/parts/{part.key}/attachments/{row.pk}/content?thumbnail=150"
        assert client.get(f"/api/parts/{part.key}").json()["cover_url"] == expected

    def test_a_cover_that_is_no_image_is_logged(self, client, part, image, caplog):
        Attachment.objects.update(attachment_type="pdf")
        assert client.get(f"/api/parts/{part.key}").json()["cover_url"] is None
        assert "has no picture" in caplog.text

    def test_what_cannot_be_a_cover_is_400(self, client, disk_store, part, image, tmp_path):
        url = f"/api/parts/{part.key}/cover"
        other = Part.objects.create(description="Other")
        foreign = stored_row(other, picture(), tmp_path / "a")
        pdf = stored_row(part, PDF, tmp_path / "b", attachment_type="pdf")
        for chosen in (foreign.pk, pdf.pk, 4711, "x", None, 2**70, -1):
            response = client.put(url, {"attachment_id": chosen}, format="json")
            assert response.status_code == 400, chosen
        assert client.get(url).json()["id"] == image.pk


class TestCopy:
    def test_copying_moves_no_bytes(self, client, store, part, tmp_path):
        image = stored_row(part, picture(), tmp_path / "staged")
        other = Part.objects.create(description="Other")
        response = post(
            client,
            "/api/parts/copy-attachment",
            {"attachment_id": image.pk, "target_part_key": other.key, "set_as_cover": True},
        )
        assert response.status_code == 201
        assert response.json()["part_key"] == other.key
        other.refresh_from_db()
        assert other.cover_attachment_id == response.json()["id"]
        assert len(list(store.scan(""))) == 1

    def test_set_as_cover_replaces_the_cover_or_leaves_it(self, client, disk_store, part, tmp_path):
        image = stored_row(part, picture(), tmp_path / "staged")
        other = Part.objects.create(description="Other")
        own = stored_row(other, picture("blue"), tmp_path / "staged")
        given = {"attachment_id": image.pk, "target_part_key": other.key}
        post(client, "/api/parts/copy-attachment", given)
        other.refresh_from_db()
        assert other.cover_attachment_id == own.pk
        made = post(client, "/api/parts/copy-attachment", given | {"set_as_cover": True}).json()
        other.refresh_from_db()
        assert other.cover_attachment_id == made["id"]

    def test_a_pdf_as_cover_is_400_and_copies_nothing(self, client, disk_store, part, tmp_path):
        pdf = stored_row(part, PDF, tmp_path / "b", attachment_type="pdf")
        given = {"attachment_id": pdf.pk, "target_part_key": part.key, "set_as_cover": True}
        assert post(client, "/api/parts/copy-attachment", given).status_code == 400
        assert Attachment.objects.count() == 1

    @pytest.mark.parametrize(
        ("changes", "status"),
        [
            ({"attachment_id": 4711}, 404),
            ({"target_part_key": "ZZZZ"}, 404),
            ({"attachment_id": "x"}, 400),
            ({"target_part_key": None}, 400),
            ({"set_as_cover": "perhaps"}, 400),
        ],
    )
    def test_bad_copies(self, client, disk_store, part, tmp_path, changes, status):
        image = stored_row(part, picture(), tmp_path / "staged")
        given = {"attachment_id": image.pk, "target_part_key": part.key} | changes
        assert post(client, "/api/parts/copy-attachment", given).status_code == status


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
FIELDS = ["description", "pin_count", "type", "tags", "product_page", "package", "key", "title"]


@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_no_body_is_a_server_error(client, given):
    response = client.generic(
        "POST", "/api/parts", json.dumps(given), content_type="application/json"
    )
    assert response.status_code in {201, 400}


@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        st.sampled_from(["search", "type", "tag", "has_cover", "ordering", "page", "page_size"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    )
)
def test_no_query_is_a_server_error(client, part, query):
    assert client.get("/api/parts", query).status_code in {200, 400, 404}
