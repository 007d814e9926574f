"""Bodies of requests that would be ignored, cut short or read as something else are refused."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from inventory.tests.test_errors import assert_error
from parts.models import Part

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> Client:
    return Client(raise_request_exception=False)


@pytest.fixture
def address() -> str:
    return f"/api/parts/{Part.objects.create(description='Fuse').key}"


def multipart(client: Client, address: str, *parts: bytes) -> Any:
    body = b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"
    form = "multipart/form-data; boundary=x"
    return client.generic("POST", f"{address}/attachments", body, content_type=form)


URL = b'Content-Disposition: form-data; name="url"\r\n\r\nhttps://example.org/'


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_body_without_a_length_is_411(client: Client, address: str, method: str) -> None:
    headers = {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": ""}
    for path in (address, "/admin/login/"):
        response = client.generic(method, path, b"", "application/json", **headers)  # type: ignore[arg-type]
        assert_error(response, 411, "length_required")


@pytest.mark.parametrize(
    "charset", ["rot13", "zlib", "hex", "undefined", "nonsense", "utf-16", "idna", "latin-1"]
)
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_another_charset_is_400(client: Client, address: str, charset: str, kind: str) -> None:
    for path in (address, f"{address}/attachments", "/admin/login/"):
        response = client.generic("POST", path, b"{}", f"{kind}; charset={charset}")
        assert_error(response, 400, "bad_request")


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "US-ASCII"])
def test_utf_8_is_taken_by_its_names(client: Client, address: str, charset: str) -> None:
    kind = f"application/json; charset={charset}"
    assert client.generic("PATCH", address, b'{"description": "x"}', kind).status_code == 200


@pytest.mark.parametrize(
    "part",
    [
        b'Content-Disposition: form-data; name="title"\r\n\r\n\xe9\xff',
        b'Content-Disposition: form-data; name="file"; filename="\xe9.pdf"\r\n\r\n%PDF-1.4',
        b'Content-Disposition: form-data; name="t\xe9"\r\n\r\nx',
        b"Content-Type: text/plain\r\n\r\nno name",
        b"Content-Disposition: form-data; name=\"file\"; filename*=UTF-8''%e9.pdf\r\n\r\n%PDF-1.4",
    ],
)
def test_a_part_of_a_body_that_cannot_be_read_is_400(
    client: Client, address: str, part: bytes, disk_store: Any
) -> None:
    assert multipart(client, address, URL).status_code == 201
    for parts in ((URL, part), (part, URL), (part,)):
        assert_error(multipart(client, address, *parts), 400, "parse_error")


def test_more_parameters_than_are_read_are_400(client: Client, address: str) -> None:
    query = "&".join(f"a{number}=1" for number in range(20_100))
    assert_error(client.get(f"/api/parts?{query}"), 400, "bad_request")
    fields = [
        b'Content-Disposition: form-data; name="a%d"\r\n\r\n1' % number for number in range(20_100)
    ]
    assert_error(multipart(client, address, *fields), 400, "bad_request")


def test_methods_and_tokens_below_the_api_have_its_errors(client: Client, address: str) -> None:
    content = f"{address}/attachments/1/content"
    response = client.post(content)
    assert_error(response, 405, "method_not_allowed")
    assert response["Allow"] == "GET, HEAD"
    assert_error(client.post(address), 405, "method_not_allowed")
    assert_error(client.post("/api/nothing"), 404, "not_found")
    strict = Client(enforce_csrf_checks=True)
    assert_error(strict.post("/api/nothing"), 404, "not_found")
    assert strict.post("/admin/login/")["Content-Type"].startswith("text/html")


@pytest.mark.parametrize(
    ("peer", "headers"),
    [("192.0.2.1", {}), ("127.0.0.1", {"HTTP_ORIGIN": "https://evil.example"})],
)
def test_what_guards_the_api_does_so_below_a_prefix(
    client: Client, peer: str, headers: dict[str, str]
) -> None:
    given: dict[str, Any] = {"SCRIPT_NAME": "/parts", "REMOTE_ADDR": peer, **headers}
    response = client.post("/api/parts", b"{}", content_type="application/json", **given)
    assert response.status_code == 403
    assert response["Content-Type"] == "application/json"


def test_a_name_that_is_given_twice_is_refused(client: Client, address: str) -> None:
    for body in (
        b'{"description": "one", "description": "two"}',
        b'{"tags": [{"a": 1, "a": 2}]}',
    ):
        response = client.generic("PATCH", address, body, "application/json")
        told = assert_error(response, 400, "parse_error")
        assert "is given more than once" in told["message"]
    assert client.get(address).json()["description"] == "Fuse"
