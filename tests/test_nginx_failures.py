"""What the shipped nginx configuration answers when something behind it fails."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas.digest import Digest
from cas.storage.disk import DiskBlobStorage
from cas.storage.s3 import S3BlobStorage
from tests.authority import authority
from tests.nginx import SYSTEM_AUTHORITIES, configuration, nginx
from tests.s3 import S3Server
from tests.server import Server
from tests.test_nginx import IMMUTABLE, Answer, ask, put, target

pytestmark = pytest.mark.sqlite

DATA = os.urandom(1024 * 1024)
DIGEST = Digest.of(DATA)


def check(answer: Answer, status: int) -> None:
    """An error in the API's shape that nobody keeps or takes for the blob."""
    assert answer.status == status
    assert answer["cache-control"] == "no-store"
    assert answer["content-type"] == "application/json"
    assert answer["x-content-type-options"] == "nosniff"
    assert answer.body.startswith(b'{"error": {"code": ')
    assert answer.all("etag") == []
    assert len(answer.all("retry-after")) == (status == 503)


@pytest.fixture(scope="module")
def accel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("accel")
    put(DiskBlobStorage(location=data / "attachments"), DATA)
    with Server(data, INVENTORY_WORKERS="1", CAS_DELIVERY="accel") as server:
        yield server


def test_a_wrong_folder(accel: Server, tmp_path: Path) -> None:
    with nginx(accel.port, tmp_path / "nginx", tmp_path, content_cache="$cas_thumbnails") as front:
        check(ask(front, target(DIGEST)), 404)
        check(ask(front, target(DIGEST), Range="bytes=0-1"), 404)
        (tmp_path / "cas").mkdir()
        (tmp_path / DIGEST.key).symlink_to(DIGEST.hex)  # a loop
        check(ask(front, target(DIGEST)), 503)


def test_a_file_shorter_than_its_range(accel: Server, tmp_path: Path) -> None:
    put(DiskBlobStorage(location=tmp_path / "blobs"), DATA)
    os.truncate(tmp_path / "blobs" / DIGEST.key, 10)
    with nginx(
        accel.port, tmp_path / "nginx", tmp_path / "blobs", content_cache="$cas_thumbnails"
    ) as front:
        answer = ask(front, target(DIGEST), Range="bytes=100-")
    assert answer.status == 503
    assert "no-store" in answer.all("cache-control")


def test_a_service_that_is_down(tmp_path: Path) -> None:
    with (
        Server(tmp_path, INVENTORY_WORKERS="1") as server,
        nginx(server.port, tmp_path / "nginx", tmp_path) as front,
    ):
        kept = put(DiskBlobStorage(location=tmp_path / "attachments"), b"kept")
        assert ask(front, target(kept)).status == 200
        server.stop()
        check(ask(front, target(DIGEST)), 503)
        check(ask(front, target(kept), Range="bytes=0-1,3-3"), 503)
        assert ask(front, target(kept)).body == b"kept"


@pytest.mark.parametrize(
    ("status", "code", "answered"),
    [(500, "InternalError", 503), (403, "AccessDenied", 503), (404, "NoSuchKey", 404)],
)
def test_a_store_that_fails_nginx(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path, status: int, code: str, answered: int
) -> None:
    put(S3BlobStorage(**s3_server.storage_options(s3_bucket)), DATA)
    environment = {"CAS_DELIVERY": "accel", **s3_server.environment(s3_bucket)}
    with (
        Server(tmp_path, INVENTORY_WORKERS="1", **environment) as server,
        nginx(
            server.port,
            tmp_path / "nginx",
            tmp_path,
            s3_origin=s3_server.endpoint,
            content_cache="$cas_thumbnails",
        ) as front,
    ):
        assert ask(front, target(DIGEST))["cache-control"] == IMMUTABLE
        s3_server.fault("GetObject", "error", status=status, code=code)
        check(ask(front, target(DIGEST)), answered)


