"""Moves rows from the older layout's keys to `cas/<digest>`, resumable anywhere.

For each block of rows: claim it, and group the rows that share an object. For each group: read the
object once, make its bytes available under their digest, move each row by a compare-and-set on its
old key in a transaction of its own, and record what became of it. A dry run reads and hashes the
same objects, and changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.models import Exists, F, Max, OuterRef, QuerySet
from prometheus_client import Counter as Metric

from attachments import references, verifications
from attachments.locks import (
    CONNECTION_ERRORS,
    LEGACY_LAYOUT,
    SharedLock,
    claim_block,
    release_block,
    run_lock,
)
from attachments.maintenance.listing import wrong_store
from attachments.maintenance.report import RunSummary
from attachments.maintenance.retry import Retry, lasting_abort, listed, query
from attachments.maintenance.runner import (
    Cancelled,
    CancelToken,
    Output,
    Run,
    aborts_recorded,
    limited,
    maintenance_run,
)
from attachments.maintenance.workers import Bandwidth, Pace, Pool
from attachments.models import LEGACY_PREFIX, Attachment
from attachments.object_keys import KeyKind
from cas.digest import CAS_PREFIX, Digest, is_cas_key
from cas.exit_status import ExitStatus, RunAborted
from cas.storage import attachment_store
from cas.storage.base import (
    Absent,
    BlobStore,
    Changed,
    Corrupt,
    Ingested,
    Outcome,
    Proofs,
    StoreError,
    refuse_other_size,
)

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

UPLOAD_HANDLER = "attachments.uploads.HashingUploadHandler"

OBJECTS_TRIED: Final = 10
"""Old objects of which one must be readable, if there are any."""

KEYS_AT_A_TIME: Final = 100

BLOCK_ROWS: Final = 128
"""Ids in a block, the unit that processes claim: few enough to share small tables evenly."""

GROUP_ROWS: Final = 500

# A full disk where a dry run keeps the digests it has seen fails every row alike.
ENDS_RUN: Final = (RunAborted, Cancelled, sqlite3.OperationalError)


MIGRATED_ROWS = Metric(
    "inventory_migrated_rows_total", "Rows a migration finished with, by outcome.", ["outcome"]
)
MIGRATED_BYTES = Metric("inventory_migrated_bytes_total", "Bytes of objects moved to their digest.")


@dataclass(frozen=True, slots=True)
class IdRange:
    """Rows from `first` to `last`, both included; None is open."""

    first: int | None = None
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> IdRange:
        """`100-200`, `100-` or `-200`. Raises ValueError."""
        match = re.fullmatch(r"(\d*)-(\d*)", text)
        if match is None or text == "-":
            raise ValueError("an id range is FIRST-LAST, FIRST- or -LAST")
        first, last = (int(number) if number else None for number in match.groups())
        if first is not None and last is not None and first > last:
            raise ValueError("the range's first id is larger than its last")
        return cls(first, last)

    def of(self, rows: QuerySet[Attachment]) -> QuerySet[Attachment]:
        if self.first is not None:
            rows = rows.filter(pk__gte=self.first)
        if self.last is not None:
            rows = rows.filter(pk__lte=self.last)
        return rows

    def __str__(self) -> str:
        return (
            f"{'' if self.first is None else self.first}-{'' if self.last is None else self.last}"
        )


@dataclass(frozen=True, slots=True)
class MigrationOptions:
    """What to migrate and how fast. `bandwidth` in bytes a second, `max_duration` in seconds.

    `limit` is the number of groups of rows with the same object that are begun. `right_store` goes
    on although the store has none of the rows' objects.
    """

    workers: int = 4
    id_range: IdRange = field(default_factory=IdRange)
    limit: int | None = None
    max_failures: int | None = None
    bandwidth: int | None = None
    max_duration: float | None = None
    dry_run: bool = False
    right_store: bool = False


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


MENDED_BY_HAND: Final = frozenset({"absent", "corrupt", "size_mismatch", "unknown_key"})
"""Faults of rows that no further run cures: see docs/howto/bad-rows.md."""


@dataclass
class MigrationSummary(RunSummary):
    """Where every planned row went, and every row added meanwhile.

    What was planned and what is left is counted in the table, not by a tally. `newest` is the
    largest id when the run began; `added` are rows with a larger one. `left` is None until the
    rows on old keys were counted again, `staying` those of them that this run is finished with.
    `to_mend` is the first row that a person must mend.
    """

    WOULD_BE = {
        "migrated": "would_be_migrated",
        "deduplicated": "would_be_deduplicated",
        "bytes": "bytes_to_be_stored",
    }

    planned: int = 0
    newest: int = 0
    added: int = 0
    left: int | None = None
    staying: int = 0
    to_mend: int | None = None
    outcomes: Counter[RowOutcome] = field(default_factory=Counter)

    @property
    def items(self) -> int:
        return sum(self.outcomes.values())

    @property
    def deduplicated(self) -> int:
        return self.outcomes[RowOutcome.DEDUPLICATED]

    @property
    def remaining(self) -> int:
        """Rows to be done yet."""
        expected = self.planned + self.added - self.items
        return max(0, expected if self.left is None else self.left - self.staying)

    @property
    def by_others(self) -> int:
        """Rows that left the older layout without this run: moved by another, or deleted.

        Negative if a row was counted twice.
        """
        return self.planned + self.added - self.items - self.remaining

    @property
    def balances(self) -> bool:
        return self.by_others >= 0

    def plan(self, ids: IdRange) -> None:
        """Count the rows to migrate. Raises the database's errors."""
        self.newest = Attachment.objects.aggregate(newest=Max("pk"))["newest"] or 0
        self.planned = unmigrated(ids).filter(pk__lte=self.newest).count()

    def count(self, result: RowResult) -> None:
        self.outcomes[result.outcome] += 1
        self.retries += result.attempts - 1
        if result.outcome is RowOutcome.FAILED and result.error_class in MENDED_BY_HAND:
            self.to_mend = result.id if self.to_mend is None else min(self.to_mend, result.id)
        moves = result.outcome in (RowOutcome.MIGRATED, RowOutcome.DEDUPLICATED)
        stays = result.outcome is RowOutcome.FAILED or (self.dry_run and moves)
        self.staying += stays
        # Those that stay will be among the rows counted at the end.
        self.added += result.id > self.newest and not stays
        if result.outcome is RowOutcome.MIGRATED:
            self.bytes += result.size
        if result.outcome is RowOutcome.FAILED:
            self.fail(
                result.error_class,
                f"row {result.id}, {result.old_key}: {result.error_class}: {result.error}",
            )

    def count_left(self, ids: IdRange) -> None:
        """Count what is still on old keys. Raises the database's errors."""
        left = unmigrated(ids)
        added = left.filter(pk__gt=self.newest).count()
        self.left = left.filter(pk__lte=self.newest).count() + added
        self.added += added

    def judge(self) -> None:
        super().judge()
        over = self.status in (ExitStatus.DONE, ExitStatus.LIMIT_REACHED)
        if over and not self.balances:
            self.status = ExitStatus.ITEMS_FAILED
            self.reason = f"the counts do not balance by {-self.by_others} rows"
        elif self.status is ExitStatus.DONE and self.remaining:
            self.status = ExitStatus.ITEMS_FAILED
            self.reason = (
                f"{self.remaining} rows are still to be done; {self.added} were added meanwhile, "
                "by copies, an import or a process of the older version"
            )

    def counts(self) -> dict[str, Any]:
        """Planned and added together are the sum of the six counts that follow them."""
        outcomes = {str(outcome): self.outcomes[outcome] for outcome in RowOutcome}
        outcomes[RowOutcome.ALREADY_DONE] += max(0, self.by_others)
        return {
            "planned": self.planned,
            "added": self.added,
            **outcomes,
            "remaining": self.remaining,
            "balances": self.balances,
            "by_others": max(0, self.by_others),
            "bytes": self.bytes,
            "retries": self.retries,
        }


