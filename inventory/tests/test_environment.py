from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from cas.conf import (
    BOOLEAN,
    DIRECTORY,
    ORIGINS,
    SERVING,
    TEXT,
    URL,
    Kind,
    Setting,
    choice,
    integer,
    list_of,
)
from inventory.environment import Environment, EnvironmentFault
from inventory.settings import ADDRESS, NETWORKS

FIELDS = {row.name: row.kind for row in SERVING}

BASE = Path("/")


def setting(kind: Kind, default: Any = None) -> Setting:
    return Setting("CAS_X", kind, default, "")


def read(value: str, kind: Kind, default: Any = None) -> Any:
    environment = Environment({"CAS_X": value}, BASE)
    found = environment.read(setting(kind, default))
    environment.check()
    return found


GOOD: list[tuple[str, Kind, Any, Any]] = [
    (" Yes ", BOOLEAN, False, True),
    ("0", BOOLEAN, True, False),
    ("", BOOLEAN, True, True),
    ("12", integer(1, 12), 5, 12),
    ("", integer(1, 12), 5, 5),
    ("a", choice("a", "b"), "b", "a"),
    ("a, b,,c ", list_of(TEXT, "words"), [], ["a", "b", "c"]),
    ("150,300", list_of(integer(1, 1024), "sizes"), [], [150, 300]),
    ("https://cdn.example.org/x/", URL, "", "https://cdn.example.org/x"),
    ("https://a:8443", ORIGINS, [], ["https://a:8443"]),
    ("https://a:8443,*", FIELDS["CAS_CORS_ALLOWED_ORIGINS"], (), ["https://a:8443", "*"]),
    ("10.0.0.0/8", NETWORKS, [], [ipaddress.ip_network("10.0.0.0/8")]),
    ("[::1]", ADDRESS, "127.0.0.1", "::1"),
    ("localhost", ADDRESS, "::1", "127.0.0.1"),
    ("::ffff:127.0.0.1", ADDRESS, "::1", "127.0.0.1"),
]


@pytest.mark.parametrize(("value", "kind", "default", "expected"), GOOD)
def test_reads_typed_values(value: str, kind: Kind, default: Any, expected: Any) -> None:
    assert read(value, kind, default) == expected


BAD: list[tuple[str, Kind]] = [
    ("maybe", BOOLEAN),
    ("0", integer(1, 12)),
    ("-1", integer(1, 12)),
    ("1.5", integer(1, 12)),
    ("٣", integer(1, 12)),
    ("9" * 5000, integer(1, 12)),
    ("9" * 5000, integer(1)),
    ("c", choice("a", "b")),
    ("150,big", list_of(integer(1, 1024), "sizes")),
    ("cdn.example.org", URL),
    ("ftp://example.org", URL),
    ("https://example.org:port", URL),
    ("https://example.org/path", ORIGINS),
    ("https://me@example.org", ORIGINS),
    ("*", ORIGINS),
    ("10.0.0.1/8", NETWORKS),
    ("example.org", ADDRESS),
    ("/proc/no/such", DIRECTORY),
    # These had a limit in the app's own checks alone.
    ("short", FIELDS["CAS_URL_SIGNING_KEYS"]),
    ("ab" * 30, FIELDS["CAS_URL_SIGNING_KEYS"]),
    ("Change-Me-" + "0123456789" * 4, FIELDS["CAS_URL_SIGNING_KEYS"]),
    ("/ends/", FIELDS["CAS_ACCEL_PREFIX"]),
]


@pytest.mark.parametrize(("value", "kind"), BAD)
def test_names_the_variable_and_the_cure(value: str, kind: Kind) -> None:
    with pytest.raises(EnvironmentFault, match=r"CAS_X .*\bWrite\b"):
        read(value, kind, Path("data") if kind is DIRECTORY else None)


def test_a_secret_is_not_repeated() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        read("hush", FIELDS["CAS_URL_SIGNING_KEYS"])
    assert "hush" not in str(caught.value)


def test_tells_all_faults_at_once() -> None:
    environment = Environment({"PORT": "x", "CAS_A": "y"}, BASE)
    environment.read(Setting("PORT", integer(1, 2), 1, ""))
    environment.read(Setting("CAS_A", BOOLEAN, False, ""))
    with pytest.raises(EnvironmentFault) as caught:
        environment.check()
    assert "PORT" in str(caught.value)
    assert "CAS_A" in str(caught.value)


def test_a_misspelt_variable_is_a_fault_with_a_suggestion() -> None:
    environment = Environment({"CAS_S3_BUKET": "photos", "PATH": "/bin"}, BASE)
    environment.read(Setting("CAS_S3_BUCKET", TEXT, "", ""))
    with pytest.raises(EnvironmentFault, match=r"CAS_S3_BUKET .*mean CAS_S3_BUCKET") as caught:
        environment.check()
    assert "PATH" not in str(caught.value)


def test_a_relative_directory_is_below_the_base(tmp_path: Path) -> None:
    environment = Environment({"CAS_X": "here/there"}, tmp_path)
    assert environment.read(setting(DIRECTORY, Path("unused"))) == tmp_path / "here/there"
    assert (tmp_path / "here/there").is_dir()
