"""An fsck of the blobs: is everything there that rows reference, and is it what its key says?

A listing shows first what is missing, of the wrong size, or unreferenced. Then every blob's bytes
are hashed, the least recently verified first, so that runs of limited length reach all in time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import Any, Final

from django.db.models import Q
from django.utils import timezone
from prometheus_client import Counter as Metric

from attachments import verifications
from attachments.locks import LEGACY_LAYOUT, run_lock
from attachments.maintenance.listing import Reference, entry_at, survey, wrong_store
from attachments.maintenance.repair import repair
from attachments.maintenance.report import RunSummary
from attachments.maintenance.retry import Retry, listed, query
from attachments.maintenance.runner import (
    Cancelled,
    CancelToken,
    Output,
    Run,
    aborts_recorded,
    maintenance_run,
)
from attachments.maintenance.workers import Bandwidth, Pace, Pool
from attachments.models import LEGACY_PREFIX, Attachment, Verification
from cas.digest import CAS_PREFIX, Digest, is_cas_key
from cas.exit_status import ExitStatus
from cas.storage import attachment_store
from cas.storage.base import Absent, BlobStat, BlobStore, Corrupt, StoreError

logger = logging.getLogger(__name__)

VERIFIED = Metric("inventory_verified_blobs_total", "Blobs verified, by verdict.", ["verdict"])

NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""When a blob that was not verified yet was verified: before all others."""

BATCH: Final = 500

MOST_DAMAGED: Final = 10_000
"""Damaged blobs kept in memory for the repair; at that many the run ends, to be repeated."""

REPAIRED_AFTER: Final = (None, ExitStatus.LIMIT_REACHED, ExitStatus.DAMAGE_FOUND)
"""Ends of the search after which what it has found is still repaired."""

SHOWN: Final = 20
"""Damaged blobs that the summary names; the report has them all."""


class Verdict(StrEnum):
    """What is the matter with a blob."""

    INTACT = "intact"
    CORRUPT = "corrupt"
    MISSING = "missing"
    WRONG_SIZE = "wrong_size"
    UNREADABLE = "unreadable"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Verified:
    """One blob's verdict; `size` is the bytes read, `detail` what a person should know.

    `blob` is the version that was found intact.
    """

    digest: Digest
    verdict: Verdict
    size: int = 0
    detail: str = ""
    blob: BlobStat | None = None


@dataclass
class VerifySummary(RunSummary):
    """Each planned blob has one verdict, or remains. `damaged` is what is left after any repair.

    `to_mend` is a row that shows one of those, if any does, and `next_step` the command that is the
    next step of the whole move once all is sound.
    """

    planned: int = 0
    hashed: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    unreferenced: int = 0
    unreferenced_bytes: int = 0
    held: int = 0
    other_keys: int = 0
    quarantined: int = 0
    restored: int = 0
    damaged: dict[Digest, Verified] = field(default_factory=dict)
    to_mend: int | None = None
    next_step: str = ""

    @property
    def items(self) -> int:
        return self.hashed

    @property
    def remaining(self) -> int:
        return max(0, self.planned - self.verdicts.total())

    def note(self, verified: Verified) -> None:
        """Count a verdict, in place of the one from the listing about the same blob."""
        surveyed = self.damaged.get(verified.digest)
        if surveyed is not None:
            if verified.verdict is Verdict.INTACT:
                # Its bytes are right: it is the row that is wrong about their number.
                return
            del self.damaged[verified.digest]
            self.verdicts[surveyed.verdict] -= 1
            self.failures[str(surveyed.verdict)] -= 1
        self.verdicts[verified.verdict] += 1
        if verified.verdict not in (Verdict.INTACT, Verdict.GONE):
            self.damaged[verified.digest] = verified
            self.failures[str(verified.verdict)] += 1

    def judge(self) -> None:
        self.planned = max(self.planned, self.verdicts.total())
        self.samples = [_named(found) for found in islice(self.damaged.values(), SHOWN)]
        if self.damaged:
            self.status = ExitStatus.DAMAGE_FOUND
        elif self.status is ExitStatus.DONE and self.remaining:
            self.status = ExitStatus.ITEMS_FAILED
            self.reason = f"{self.remaining} blobs were not reached"

    def counts(self) -> dict[str, Any]:
        """Planned is the sum of the verdicts and of what remains."""
        return {
            "planned": self.planned,
            **{str(verdict): self.verdicts[verdict] for verdict in Verdict},
            "remaining": self.remaining,
            "bytes": self.bytes,
            "unreferenced": self.unreferenced,
            "unreferenced_bytes": self.unreferenced_bytes,
            "held": self.held,
            "other_keys": self.other_keys,
            "quarantined": self.quarantined,
            "restored": self.restored,
            "still_damaged": len(self.damaged),
        }