def migrate(options: MigrationOptions, output: Output) -> MigrationSummary:
    """Migrate what is left, or with `dry_run` only read it. Raises RunAborted without a report."""
    summary = MigrationSummary(dry_run=options.dry_run)
    # On PostgreSQL several migrations share the work; a cleanup waits until all have ended.
    with (
        maintenance_run(summary, output) as run,
        run_lock(LEGACY_LAYOUT, shared=True, retry=run.query),
    ):
        run.cancel.expire_after(options.max_duration)
        check_before_migrating(
            attachment_store(),
            run.cancel,
            write=not options.dry_run,
            right_store=options.right_store,
        )
        if not options.dry_run:
            run.query(_try_to_write)
        run.query(partial(summary.plan, options.id_range))
        with aborts_recorded(run.cancel):
            _transfer(options, summary, run)
        # A cancelled run waits for nothing any more.
        patience = 0 if run.cancel.requested else run.cancel.patience
        query(partial(_count_left, summary, options.id_range), CancelToken(patience))
    return summary


def _count_left(summary: MigrationSummary, ids: IdRange) -> None:
    if connection.connection is not None and not connection.is_usable():
        connection.close()
    summary.count_left(ids)


def _try_to_write() -> None:
    """Raises the database's error if it refuses writes: one error, not one for every row."""
    Attachment.objects.filter(pk=0).update(s3_key=F("s3_key"))


