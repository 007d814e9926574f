"""Wrong passwords lock an account for an address; logins and uploads have rates."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.utils import timezone

from accounts.models import Allowance
from accounts.rates import Rate, parse
from accounts.tests.conftest import bearer
from accounts.tests.test_tokens import basic
from cas.storage.base import BlobStore
from parts.models import Part

pytestmark = pytest.mark.django_db

RIGHT = "correct horse battery"


def sign_in(password: str, address: str = "127.0.0.1", name: str = "editor") -> Any:
    given = {"username": name, "password": password}
    return Client(REMOTE_ADDR=address).post("/admin/login/?next=/admin/", given)


def ask_for_token(password: str, address: str = "127.0.0.1") -> Any:
    client = Client(REMOTE_ADDR=address, headers=basic("editor", password))
    return client.post("/api/tokens", {"name": "x"}, content_type="application/json")


def test_wrong_passwords_lock_the_account_for_the_address(accounts: dict[str, User]) -> None:
    for _ in range(2):
        assert sign_in("wrong").status_code == 200
        assert ask_for_token("wrong").status_code == 401
    locked = sign_in("wrong")
    assert locked.status_code == 429
    assert locked["Retry-After"] == "900"
    assert "Try again in 15 minutes" in locked.content.decode()
    # The right one as well, or it would be told from the wrong ones.
    assert sign_in(RIGHT).status_code == 429
    refused = ask_for_token(RIGHT)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "locked_out"
    assert refused["Retry-After"] == "900"
    # Another address, and another account, are not.
    assert sign_in(RIGHT, "192.0.2.1").status_code == 302
    assert sign_in(RIGHT, name="viewer").status_code == 302
    assert ask_for_token(RIGHT, "192.0.2.1").status_code == 201
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(minutes=16))
    assert sign_in(RIGHT).status_code == 302
    assert "wrong" not in str(AccessAttempt.objects.values_list("post_data", "get_data"))


def test_every_active_account_may_sign_in(accounts: dict[str, User]) -> None:
    assert sign_in(RIGHT, name="none").status_code == 302
    User.objects.filter(username="none").update(is_active=False)
    assert sign_in(RIGHT, name="none").status_code == 200


def test_logins_have_a_rate(accounts: dict[str, User], settings: Any) -> None:
    settings.INVENTORY_LOGIN_RATE = Rate(2, 60)
    assert sign_in(RIGHT).status_code == 302
    assert ask_for_token(RIGHT).status_code == 201
    refused = sign_in(RIGHT)
    assert refused.status_code == 429
    assert 1 <= int(refused["Retry-After"]) <= 30
    refused = ask_for_token(RIGHT)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "throttled"
    assert 1 <= int(refused["Retry-After"]) <= 30
    assert sign_in(RIGHT, "192.0.2.1").status_code == 302
    assert not AccessAttempt.objects.exists()


def test_uploads_have_a_rate(
    accounts: dict[str, User], settings: Any, disk_store: BlobStore
) -> None:
    settings.INVENTORY_UPLOAD_RATE = Rate(2, 3600)
    part = Part.objects.create(description="d")
    headers = bearer(accounts["editor"])

    def upload() -> Any:
        file = SimpleUploadedFile("a.pdf", b"%PDF-1.4\n")
        return Client(headers=headers).post(f"/api/parts/{part.key}/attachments", {"file": file})

    browser = Client()
    browser.force_login(accounts["editor"])
    assert upload().status_code == 201
    form = {"attachments-TOTAL_FORMS": "0", "attachments-INITIAL_FORMS": "0"}
    assert browser.post(f"/admin/parts/part/{part.pk}/change/", form).status_code == 200
    for refused in (upload(), browser.post(f"/admin/parts/part/{part.pk}/change/", form)):
        assert refused.status_code == 429
        assert int(refused["Retry-After"]) > 1700
    other = Client(headers=bearer(accounts["manager"]))
    assert other.get(f"/api/parts/{part.key}/attachments").status_code == 200


def test_a_rate_lets_a_burst_through_and_then_so_many_in_a_period(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = timezone.now()
    monkeypatch.setattr("accounts.models.timezone.now", lambda: now)
    assert [Allowance.take("a", Rate(3, 60)) for _ in range(5)] == [0, 0, 0, 20, 20]
    assert Allowance.take("b", Rate(3, 60)) == 0
    now += timedelta(seconds=20)
    assert [Allowance.take("a", Rate(3, 60)) for _ in range(2)] == [0, 20]
    now += timedelta(hours=1)
    assert Allowance.take("c", Rate(3, 60)) == 0
    assert list(Allowance.objects.values_list("key", flat=True)) == ["c"]


@pytest.mark.django_db(transaction=True)
def test_processes_that_take_at_one_time_take_no_more() -> None:
    taken: list[bool] = []

    def take() -> None:
        taken.extend(Allowance.take("a", Rate(5, 3600)) == 0 for _ in range(3))
        connection.close()

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 5


@pytest.mark.parametrize("text", ["", "5", "/minute", "0/minute", "-1/minute", "5/year", "٥/day"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match=r"^"):
        parse(text)


def test_rates() -> None:
    assert parse("5/minute") == Rate(5, 60)
    assert parse("none") is None
