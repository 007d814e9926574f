"""What a line of the log says, and which request it belongs to."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.test import Client

from inventory.log import Json, OneLine, current_request, logging_settings


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged, as JSON."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Json())
    root = logging.getLogger()
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)


def said(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.django_db
def test_every_line_of_a_request_has_its_id(client: Client, lines: io.StringIO) -> None:
    responses = [client.get("/api/nothing") for _ in range(2)]
    ids = [response.headers["X-Request-ID"] for response in responses]
    assert len(set(ids)) == 2
    assert [line["request_id"] for line in said(lines)] == ids
    responses[-1].close()
    assert current_request.get() is None


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("proxies", "given", "taken"),
    [
        ([], "abc-1", False),
        (["10.0.0.0/8"], "abc-1", False),
        (["127.0.0.1/32"], "abc-1", True),
        (["127.0.0.1/32"], "a" * 101, False),
        (["127.0.0.1/32"], "forged\nline", False),
        (["127.0.0.1/32"], "naïve", False),
        (["127.0.0.1/32"], "", False),
    ],
)
def test_an_id_is_taken_from_a_trusted_proxy_alone(
    client: Client, settings: Any, proxies: list[str], given: str, taken: bool
) -> None:
    settings.INVENTORY_TRUSTED_PROXIES = [ip_network(each) for each in proxies]
    response = client.get("/api/nothing", headers={"X-Request-ID": given})
    assert (response.headers["X-Request-ID"] == given) is taken


@pytest.mark.usefixtures("disk_store")
def test_a_blob_carries_no_id(client: Client) -> None:
    response = client.get(f"/api/cas/{'0' * 64}?content_type=image/png")
    assert response.status_code == 404
    assert "X-Request-ID" not in response.headers


@pytest.mark.django_db
def test_the_user_is_named_once_that_is_known(lines: io.StringIO) -> None:
    client = Client()
    client.force_login(User.objects.create_user("ada", is_staff=True))
    assert client.get("/admin/parts/part/").status_code == 403
    told = [line for line in said(lines) if line["logger"] == "django.request"]
    assert [line["user"] for line in told] == ["ada"]


def test_a_line_of_text_ends_with_the_request() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "two\nlines %s", ("here",), None)
    assert OneLine("%(message)s").format(record) == "two\\nlines here"
    request = HttpRequest()
    request.id = "abc"  # type: ignore[attr-defined]
    token = current_request.set(request)
    try:
        assert OneLine("%(message)s").format(record) == "two\\nlines here [abc]"
    finally:
        current_request.reset(token)


def test_a_line_of_json_has_the_traceback_and_no_password() -> None:
    try:
        raise ValueError("postgresql://inventory:secret@db/inventory")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
        record = logging.LogRecord("x", logging.ERROR, "", 0, "gone: %s", (error,), info)
    line = Json().format(record)
    assert "\n" not in line
    assert "secret" not in line
    found = json.loads(line)
    assert found["level"] == "ERROR"
    assert "Traceback" in found["exception"]


def test_lines_of_blobs_can_be_left_out() -> None:
    assert logging_settings("INFO", blobs=False)["loggers"]["cas.views"]["level"] == "WARNING"
    assert "cas.views" not in logging_settings("INFO")["loggers"]
