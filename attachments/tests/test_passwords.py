"""Passwords of databases in whatever is printed, reported or logged."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import psycopg
import pytest

from attachments.maintenance.report import Report, without_passwords
from attachments.tests.legacy import run
from inventory.log import FORMAT, OneLine

SECRET = "s3cr.t"

URLS = {
    "userinfo": f"postgresql://older:{SECRET}@127.0.0.1:1/parts",
    "no user": f"postgresql://:{SECRET}@127.0.0.1:1/parts",
    "parameter": f"postgresql://older@127.0.0.1:1/parts?password={SECRET}",
    "second parameter": f"postgresql://older@127.0.0.1:1/parts?sslmode=disable&password={SECRET}",
    "first of two": f"postgresql://127.0.0.1:1/parts?password={SECRET}&user=older",
    "encoded name": f"postgresql://older@127.0.0.1:1/parts?p%61ssword={SECRET}",
    "encoded": "postgresql://older:s3cr%2Et@127.0.0.1:1/parts",
    "encoded parameter": "postgresql://older@127.0.0.1:1/parts?password=s3cr%2Et",
    "key": f"postgresql://older@127.0.0.1:1/parts?sslpassword={SECRET}",
    "at sign": f"postgresql://older:{SECRET}@{SECRET}@127.0.0.1:1/parts",
    "slash": f"postgresql://older:/{SECRET}@127.0.0.1:1/parts",
    "malformed": f"postgresql://older:{SECRET}@127.0.0.1:port/parts?nothing=1",
    "keywords": f"host=127.0.0.1 port=1 password={SECRET} dbname=parts",
    "quoted": f"host=127.0.0.1 password = 'a\\' {SECRET} b' port=1",
    "escaped": f"host=127.0.0.1 port=1 password=a\\ {SECRET}",
    "unclosed": f"host=127.0.0.1 password='{SECRET}",
}


def is_told(text: str) -> bool:
    return SECRET in text or "s3cr%2Et" in text


@pytest.mark.parametrize("form", URLS)
def test_no_form_of_a_password_is_left(form: str) -> None:
    shown = without_passwords(f"failed: {URLS[form]} is refused")
    assert not is_told(shown)
    assert "127.0.0.1" in shown


@pytest.mark.parametrize("form", URLS)
def test_the_drivers_words_have_none(form: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        psycopg.connect(URLS[form], connect_timeout=2)
    assert not is_told(without_passwords(str(refused.value)))


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://older:a {SECRET}@127.0.0.1:1/parts",
        f"postgresql://older:a'{SECRET}@127.0.0.1:1/parts",
        f'postgresql://older:a" {SECRET}@127.0.0.1:1/parts',
        f"{{'host': '127.0.0.1', 'password': 'a {SECRET}', 'port': 1}}",
        f"{{'host': '127.0.0.1', 'password': \"it's {SECRET}\"}}",
        json.dumps({"password": f'a" {SECRET}', "host": "127.0.0.1"}),
        json.dumps({"error": json.dumps({"host": "127.0.0.1", "sslpassword": SECRET})}),
    ],
)
def test_text_that_no_driver_would_take_has_none(text: str) -> None:
    shown = without_passwords(f"failed: {text} is refused")
    assert SECRET not in shown
    assert "127.0.0.1" in shown
    if text.startswith('{"'):
        json.loads(without_passwords(text))


def test_a_port_is_no_password() -> None:
    for text in ("http://127.0.0.1:9000/b and me@x.org", "http://[::1]:9000 and me@x.org"):
        assert without_passwords(text) == text


def test_a_url_can_still_be_used() -> None:
    url = "postgresql://older:secret@[::1]:5433/parts?sslmode=require&password=x&user=me"
    assert without_passwords(url) == "postgresql://older@[::1]:5433/parts?sslmode=require&user=me"
    for harmless in (
        "https://parts.example.org/a?b=c",
        "12:30, a@b",
        "the password is better given",
    ):
        assert without_passwords(harmless) == harmless


def test_the_log_and_the_report_have_none(tmp_path: Path) -> None:
    record = logging.LogRecord("x", logging.ERROR, "x", 1, "%s", (URLS["userinfo"],), None)
    assert not is_told(OneLine(FORMAT).format(record))
    with Report(tmp_path / "report") as report:
        report.write({"error": URLS["parameter"]})
    written = (tmp_path / "report").read_text()
    assert not is_told(written)
    assert json.loads(written)["error"].startswith("postgresql://older@")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("form", [form for form, url in URLS.items() if "://" in url])
def test_an_import_tells_none(
    disk_store: object, caplog: pytest.LogCaptureFixture, form: str, as_json: bool
) -> None:
    options = ["--json"] if as_json else []
    status, output = run(
        "import_legacy", "--yes-i-am-sure", "--patience", "0s", *options, "--database", URLS[form]
    )
    assert status in (4, 5)
    assert "127.0.0.1" in output
    assert not is_told(output + caplog.text)
