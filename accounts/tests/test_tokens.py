"""Tokens: made three ways, shown once, hashed, named in the log, and gone when revoked."""

from __future__ import annotations

import base64
import logging
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from accounts.models import Token
from accounts.tests.conftest import bearer
from cas.content_types import PDF
from cas.signed_urls import blob_url
from cas.storage.base import BlobStore
from cas.storage.staging import staged_bytes
from inventory.log import OneLine

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"


def basic(name: str, password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def make(body: Any, **headers: str) -> Any:
    return Client(headers=headers).post("/api/tokens", body, content_type="application/json")


def test_a_token_is_made_with_a_password_and_shown_once(accounts: dict[str, User]) -> None:
    made = make({"name": "labels", "expires_in_days": 2}, **basic("editor"))
    assert made.status_code == 201
    assert made["Cache-Control"] == "no-store"
    body = made.json()
    row = Token.objects.get()
    assert body["token"] not in (row.digest, row.token_key)
    assert timedelta(days=1.9) < row.expiry - timezone.now() <= timedelta(days=2)
    client = Client(headers={"Authorization": f"Token {body['token']}"})
    assert client.get("/api/parts").status_code == 200
    listed = client.get("/api/tokens").json()["results"]
    assert [each["name"] for each in listed] == ["labels"]
    assert "token" not in listed[0]
    assert client.get(f"/api/tokens/{body['id']}").json()["last_used_at"] is not None
    assert client.delete(f"/api/tokens/{body['id']}").status_code == 204
    refused = client.get("/api/parts")
    assert refused.status_code == 401
    assert refused["WWW-Authenticate"] == "Token"


def test_tokens_of_others_are_not_seen(accounts: dict[str, User]) -> None:
    bearer(accounts["manager"])
    other = Token.objects.get()
    client = Client(headers=bearer(accounts["viewer"]))
    assert client.get(f"/api/tokens/{other.token_key}").status_code == 404
    assert client.delete(f"/api/tokens/{other.token_key}").status_code == 404
    assert Token.objects.count() == 2


def test_a_token_makes_no_token(accounts: dict[str, User]) -> None:
    assert make({"name": "x"}, **bearer(accounts["editor"])).status_code == 403
    assert make({"name": "x"}).status_code == 401
    session = Client(enforce_csrf_checks=True)
    session.force_login(accounts["editor"])
    refused = session.post("/api/tokens", {"name": "x"}, content_type="application/json")
    assert refused.status_code == 403
    page = session.get("/admin/accounts/token/add/").content.decode()
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert found
    made = session.post(
        "/api/tokens",
        {"name": "x"},
        content_type="application/json",
        headers={"X-CSRFToken": found[1]},
    )
    assert made.status_code == 201


@pytest.mark.parametrize(
    "body",
    [{}, {"name": ""}, {"name": "x", "expires_in_days": 0}, {"name": "x", "more": 1}, [], "x"],
)
def test_what_is_no_token_is_refused(accounts: dict[str, User], body: Any) -> None:
    assert make(body, **basic("editor")).status_code == 400
    assert not Token.objects.exists()


@pytest.mark.parametrize("given", ["", "x", "ü", "a b", "\x7f", "0" * 64, "z" * 10_000])
def test_what_is_no_token_lets_nobody_in(accounts: dict[str, User], given: str) -> None:
    client = Client(headers={"Authorization": f"Token {given}"})
    assert client.get("/api/parts").status_code == 401


def test_an_expired_token_and_one_of_a_stopped_account_are_none(accounts: dict[str, User]) -> None:
    headers = bearer(accounts["viewer"])
    client = Client(headers=headers)
    assert client.get("/api/parts").status_code == 200
    accounts["viewer"].is_active = False
    accounts["viewer"].save()
    assert client.get("/api/parts").status_code == 401
    accounts["viewer"].is_active = True
    accounts["viewer"].save()
    Token.objects.update(expiry=timezone.now())
    assert client.get("/api/parts").status_code == 401
    assert Token.objects.exists()


def test_when_it_was_used_is_written_once_an_hour(
    accounts: dict[str, User], django_assert_num_queries: Any
) -> None:
    client = Client(headers=bearer(accounts["viewer"]))
    client.get("/api/types")
    first = Token.objects.get().last_used_at
    client.get("/api/types")
    assert Token.objects.get().last_used_at == first
    past = timezone.now() - timedelta(minutes=61)
    Token.objects.update(last_used_at=past)
    client.get("/api/types")
    assert Token.objects.get().last_used_at > past + timedelta(minutes=60)


def test_the_command_prints_a_token(accounts: dict[str, User], capsys: Any) -> None:
    call_command("create_token", "viewer", "nightly")
    token = capsys.readouterr().out.strip()
    client = Client(headers={"Authorization": f"Token {token}"})
    assert client.get("/api/parts").status_code == 200
    for bad in (["nobody", "x"], ["viewer", " "], ["viewer", "x", "--days", "0"]):
        with pytest.raises(CommandError, match="No token was made"):
            call_command("create_token", *bad)


def test_the_admin_shows_a_new_token_once(accounts: dict[str, User]) -> None:
    client = Client()
    client.force_login(accounts["viewer"])
    made = client.post("/admin/accounts/token/add/", {"name": "bench", "expires_in_days": "9"})
    found = re.search(r'<code class="token">(\w+)</code>', made.content.decode())
    assert found
    assert "no-store" in made["Cache-Control"]
    assert (
        Client(headers={"Authorization": f"Token {found[1]}"}).get("/api/parts").status_code == 200
    )
    listed = client.get("/admin/accounts/token/").content.decode()
    assert "bench" in listed
    assert found[1] not in listed
    bearer(accounts["manager"], "secret plan")
    assert "secret plan" not in client.get("/admin/accounts/token/").content.decode()
    assert (
        client.get(
            f"/admin/accounts/token/{Token.objects.get(name='bench').pk}/change/"
        ).status_code
        == 200
    )


def test_the_log_names_the_account_and_the_token(accounts: dict[str, User], capsys: Any) -> None:
    formatter = OneLine("%(message)s")
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(formatter.format(record))

    log = logging.getLogger("django.request")
    log.addHandler(handler := Handler())
    try:
        headers = bearer(accounts["viewer"], "label printer")
        client = Client(headers=headers)
        assert client.delete("/api/types/1").status_code == 403
    finally:
        log.removeHandler(handler)
    assert len(lines) == 1
    assert lines[0].endswith(" viewer label printer]")
    assert headers["Authorization"].split()[1] not in lines[0]


def test_a_blob_is_for_who_has_its_url_and_asks_no_database(
    accounts: dict[str, User],
    disk_store: BlobStore,
    settings: Any,
    django_assert_num_queries: Any,
) -> None:
    settings.CAS_SIGNED_URLS = True
    settings.CAS_URL_SIGNING_KEYS = ["a-key-of-forty-characters-for-the-tests"]
    with staged_bytes(disk_store, b"%PDF-1.4\n") as staged:
        disk_store.create(staged)
        digest = staged.digest
    url = blob_url(digest, content_type=PDF, disposition="inline", filename="a.pdf")
    with django_assert_num_queries(0):
        for headers in ({}, {"Authorization": "Token x"}, {"Cookie": "sessionid=x"}):
            answer = Client(headers=headers).get(url)
            assert answer.status_code == 200
            assert b"".join(answer) == b"%PDF-1.4\n"
            assert Client(headers=headers).get(url.partition("&signature")[0]).status_code == 403
