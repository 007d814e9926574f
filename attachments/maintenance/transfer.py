"""Moving one legacy object and the rows that share it: read once, then a commit a row."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final, Protocol

from django.db import DatabaseError

from attachments import references, verifications
from attachments.locks import Hold
from attachments.maintenance.pacing import Bandwidth, Pace
from attachments.maintenance.retry import Tries, lasting_end, query
from attachments.maintenance.rows import Group, IdRange, members
from attachments.maintenance.run import Halt, Stop, Stopped
from attachments.models import LEGACY_PREFIX, Attachment
from cas.digest import Digest, is_cas_key
from cas.sniff import HEAD
from cas.storage.base import (
    Absent,
    BlobStore,
    ByteRange,
    Corrupt,
    Ingested,
    OnBytes,
    OnDigest,
    Outcome,
    Proofs,
    StoreError,
)

logger = logging.getLogger(__name__)

# A full disk below the rehearsal's memory fails every row alike.
ENDS_RUN: Final = (Halt, Stopped, sqlite3.OperationalError)


class RowOutcome(StrEnum):
    """What became of one row."""

    MIGRATED = "migrated"
    DEDUPLICATED = "deduplicated"
    ALREADY_DONE = "already_done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row's outcome; `size` in bytes. A failed row was left as it was."""

    id: int
    old_key: str
    size: int
    outcome: RowOutcome
    attempts: int
    digest: Digest | None = None
    error_class: str = ""
    error: str = ""


