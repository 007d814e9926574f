from __future__ import annotations

import errno
import ipaddress
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from prometheus_client.mmap_dict import MmapedDict

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


def test_counts_of_ended_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    ended = process.pid
    environment: dict[str, str] = {}
    directory = metrics.share(tmp_path, environment)
    assert environment == {"PROMETHEUS_MULTIPROC_DIR": str(directory)}
    names = {f"counter_{ended}.db", f"histogram_{ended}.db", f"counter_{os.getpid()}.db"}
    for name in (*names, "note.txt"):
        (directory / name).touch()
    metrics.remove_ended(directory)
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
        metrics.add_up_ended(directory)
        assert {file.name for file in directory.glob("*.db")} == {"counter_0.db", "histogram_0.db"}
    page = python(shown)
    assert 'told_total{outcome="deleted"} 9.0' in page
    assert "took_count 3.0" in page
    metrics.remove_ended(directory)
    assert list(directory.glob("*.db")) == []


class TestCountsFile:
    def test_it_is_read_as_the_librarys(self, tmp_path: Path) -> None:
        file = tmp_path / "counter_1.db"
        counts = metrics.CountsFile(str(file))
        for number in range(3000):
            counts.write_value(f"key {number}", number, 0.0)
        read = dict(each[:2] for each in MmapedDict.read_all_values_from_file(str(file)))
        assert read == {f"key {number}": float(number) for number in range(3000)}
        counts.close()
        again = metrics.CountsFile(str(file))
        assert again.read_value("key 7") == (7.0, 0.0)
        again.write_value("key 7", 8.0, 1.5)
        assert metrics.CountsFile(str(file)).read_value("key 7") == (8.0, 1.5)

    @pytest.mark.parametrize("call", ["pwrite", "open"])
    def test_what_cannot_be_written_is_kept_and_written_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        def full(*arguments: Any, **options: Any) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

        file, clock = tmp_path / "counter_1.db", [100.0]
        monkeypatch.setattr("inventory.metrics.time.monotonic", lambda: clock[0])
        counts = metrics.CountsFile(str(file)) if call == "pwrite" else None
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            counts = counts or metrics.CountsFile(str(file))
            counts.write_value("a", 1.0, 0.0)
            assert counts.read_value("a") == (1.0, 0.0)
            counts.write_value("a", 2.0, 0.0)
        assert (tmp_path / "counter_1.db").exists() == (call == "pwrite")
        clock[0] += metrics.RETRY_SECONDS
        counts.write_value("b", 3.0, 0.0)
        read = dict(each[:2] for each in MmapedDict.read_all_values_from_file(str(file)))
        assert read == {"a": 2.0, "b": 3.0}
        assert not (tmp_path / "counter_1.new").exists()