def _transfer(options: MigrationOptions, summary: MigrationSummary, run: Run) -> None:
    pace = Pace(options.workers)
    blocks = Blocks(options.id_range, run.cancel)
    seen = SeenDigests() if options.dry_run else None
    transfer = Transfer(
        attachment_store(),
        ids=options.id_range,
        pace=pace,
        bandwidth=Bandwidth(options.bandwidth, run.cancel),
        cancel=run.cancel,
        seen=seen,
    )
    pool = Pool[Group, RowResult](
        transfer.results, pace=pace, cancel=run.cancel, finished=blocks.finished
    )
    run.progress.begin("would be migrated" if options.dry_run else "rows", summary.planned)
    groups = limited(blocks.groups(), options.limit, run.cancel, "objects")
    try:
        for result in pool.results(groups):
            if result is not None:
                _record(result, summary, run)
                failed = summary.outcomes[RowOutcome.FAILED]
                if options.max_failures is not None and failed >= options.max_failures:
                    run.cancel.request(
                        ExitStatus.ITEMS_FAILED, f"{failed} rows failed, as many as are allowed"
                    )
            run.progress.show_if_due()
    finally:
        blocks.close()
        if seen:
            seen.close()


def _record(result: RowResult, summary: MigrationSummary, run: Run) -> None:
    summary.count(result)
    if not summary.dry_run:
        MIGRATED_ROWS.labels(str(result.outcome)).inc()
        if result.outcome is RowOutcome.MIGRATED:
            MIGRATED_BYTES.inc(result.size)
    run.progress.step(result.size if result.outcome is RowOutcome.MIGRATED else 0)
    run.report.write(
        {
            "id": result.id,
            "old_key": result.old_key,
            "new_key": result.digest.key if result.digest else None,
            "digest": str(result.digest) if result.digest else None,
            "bytes": result.size,
            "outcome": str(result.outcome),
            "dry_run": summary.dry_run,
            "attempts": result.attempts,
            "error_class": result.error_class or None,
            "error": result.error or None,
        }
    )


def check_before_migrating(
    store: BlobStore, cancel: CancelToken, *, write: bool, right_store: bool = False
) -> None:
    """Prove the store, our rights in it, and that new uploads go to their digest.

    Without `write` only listing and reading are tried. `right_store` goes on although the store
    has none of the objects. Raises RunAborted, Cancelled.
    """
    if list(settings.FILE_UPLOAD_HANDLERS)[:1] != [UPLOAD_HANDLER]:
        raise RunAborted(
            ExitStatus.REFUSED,
            "new uploads do not go to their digest: FILE_UPLOAD_HANDLERS must begin with "
            + UPLOAD_HANDLER,
            first=f"Put {UPLOAD_HANDLER} first in FILE_UPLOAD_HANDLERS",
        )
    tries = Retry(cancel)
    if not right_store:
        _refuse_wrong_store(store, cancel)
    try:
        tries.call(partial(_list_and_read, store))
        if write:
            tries.call(partial(_write_and_read_back, store))
    except StoreError as error:
        raise RunAborted(
            ExitStatus.UNAVAILABLE, f"the store failed the check before the first row: {error}"
        ) from error