class RowFault(Exception):
    """A row cannot be migrated, whatever the store does. `code` is its class in reports."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Acts(Protocol):
    """The steps that change something, or look at what was changed; a rehearsal has its own.

    `verb` says in the log what they do to a row.
    """

    verb: str

    def ingest(
        self, key: str, size: int | None, on_bytes: OnBytes, on_digest: OnDigest
    ) -> Ingested:
        """Make the object's bytes available at their CAS key. Raises SizeMismatch if there are
        not `size` of them, and StoreError."""

    def head(self, ingested: Ingested) -> bytes | None:
        """What the stored bytes begin with, as `repoint` takes it; None if nothing is stored."""

    def repoint(
        self,
        row: int,
        old_key: str,
        digest: Digest,
        size: int,
        hold: Hold,
        head: bytes | None,
    ) -> bool:
        """Move the row. False if it no longer points at the old key."""


class RealActs:
    verb = "migrated"

    def __init__(self, store: BlobStore, stop: Stop) -> None:
        self._store = store
        self._proofs = Proofs(
            hold=lambda blob: query(partial(verifications.holds, blob), stop),
            record=verifications.record_at_commit,
        )

    def ingest(
        self, key: str, size: int | None, on_bytes: OnBytes, on_digest: OnDigest
    ) -> Ingested:
        return self._store.ingest(key, on_bytes, on_digest, expected_size=size, proofs=self._proofs)

    def head(self, ingested: Ingested) -> bytes | None:
        if ingested.head is not None:
            return ingested.head
        return head_of(self._store, ingested.digest, ingested.size)

    def repoint(
        self,
        row: int,
        old_key: str,
        digest: Digest,
        size: int,
        hold: Hold,
        head: bytes | None,
    ) -> bool:
        return references.repoint(row, old_key, digest, size, hold, head)


def head_of(store: BlobStore, digest: Digest, size: int) -> bytes:
    """What a blob begins with, as far as tells its type. Raises StoreError."""
    if size == 0:
        return b""
    with store.read(digest.key, ByteRange(0, min(size, HEAD))) as stream:
        return stream.read(HEAD)


class Transfer:
    """Migrates groups of rows; called from several threads."""

    def __init__(
        self,
        acts: Acts,
        store: BlobStore,
        *,
        ids: IdRange,
        pace: Pace,
        bandwidth: Bandwidth,
        stop: Stop,
    ) -> None:
        self._acts = acts
        self._store = store
        self._ids = ids
        self._pace = pace
        self._bandwidth = bandwidth
        self._stop = stop

    def results(self, group: Group) -> Iterator[RowResult]:
        """Migrate the group, yielding each row's result. Raises Halt, Stopped."""
        hold = Hold()
        try:
            yield from self._results(group, hold)
        finally:
            hold.release()

    def _results(self, group: Group, hold: Hold) -> Iterator[RowResult]:
        tries = Tries(self._stop, self._store, self._pace)
        try:
            ingested = tries.of(partial(self._ingest, group, hold))
            head = tries.of(partial(self._acts.head, ingested))
        except ENDS_RUN:
            raise
        except Exception as error:  # noqa: BLE001 - logged by _failed, row by row
            _end_if_lasting(error)
            for row in members(group, self._ids, self._stop):
                yield _failed(row, group, tries.taken(), error)
            return
        stored = ingested.outcome is not Outcome.PRESENT
        for row in members(group, self._ids, self._stop):
            result = self._row(row, group, ingested, head, tries, hold, stored=stored)
            # The object is counted as transferred once; every further row only shares it.
            stored = stored and result.outcome is not RowOutcome.MIGRATED
            yield result

    def _ingest(self, group: Group, hold: Hold) -> Ingested:
        if not group.key.startswith(LEGACY_PREFIX):
            raise RowFault(
                "unknown_key", f"the key is neither below {LEGACY_PREFIX} nor cas/<digest>"
            )
        return self._acts.ingest(
            group.key,
            group.size,
            self._bandwidth.spend,
            lambda digest: query(partial(hold.take, digest), self._stop),
        )

    def _row(
        self,
        row: int,
        group: Group,
        ingested: Ingested,
        head: bytes | None,
        tries: Tries,
        hold: Hold,
        *,
        stored: bool,
    ) -> RowResult:
        digest = ingested.digest
        try:
            moved = tries.of(partial(self._repoint, row, group, ingested, head, hold))
        except ENDS_RUN:
            raise
        except Exception as error:  # noqa: BLE001 - logged by _failed, row by row
            _end_if_lasting(error)
            return _failed(row, group, tries.taken(), error)
        if moved:
            outcome = RowOutcome.MIGRATED if stored else RowOutcome.DEDUPLICATED
            logger.info(
                "%s row %d: %s -> %s, digest %s, %s",
                self._acts.verb, row, group.key, digest.key, digest, outcome,
            )  # fmt: skip
        else:
            key = query(partial(_key_now, row), self._stop)
            if key is not None and not is_cas_key(key):
                changed = RowFault("changed", f"the row has come to point at {key}; run this again")
                return _failed(row, group, tries.taken(), changed)
            outcome = RowOutcome.SKIPPED if key is None else RowOutcome.ALREADY_DONE
        return RowResult(row, group.key, ingested.size, outcome, tries.taken(), digest)

    def _repoint(
        self, row: int, group: Group, ingested: Ingested, head: bytes | None, hold: Hold
    ) -> bool:
        """Repeating it is safe: a commit whose answer was lost shows as a row already moved."""
        repoint = partial(
            self._acts.repoint,
            row, group.key, ingested.digest, ingested.size, hold, head,
        )  # fmt: skip
        try:
            return query(repoint, self._stop)
        except (Absent, Corrupt):
            # Collected or damaged since it was stored: store it again, and try once more.
            self._ingest(group, hold)
            return query(repoint, self._stop)


def _key_now(row: int) -> str | None:
    """None if the row is gone, or has come to be a link."""
    return Attachment.objects.filter(pk=row).values_list("s3_key", flat=True).first()


def _end_if_lasting(error: Exception) -> None:
    """A table or a right that is missing fails every row alike. Raises Halt."""
    if end := lasting_end(error):
        raise end from error


def _failed(row: int, group: Group, attempts: int, error: Exception) -> RowResult:
    """Log the failure; the run goes on with the other rows, whatever it was."""
    known = isinstance(error, StoreError | RowFault | DatabaseError)
    if isinstance(error, StoreError | RowFault):
        fault = error.code
    else:
        fault = "database_refused" if known else "unexpected"
    logger.error(
        "row %d was not migrated: %s: %s: %s",
        row, group.key, fault, error, exc_info=None if known else error,
    )  # fmt: skip
    return RowResult(
        row,
        group.key,
        group.size or 0,
        RowOutcome.FAILED,
        attempts,
        error_class=fault,
        error=" ".join(str(error).split()),
    )
