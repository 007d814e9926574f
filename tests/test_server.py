"""The production server: several processes, one set of counts, no unguarded door."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.server import ROOT, Server, free_port

pytestmark = pytest.mark.sqlite


def installed(directory: Path) -> Server:
    """A server, not started, whose database has its tables."""
    made = Server(directory, DATABASE_URL="", CAS_S3_BUCKET="")
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
        cwd=ROOT,
        env=made.environment,
        check=True,
    )
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with installed(tmp_path_factory.mktemp("installation")) as made:
        yield made


def count(server: Server) -> float:
    """Requests for blobs answered 404, as any of the workers tells it."""
    _, page = server.get("/metrics")
    found = re.search(
        r'^cas_requests_total\{kind="content",status="404"\} (\S+)$', page.decode(), re.MULTILINE
    )
    return float(found[1]) if found else 0.0


def test_counts_are_those_of_all_workers(server: Server) -> None:
    before = count(server)
    url = f"/api/cas/{'0' * 64}?content_type=image/png"
    threads = [
        threading.Thread(target=lambda: [server.get(url) for _ in range(10)]) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counters = list((server.log.parent / "metrics").glob("counter_*.db"))
    assert len(counters) >= 2
    assert [count(server) - before for _ in range(8)] == [60.0] * 8


def test_what_a_new_user_sees(server: Server) -> None:
    status, page = server.get("/admin/login/")
    assert status == 200
    sheet = re.search(rb'href="(/static/[^"]+\.css)"', page)
    assert sheet
    assert server.get(sheet[1].decode())[0] == 200
    assert server.get("/api/parts") == (
        200,
        b'{"count":0,"next":null,"previous":null,"results":[]}',
    )
    assert server.get("/health/ready")[0] == 200


def test_bytes_that_are_no_http_do_not_stop_it(server: Server) -> None:
    for raw in (
        b"\x00\xff\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /api/parts HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"GET /api/" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(raw)
            assert not client.recv(20).startswith((b"HTTP/1.1 2", b"HTTP/1.1 5"))
    assert server.answers()


def test_a_worker_that_dies_is_replaced(server: Server) -> None:
    first, second = server.workers()
    subprocess.run(["kill", "-KILL", str(first)], check=True)
    deadline = time.monotonic() + 60
    while len(server.workers()) < 2 or first in server.workers():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert second in server.workers()
    # A connection that waited for the dead worker is reset; those that come now are answered.
    while not server.answers():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert all(server.answers() for _ in range(10))


def test_a_log_entry_is_one_line(server: Server) -> None:
    server.get("/api/nothing%0Aforged%20entry")
    lines = server.log.read_text().splitlines()
    assert not [line for line in lines if line.startswith("forged")]
    assert [line for line in lines if "/api/nothing" in line and "WARNING" in line]


def run(
    arguments: Sequence[str] = ("-m", "inventory.serve"), **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": "", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


WEAK_KEYS = {"short": "k3y", "uniform": "ab" * 30, "placeholder": "change-me-" + "0123456789" * 4}


@pytest.mark.parametrize("kind", WEAK_KEYS)
@pytest.mark.parametrize("how", ["server", "wsgi"])
def test_refuses_to_serve_with_a_weak_signing_key(tmp_path: Path, kind: str, how: str) -> None:
    variables = {
        "CAS_URL_SIGNING_KEYS": WEAK_KEYS[kind],
        "INVENTORY_DATA_DIR": str(tmp_path),
        "CAS_S3_BUCKET": "",
        "PORT": str(free_port()),
    }
    done = run(["-c", "import inventory.wsgi"], **variables) if how == "wsgi" else run(**variables)
    assert done.returncode == 1
    assert "CAS_URL_SIGNING_KEYS has a key that is easily guessed" in done.stderr
    assert WEAK_KEYS[kind] not in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [("-m", "inventory.serve"), ("-c", "import inventory.wsgi")])
def test_refuses_to_serve_with_what_a_check_finds(tmp_path: Path, arguments: Sequence[str]) -> None:
    """The environment alone does not tell: the store's kind is part of it."""
    done = run(
        arguments,
        CAS_DELIVERY="redirect",
        INVENTORY_DATA_DIR=str(tmp_path),
        CAS_S3_BUCKET="",
        PORT=str(free_port()),
    )
    assert done.returncode == 1
    assert "cas.E011" in done.stderr


def test_tidies_what_killed_uploads_left(tmp_path: Path) -> None:
    made = installed(tmp_path)
    staging = Path(made.environment["INVENTORY_DATA_DIR"], "attachments", ".staging")
    staging.mkdir(parents=True, exist_ok=True)
    old, young = staging / "upload-old", staging / "upload-young"
    for path in (old, young):
        path.write_bytes(b"left")
    hours_ago = time.time() - 2 * 3600
    os.utime(old, (hours_ago, hours_ago))
    with made:
        assert made.answers()
        assert list(staging.iterdir()) == [young]


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104
def test_refuses_to_listen_for_other_machines_without_accounts(address: str) -> None:
    done = run(INVENTORY_AUTH="open", INVENTORY_BIND=address, PORT=str(free_port()))
    assert done.returncode == 1
    assert "INVENTORY_AUTH is open" in done.stderr
    assert f"INVENTORY_BIND is {address}" in done.stderr
    assert "Traceback" not in done.stderr


def test_listens_for_other_machines_with_accounts(tmp_path: Path) -> None:
    with Server(
        tmp_path,
        INVENTORY_BIND="0.0.0.0",  # noqa: S104
        DATABASE_URL="",
    ) as opened:
        assert opened.stop() == 0


def test_a_port_in_use_is_told_plainly(server: Server) -> None:
    done = run(PORT=str(server.port))
    assert done.returncode == 1
    assert f"port {server.port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_faults_in_the_environment_are_told_plainly() -> None:
    done = run(PORT="http", INVENTORY_WORKERS="0")
    assert done.returncode == 1
    assert "PORT" in done.stderr
    assert "INVENTORY_WORKERS" in done.stderr
    assert "Traceback" not in done.stderr


def wait_until_closed(port: int) -> None:
    """Until nothing listens there any more."""
    deadline = time.monotonic() + 60
    while True:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                assert time.monotonic() < deadline, "somebody still listens"
            else:
                return
        time.sleep(0.05)


def test_stops_at_once_while_its_workers_are_starting(tmp_path: Path) -> None:
    starting = Server(tmp_path, DATABASE_URL="")
    starting.launch()
    deadline = time.monotonic() + 60
    while "Inventory is served at" not in starting.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert starting.stop() == 0


def test_finishes_what_it_is_doing_when_told_to_stop(tmp_path: Path) -> None:
    body = b'{"name": "Fuse"}'
    head = (
        b"POST /api/types HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    with installed(tmp_path) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(head + body[:5])
            # Its headers have been read once a later request has been answered.
            assert server.answers()
            server.process.terminate()
            wait_until_closed(server.port)
            client.sendall(body[5:])
            assert client.recv(12) == b"HTTP/1.1 201"
        assert server.stop() == 0


def test_workers_end_with_a_server_that_was_killed(tmp_path: Path) -> None:
    with Server(tmp_path, DATABASE_URL="") as doomed:
        assert doomed.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_until_closed(doomed.port)