def _refuse_wrong_store(store: BlobStore, cancel: CancelToken) -> None:
    """Raises RunAborted if rows are to be migrated, and the store has no object that a row names.

    Usually one request: it ends at the first object that is there. A store that has blobs of other
    rows is the right one; then the rows whose objects are lost fail one by one.
    """
    missing = after = 0
    rows = unmigrated().filter(s3_key__startswith=LEGACY_PREFIX).only("pk", "s3_key")
    while True:
        portion: list[Attachment] = query(
            partial(list, rows.filter(pk__gt=after)[:KEYS_AT_A_TIME]), cancel
        )
        if not portion:
            break
        for row in portion:
            key, after = row.s3_key or "", row.pk
            try:
                Retry(cancel, store).call(partial(store.stat, key))
            except Absent:
                # Another run may have moved the row since it was read, and a cleanup deleted this.
                missing += query(rows.filter(pk=row.pk, s3_key=key).exists, cancel)
            except (Changed, Corrupt):
                # It is there, however it is.
                return
            else:
                return
    if missing and not _has_referenced_blob(store, cancel):
        raise wrong_store(store, missing, key)


def _has_referenced_blob(store: BlobStore, cancel: CancelToken) -> bool:
    blobs = listed(store, CAS_PREFIX, cancel)
    while keys := [blob.key for blob in islice(blobs, KEYS_AT_A_TIME)]:
        if query(partial(references.named, keys, KeyKind.REFERENCE), cancel):
            return True
    return False


def _list_and_read(store: BlobStore) -> None:
    for stat in islice(store.scan(LEGACY_PREFIX), OBJECTS_TRIED):
        # One object that is damaged, or gone since, says nothing about the store.
        with contextlib.suppress(Absent, Corrupt), store.read(stat.key) as stream:
            stream.read(1)
            return


def _write_and_read_back(store: BlobStore) -> None:
    with references.stored_test_object(store) as stored:
        found, _ = store.digest_of(stored.key)
        if found != stored:
            raise Corrupt("it did not keep what was written", key=stored.key)


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that share a key and a recorded size (bytes), named by the one with the lowest id.

    `alone` if that was the only one when it was read; one added since belongs to a later group.
    One transfer serves them all. The size is part of what makes a group because rows that
    disagree with their object about it fail, and must fail once each. None is no size recorded,
    as of a link's picture; such a row is a group of its own.
    """

    leader: int
    key: str
    size: int | None
    block: int
    alone: bool


def unmigrated(ids: IdRange | None = None) -> QuerySet[Attachment]:
    """Rows with a key that is not exactly `cas/<digest>`, malformed ones included.

    PostgreSQL has an index of just these (migration 0005, which repeats the condition).
    """
    return (ids or IdRange()).of(Attachment.objects.unmigrated()).order_by("pk")


def members(group: Group, ids: IdRange, cancel: CancelToken) -> Iterator[int]:
    """The group's rows, leader last: until it is moved, no other run finds the rest as a group."""
    if group.alone:
        yield group.leader
        return
    same = ids.of(Attachment.objects.filter(s3_key=group.key, file_size=group.size))
    rows = same.filter(pk__gte=group.leader).order_by("-pk").values_list("pk", flat=True)
    below: int | None = None
    while True:
        portion = rows if below is None else rows.filter(pk__lt=below)
        found: list[int] = query(partial(list, portion[:GROUP_ROWS]), cancel)
        yield from found
        if len(found) < GROUP_ROWS:
            return
        below = found[-1]


