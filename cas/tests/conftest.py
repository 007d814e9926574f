"""What the tests of this app share: blobs in a store, and a client for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.test import Client

from cas.digest import Digest, Hasher
from cas.storage.base import BlobStore, Staged


@pytest.fixture(autouse=True)
def own_urls_and_cache(settings: Any, tmp_path: Path) -> None:
    """The app by itself: no project URLs, and a thumbnail cache of the test's own.

    No middleware either: Django's own sets some of the headers that the app promises, and a test
    would pass without ours.
    """
    settings.ROOT_URLCONF = "cas.tests.urls"
    settings.MIDDLEWARE = []
    settings.CAS_THUMBNAIL_CACHE_DIR = tmp_path / "thumbnails"


def put(store: BlobStore, data: bytes) -> Digest:
    """Store `data` the way an upload does."""
    hasher = Hasher()
    hasher.update(data)
    path = store.staging_dir / "staged"
    path.write_bytes(data)
    store.create(Staged(path, hasher.digest, hasher.md5, hasher.size))
    path.unlink(missing_ok=True)
    return hasher.digest


@pytest.fixture(autouse=True)
def no_database() -> Iterator[None]:
    """No request must touch a connection that another app's test left open."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


class ReadingClient(Client):
    """Reads every answer to its end, into `response.body`, and closes it."""

    def get(self, *args: Any, **options: Any) -> Any:
        return super().get(*args, **options)

    def head(self, *args: Any, **options: Any) -> Any:
        return super().head(*args, **options)

    def request(self, **request: Any) -> Any:
        response: Any = super().request(**request)
        # Reading a stream to its end closes it.
        response.body = response.getvalue() if response.streaming else response.content
        return response


@pytest.fixture
def client() -> ReadingClient:
    return ReadingClient()
