from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inventory.environment import Environment, EnvironmentFault

Reader = Callable[[Environment], Any]


def read(value: str, reader: Reader) -> Any:
    environment = Environment({"CAS_X": value})
    found = reader(environment)
    environment.check()
    return found


GOOD: list[tuple[str, Reader, Any]] = [
    (" Yes ", lambda e: e.boolean("CAS_X", False), True),
    ("0", lambda e: e.boolean("CAS_X", True), False),
    ("", lambda e: e.boolean("CAS_X", True), True),
    ("12", lambda e: e.integer("CAS_X", 5, minimum=1, maximum=12), 12),
    ("", lambda e: e.integer("CAS_X", 5, minimum=1, maximum=12), 5),
    ("a", lambda e: e.choice("CAS_X", ("a", "b"), "b"), "a"),
    ("a, b,,c ", lambda e: e.items("CAS_X"), ["a", "b", "c"]),
    ("150,300", lambda e: e.integers("CAS_X", minimum=1, maximum=1024), [150, 300]),
    ("https://cdn.example.org/x/", lambda e: e.url("CAS_X"), "https://cdn.example.org/x"),
    ("https://a:8443,*", lambda e: e.origins("CAS_X", any_allowed=True), ["https://a:8443", "*"]),
    ("10.0.0.0/8", lambda e: e.networks("CAS_X"), [ipaddress.ip_network("10.0.0.0/8")]),
    ("[::1]", lambda e: e.address("CAS_X", "127.0.0.1"), "::1"),
    ("localhost", lambda e: e.address("CAS_X", "::1"), "127.0.0.1"),
]


@pytest.mark.parametrize(("value", "reader", "expected"), GOOD)
def test_reads_typed_values(value: str, reader: Reader, expected: Any) -> None:
    assert read(value, reader) == expected


BAD: list[tuple[str, Reader]] = [
    ("maybe", lambda e: e.boolean("CAS_X", False)),
    ("0", lambda e: e.integer("CAS_X", 5, minimum=1, maximum=12)),
    ("-1", lambda e: e.integer("CAS_X", 5, minimum=1, maximum=12)),
    ("1.5", lambda e: e.integer("CAS_X", 5, minimum=1, maximum=12)),
    ("٣", lambda e: e.integer("CAS_X", 5, minimum=1, maximum=12)),
    ("9" * 5000, lambda e: e.integer("CAS_X", 5, minimum=1, maximum=12)),
    ("c", lambda e: e.choice("CAS_X", ("a", "b"), "b")),
    ("150,big", lambda e: e.integers("CAS_X", minimum=1, maximum=1024)),
    ("cdn.example.org", lambda e: e.url("CAS_X")),
    ("ftp://example.org", lambda e: e.url("CAS_X")),
    ("https://example.org:port", lambda e: e.url("CAS_X")),
    ("https://example.org/path", lambda e: e.origins("CAS_X")),
    ("https://me@example.org", lambda e: e.origins("CAS_X")),
    ("*", lambda e: e.origins("CAS_X")),
    ("10.0.0.1/8", lambda e: e.networks("CAS_X")),
    ("example.org", lambda e: e.address("CAS_X", "127.0.0.1")),
    ("/proc/no/such", lambda e: e.directory("CAS_X", Path("data"), Path("/"))),
]


@pytest.mark.parametrize(("value", "reader"), BAD)
def test_names_the_variable_and_the_cure(value: str, reader: Reader) -> None:
    with pytest.raises(EnvironmentFault, match=r"CAS_X .*\bWrite\b"):
        read(value, reader)


def test_tells_all_faults_at_once() -> None:
    environment = Environment({"PORT": "x", "CAS_A": "y"})
    environment.integer("PORT", 1, minimum=1, maximum=2)
    environment.boolean("CAS_A", False)
    with pytest.raises(EnvironmentFault) as caught:
        environment.check()
    assert "PORT" in str(caught.value)
    assert "CAS_A" in str(caught.value)


def test_a_misspelt_variable_is_a_fault_with_a_suggestion() -> None:
    environment = Environment({"CAS_S3_BUKET": "photos", "PATH": "/bin"})
    environment.text("CAS_S3_BUCKET")
    with pytest.raises(EnvironmentFault, match=r"CAS_S3_BUKET .*mean CAS_S3_BUCKET") as caught:
        environment.check()
    assert "PATH" not in str(caught.value)


def test_a_relative_directory_is_below_the_base(tmp_path: Path) -> None:
    environment = Environment({"CAS_X": "here/there"})
    assert environment.directory("CAS_X", Path("unused"), tmp_path) == tmp_path / "here/there"
    assert (tmp_path / "here/there").is_dir()