class Blocks:
    """Walks the unmigrated rows in blocks of neighbouring ids, each claimed before it is read.

    Several processes walk the same table. Each takes the blocks that it can claim, and tries the
    others again at the end, when their owner has finished or died. A claim only saves work; what
    makes the migration right is the compare-and-set.
    """

    def __init__(self, ids: IdRange, cancel: CancelToken) -> None:
        self._ids = ids
        self._cancel = cancel
        self._open: dict[int, int] = {}
        self._busy: list[int] = []

    def groups(self) -> Iterator[Group | None]:
        """Every group, lazily. None while all that is left is claimed by others."""
        after = (self._ids.first or 1) - 1
        while (first := self._query(partial(self._next_id, after))) is not None:
            block = first // BLOCK_ROWS
            yield from self._walk(block, self._busy)
            after = (block + 1) * BLOCK_ROWS - 1
        while self._busy:
            again: list[int] = []
            for block in self._busy:
                yield from self._walk(block, again)
            self._busy = again
            if again:
                yield None

    def finished(self, group: Group) -> None:
        """One of a block's groups is over; the last one releases the block."""
        self._open[group.block] -= 1
        self._release_if_done(group.block)

    def close(self) -> None:
        """Release what a run that ended early still holds."""
        for block in list(self._open):
            del self._open[block]
            with contextlib.suppress(*CONNECTION_ERRORS):
                release_block(block)

    def _walk(self, block: int, busy: list[int]) -> Iterator[Group]:
        if not self._query(partial(claim_block, block)):
            busy.append(block)
            return
        # One more than its groups, so that the block stays ours until all have been handed out.
        self._open[block] = 1
        for group in self._query(partial(self._read, block)):
            self._open[block] += 1
            yield group
        self._open[block] -= 1
        self._release_if_done(block)

    def _release_if_done(self, block: int) -> None:
        if self._open[block] == 0:
            del self._open[block]
            self._query(partial(release_block, block))

    def _next_id(self, after: int) -> int | None:
        rows = unmigrated(self._ids).filter(pk__gt=after)
        return rows.values_list("pk", flat=True).first()

    def _read(self, block: int) -> list[Group]:
        first = block * BLOCK_ROWS
        same = self._ids.of(
            Attachment.objects.filter(s3_key=OuterRef("s3_key"), file_size=OuterRef("file_size"))
        )
        rows = unmigrated(self._ids).filter(pk__gte=first, pk__lt=first + BLOCK_ROWS)
        leaders = rows.filter(~Exists(same.filter(pk__lt=OuterRef("pk"))))
        leaders = leaders.annotate(alone=~Exists(same.filter(pk__gt=OuterRef("pk"))))
        return [
            Group(pk, key, size, block, alone)
            for pk, key, size, alone in leaders.values_list("pk", "s3_key", "file_size", "alone")
            if key is not None
        ]

    def _query(self, operation: Callable[[], Value]) -> Value:
        return query(operation, self._cancel)


class RowFault(Exception):
    """A row cannot be migrated, whatever the store does. `code` is its class in reports."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SeenDigests:
    """Which digests a dry run would have stored already.

    In a temporary SQLite file on disk: a million digests must not be kept in memory.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # An empty name is a private temporary file that SQLite removes by itself.
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, digest: Digest) -> bool:
        """False if it was there already."""
        with self._lock:
            insert = "INSERT OR IGNORE INTO seen VALUES (?)"
            return self._database.execute(insert, [digest.raw]).rowcount == 1

    def close(self) -> None:
        self._database.close()