def _named(found: Verified) -> str:
    return f"{found.digest.key}: {found.verdict.replace('_', ' ')} {found.detail}".rstrip()


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """`older_than` leaves out blobs verified more recently. Times in seconds, `bandwidth` in bytes
    a second.

    `max_duration` is for the hashing; the listing before it is always made in full. `read_all`
    hashes even where the store keeps a full-object SHA-256 of its own.
    """

    workers: int = 4
    bandwidth: int | None = None
    max_duration: float | None = None
    older_than: float = 0
    read_all: bool = False
    repair: bool = False


def verify(options: VerifyOptions, output: Output) -> VerifySummary:
    """Verify, and with `repair` restore what can be. Raises RunAborted without a report."""
    store = attachment_store()
    summary = VerifySummary()
    due_before = timezone.now() - timedelta(seconds=options.older_than)
    with (
        maintenance_run(summary, output) as run,
        run_lock("verify", taken_again=True, retry=run.query),
        _old_objects_kept(run) if options.repair else nullcontext(),
    ):
        with aborts_recorded(run.cancel):
            _survey(store, summary, run, repair=options.repair)
            due = Verification.objects.filter(verified_at__lte=due_before)
            # What is missing cannot be hashed, and so it is not due.
            summary.planned = run.query(due.count) + summary.verdicts[Verdict.MISSING]
            run.cancel.expire_after(options.max_duration)
            _hash(store, options, due_before, summary, run)
        if options.repair and summary.damaged and run.cancel.status in REPAIRED_AFTER:
            _repair(store, summary, run)
        if summary.damaged:
            rows = Attachment.objects.referencing(islice(summary.damaged, BATCH)).order_by("pk")
            summary.to_mend = run.query(rows.values_list("pk", flat=True).first)
        elif run.query(Attachment.objects.unmigrated().exists):
            summary.next_step = "manage.py migrate_to_cas --dry-run"
        elif _has_old_objects(store, run):
            summary.next_step = "manage.py cleanup_legacy_blobs --dry-run"
    return summary


def _old_objects_kept(run: Run) -> AbstractContextManager[None]:
    """A repair relies on the old objects, which a cleanup would delete meanwhile."""
    return run_lock(LEGACY_LAYOUT, shared=True, retry=run.query)


def _hash(
    store: BlobStore,
    options: VerifyOptions,
    due_before: datetime,
    summary: VerifySummary,
    run: Run,
) -> None:
    """Hash what is due. However it ends, what was found intact is recorded."""
    hasher = _Hasher(store, options, run.cancel)
    pool = Pool[Digest, Verified](hasher.verified, pace=hasher.pace, cancel=run.cancel)
    intact: list[BlobStat] = []
    run.progress.begin("hashed", summary.planned)
    try:
        for verified in pool.results(_due(due_before, run.cancel)):
            if verified is not None:
                _record(verified, summary, run)
                if verified.blob is not None:
                    intact.append(verified.blob)
                    _record_intact(intact, run.cancel, at_least=BATCH)
            run.progress.show_if_due()
    finally:
        with suppress(Cancelled):
            _record_intact(intact, CancelToken(0) if run.cancel.requested else run.cancel)


def _survey(store: BlobStore, summary: VerifySummary, run: Run, *, repair: bool) -> None:
    """Record what the listing shows, and enrol every blob to be hashed."""
    enrolled: list[Verification] = []
    present = 0
    for entry in run.watch("listed", survey(store, CAS_PREFIX, run.cancel)):
        if not is_cas_key(entry.key):
            summary.other_keys += 1
            logger.warning("below %s, but not a blob's key: %s", CAS_PREFIX, entry.key)
            run.report.write({"key": entry.key, "verdict": "not_a_blobs_key"})
            continue
        digest = Digest.from_key(entry.key)
        if entry.stat is None:
            _damage(Verified(digest, Verdict.MISSING, detail=f"row {entry.row}"), summary, run)
            run.query(Verification.objects.filter(digest=digest.hex).delete)
            continue
        present += entry.referenced
        if named := entry.size_conflict:
            _damage(
                Verified(digest, Verdict.WRONG_SIZE, detail=_sizes(entry.stat, named)), summary, run
            )
            # Whether the blob or the row is wrong is to be known in this run.
            due = Verification.objects.filter(digest=digest.hex)
            run.query(partial(due.update, verified_at=NEVER))
        summary.held += entry.held
        if entry.unreferenced:
            summary.unreferenced += 1
            summary.unreferenced_bytes += entry.stat.size
            run.report.write(
                {"key": entry.key, "verdict": "unreferenced", "bytes": entry.stat.size}
            )
        enrolled.append(Verification(digest=digest.hex, verified_at=NEVER))
        if len(enrolled) >= BATCH:
            run.query(partial(_enrol, enrolled))
            enrolled.clear()
    run.query(partial(_enrol, enrolled))
    missing = summary.verdicts[Verdict.MISSING]
    # A repair is also for a store that has lost all blobs and still has the old objects.
    if missing and not present and not (repair and _has_old_objects(store, run)):
        key = next(iter(summary.damaged)).key
        summary.damaged.clear()
        summary.verdicts.clear()
        summary.failures.clear()
        raise wrong_store(store, missing, key)