def test_a_body_that_breaks_off_is_not_kept(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    put(S3BlobStorage(**s3_server.storage_options(s3_bucket)), DATA)
    with (
        Server(tmp_path, INVENTORY_WORKERS="1", **s3_server.environment(s3_bucket)) as server,
        nginx(server.port, tmp_path / "nginx", tmp_path) as front,
    ):
        s3_server.fault("GetObject", "close_mid_body", bytes=600_000)
        with pytest.raises(http.client.IncompleteRead):
            ask(front, target(DIGEST))
        answers = [ask(front, target(DIGEST)) for _ in range(2)]
        assert [answer["x-cache"] for answer in answers] == ["MISS", "HIT"]
        assert [answer.body for answer in answers] == [DATA, DATA]


def test_a_store_of_an_own_authority(tmp_path: Path) -> None:
    made = authority(tmp_path)
    with S3Server(tmp_path, made.server) as s3:
        bucket = s3.new_bucket()
        put(S3BlobStorage(**s3.storage_options(bucket), verify=str(made.bundle)), DATA)
        environment = {
            "CAS_DELIVERY": "accel",
            "CAS_S3_CA_BUNDLE": str(made.bundle),
            **s3.environment(bucket),
        }
        for trusted, status in ((str(made.bundle), 200), (SYSTEM_AUTHORITIES, 503)):
            (tmp_path / str(status)).mkdir()
            with (
                Server(tmp_path / str(status), INVENTORY_WORKERS="1", **environment) as server,
                nginx(
                    server.port,
                    tmp_path / f"nginx-{status}",
                    tmp_path,
                    s3_origin=s3.endpoint,
                    s3_ca_bundle=trusted,
                    content_cache="$cas_thumbnails",
                ) as front,
            ):
                answer = ask(front, target(DIGEST))
                assert answer.status == status
                assert (answer.body == DATA) is (status == 200)


def test_a_store_behind_tls(tmp_path: Path) -> None:
    """nginx takes the configuration: it would refuse to verify without certificates to trust."""
    (tmp_path / "nginx").mkdir()
    file = configuration(8000, tmp_path / "nginx", tmp_path, s3_origin="https://localhost")
    command = ["nginx", "-t", "-c", str(file), "-e", str(tmp_path / "log")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_nginx_answers_itself_has_the_shape_of_the_api(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with (
        Server(data, INVENTORY_WORKERS="1") as server,
        nginx(server.port, tmp_path / "nginx", data / "attachments") as front,
    ):
        port = int(front.rpartition(":")[2])

        def raw(request: str) -> tuple[bytes, bytes]:
            with socket.create_connection(("127.0.0.1", port), timeout=40) as client:
                client.sendall(request.encode())
                answer = b""
                while part := client.recv(65536):
                    answer += part
            return answer[9:12], answer.partition(b"\r\n\r\n")[2]

        host = "Host: localhost\r\nConnection: close\r\n"
        large = f"POST /api/parts HTTP/1.1\r\n{host}Content-Length: 999999999\r\n\r\n"
        other = large.replace("localhost", "evil.example")
        slow = f"POST /api/parts HTTP/1.1\r\n{host}Content-Length: 9\r\n\r\n"
        trace = f"TRACE /api/parts HTTP/1.1\r\n{host}\r\n"
        answers = (
            (large, b"413", b"body_too_large"),
            (other, b"400", b"bad_request"),
            (slow, b"408", b"timeout"),
            (trace, b"405", b"method_not_allowed"),
        )
        for request, status, code in answers:
            found, told = raw(request)
            # nginx ends a connection that times out with a 408 only where it is told to.
            assert (found, code in told) in {(status, True), (b"", False)}, request
            assert found or request is slow
        chunked = "Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n"
        given = '{"description": "In chunks"}'
        sent = f"{len(given):x}\r\n{given}\r\n0\r\n\r\n"
        found, shown = raw(f"POST /api/types HTTP/1.1\r\n{host}{chunked}\r\n{sent}")
        assert found == b"400", shown  # A type has no description: the body was read.
        assert b"unknown_field" in shown
        server.stop()
        check(ask(front, "/api/parts"), 503)


def test_a_kept_blob_whose_service_is_down_is_kept_alone(tmp_path: Path) -> None:
    put(DiskBlobStorage(location=tmp_path / "attachments"), DATA)
    with (
        Server(tmp_path, INVENTORY_WORKERS="1") as server,
        nginx(server.port, tmp_path / "nginx", tmp_path) as front,
    ):
        assert ask(front, target(DIGEST)).status == 200
        server.stop()
        assert ask(front, target(DIGEST)).status == 200
        answer = ask(front, target(DIGEST), Range="bytes=99999999-")
    assert answer.status in (502, 503)
    assert "no-store" in answer.all("cache-control")
