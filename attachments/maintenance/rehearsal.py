"""A migration's steps without their effects, so that a dry run follows the very same path."""

from __future__ import annotations

import sqlite3
import threading
from types import TracebackType
from typing import Self

from attachments.locks import Hold
from attachments.models import Attachment
from cas.digest import Digest
from cas.storage.base import (
    Absent,
    BlobStore,
    Ingested,
    OnBytes,
    OnDigest,
    Outcome,
    refuse_other_size,
)


class Rehearsal:
    """Reads and hashes for real, and remembers on disk which digests it would have stored.

    The memory is a temporary SQLite file: a million digests must not live in the process.
    """

    verb = "would migrate"

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._seen: sqlite3.Connection | None = None

    def ingest(
        self, key: str, size: int | None, on_bytes: OnBytes, on_digest: OnDigest
    ) -> Ingested:
        digest, source = self._store.digest_of(key, on_bytes)
        refuse_other_size(source, size)
        return Ingested(digest, source.size, source, self._outcome(digest, source.size))

    def head(self, ingested: Ingested) -> bytes | None:
        """None: nothing is stored to look at, and nothing is written of it."""
        return None

    def repoint(
        self,
        row: int,
        old_key: str,
        digest: Digest,
        size: int,
        hold: Hold,
        head: bytes | None,
    ) -> bool:
        return Attachment.objects.filter(pk=row, s3_key=old_key).exists()

    def _outcome(self, digest: Digest, size: int) -> Outcome:
        if not self._first_time(digest):
            return Outcome.PRESENT
        try:
            right = self._store.stat(digest.key).size == size
        except Absent:
            return Outcome.STORED
        return Outcome.PRESENT if right else Outcome.HEALED

    def _first_time(self, digest: Digest) -> bool:
        with self._lock:
            if self._seen is None:
                # An empty name is a private temporary file that SQLite removes by itself.
                self._seen = sqlite3.connect("", check_same_thread=False, isolation_level=None)
                self._seen.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")
            inserted = self._seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", [digest.raw])
            return inserted.rowcount == 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._seen is not None:
            self._seen.close()
