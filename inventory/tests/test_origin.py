from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from inventory.middleware import SAFE_METHODS

pytestmark = pytest.mark.django_db


def post(**headers: str) -> Any:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Client().post(
        "/api/types", {"name": "Fuse"}, content_type="application/json", headers=names
    )


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://testserver"},
        {"origin": "http://testserver:80"},
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
    ],
)
def test_our_own_pages_and_programs_may_write(headers: dict[str, str]) -> None:
    assert post(**headers).status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://elsewhere.example"},
        {"origin": "http://testserver:8080"},
        {"origin": "https://testserver"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://testserver.evil.example"},
        {"origin": "http://testserver:99999"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_other_sites_may_not(headers: dict[str, str]) -> None:
    response = post(**headers)
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "foreign_origin"
    assert response["Cache-Control"] == "no-store"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_every_unsafe_method_is_guarded(method: str) -> None:
    headers = {"origin": "https://elsewhere.example"}
    assert Client().generic(method, "/api/parts/ABCD", headers=headers).status_code == 403


@pytest.mark.parametrize("method", sorted(SAFE_METHODS - {"TRACE"}))
def test_reading_is_not(method: str) -> None:
    headers = {"origin": "https://elsewhere.example"}
    assert Client().generic(method, "/api/types", headers=headers).status_code == 200


def test_origins_that_the_operator_lists_may_write(settings: Any) -> None:
    settings.INVENTORY_TRUSTED_ORIGINS = ["https://shop.example"]
    assert post(origin="https://shop.example").status_code == 201
    assert post(origin="https://shop.example:8443").status_code == 403


def test_other_machines_may_use_the_api_only_with_an_account(settings: Any) -> None:
    elsewhere = Client(REMOTE_ADDR="192.0.2.7")
    refused = elsewhere.get("/api/types")
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "not_local"
    for peer in ("::1", "127.8.9.1", "::ffff:127.0.0.1", ""):
        assert Client(REMOTE_ADDR=peer).get("/api/types").status_code == 200, peer
    proxied = Client(REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR="192.0.2.7, 127.0.0.1")
    assert proxied.get("/api/types").status_code == 403
    settings.INVENTORY_AUTH = "accounts"
    assert elsewhere.get("/api/types").status_code == 401