def _has_old_objects(store: BlobStore, run: Run) -> bool:
    return next(listed(store, LEGACY_PREFIX, run.cancel), None) is not None


def _enrol(blobs: list[Verification]) -> None:
    Verification.objects.bulk_create(blobs, ignore_conflicts=True)


def _sizes(stat: BlobStat, named: Reference) -> str:
    return f"{stat.size} bytes are stored, row {named.row} says {named.size}"


def _due(before: datetime, cancel: CancelToken) -> Iterator[Digest]:
    """Enrolled blobs, the least recently verified first, in keyset portions."""
    rows = Verification.objects.filter(verified_at__lte=before).order_by("verified_at", "digest")
    portion: list[Verification] = query(partial(list, rows[:BATCH]), cancel)
    while portion:
        for row in portion:
            yield Digest(row.digest)
        last = portion[-1]
        behind = Q(verified_at__gt=last.verified_at) | Q(
            verified_at=last.verified_at, digest__gt=last.digest
        )
        portion = query(partial(list, rows.filter(behind)[:BATCH]), cancel)


class _Hasher:
    """Compares blobs with their keys; called from several threads."""

    def __init__(self, store: BlobStore, options: VerifyOptions, cancel: CancelToken) -> None:
        self.pace = Pace(options.workers)
        self._store = store
        self._bandwidth = Bandwidth(options.bandwidth, cancel)
        self._read_all = options.read_all
        self._cancel = cancel

    def verified(self, digest: Digest) -> Iterator[Verified]:
        tries = Retry(self._cancel, self._store, self.pace)
        try:
            yield tries.call(partial(self._once, digest))
        except Absent:
            # Missing if a row still references it, else deleted since it was listed.
            entry = entry_at(self._store, digest.key, self._cancel)
            gone = entry is None or not entry.missing
            yield Verified(digest, Verdict.GONE if gone else Verdict.MISSING)
        except Corrupt as error:
            yield Verified(digest, Verdict.CORRUPT, detail=str(error))
        except StoreError as error:
            yield Verified(digest, Verdict.UNREADABLE, detail=f"{error.code}: {error}")

    def _once(self, digest: Digest) -> Verified:
        if not self._read_all:
            stat = self._store.stat(digest.key)
            if stat.sha256 is not None:
                return self._verdict(digest, stat.sha256, stat)
        found, stat = self._store.digest_of(digest.key, self._bandwidth.spend)
        if found != digest:
            # A second reading tells damage at rest from damage on the way to us.
            found, stat = self._store.digest_of(digest.key, self._bandwidth.spend)
        return self._verdict(digest, found, stat)

    def _verdict(self, digest: Digest, found: Digest, blob: BlobStat) -> Verified:
        if found == digest:
            return Verified(digest, Verdict.INTACT, blob.size, blob=blob)
        return Verified(digest, Verdict.CORRUPT, blob.size, f"its bytes hash to {found}")


def _record(verified: Verified, summary: VerifySummary, run: Run) -> None:
    VERIFIED.labels(str(verified.verdict)).inc()
    summary.hashed += 1
    summary.bytes += verified.size
    run.progress.step(verified.size)
    if verified.verdict is Verdict.GONE:
        run.query(Verification.objects.filter(digest=verified.digest.hex).delete)
    if verified.verdict in (Verdict.INTACT, Verdict.GONE):
        summary.note(verified)
        run.report.write({"key": verified.digest.key, "verdict": str(verified.verdict)})
        return
    _damage(verified, summary, run)


def _damage(verified: Verified, summary: VerifySummary, run: Run) -> None:
    summary.note(verified)
    key, verdict, detail = verified.digest.key, str(verified.verdict), verified.detail
    logger.error("%s is %s: %s", key, verdict.replace("_", " "), detail)
    run.report.write({"key": key, "verdict": verdict, "detail": detail})
    if len(summary.damaged) >= MOST_DAMAGED:
        run.cancel.request(ExitStatus.DAMAGE_FOUND, "too much damage to go on")


def _record_intact(intact: list[BlobStat], cancel: CancelToken, *, at_least: int = 1) -> None:
    if len(intact) >= at_least:
        query(partial(verifications.record, intact), cancel)
        intact.clear()


def _repair(store: BlobStore, summary: VerifySummary, run: Run) -> None:
    # A blob of the wrong size that hashes to its key is sound: its row is what is wrong.
    corrupt, missing, unreadable = (
        [digest for digest, found in summary.damaged.items() if found.verdict is verdict]
        for verdict in (Verdict.CORRUPT, Verdict.MISSING, Verdict.UNREADABLE)
    )
    for key, action in repair(store, corrupt, missing, unreadable, run.cancel):
        run.report.write({"key": key, "action": action})
        summary.quarantined += action == "quarantined"
        if action == "restored":
            summary.restored += 1
            del summary.damaged[Digest.from_key(key)]
