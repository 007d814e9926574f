"""Wrong passwords are slowed down, and requests that are refused leave one line each."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils.module_loading import import_string

from inventory import auth
from inventory.log import logging_settings

pytestmark = pytest.mark.django_db


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("inventory.auth.time.monotonic", lambda: now[0])
    monkeypatch.setattr(auth, "guesses", auth.Guesses())
    return now


def sign_in(password: str, address: str = "127.0.0.1", name: str = "root") -> Any:
    client = Client(REMOTE_ADDR=address)
    given = {"username": name, "password": password}
    return client.post("/admin/login/?next=/admin/", given)


def test_wrong_passwords_are_slowed_down(clock: list[float]) -> None:
    User.objects.create_superuser("root", password="the right one")
    for _ in range(auth.FREE_GUESSES + 1):
        assert "wrong passwords" not in sign_in("wrong").content.decode()
    assert "Try again in 2 seconds" in sign_in("wrong").content.decode()
    # The right one has to wait as well, or it would be told from the wrong ones.
    assert sign_in("the right one").status_code == 200
    assert sign_in("the right one", "192.0.2.1").status_code == 302
    clock[0] += 2
    sign_in("wrong")
    assert "Try again in 4 seconds" in sign_in("wrong").content.decode()
    for _ in range(20):
        clock[0] += 61
        sign_in("wrong")
    assert "Try again in 60 seconds" in sign_in("wrong").content.decode()
    clock[0] += 61
    assert sign_in("the right one").status_code == 302
    assert "wrong passwords" not in sign_in("wrong").content.decode()


def test_what_is_remembered_is_bounded(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "REMEMBERED", 3)
    for number in range(9):
        auth.guesses.failed((f"name {number}", ""))
    assert len(auth.guesses._found) == 3


def test_a_host_that_is_not_ours_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    filters = logging_settings("INFO")["loggers"]["django.security.DisallowedHost"]["filters"]
    made = logging_settings("INFO")["filters"][filters[0]]["()"]
    refused = logging.getLogger("django.security.DisallowedHost")
    without_traceback = import_string(made)()
    refused.addFilter(without_traceback)
    try:
        response = Client(HTTP_HOST="evil.example").get("/api/parts")
    finally:
        refused.removeFilter(without_traceback)
    assert response.status_code == 400
    told = [record for record in caplog.records if "evil.example" in record.getMessage()]
    assert [record.exc_info for record in told] == [None]
