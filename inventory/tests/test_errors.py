"""Every error below /api/ has one shape, whoever notices it."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import DataError, IntegrityError, InterfaceError, InternalError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from cas.storage.base import Absent, Corrupt, Denied, StoreFull, Unreachable
from inventory import errors

RAISED: Exception = Exception()


class Raising(APIView):
    def get(self, request: Request) -> Response:
        raise RAISED

    def post(self, request: Request) -> Response:
        return Response({"got": str(type(request.data))})


def plain(request: HttpRequest) -> HttpResponse:
    raise RAISED


urlpatterns = [path("api/raising", Raising.as_view()), path("api/plain", plain)]
handler400 = errors.bad_request
handler403 = errors.permission_denied
handler404 = errors.not_found
handler500 = errors.server_error

pytestmark = pytest.mark.urls(__name__)


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, url: str = "/api/raising") -> Any:
    monkeypatch.setattr(f"{__name__}.RAISED", error)
    return Client(raise_request_exception=False).get(url)


def assert_error(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/json"
    found: dict[str, Any] = response.json()["error"]
    assert set(found) <= {"code", "message", "details"}
    assert found["code"] == code
    assert found["message"]
    return found


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Http404(), 404, "not_found"),
        (PermissionDenied(), 403, "permission_denied"),
        (exceptions.NotFound(), 404, "not_found"),
        (exceptions.ParseError(), 400, "parse_error"),
        (exceptions.UnsupportedMediaType("text/html"), 415, "unsupported_media_type"),
        (exceptions.NotAcceptable(), 406, "not_acceptable"),
        (SuspiciousOperation(), 400, "bad_request"),
        (RequestDataTooBig(), 413, "body_too_large"),
        (DataError(), 400, "bad_request"),
        (IntegrityError(), 409, "conflict"),
        (Denied("no"), 503, "store_denied"),
        (Corrupt("bad"), 500, "store_error"),
        (Absent("gone"), 500, "store_error"),
        (StoreFull("full"), 507, "store_full"),
    ],
)
def test_exceptions_become_answers(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    response = failing(monkeypatch, error)
    assert_error(response, status, code)
    assert response["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unreachable("down"), "store_unreachable"),
        (OperationalError(), "database_unavailable"),
        (InterfaceError(), "database_unavailable"),
        # As PostgreSQL ends a session that idles in a transaction.
        (InternalError(), "database_unavailable"),
    ],
)
def test_outages_ask_to_come_back(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    response = failing(monkeypatch, error)
    assert_error(response, 503, code)
    assert int(response["Retry-After"]) > 0


def test_a_throttled_client_is_told_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    response = failing(monkeypatch, exceptions.Throttled(wait=7))
    assert_error(response, 429, "throttled")
    assert response["Retry-After"] == "7"


def test_validation_errors_are_listed_by_field(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {"title": ["Too long."], "url": ["Missing."]}
    response = failing(monkeypatch, exceptions.ValidationError(faults))
    assert assert_error(response, 400, "invalid")["details"] == faults


@pytest.mark.parametrize("url", ["/api/raising", "/api/plain"])
def test_a_fault_of_ours_is_500_and_says_nothing_of_its_inside(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    response = failing(monkeypatch, RuntimeError("the password is hush"), url)
    assert_error(response, 500, "server_error")
    assert "hush" not in response.content.decode()
    assert "hush" in caplog.text


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Http404(), 404, "not_found"),
        (PermissionDenied(), 403, "permission_denied"),
        (SuspiciousOperation(), 400, "bad_request"),
    ],
)
def test_views_without_the_framework_answer_the_same(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    assert_error(failing(monkeypatch, error, "/api/plain"), status, code)


def test_unknown_paths_and_methods() -> None:
    client = Client()
    assert_error(client.get("/api/nothing"), 404, "not_found")
    response = client.delete("/api/raising")
    assert_error(response, 405, "method_not_allowed")
    assert set(response["Allow"].split(", ")) == {"GET", "POST", "HEAD", "OPTIONS"}
    assert client.get("/nothing")["Content-Type"].startswith("text/html")


def test_hosts_that_are_not_listed_are_refused() -> None:
    client = Client(headers={"host": "rebound.example"})
    assert_error(client.get("/api/nothing"), 400, "bad_request")


def test_a_nul_character_is_refused_before_any_view() -> None:
    client = Client()
    assert_error(client.get("/api/raising?q=a%00b"), 400, "bad_request")
    assert_error(client.get("/api/rai%00sing"), 400, "bad_request")


@override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=1000)
def test_a_large_json_body_is_413_whatever_its_length_header_says() -> None:
    body = b'"' + b"a" * 2000 + b'"'
    client = Client()
    response = client.post("/api/raising", body, content_type="application/json")
    assert_error(response, 413, "body_too_large")


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"a": NaN}', "application/json", 400),
        (b"1" * 5000, "application/json", 400),
        (b"{}", "application/json; charset=bz2_codec", 400),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b"<a/>", "text/xml", 415),
        (b"x", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=\xc3\xa4", 400),
        (b"{}", "", 415),
    ],
)
def test_bodies_that_cannot_be_read(body: bytes, content_type: str, status: int) -> None:
    response = Client().generic("POST", "/api/raising", body, content_type=content_type)
    assert response.status_code == status, response.content
    assert response.json()["error"]["code"]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=50).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.sampled_from([b'{"title": "\\ud800"}', b'{"a": 1e999}', b'{"\\u0000": "\\u0000"}']),
    ),
    content_type=st.one_of(
        st.sampled_from(
            ["application/json", "multipart/form-data; boundary=b", "application/json; charset=x"]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
    ),
    accept=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
)
def test_no_body_or_header_makes_it_fail(body: bytes, content_type: str, accept: str) -> None:
    request = RequestFactory().generic(
        "POST", "/api/raising", body, content_type=content_type, headers={"accept": accept}
    )
    response = Raising.as_view()(request)
    assert response.status_code < 500
