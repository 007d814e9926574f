"""Tens of thousands of generated requests: never a server error and never a wrong byte."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from django.http import HttpResponseBase
from django.test import RequestFactory, override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cas.digest import Digest
from cas.storage.base import BlobStore
from cas.tests.conftest import put
from cas.tests.pictures import jpeg
from cas.views import blob

DATA = bytes(range(251)) * 4
SIZE = len(DATA)
PICTURE = jpeg(40, 30)
MANY = settings(
    max_examples=1_500,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# What a header field may hold once a server has parsed it: latin-1 without line breaks.
field = st.text(st.characters(max_codepoint=255, blacklist_characters="\r\n\0"), max_size=40)
position = st.one_of(st.integers(0, SIZE + 5), st.integers(0, 10**30))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def data(disk_store: BlobStore) -> Digest:
    return put(disk_store, DATA)


@pytest.fixture
def picture(disk_store: BlobStore) -> Digest:
    return put(disk_store, PICTURE)


def ask(digest: object, query: str, method: str = "GET", **headers: str) -> tuple[Any, bytes]:
    environment = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    request = RequestFactory().generic(method, "/", QUERY_STRING=query, **environment)  # type: ignore[arg-type]
    response: HttpResponseBase = blob(request, str(digest))
    body = response.getvalue() if response.streaming else response.content  # type: ignore[attr-defined]
    response.close()
    return response, body


def check(response: Any, body: bytes, content: bytes, method: str = "GET") -> None:
    """What holds for every answer about `content`."""
    status = response.status_code
    if method == "HEAD":
        assert body == b""
        if status == 200:
            assert response.headers["Content-Length"] == str(len(content))
        content = b""
    assert status < 500
    assert all("\r" not in value and "\n" not in value for value in response.headers.values())
    assert response.headers.get("X-Content-Type-Options") == (None if status == 204 else "nosniff")
    if status == 200:
        assert body == content
    elif status == 206:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers["Content-Range"])
        assert found
        first, last, size = map(int, found.groups())
        assert (size, body) == (len(content), content[first : last + 1])
        assert len(body) == int(response.headers["Content-Length"]) == last + 1 - first
    elif status == 304:
        assert body == b""
    if status >= 400:
        assert response.headers["Cache-Control"] == "no-store"


@MANY
@given(first=st.none() | position, last=st.none() | position)
def test_every_range_is_what_was_meant(data: Digest, first: int | None, last: int | None) -> None:
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    response, body = ask(data, "content_type=image/png", range=header)
    check(response, body, DATA)
    if first is None and last is None:
        expected = 200
    elif first is None:
        expected = 206 if last else 416
        if last:
            assert body == DATA[-last:]
    elif last is not None and last < first:
        expected = 200
    elif first >= SIZE:
        expected = 416
    else:
        expected = 206
        assert body == (DATA[first:] if last is None else DATA[first : last + 1])
    assert response.status_code == expected


@MANY
@given(
    header=st.one_of(
        field,
        field.map("bytes={}".format),
        st.from_regex(r"bytes=[-0-9, ]{0,20}", fullmatch=True),
    ),
    if_range=field,
)
def test_any_range_header(data: Digest, header: str, if_range: str) -> None:
    response, body = ask(data, "content_type=image/png", range=header, if_range=if_range)
    assert response.status_code in (200, 206, 416)
    check(response, body, DATA)


names = st.sampled_from(
    ["content_type", "disposition", "filename", "thumbnail", "signature", "x", ""]
)
values = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["image/png", "text/html", "inline", "attachment", "20", "1024", "1025", "0"]),
)
queries = st.one_of(
    st.lists(st.tuples(names, values), max_size=4).map(
        lambda pairs: "&".join(f"{n}={quote(v, errors='replace')}" for n, v in pairs)
    ),
    st.from_regex(r"(content_type|thumbnail)=[%&=;+a-zA-Z0-9/]{0,30}", fullmatch=True),
    field,
)


@MANY
@given(query=queries)
def test_any_query(data: Digest, query: str) -> None:
    response, body = ask(data, query)
    # No thumbnail can be made of these bytes.
    assert response.status_code in (200, 400, 422)
    check(response, body, DATA)


@MANY
@given(filename=st.text(max_size=60), disposition=st.sampled_from(["inline", "attachment"]))
def test_any_filename(data: Digest, filename: str, disposition: str) -> None:
    query = f"content_type=image/png&disposition={disposition}&filename="
    response, body = ask(data, query + quote(filename, errors="replace"))
    assert response.status_code == 200
    check(response, body, DATA)
    header = response.headers["Content-Disposition"]
    assert header.isascii()
    assert header.startswith(disposition)


tags = st.one_of(
    field,
    st.sampled_from(["*", '"a", *', 'W/"a"', ""]),
    st.lists(st.from_regex(r'(W/)?"[!#-~]{0,8}"', fullmatch=True), max_size=3).map(", ".join),
)


PAGE = "https://shop.example"


@pytest.fixture
def thumbnail(picture: Digest) -> bytes:
    _, body = ask(picture, "thumbnail=1024")
    assert body.startswith(b"\xff\xd8")
    return body


@MANY
@given(
    method=st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "TRACE"]),
    digest=st.one_of(st.none(), st.text(max_size=70), st.from_regex(r"[0-9a-fA-F]{63,65}")),
    query=st.sampled_from(["content_type=image/jpeg", "thumbnail=1024", ""]),
    match=tags,
    none_match=tags,
    origin=st.one_of(field, st.just(PAGE)),
)
def test_any_request(
    picture: Digest,
    thumbnail: bytes,
    method: str,
    digest: str | None,
    query: str,
    match: str,
    none_match: str,
    origin: str,
) -> None:
    with override_settings(CAS_CORS_ALLOWED_ORIGINS=[PAGE]):
        response, body = ask(
            picture if digest is None else digest,
            query,
            method,
            if_match=match,
            if_none_match=none_match,
            origin=origin,
        )
    assert response.status_code in (200, 204, 304, 400, 404, 405, 412)
    assert response.headers["Vary"] == "Origin"
    allowed = response.headers.get("Access-Control-Allow-Origin")
    assert allowed == (PAGE if origin == PAGE else None)
    check(response, body, thumbnail if query == "thumbnail=1024" else PICTURE, method)
