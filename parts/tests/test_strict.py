"""A request is understood in full or refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.test import APIClient

from attachments.models import Attachment
from attachments.tests.factories import PDF, named, picture
from cas.storage.base import BlobStore
from parts.models import Part, Type

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> APIClient:
    return APIClient()


@pytest.fixture
def part() -> Part:
    return Part.objects.create(
        description="Voltage regulator",
        manufacturer="Microchip",
        pin_count=8,
        type=Type.objects.create(name="Regulator"),
    )


def fault(response: Any, name: str, code: str) -> str:
    assert response.status_code == 400, response.content
    error = response.json()["error"]
    assert error["code"] == code
    message: str = error["details"][name][0]
    return message


class TestBodies:
    def test_an_unknown_field_is_refused_with_the_nearest(self, client: Any, part: Part) -> None:
        for method in (client.patch, client.put):
            response = method(f"/api/parts/{part.key}", {"desciption": "x"}, format="json")
            assert "Did you mean description?" in str(response.json())
        response = client.patch(f"/api/parts/{part.key}", {"desciption": "x"}, format="json")
        assert "description" in fault(response, "desciption", "unknown_field")
        part.refresh_from_db()
        assert part.description == "Voltage regulator"

    def test_every_body_is_looked_through(self, client: Any, part: Part) -> None:
        for path, given in (
            ("/api/types", {"name": "Fuse"}),
            ("/api/parts", {"description": "Fuse"}),
            (f"/api/parts/{part.key}/attachments", {"url": "https://example.com"}),
            ("/api/parts/copy-attachment", {"attachment_id": 1, "target_part_key": part.key}),
        ):
            response = client.post(path, {**given, "zzzz": 1}, format="json")
            fault(response, "zzzz", "unknown_field")
        response = client.put(f"/api/parts/{part.key}/cover", {"attachment_id": 1, "zzzz": 1})
        assert response.status_code == 400

    def test_an_answer_can_be_changed_and_sent_back(self, client: Any, part: Part) -> None:
        shown = client.get(f"/api/parts/{part.key}").json()
        response = client.put(f"/api/parts/{part.key}", {**shown, "seller": "Digi"}, format="json")
        assert response.status_code == 200, response.content
        assert response.json()["seller"] == "Digi"

    def test_what_cannot_be_written_is_refused(self, client: Any, part: Part) -> None:
        response = client.patch(f"/api/parts/{part.key}", {"key": "AAAA"}, format="json")
        fault(response, "key", "read_only")
        response = client.post("/api/parts", {"description": "x", "key": "AAAA"}, format="json")
        fault(response, "key", "read_only")
        response = client.patch(f"/api/parts/{part.key}", {"cover_url": "/x"}, format="json")
        fault(response, "cover_url", "read_only")

    def test_null_clears_what_is_optional(self, client: Any, part: Part) -> None:
        cleared = {"manufacturer": None, "pin_count": None, "type": None, "tags": None}
        cleared |= {"product_page": None}
        response = client.patch(f"/api/parts/{part.key}", cleared, format="json")
        assert response.status_code == 200, response.content
        shown = response.json()
        assert (shown["manufacturer"], shown["product_page"], shown["tags"]) == ("", "", [])
        assert (shown["pin_count"], shown["type"]) == (None, None)
        response = client.patch(f"/api/parts/{part.key}", {"description": None}, format="json")
        fault(response, "description", "null")

    def test_a_single_value_given_twice_is_refused(
        self, client: Any, part: Part, disk_store: BlobStore
    ) -> None:
        file = named(PDF, "a.pdf")
        given = {"file": file, "title": ["One", "Two"]}
        path = f"/api/parts/{part.key}/attachments"
        fault(client.post(path, given, format="multipart"), "title", "repeated")
        assert not part.attachments.exists()

    def test_each_of_several_files_has_its_outcome(
        self, client: APIClient, part: Part, disk_store: Any
    ) -> None:
        path = f"/api/parts/{part.key}/attachments"
        files = [named(PDF, "a.pdf"), named(b"text", "b.txt"), named(picture(), "c.png")]
        response = client.post(path, {"file": files}, format="multipart")
        assert response.status_code == 200
        first, second, third = response.json()["results"]
        assert (first["filename"], first["status"]) == ("a.pdf", 201)
        assert first["attachment"] == client.get(f"{path}/{first['attachment']['id']}").json()
        assert (second["status"], second["error"]["code"]) == (415, "unsupported_type")
        assert third["attachment"]["content_type"] == "image/png"
        assert Attachment.objects.count() == 2
        titled = {"file": [named(PDF, "a.pdf"), named(PDF, "b.pdf")], "title": "Both"}
        fault(client.post(path, titled, format="multipart"), "title", "title_of_several")
        assert Attachment.objects.count() == 2


class TestParameters:
    def test_an_unknown_one_is_refused_with_the_nearest(self, client: Any, part: Part) -> None:
        message = fault(client.get("/api/parts?serach=x"), "serach", "unknown_parameter")
        assert "Did you mean search?" in message
        for path in ("/api/types", f"/api/parts/{part.key}", f"/api/parts/{part.key}/attachments"):
            fault(client.get(f"{path}?zzzz=1"), "zzzz", "unknown_parameter")

    def test_a_single_one_given_twice_is_refused(self, client: Any) -> None:
        fault(client.get("/api/parts?type=a&type=b"), "type", "repeated")
        assert client.get("/api/parts?tag=a&tag=b").status_code == 200

    @pytest.mark.parametrize("size", ["abc", "0", "-1", "501", "", "1e3", "9" * 5000])
    def test_a_page_size_that_is_none(self, client: Any, size: str) -> None:
        fault(client.get("/api/parts", {"page_size": size}), "page_size", "invalid")
        assert client.get("/api/parts?page_size=500").status_code == 200


def test_a_key_is_found_in_either_case(client: Any, part: Part) -> None:
    response = client.get(f"/api/parts/{part.key.lower()}")
    assert response.json()["key"] == part.key
    link = {"url": "https://example.com"}
    made = client.post(f"/api/parts/{part.key.lower()}/attachments", link, format="json").json()
    given = {"attachment_id": made["id"], "target_part_key": part.key.lower()}
    response = client.post("/api/parts/copy-attachment", given, format="json")
    assert response.status_code == 201, response.content
