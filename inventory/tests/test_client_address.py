"""Whose address a request has: the client's behind trusted proxies, the peer's otherwise."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory

from inventory.middleware import NOBODY, ClientAddressMiddleware


def seen(settings: Any, peer: str, forwarded: str | None, trusted: list[str]) -> str:
    settings.INVENTORY_TRUSTED_PROXIES = [ip_network(each) for each in trusted]
    found: list[str] = []

    def view(request: HttpRequest) -> HttpResponse:
        found.append(request.META["REMOTE_ADDR"])
        return HttpResponse()

    headers: dict[str, Any] = {} if forwarded is None else {"HTTP_X_FORWARDED_FOR": forwarded}
    ClientAddressMiddleware(view)(RequestFactory().get("/", REMOTE_ADDR=peer, **headers))
    return found[0]


NGINX, INNER, CLIENT = "127.0.0.1", "10.0.0.7", "203.0.113.5"


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "address"),
    [
        (CLIENT, None, [], CLIENT),
        (NGINX, CLIENT, [], NGINX),
        (NGINX, CLIENT, ["10.0.0.0/8"], NGINX),
        (NGINX, CLIENT, ["127.0.0.0/8"], CLIENT),
        # What a client wrote itself stands to the left of its address.
        (NGINX, f"127.0.0.1, {CLIENT}", ["127.0.0.0/8"], CLIENT),
        (NGINX, f"198.51.100.1,{CLIENT} , {INNER}", ["127.0.0.0/8", "10.0.0.0/8"], CLIENT),
        # Somebody who is no proxy of ours names one.
        (CLIENT, "127.0.0.1", ["127.0.0.0/8"], CLIENT),
        (NGINX, None, ["127.0.0.0/8"], NGINX),
        (NGINX, f"{CLIENT}:4711", ["127.0.0.0/8"], CLIENT),
        (NGINX, "[2001:db8::1]:4711", ["127.0.0.0/8"], "2001:db8::1"),
        (NGINX, "2001:db8::1", ["127.0.0.0/8"], "2001:db8::1"),
        ("::1", CLIENT, ["::1/128"], CLIENT),
        (NGINX, "unknown", ["127.0.0.0/8"], NOBODY),
        (NGINX, f"{CLIENT},", ["127.0.0.0/8"], NOBODY),
        (NGINX, "127.0.0.1, 127.0.0.1", ["127.0.0.0/8"], NGINX),
    ],
)
def test_the_address(
    settings: Any, peer: str, forwarded: str | None, trusted: list[str], address: str
) -> None:
    assert seen(settings, peer, forwarded, trusted) == address


def test_an_open_api_stays_on_its_machine_behind_a_proxy_that_is_known(settings: Any) -> None:
    settings.INVENTORY_TRUSTED_PROXIES = [ip_network("127.0.0.0/8")]
    client = Client(REMOTE_ADDR="127.0.0.1")
    for forwarded in (CLIENT, "unknown", f"127.0.0.1, {CLIENT}"):
        response = client.get("/api/types", headers={"X-Forwarded-For": forwarded})
        assert response.status_code == 403, forwarded
        assert response.json()["error"]["code"] == "not_local"


def test_a_proxys_request_id_counts_although_the_address_is_the_clients(settings: Any) -> None:
    settings.INVENTORY_TRUSTED_PROXIES = [ip_network("127.0.0.0/8")]
    headers = {"X-Forwarded-For": CLIENT, "X-Request-ID": "abc"}
    response = Client(REMOTE_ADDR="127.0.0.1").get("/api/types", headers=headers)
    assert response.headers["X-Request-ID"] == "abc"
