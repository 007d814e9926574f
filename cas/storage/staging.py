"""Staging bytes that are at hand, for whoever tries whether a store works."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from cas.digest import Hasher
from cas.storage.base import BlobStore, Staged
from cas.storage.disk_files import translated


@contextmanager
def staged_bytes(store: BlobStore, content: bytes) -> Iterator[Staged]:
    """A staged file of these bytes, deleted afterwards. Raises StoreError."""
    hasher = Hasher()
    hasher.update(content)
    path = store.staging_dir / f"check-{uuid.uuid4().hex}"
    with translated(path.name):
        try:
            path.write_bytes(content)
            yield Staged(path, hasher.digest, hasher.md5, hasher.size)
        finally:
            path.unlink(missing_ok=True)
