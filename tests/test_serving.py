"""Blobs from the shipped server: what cannot be seen without a socket."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas.digest import Digest, Hasher
from cas.storage.base import BlobStore, Staged
from cas.storage.disk import DiskBlobStorage
from cas.storage.s3 import S3BlobStorage
from tests.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server
from tests.server import Server

pytestmark = pytest.mark.sqlite

SIZE = 48 * 1024 * 1024

FORGET_THE_PEAK = "5"
"""What Linux's `clear_refs` takes to begin a process's peak of resident memory anew."""


def put(store: BlobStore, data: bytes) -> Digest:
    hasher = Hasher()
    hasher.update(data)
    path = store.staging_dir / "staged"
    path.write_bytes(data)
    store.create(Staged(path, hasher.digest, hasher.md5, hasher.size))
    path.unlink()
    return hasher.digest


@pytest.fixture(scope="module")
def disk_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, BlobStore]]:
    data = tmp_path_factory.mktemp("disk")
    with Server(data, INVENTORY_WORKERS="1") as server:
        yield server, DiskBlobStorage(location=data / "attachments")


def connect(server: Server, target: str, method: str = "GET", **headers: str) -> socket.socket:
    """A connection on which one request was sent and nothing was read."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return connection


def receive(connection: socket.socket) -> tuple[dict[str, str], bytes]:
    """Everything until the other side ends the connection or all that was announced is here.

    No headers at all if it ended the connection before it had sent them.
    """
    received = bytearray()
    while b"\r\n\r\n" not in received:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            part = b""
        if not part:
            return {}, b""
        received += part
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    lines = [line.partition(": ") for line in head.decode().split("\r\n")[1:]]
    headers = {name.lower(): value for name, _, value in lines}
    parts = [body]
    length = len(body)
    while length < int(headers["content-length"]):
        try:
            part = connection.recv(1024 * 1024)
        except ConnectionResetError:
            break
        if not part:
            break
        parts.append(part)
        length += len(part)
    return headers, b"".join(parts)


def target(digest: Digest) -> str:
    return f"/api/cas/{digest}?content_type=image/png"


def test_a_file_that_shrinks_ends_the_connection(disk_site: tuple[Server, BlobStore]) -> None:
    server, store = disk_site
    digest = put(store, os.urandom(SIZE))
    with connect(server, target(digest)) as connection:
        assert connection.recv(1)
        os.truncate(store.path(digest.key), SIZE // 2)  # type: ignore[attr-defined]
        # One byte of the status line is gone, which does not matter.
        headers, body = receive(connection)
    assert headers["content-length"] == str(SIZE)
    assert len(body) < SIZE


def test_a_store_that_breaks_off_ends_the_connection(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    digest = put(S3BlobStorage(**s3_server.storage_options(s3_bucket)), os.urandom(1024 * 1024))
    environment = {
        "CAS_S3_BUCKET": s3_bucket,
        "CAS_S3_ENDPOINT_URL": s3_server.endpoint,
        "CAS_S3_REGION": REGION,
        "CAS_S3_ACCESS_KEY_ID": ACCESS_KEY,
        "CAS_S3_SECRET_ACCESS_KEY": SECRET_KEY,
        "INVENTORY_WORKERS": "1",
    }
    with Server(tmp_path, **environment) as server:
        with connect(server, target(digest)) as connection:
            headers, body = receive(connection)
        assert len(body) == int(headers["content-length"])
        s3_server.fault("GetObject", "close_mid_body", bytes=300_000)
        with connect(server, target(digest)) as connection:
            headers, body = receive(connection)
        # The store may have broken off before the first block was passed on.
        assert headers.get("content-length", "1048576") == "1048576"
        assert len(body) < 1048576


def test_slow_readers_cost_no_memory(disk_site: tuple[Server, BlobStore]) -> None:
    server, store = disk_site
    digest = put(store, os.urandom(SIZE))
    (worker,) = server.workers()
    Path(f"/proc/{worker}/clear_refs").write_text(FORGET_THE_PEAK)
    before = peak(worker)
    connections = [connect(server, target(digest)) for _ in range(6)]
    for connection in connections:
        # More than any socket's buffer holds, so that the server is sending and not only asked.
        received = 0
        while received < SIZE // 4:
            part = connection.recv(1_000_000)
            assert part, "the answer ended early"
            received += len(part)
    for connection in connections:
        connection.close()
    # Of six times as much as this, three quarters had not been asked for yet.
    assert peak(worker) - before < SIZE


def peak(process: int) -> int:
    """The most memory in bytes that has ever been resident."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(line) * 1024


def test_head_has_no_body(disk_site: tuple[Server, BlobStore]) -> None:
    server, store = disk_site
    digest = put(store, b"data")
    with connect(server, target(digest), "HEAD", Connection="close") as connection:
        received = b""
        while part := connection.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-length: 4" in head.lower()
    assert body == b""
