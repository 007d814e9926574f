"""Thousands of generated requests through everything that is before the view, in every delivery.

What is right is worked out here anew: each header that is drawn comes with what it means.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.test import RequestFactory, override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cas.digest import Digest
from cas.signed_urls import blob_url
from cas.storage.base import BlobStore
from cas.tests.conftest import put

pytestmark = pytest.mark.sqlite

DATA = bytes(range(251)) * 4
SIZE = len(DATA)
TAG = f'"{Digest.of(DATA)}"'
PAGE = "https://shop.example"
IGNORED, BEHIND = "ignored", "behind the end"
SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

# Each with what it means for GET, and whether nginx and S3 take it to mean the same.
RANGES: list[tuple[str, tuple[int, int] | str, bool]] = [
    ("bytes=0-0", (0, 1), True),
    ("bytes=7-", (7, SIZE), True),
    ("bytes=-1", (SIZE - 1, SIZE), True),
    (f"bytes=-{SIZE * 2}", (0, SIZE), True),
    (f"bytes=3-{SIZE * 9}", (3, SIZE), True),
    ("Bytes= 2-3 ,", (2, 4), False),
    ("bytes=0-" + "9" * 30, (0, SIZE), False),
    (f"bytes={SIZE}-", BEHIND, True),
    ("bytes=-0", BEHIND, True),
    ("bytes=5-2", IGNORED, False),
    ("bytes=0-1,3-4", IGNORED, False),
    ("bytes=x", IGNORED, False),
    ("items=0-1", IGNORED, False),
]
NO_RANGE = ("", IGNORED, True)
IF_RANGE = [("", True), (TAG, True), (f"W/{TAG}", False), ('"o"', False)]
IF_MATCH = [("", True), ("*", True), (f'"o", {TAG}', True), (f"W/{TAG}", False), ('"o"', False)]
NONE_MATCH = [("", False), (TAG, True), (f'"o",W/{TAG}', True), ('"o"', False), ("o", False)]


@dataclass(frozen=True)
class Case:
    """A request, header by header, and the ways it is asked in."""

    method: str
    missing: bool
    range: tuple[str, tuple[int, int] | str, bool]
    if_range: tuple[str, bool]
    if_match: tuple[str, bool]
    none_match: tuple[str, bool]
    origin: str
    delivery: str
    signed: str

    @property
    def headers(self) -> dict[str, str]:
        said = {
            "HTTP_RANGE": self.range[0],
            "HTTP_IF_RANGE": self.if_range[0],
            "HTTP_IF_MATCH": self.if_match[0],
            "HTTP_IF_NONE_MATCH": self.none_match[0],
            "HTTP_ORIGIN": self.origin,
            "HTTP_ACCEPT_ENCODING": "gzip, br, zstd",
        }
        return {name: value for name, value in said.items() if value}

    @property
    def meant(self) -> tuple[int, bytes]:
        """Status and body of a streamed answer."""
        wanted = self.range[1] if self.method == "GET" and self.if_range[1] else IGNORED
        if self.signed == "wrongly":
            return 403, b""
        if not self.if_match[1]:
            return 412, b""
        if self.none_match[1]:
            return 304, b""
        if self.missing:
            return 404, b""
        if wanted == BEHIND:
            return 416, b""
        whole = DATA if self.method == "GET" else b""
        return (206, DATA[slice(*wanted)]) if isinstance(wanted, tuple) else (200, whole)

    def sent_elsewhere(self, *, on_disk: bool) -> bool:
        if self.meant[0] not in (200, 206) or self.if_match[0] or self.if_range[0]:
            return False
        if not self.range[2] or (self.range[0] and self.method == "HEAD"):
            return False
        if self.delivery == "accel":
            return self.method == "GET"
        return self.delivery == "redirect" and not on_disk


cases = st.builds(
    Case,
    method=st.sampled_from(["GET", "HEAD"]),
    missing=st.booleans(),
    range=st.just(NO_RANGE) | st.sampled_from(RANGES),
    if_range=st.sampled_from(IF_RANGE),
    if_match=st.just(IF_MATCH[0]) | st.sampled_from(IF_MATCH),
    none_match=st.just(NONE_MATCH[0]) | st.sampled_from(NONE_MATCH),
    origin=st.sampled_from(["", PAGE, "https://evil.example", "null"]),
    delivery=st.sampled_from(["stream", "accel", "redirect"]),
    signed=st.sampled_from(["not", "rightly", "wrongly"]),
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    # Blobs need no database, and what closes connections would close the tests'.
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.fixture
def application() -> Any:
    return WSGIHandler()


@pytest.fixture
def on_disk(disk_store: BlobStore) -> None:
    put(disk_store, DATA)


@pytest.fixture
def on_s3(s3_store: BlobStore) -> None:
    put(s3_store, DATA)


def ask(application: Any, case: Case) -> tuple[Any, bytes]:
    digest = Digest.of(b"missing") if case.missing else Digest.of(DATA)
    # A tag is the digest's, and the missing one has another.
    tags: dict[str, Any] = {
        name: value.replace(TAG, f'"{digest}"') for name, value in case.headers.items()
    }
    url = blob_url(digest, content_type="image/png", disposition="inline", filename="ü.png")
    url = url.replace("inline", "attachment") if case.signed == "wrongly" else url
    response = application.get_response(RequestFactory().generic(case.method, url, **tags))
    body = response.getvalue() if response.streaming else response.content
    response.close()
    return response, body


def check(application: Any, case: Case, *, on_disk: bool) -> None:
    with override_settings(
        CAS_DELIVERY=case.delivery,
        CAS_SIGNED_URLS=case.signed != "not",
        CAS_URL_SIGNING_KEYS=["k" * 40],
        CAS_CORS_ALLOWED_ORIGINS=[PAGE],
    ):
        response, body = ask(application, case)
    status, meant = case.meant
    headers = response.headers
    if case.sent_elsewhere(on_disk=on_disk):
        assert response.status_code == (200 if case.delivery == "accel" else 302)
        assert ("X-Accel-Redirect" in headers) == (case.delivery == "accel")
        assert body == b""
    else:
        assert response.status_code == status
        assert "X-Accel-Redirect" not in headers
        assert body == meant or status >= 400
    if status >= 400:
        assert headers["Cache-Control"] == "no-store"
    elif isinstance(case.range[1], tuple) and response.status_code == 206:
        first, stop = case.range[1]
        assert headers["Content-Range"] == f"bytes {first}-{stop - 1}/{SIZE}"
    if case.method == "HEAD":
        assert body == b""
    elif "Content-Length" in headers:
        assert headers["Content-Length"] == str(len(body))
    allowed = headers.get("Access-Control-Allow-Origin")
    assert (allowed, headers["Vary"]) == (PAGE if case.origin == PAGE else None, "Origin")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Content-Encoding" not in headers
    assert not response.cookies


@settings(max_examples=1_500, deadline=None, database=None, suppress_health_check=SUPPRESSED)
@given(case=cases)
def test_any_combination(application: Any, on_disk: None, case: Case) -> None:
    check(application, case, on_disk=True)


@settings(max_examples=200, deadline=None, database=None, suppress_health_check=SUPPRESSED)
@given(case=cases)
def test_any_combination_from_s3(application: Any, on_s3: None, case: Case) -> None:
    check(application, case, on_disk=False)
