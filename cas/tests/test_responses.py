"""How an answer's bytes reach a WSGI server, and what a request costs the store."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from boto3.session import Session
from django.core.handlers.wsgi import WSGIHandler

from cas.digest import Digest
from cas.http import BoundedReader
from cas.storage.base import BlobStore, Corrupt
from cas.tests.conftest import ReadingClient, put

DATA = bytes(range(256)) * 40


class FileWrapper:
    """A server's `wsgi.file_wrapper` (PEP 3333), which sends the file by itself."""

    def __init__(self, file: BoundedReader, block_size: int) -> None:
        self.file = file
        self.block_size = block_size

    def send(self, length: int) -> bytes:
        """What sendfile would: from where the descriptor stands, past whatever Python buffers."""
        return os.read(self.file.fileno(), length)


def serve(digest: Digest, **fields: str) -> tuple[str, dict[str, str], Any]:
    """Status, headers and body of the answer that a server with a file wrapper gets."""
    environ: dict[str, Any] = {
        "PATH_INFO": f"/api/cas/{digest}",
        "QUERY_STRING": "content_type=image/png",
        "HTTP_HOST": "localhost",
        "wsgi.file_wrapper": FileWrapper,
        **fields,
    }
    setup_testing_defaults(environ)
    told: list[Any] = []
    application: Any = WSGIHandler()
    body = application(environ, lambda status, headers: told.extend((status, dict(headers))))
    return told[0], told[1], body


@pytest.mark.parametrize(
    ("fields", "status", "first", "stop"),
    [
        ({}, "200 OK", 0, len(DATA)),
        ({"HTTP_RANGE": "bytes=100-199"}, "206 Partial Content", 100, 200),
        ({"HTTP_RANGE": "bytes=-1"}, "206 Partial Content", len(DATA) - 1, len(DATA)),
    ],
)
def test_a_server_that_can_sends_the_file_by_itself(
    disk_store: BlobStore, fields: dict[str, str], status: str, first: int, stop: int
) -> None:
    answer, headers, body = serve(put(disk_store, DATA), **fields)
    assert (answer, headers["Content-Length"]) == (status, str(stop - first))
    assert isinstance(body, FileWrapper)
    assert body.block_size >= 65536
    assert body.send(int(headers["Content-Length"])) == DATA[first:stop]
    descriptor = body.file.fileno()
    body.file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_it_is_told_if_the_file_became_shorter(disk_store: Any) -> None:
    digest = put(disk_store, DATA)
    _, _, body = serve(digest)
    os.truncate(disk_store.path(digest.key), 10)
    with pytest.raises(Corrupt):
        body.file.close()


def test_a_body_from_s3_is_read(s3_store: BlobStore) -> None:
    _, headers, body = serve(put(s3_store, DATA), HTTP_RANGE="bytes=5-9")
    with pytest.raises(OSError, match="fileno"):
        body.file.fileno()
    assert body.file.read(int(headers["Content-Length"])) == DATA[5:10]
    body.file.close()


def test_requests_share_one_s3_client(s3_store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = put(s3_store, DATA)  # makes the client
    built: list[object] = []
    build = Session.client

    def counting(self: Session, *args: Any, **options: Any) -> Any:
        built.append(args)
        return build(self, *args, **options)

    monkeypatch.setattr(Session, "client", counting)

    def read(_: int) -> bool:
        url = f"/api/cas/{digest}?content_type=image/png"
        return bool(ReadingClient().get(url).body == DATA)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(16)))
    assert built == []
