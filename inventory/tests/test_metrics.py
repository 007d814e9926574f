from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from inventory import metrics


def get(peer: str, **headers: str) -> Any:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Client(REMOTE_ADDR=peer).get("/metrics", headers=names)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_this_machine_may_read(peer: str) -> None:
    response = get(peer)
    assert response.status_code == 200
    assert b"cas_thumbnail_cache_hits_total" in response.content
    assert response["Cache-Control"] == "no-store"


@pytest.mark.parametrize("peer", ["192.0.2.1", "2001:db8::1", "", "nonsense"])
def test_others_may_not(peer: str) -> None:
    assert get(peer).status_code == 403


@pytest.mark.parametrize("header", ["x_forwarded_for", "forwarded", "x_real_ip", "via"])
def test_a_proxy_on_this_machine_is_not_this_machine(header: str) -> None:
    assert get("127.0.0.1", **{header: "127.0.0.1"}).status_code == 403


def test_listed_networks_may_read(settings: Any) -> None:
    settings.INVENTORY_METRICS_ALLOWED = [ipaddress.ip_network("192.0.2.0/24")]
    assert get("192.0.2.1").status_code == 200
    assert get("198.51.100.1").status_code == 403
    assert get("198.51.100.1", x_forwarded_for="192.0.2.1").status_code == 403


def test_counts_of_the_dead_are_forgotten_and_those_of_the_living_kept(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    ended = process.pid
    environment: dict[str, str] = {}
    directory = metrics.share(tmp_path, environment)
    assert environment == {"PROMETHEUS_MULTIPROC_DIR": str(directory)}
    names = {f"counter_{ended}.db", f"histogram_{ended}.db", f"counter_{os.getpid()}.db"}
    for name in (*names, "note.txt"):
        (directory / name).touch()
    metrics.forget_the_dead(directory)
    left = {file.name for file in directory.iterdir()}
    assert left == {f"counter_{os.getpid()}.db", "note.txt"}


def test_counts_of_ended_commands_are_kept_in_one_file(tmp_path: Path) -> None:
    """A collection every night must not leave files for ever, nor may a count go down."""
    directory = metrics.share(tmp_path, {})
    script = (
        "from prometheus_client import Counter, Histogram\n"
        "Counter('told', 'x', ['outcome']).labels('deleted').inc(3)\n"
        "Histogram('took', 'x').observe(0.2)\n"
    )
    shown = (
        "from prometheus_client import CollectorRegistry, generate_latest, multiprocess\n"
        "registry = CollectorRegistry()\n"
        "multiprocess.MultiProcessCollector(registry)\n"
        "print(generate_latest(registry).decode())\n"
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}

    def python(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    for _ in range(3):
        python(script)
        metrics.fold_the_dead(directory)
        assert {file.name for file in directory.glob("*.db")} == {"counter_0.db", "histogram_0.db"}
    page = python(shown)
    assert 'told_total{outcome="deleted"} 9.0' in page
    assert "took_count 3.0" in page
    metrics.forget_the_dead(directory)
    assert list(directory.glob("*.db")) == []
