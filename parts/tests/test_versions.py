"""Versions: what raises them, what ETags are made of them, and what is not saved over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from attachments.models import Attachment, ChangedMeanwhile
from attachments.tests.factories import PDF, legacy_row, named, picture, stored_row
from attachments.tests.legacy import run
from cas.storage.base import BlobStore
from parts.models import Part, Tag, Type
from parts.tags import merge

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> APIClient:
    return APIClient()


@pytest.fixture
def part() -> Part:
    made = Part.objects.create(description="Fuse", type=Type.objects.create(name="Fuses"))
    made.tags.add(Tag.objects.create(name="slow"))
    return made


def version(row: Any) -> int:
    return int(type(row).objects.values_list("version", flat=True).get(pk=row.pk))


class TestEtags:
    @pytest.fixture(params=["part", "type", "attachment"])
    def address(self, request: pytest.FixtureRequest, part: Part, disk_store: BlobStore) -> str:
        if request.param == "type":
            return f"/api/types/{part.type_id}"
        if request.param == "part":
            return f"/api/parts/{part.key}"
        row = stored_row(part, PDF, Path(disk_store.staging_dir) / "a", attachment_type="pdf")
        return f"/api/parts/{part.key}/attachments/{row.pk}"

    FIELD = {"p": "description", "t": "name"}

    def change(self, address: str) -> dict[str, str]:
        kind = "title" if "attachments" in address else self.FIELD[address.split("/")[2][0]]
        return {kind: "Changed"}

    def test_what_is_as_it_was_is_not_sent_again(self, client: APIClient, address: str) -> None:
        first = client.get(address)
        assert first["ETag"] == f'"{first.json()["version"]}"'
        assert first["Cache-Control"] == "private, no-cache"
        for known in (first["ETag"], f"W/{first['ETag']}", f'"0", {first["ETag"]}', "*"):
            again = client.get(address, headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
            assert again["ETag"] == first["ETag"]
        changed = client.patch(address, self.change(address), format="json")
        assert changed["ETag"] != first["ETag"]
        again = client.get(address, headers={"If-None-Match": first["ETag"]})
        assert (again.status_code, again["ETag"]) == (200, changed["ETag"])
        assert again.json() == changed.json()

    @pytest.mark.parametrize("method", ["put", "patch", "delete"])
    def test_what_was_changed_since_is_not_written(
        self, client: APIClient, address: str, method: str
    ) -> None:
        known = client.get(address)
        client.patch(address, self.change(address), format="json")
        now = client.get(address).json()
        send = getattr(client, method)
        for stale in (known["ETag"], f"W/{client.get(address)['ETag']}", '"x"'):
            refused = send(address, known.json(), format="json", headers={"If-Match": stale})
            assert refused.status_code == 412
            assert refused.json()["error"]["code"] == "precondition_failed"
        assert client.get(address).json() == now
        if method != "delete":
            for fresh in (client.get(address)["ETag"], "*"):
                body = self.change(address)
                taken = client.patch(address, body, format="json", headers={"If-Match": fresh})
                assert taken.status_code == 200

    def test_what_changes_nothing_is_no_change(self, client: APIClient, address: str) -> None:
        known = client.get(address)
        same = client.patch(address, known.json(), format="json")
        assert (same.status_code, same["ETag"]) == (200, known["ETag"])


def test_whatever_changes_what_is_shown_of_a_part_raises_its_version(
    client: APIClient, part: Part, disk_store: BlobStore, tmp_path: Path
) -> None:
    address = f"/api/parts/{part.key}"
    photo = stored_row(part, picture(), tmp_path / "a")
    second = stored_row(part, picture("blue"), tmp_path / "b")
    other = Part.objects.create(description="Other")
    kept = Tag.objects.create(name="fast")
    other.tags.add(kept)
    type_, tag = part.type, part.tags.get()
    assert type_ is not None

    def renamed(row: Any) -> None:
        row.name += " renamed"
        row.save()

    for change in (
        lambda: client.patch(address, {"description": "New"}, format="json"),
        lambda: client.put(f"{address}/cover", {"attachment_id": second.pk}, format="json"),
        lambda: client.delete(f"{address}/attachments/{second.pk}"),
        lambda: client.delete(f"{address}/cover"),
        lambda: client.post(
            f"{address}/attachments", {"file": named(picture("green"))}, format="multipart"
        ),
        lambda: client.post(f"{address}/tags/new"),
        lambda: client.delete(f"{address}/tags/new"),
        lambda: client.patch(address, {"tags": ["a", "slow"]}, format="json"),
        lambda: client.patch(address, {"tags": ["slow", "a"]}, format="json"),
        lambda: renamed(type_),
        lambda: renamed(tag),
        lambda: merge(kept, [tag]),
        lambda: Tag.objects.filter(pk=kept.pk).delete(),
        lambda: part.tags.add(Tag.objects.create(name="by hand")),
        lambda: part.tags.clear(),
    ):
        before = version(part)
        response = change()
        assert getattr(response, "status_code", 200) < 300, response
        assert version(part) > before
        part.refresh_from_db()
    assert version(photo) == 1


@pytest.mark.django_db(transaction=True)
def test_a_migration_raises_no_version(
    part: Part, disk_store: BlobStore, tmp_path: Path, client: APIClient
) -> None:
    row = legacy_row(part, picture(), tmp_path / "a")
    before = version(part), version(row)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    row.refresh_from_db()
    assert row.digest
    assert (version(part), version(row)) == before


def test_a_row_that_was_read_earlier_is_not_saved_over_a_newer_one(part: Part) -> None:
    read = Part.objects.get(pk=part.pk)
    Part.objects.get(pk=part.pk).save()
    read.description = "Stale"
    with pytest.raises(ChangedMeanwhile):
        read.save()
    part.delete()
    for update_fields in (None, ["description"]):
        with pytest.raises(Part.DoesNotExist):
            read.save(update_fields=update_fields)
    assert not Part.objects.exists()


class TestTags:
    def test_one_tag_is_put_on_and_taken_off(self, client: APIClient, part: Part) -> None:
        address = f"/api/parts/{part.key}"
        for name, status in (("5 V", 201), ("a/b", 201), ("5 V", 200)):
            response = client.post(f"{address}/tags/{name}")
            assert response.status_code == status, response.content
        assert response.json()["tags"] == ["slow", "5 V", "a/b"]
        assert response["ETag"] == client.get(address)["ETag"]
        for name, status in (("a/b", 200), ("a/b", 404), ("none", 404)):
            assert client.delete(f"{address}/tags/{name}").status_code == status
        assert client.get(address).json()["tags"] == ["slow", "5 V"]
        assert client.post("/api/parts/QQQQ/tags/x").status_code == 404

    def test_what_is_no_tag_is_refused(self, client: APIClient, part: Part) -> None:
        address = f"/api/parts/{part.key}/tags"
        assert client.post(f"{address}/{'x' * 501}").status_code == 400
        assert client.post(f"{address}/%20").status_code == 400
        part.tags.add(*(Tag.objects.create(name=f"{number}") for number in range(49)))
        assert client.post(f"{address}/more").status_code == 400
        assert client.post(f"{address}/slow").status_code == 200


class TestAdmin:
    """Two tabs with one page: the second save is not taken until its user has seen the first's."""

    @pytest.fixture
    def admin(self) -> Client:
        made = Client()
        made.force_login(User.objects.create_superuser("root"))
        return made

    def form(self, client: Client, address: str) -> dict[str, Any]:
        page = client.get(address).context["adminform"].form
        given = {name: page[name].value() for name in page.fields}
        given = {name: value for name, value in given.items() if value is not None}
        if "tags" in given:
            given["tags"] = [getattr(tag, "pk", tag) for tag in given["tags"]]
        return given

    def test_the_second_tab_is_told_and_loses_nothing(self, admin: Client, part: Part) -> None:
        address = f"/admin/parts/part/{part.pk}/change/"
        formset = {"attachments-TOTAL_FORMS": 0, "attachments-INITIAL_FORMS": 0}
        first = {**self.form(admin, address), **formset}
        second = dict(first)
        first |= {"description": "By the first", "manufacturer": "ACME"}
        assert admin.post(address, first).status_code == 302
        second["description"] = "By the second"
        page = admin.post(address, second)
        assert page.status_code == 200
        html = page.content.decode()
        assert "Somebody else has changed this" in html
        assert "What is stored now: By the first" in html
        assert "What is stored now: ACME" in html
        assert "By the second" in html
        part.refresh_from_db()
        assert (part.description, part.manufacturer) == ("By the first", "ACME")
        shown = page.context["adminform"].form
        second |= {name: shown[name].value() for name in ("read_version", "description")}
        second["manufacturer"] = "ACME"
        assert admin.post(address, second).status_code == 302
        part.refresh_from_db()
        assert (part.description, part.manufacturer) == ("By the second", "ACME")

    @pytest.mark.parametrize("kind", ["type", "tag", "attachment"])
    def test_other_pages_too(
        self, admin: Client, part: Part, kind: str, disk_store: BlobStore, tmp_path: Path
    ) -> None:
        photo = stored_row(part, picture(), tmp_path / "a")
        row: Any = {"type": part.type, "tag": part.tags.get(), "attachment": photo}[kind]
        app, column = ("attachments", "title") if kind == "attachment" else ("parts", "name")
        address = f"/admin/{app}/{kind}/{row.pk}/change/"
        first, second = self.form(admin, address), self.form(admin, address)
        assert admin.post(address, {**first, column: "First"}).status_code == 302
        page = admin.post(address, {**second, column: "Second"})
        assert "What is stored now: First" in page.content.decode()
        row.refresh_from_db()
        assert getattr(row, column) == "First"

    def test_a_title_in_the_page_of_its_part(
        self, admin: Client, part: Part, disk_store: BlobStore, tmp_path: Path
    ) -> None:
        photo = stored_row(part, picture(), tmp_path / "a")
        address = f"/admin/parts/part/{part.pk}/change/"
        shown = self.form(admin, address)
        formset = {
            "attachments-TOTAL_FORMS": 1,
            "attachments-INITIAL_FORMS": 1,
            "attachments-0-id": photo.pk,
            "attachments-0-part": part.pk,
            "attachments-0-read_version": photo.version,
            "attachments-0-title": "By the second",
        }
        Attachment.objects.get(pk=photo.pk).rename("By the first")
        page = admin.post(address, {**shown, **formset})
        assert "What is stored now: By the first" in page.content.decode()
        photo.refresh_from_db()
        assert photo.title == "By the first"
