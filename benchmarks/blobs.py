"""Blobs that are measured with, in a store or as plain files."""

from __future__ import annotations

import os
from pathlib import Path

from cas.digest import Digest, Hasher
from cas.storage.base import BlobStore, Staged

CHUNK = 1 << 20


def write(path: Path, size: int) -> Digest:
    """A file of random bytes and its digest."""
    hasher = Hasher()
    with path.open("wb") as file:
        left = size
        while left:
            chunk = os.urandom(min(left, CHUNK))
            hasher.update(chunk)
            file.write(chunk)
            left -= len(chunk)
    return hasher.digest


def store(target: BlobStore, path: Path) -> Digest:
    """Put a file into a store the way an upload does."""
    hasher = Hasher()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
    target.create(Staged(path, hasher.digest, hasher.md5, hasher.size))
    return hasher.digest