class Transfer:
    """Migrates groups of rows; called from several threads.

    With `seen` it is a dry run: objects are read and hashed, and nothing is changed.
    """

    def __init__(
        self,
        store: BlobStore,
        *,
        ids: IdRange,
        pace: Pace,
        bandwidth: Bandwidth,
        cancel: CancelToken,
        seen: SeenDigests | None = None,
    ) -> None:
        self._store = store
        self._ids = ids
        self._pace = pace
        self._bandwidth = bandwidth
        self._cancel = cancel
        self._seen = seen
        self._proofs = Proofs(
            hold=lambda blob: query(partial(verifications.holds, blob), cancel),
            record=verifications.record_at_commit,
        )

    def results(self, group: Group) -> Iterator[RowResult]:
        """Migrate the group, yielding each row's result. Raises RunAborted, Cancelled."""
        lock = SharedLock()
        try:
            yield from self._results(group, lock)
        finally:
            lock.release()

    def _results(self, group: Group, lock: SharedLock) -> Iterator[RowResult]:
        tries = Retry(self._cancel, self._store, self._pace)
        try:
            blob = tries.call(partial(self._ingest, group, lock))
            head = tries.call(partial(self._head, blob))
        except ENDS_RUN:
            raise
        except Exception as error:  # noqa: BLE001 - logged by _failed, row by row
            for row in members(group, self._ids, self._cancel):
                yield _failed(row, group, tries.taken(), error)
            return
        stored = blob.outcome is not Outcome.PRESENT
        for row in members(group, self._ids, self._cancel):
            try:
                moved = tries.call(partial(self._repoint, row, group, blob, head, lock))
                outcome = self._outcome(row, moved=moved, stored=stored)
            except ENDS_RUN:
                raise
            except Exception as error:  # noqa: BLE001 - logged by _failed, row by row
                yield _failed(row, group, tries.taken(), error)
                continue
            if moved:
                logger.info(
                    "%s row %d: %s -> %s, digest %s, %s",
                    "would migrate" if self._seen else "migrated",
                    row, group.key, blob.digest.key, blob.digest, outcome,
                )  # fmt: skip
                # The object is counted as transferred once; every further row only shares it.
                stored = False
            yield RowResult(row, group.key, blob.size, outcome, tries.taken(), blob.digest)

    def _ingest(self, group: Group, lock: SharedLock) -> Ingested:
        """Read the object once and store its bytes at their digest, whose lock is then held."""
        if not group.key.startswith(LEGACY_PREFIX):
            raise RowFault(
                "unknown_key", f"the key is neither below {LEGACY_PREFIX} nor cas/<digest>"
            )
        if self._seen is None:
            return self._store.ingest(
                group.key,
                self._bandwidth.spend,
                lambda digest: query(partial(lock.take, digest), self._cancel),
                expected_size=group.size,
                proofs=self._proofs,
            )
        digest, source = self._store.digest_of(group.key, self._bandwidth.spend)
        refuse_other_size(source, group.size)
        outcome = self._would_be(digest, source.size) if self._seen.add(digest) else Outcome.PRESENT
        return Ingested(digest, source.size, source, outcome)

    def _would_be(self, digest: Digest, size: int) -> Outcome:
        try:
            right = self._store.stat(digest.key).size == size
        except Absent:
            return Outcome.STORED
        return Outcome.PRESENT if right else Outcome.HEALED

    def _head(self, blob: Ingested) -> bytes | None:
        """What the stored bytes begin with, which tells their type; None if nothing is stored."""
        if self._seen is not None:
            return None
        if blob.head is not None:
            return blob.head
        return references.head_of(self._store, blob.digest, blob.size)

    def _repoint(
        self, row: int, group: Group, blob: Ingested, head: bytes | None, lock: SharedLock
    ) -> bool:
        """Move the row. False if it no longer points at the old key.

        Repeating it is safe: a commit whose answer was lost shows as a row already moved.
        """
        if self._seen is not None:
            return query(Attachment.objects.filter(pk=row, s3_key=group.key).exists, self._cancel)
        repoint = partial(references.repoint, row, group.key, blob.digest, blob.size, lock, head)
        try:
            return query(repoint, self._cancel)
        except (Absent, Corrupt):
            # Collected or damaged since it was stored: store it again, and try once more.
            self._ingest(group, lock)
            return query(repoint, self._cancel)

    def _outcome(self, row: int, *, moved: bool, stored: bool) -> RowOutcome:
        """Raises RowFault if the row has come to point at another old object."""
        if moved:
            return RowOutcome.MIGRATED if stored else RowOutcome.DEDUPLICATED
        # None if the row is gone, or has become a link.
        keys = Attachment.objects.filter(pk=row).values_list("s3_key", flat=True)
        key = query(keys.first, self._cancel)
        if key is None:
            return RowOutcome.SKIPPED
        if not is_cas_key(key):
            raise RowFault("changed", f"the row has come to point at {key}; run this again")
        return RowOutcome.ALREADY_DONE


def _failed(row: int, group: Group, attempts: int, error: Exception) -> RowResult:
    """Log the failure; the run goes on with the other rows, whatever it was.

    Raises RunAborted for a missing table or right, which fails every row alike.
    """
    if end := lasting_abort(error):
        raise end from error
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
