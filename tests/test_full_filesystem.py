"""The server on a real file system that fills up or takes no changes: reads go on."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attachments.tests.factories import picture
from tests.s3 import ROOT
from tests.server import Server

pytestmark = pytest.mark.sqlite

SIZE = "24m"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def send(server: Server, method: str, path: str, body: bytes = b"", kind: str = "") -> Any:
    headers = {"Content-Type": kind or "application/json"}
    request = urllib.request.Request(server.url + path, body or None, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.read()


def upload(server: Server, key: str, content: bytes) -> Any:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    body = head + content + b"\r\n--x--\r\n"
    form = "multipart/form-data; boundary=x"
    return send(server, "POST", f"/api/parts/{key}/attachments", body, form)


def prepared(data: Path) -> None:
    data.mkdir(exist_ok=True)
    environment = {**os.environ, "INVENTORY_DATA_DIR": str(data)}
    migrate = [sys.executable, "manage.py", "migrate", "-v0"]
    subprocess.run(migrate, cwd=ROOT, env=environment, check=True)


def filled(server: Server) -> tuple[str, list[str]]:
    """A part with a photo: its key, and what can be read."""
    _status, made = send(server, "POST", "/api/parts", b'{"description": "Fuse"}')
    key = json.loads(made)["key"]
    status, shown = upload(server, key, picture())
    assert status == 201, shown
    photo = json.loads(shown)
    reads = [photo["download_url"], photo["thumbnail_url"], f"/api/parts/{key}", "/admin/login/"]
    for path in reads:
        assert send(server, "GET", path)[0] == 200
    return key, reads


def refused(server: Server, key: str, allowed: set[int]) -> set[str]:
    """Writes are refused; the codes that say why."""
    codes = set()
    answers = [
        upload(server, key, picture("blue")),
        send(server, "PATCH", f"/api/parts/{key}", b'{"description": "%d"}' % time.time_ns()),
    ]
    for status, body in answers:
        assert status in allowed, body
        codes.add(json.loads(body)["error"]["code"])
    return codes


def take_all(file: Path) -> None:
    with file.open("wb", buffering=0) as sink, contextlib.suppress(OSError):
        while True:
            sink.write(bytes(4096))


def test_a_full_disk_stops_writes_alone_until_there_is_room(small: Path, tmp_path: Path) -> None:
    data = small / "data"
    prepared(data)
    with Server(data, INVENTORY_WORKERS="2") as server:
        server.log = tmp_path / "log"
        key, reads = filled(server)
        fill = small / "fill"
        take_all(fill)
        workers = server.workers()
        for _ in range(3):
            for path in (*reads, "/health/live", "/metrics"):
                assert send(server, "GET", path)[0] == 200, path
            assert refused(server, key, {507}) == {"store_full", "database_full"}
        assert server.workers() == workers
        fill.unlink()
        assert upload(server, key, picture("blue"))[0] == 201
        changed = send(server, "PATCH", f"/api/parts/{key}", b'{"description": "After"}')
        assert changed[0] == 200


def test_a_file_system_that_takes_no_changes_is_read(small: Path, tmp_path: Path) -> None:
    data = small / "data"
    prepared(data)
    with Server(data, INVENTORY_WORKERS="2") as server:
        key, reads = filled(server)
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    server = Server(data, INVENTORY_WORKERS="2")
    server.log = tmp_path / "log"
    with server:
        for path in (*reads, "/health/live", "/metrics"):
            assert send(server, "GET", path)[0] == 200, path
        assert refused(server, key, {503}) == {"store_denied", "database_read_only"}
        assert "Traceback" not in server.log.read_text()
