"""Clients that send or read slowly take half of a worker's threads at the most."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.s3 import ROOT
from tests.server import Server
from tests.test_full_filesystem import prepared, send

pytestmark = pytest.mark.sqlite

BOUNDARY = "a-boundary-that-is-in-no-file"
CLIENTS = 40
LARGE = 24 * 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("slow") / "data"
    prepared(data)
    with Server(data, INVENTORY_WORKERS="1", INVENTORY_THREADS="8") as server:
        yield server


@pytest.fixture
def key(server: Server) -> str:
    made = send(server, "POST", "/api/parts", b'{"description": "Fuse"}')[1]
    return str(json.loads(made)["key"])


def upload(server: Server, key: str, content: bytes) -> tuple[int, bytes]:
    head = 'Content-Disposition: form-data; name="file"; filename="a.pdf"'
    start, end = f"--{BOUNDARY}\r\n{head}\r\n\r\n", f"\r\n--{BOUNDARY}--\r\n"
    body = start.encode() + content + end.encode()
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    status, answer = send(server, "POST", f"/api/parts/{key}/attachments", body, kind)
    return status, answer


def slow(server: Server, lines: list[str]) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.sendall("\r\n".join([*lines, "Host: localhost", "", ""]).encode())
    return client


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/json"])
def test_bodies_that_do_not_arrive_keep_nobody_from_reading(
    server: Server, key: str, kind: str
) -> None:
    path = f"/api/parts/{key}"
    begun = [f"POST {path}/attachments HTTP/1.1", f"Content-Type: {kind}", "Content-Length: 9999"]
    with ExitStack() as clients:
        for _ in range(CLIENTS):
            clients.enter_context(slow(server, begun))
        time.sleep(1.5)
        for _ in range(3):
            assert send(server, "GET", path)[0] == 200
            assert send(server, "GET", "/health/live")[0] == 200
            status, answer = send(server, "PATCH", path, b'{"description": "Busy"}')
            assert (status, json.loads(answer)["error"]["code"]) == (503, "overloaded")
    assert_recovers(server, path)


def test_readers_that_take_nothing_keep_nobody_from_reading_or_writing(
    server: Server, key: str
) -> None:
    path = f"/api/parts/{key}"
    status, answer = upload(server, key, b"%PDF-1.4\n" + bytes(LARGE))
    assert status == 201
    blob = json.loads(answer)["download_url"]
    with ExitStack() as clients:
        for _ in range(CLIENTS):
            clients.enter_context(slow(server, [f"GET {blob} HTTP/1.1"]))
        time.sleep(1.5)
        for number in range(3):
            assert send(server, "GET", path)[0] == 200
            assert send(server, "GET", "/health/live")[0] == 200
            assert send(server, "PATCH", path, b'{"description": "%d"}' % number)[0] == 200
            assert send(server, "GET", blob)[0] == 503
    assert_recovers(server, path)
    assert send(server, "GET", blob)[0] == 200


def assert_recovers(server: Server, path: str) -> None:
    deadline = time.monotonic() + 10
    while send(server, "PATCH", path, b'{"description": "Free"}')[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_many_that_are_fast_are_all_served(server: Server, key: str) -> None:
    status, answer = upload(server, key, b"%PDF-1.4\n" + bytes(LARGE // 8))
    assert status == 201
    blob = json.loads(answer)["download_url"]
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: send(server, "GET", blob)[0], range(96)))
    assert answers == [200] * 96


class FewFiles(Server):
    """A server whose processes may have 64 files and connections open."""

    def launch(self) -> None:
        with self.log.open("ab") as log:
            command = f"ulimit -n 64; exec {sys.executable} -m inventory.serve"
            self.process = subprocess.Popen(
                ["bash", "-c", command], cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )


def test_too_many_connections_are_answered_503(tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepared(data)
    with FewFiles(data, INVENTORY_WORKERS="1") as server, ExitStack() as clients:
        open_ones = []
        for _ in range(100):
            client = socket.create_connection(("127.0.0.1", server.port), timeout=5)
            open_ones.append(clients.enter_context(client))
        statuses: Counter[bytes] = Counter()
        for client in open_ones:
            with contextlib.suppress(OSError):
                client.sendall(b"GET /api/parts HTTP/1.1\r\nHost: localhost\r\n\r\n")
                client.settimeout(0.5)
                statuses[client.recv(12)[9:]] += 1
        clients.close()
        deadline = time.monotonic() + 10
        while send(server, "GET", "/api/parts")[0] != 200:
            assert time.monotonic() < deadline
        log = server.log.read_text()
    assert set(statuses) <= {b"200", b"503", b""}
    assert statuses[b"503"]
    assert "Traceback" not in log
