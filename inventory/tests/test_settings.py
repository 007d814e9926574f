"""The settings as a process started with a given environment sees them."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore
import pytest
from django.db import connection
from psycopg import IsolationLevel

from cas.conf import ServingSettings, is_guessable
from inventory.environment import MINIMUM_KEY_LENGTH, PREFIXES, kept_key
from tests import settings_page

BUNDLE = str(Path(botocore.__file__).parent / "cacert.pem")
"""Certificates that are there wherever boto3 is."""

ROOT = Path(__file__).resolve().parents[2]
KEY = "k3y-" + 10 * "abcdefg"
PRINT = """
import json
from inventory import settings
names = [name for name in dir(settings) if name.isupper()]
print(json.dumps({name: getattr(settings, name) for name in names}, default=str))
"""


def process(data_dir: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith((*PREFIXES, "DATABASE_"))}
    return subprocess.run(
        [sys.executable, "-c", PRINT],
        env={**kept, "INVENTORY_DATA_DIR": str(data_dir), **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def settings_of(data_dir: Path, **variables: str) -> dict[str, Any]:
    done = process(data_dir, **variables)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_without_any_variable_there_is_a_usable_development_installation(tmp_path: Path) -> None:
    found = settings_of(tmp_path)
    assert not found["DEBUG"]
    assert found["INVENTORY_BIND"] == "127.0.0.1"
    assert found["INVENTORY_PORT"] == 8000
    assert found["DATABASES"]["default"]["NAME"] == str(tmp_path / "inventory.sqlite3")
    assert found["STORAGES"]["attachments"]["OPTIONS"]["location"] == str(tmp_path / "attachments")
    assert set(found["ALLOWED_HOSTS"]) == {"localhost", "127.0.0.1", "[::1]"}
    for path in (found["CAS_THUMBNAIL_CACHE_DIR"], found["CAS_STATE_DIR"]):
        assert Path(path).parent == tmp_path


def test_defaults_are_those_of_the_serving_app(tmp_path: Path) -> None:
    found = settings_of(tmp_path)
    for name in ServingSettings.__slots__:
        if name == "thumbnail_cache_dir":
            continue
        default = getattr(ServingSettings(), name)
        read = found[f"CAS_{name.upper()}"]
        assert (tuple(read) if isinstance(default, tuple) else read) == default, name


def test_a_development_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    first = settings_of(tmp_path)["SECRET_KEY"]
    assert settings_of(tmp_path)["SECRET_KEY"] == first
    assert not is_guessable(first, MINIMUM_KEY_LENGTH)
    assert stat.S_IMODE((tmp_path / "secret-key").stat().st_mode) == 0o600
    assert kept_key(tmp_path / "another") != first
    assert not list(tmp_path.glob("another.*"))


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({"SECRET_KEY": ""}, ["SECRET_KEY is missing"]),
        ({"SECRET_KEY": "short"}, ["SECRET_KEY is easily guessed"]),
        ({"SECRET_KEY": "a" * 80}, ["SECRET_KEY is easily guessed"]),
        ({"SECRET_KEY": "0123456789" * 7}, ["SECRET_KEY is easily guessed"]),
        ({"SECRET_KEY": "django-insecure-" + KEY}, ["SECRET_KEY is easily guessed"]),
        ({"INVENTORY_DEBUG": "true"}, ["INVENTORY_DEBUG is on in production"]),
        ({"INVENTORY_ALLOWED_HOSTS": "*"}, ["INVENTORY_ALLOWED_HOSTS"]),
        (
            {"CAS_SIGNED_URLS": "true", "INVENTORY_AUTH": "open"},
            ["CAS_URL_SIGNING_KEYS is missing"],
        ),
        ({"CAS_S3_REGION": "eu-west-1"}, ["CAS_S3_BUCKET is missing"]),
        (
            {"CAS_S3_BUCKET": "b", "CAS_S3_ACCESS_KEY_ID": "a"},
            ["CAS_S3_SECRET_ACCESS_KEY is missing"],
        ),
        ({"CAS_S3_CA_BUNDLE": BUNDLE}, ["CAS_S3_BUCKET is missing"]),
        (
            {"CAS_S3_BUCKET": "b", "CAS_S3_CA_BUNDLE": "/no/such/file"},
            ["CAS_S3_CA_BUNDLE is '/no/such/file', which cannot be read (No such file"],
        ),
        (
            {"CAS_S3_BUCKET": "b", "CAS_S3_CA_BUNDLE": __file__},
            ["which has no certificate in PEM"],
        ),
        ({"DATABASE_URL": "mysql://u:hush@h/n"}, ["DATABASE_URL is not"]),
        ({"DATABASE_URL": "postgres://u:hush@[h/n"}, ["DATABASE_URL is not"]),
        ({"DATABASE_URL": "postgres://u:hush@h"}, ["DATABASE_URL is not"]),
        ({"INVENTORY_ALLOW_OPEN_API": "true"}, ["write INVENTORY_AUTH=accounts instead"]),
        (
            {"INVENTORY_AUTH": "open", "INVENTORY_BIND": "192.0.2.1"},
            ["INVENTORY_AUTH is open, and INVENTORY_BIND is 192.0.2.1"],
        ),
        ({"INVENTORY_LOGIN_RATE": "many"}, ["Write a number and a period"]),
        ({"PORT": "0", "INVENTORY_ENV": "prod"}, ["PORT", "INVENTORY_ENV"]),
    ],
)
def test_faults_are_named(tmp_path: Path, variables: dict[str, str], names: list[str]) -> None:
    done = process(tmp_path, **{"INVENTORY_ENV": "production", "SECRET_KEY": KEY, **variables})
    assert done.returncode != 0
    for name in names:
        assert name in done.stderr
    assert "hush" not in done.stderr


def test_commands_print_faults_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "migrate"],
        env={**os.environ, "INVENTORY_DATA_DIR": str(tmp_path), "PORT": "x"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_production_is_accepted_when_it_is_safe(tmp_path: Path) -> None:
    found = settings_of(
        tmp_path,
        INVENTORY_ENV="production",
        SECRET_KEY=KEY,
        DATABASE_URL="postgresql://me:p%40ss@db.example.org:5433/parts?sslmode=require",
        INVENTORY_ALLOWED_HOSTS="parts.example.org",
        INVENTORY_BEHIND_TLS_PROXY="true",
    )
    assert not (tmp_path / "secret-key").exists()
    assert found["SESSION_COOKIE_SECURE"]
    assert found["CSRF_COOKIE_SECURE"]
    assert found["SECURE_PROXY_SSL_HEADER"] == ["HTTP_X_FORWARDED_PROTO", "https"]
    assert "parts.example.org" in found["ALLOWED_HOSTS"]
    database = found["DATABASES"]["default"]
    assert (database["PASSWORD"], database["PORT"]) == ("p@ss", 5433)
    assert database["CONN_HEALTH_CHECKS"]
    assert database["OPTIONS"] == {
        "connect_timeout": 5,
        "sslmode": "require",
        "isolation_level": IsolationLevel.READ_COMMITTED,
    }


def test_a_bucket_makes_it_s3(tmp_path: Path) -> None:
    found = settings_of(
        tmp_path,
        CAS_S3_BUCKET="photos",
        CAS_S3_ENDPOINT_URL="http://127.0.0.1:9000/",
        CAS_S3_ACCESS_KEY_ID="id",
        CAS_S3_SECRET_ACCESS_KEY="secret",
        CAS_S3_REGION="eu-west-1",
        CAS_S3_ADDRESSING_STYLE="path",
        CAS_S3_CA_BUNDLE=BUNDLE,
    )
    assert found["STORAGES"]["attachments"] == {
        "BACKEND": "cas.storage.s3.S3BlobStorage",
        "OPTIONS": {
            "bucket_name": "photos",
            "endpoint_url": "http://127.0.0.1:9000",
            "access_key": "id",
            "secret_key": "secret",
            "region_name": "eu-west-1",
            "addressing_style": "path",
            "verify": BUNDLE,
        },
    }


@pytest.mark.sqlite
@pytest.mark.django_db(transaction=True)
def test_sqlite_is_safe_for_many_writers_and_power_cuts() -> None:
    with connection.cursor() as cursor:
        found = {}
        for pragma in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys"):
            cursor.execute(f"PRAGMA {pragma}")
            found[pragma] = cursor.fetchone()[0]
    full = 2
    assert found == {
        "journal_mode": "wal",
        "synchronous": full,
        "busy_timeout": 20_000,
        "foreign_keys": 1,
    }
    assert connection.settings_dict["OPTIONS"]["transaction_mode"] == "IMMEDIATE"


def test_the_reference_is_made_of_the_settings() -> None:
    page = settings_page.PAGE.read_text()
    assert page == settings_page.rendered(page), "run python -m tests.settings_page"
    listed = re.findall(r"^\| `([A-Z0-9_]+)` \|", page, re.MULTILINE)
    assert len(listed) == len(set(listed)) > 40


def test_every_row_of_the_table_is_read() -> None:
    from inventory import settings

    assert settings._environment._known == set(settings._table)


def test_only_settings_read_the_environment() -> None:
    """A variable read anywhere else would be in no error, and in no list."""
    allowed = {"inventory/settings.py", "inventory/serve.py", "inventory/first_run.py"}
    allowed |= {"inventory/wsgi.py", "inventory/metrics.py", "manage.py"}
    found = set()
    for room in ("inventory", "cas", "attachments", "parts"):
        for file in (ROOT / room).rglob("*.py"):
            path = str(file.relative_to(ROOT))
            if "/tests/" not in path and re.search(r"os\.(environ|getenv)", file.read_text()):
                found.add(path)
    assert found <= allowed


def test_with_accounts_urls_are_signed_by_a_key_made_of_the_secret(tmp_path: Path) -> None:
    def auth(**variables: str) -> tuple[str, bool, list[str]]:
        found = settings_of(tmp_path, SECRET_KEY=KEY, **variables)
        names = ("INVENTORY_AUTH", "CAS_SIGNED_URLS", "CAS_URL_SIGNING_KEYS")
        mode, signed, keys = (found[name] for name in names)
        return mode, signed, keys

    assert auth() == ("open", False, [])
    mode, signed, keys = auth(INVENTORY_ENV="production")
    assert (mode, signed) == ("accounts", True)
    assert len(keys) == 1
    assert keys[0] not in KEY
    assert auth(INVENTORY_BIND="192.0.2.1") == ("accounts", True, keys)
    assert auth(INVENTORY_AUTH="accounts") == ("accounts", True, keys)
    own = "o" + 4 * "wn-key-17"
    assert auth(INVENTORY_AUTH="accounts", CAS_URL_SIGNING_KEYS=own)[1:] == (True, [own])
    assert auth(INVENTORY_AUTH="accounts", CAS_SIGNED_URLS="false")[1] is False
