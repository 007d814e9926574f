"""An fsck of the blobs: is everything there that rows reference, and is it what its key says?

First a survey: what is missing, of the wrong size, or unreferenced. Then every blob's bytes are
hashed, the least recently verified first, so that runs of limited length get round to all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Final

from django.db.models import Q
from django.utils import timezone
from prometheus_client import Counter as Metric

from attachments import verifications
from attachments.maintenance.database import LEGACY_LAYOUT, run_lock
from attachments.maintenance.frame import Output, Run, ending, running
from attachments.maintenance.pacing import Bandwidth, Pace
from attachments.maintenance.pool import Pool
from attachments.maintenance.preflight import wrong_store
from attachments.maintenance.repair import repair
from attachments.maintenance.retry import Tries, listed, query
from attachments.maintenance.rows import unmigrated
from attachments.maintenance.run import ExitStatus, Stop, Stopped
from attachments.maintenance.survey import Entry, look, survey
from attachments.maintenance.verdicts import Verdict, Verified, VerifySummary
from attachments.models import LEGACY_PREFIX, Attachment, Verification
from cas.digest import CAS_PREFIX, Digest, is_cas_key
from cas.storage import attachment_store
from cas.storage.base import Absent, BlobStat, BlobStore, Corrupt, StoreError

logger = logging.getLogger(__name__)

VERIFIED = Metric("inventory_verified_blobs_total", "Blobs verified, by verdict.", ["verdict"])

NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""When a blob that was not verified yet was verified: before all others."""

BATCH: Final = 500

MOST_DAMAGED: Final = 10_000
"""Damaged blobs kept in mind for the repair; more than that and the run stops to be repeated."""

REPAIRED_AFTER: Final = (None, ExitStatus.LIMIT_REACHED, ExitStatus.DAMAGE_FOUND)
"""Ends of the search after which what it has found is still repaired."""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """`older_than` leaves out blobs verified more recently; `bandwidth` in bytes a second.

    `max_seconds` is for the hashing; the survey before it is always made in full. `read_all`
    hashes even where the store keeps a full-object SHA-256 of its own.
    """

    workers: int = 4
    bandwidth: int | None = None
    max_seconds: float | None = None
    older_than: timedelta = timedelta()
    read_all: bool = False
    repair: bool = False


def verify(options: VerifyOptions, output: Output) -> VerifySummary:
    """Verify, and with `repair` restore what can be. Raises Halt if there can be no report."""
    store = attachment_store()
    summary = VerifySummary()
    due_before = timezone.now() - options.older_than
    with (
        running(summary, output) as run,
        run_lock("verify", taken_again=True, retry=run.query),
        _old_objects_kept(run) if options.repair else nullcontext(),
    ):
        with ending(run.stop):
            _survey(store, summary, run, repair=options.repair)
            due = Verification.objects.filter(verified_at__lte=due_before)
            # What is missing is not there to be hashed, and so it is not due.
            summary.planned = run.query(due.count) + summary.verdicts[Verdict.MISSING]
            run.stop.after(options.max_seconds)
            _hash(store, options, due_before, summary, run)
        if options.repair and summary.damaged and run.stop.status in REPAIRED_AFTER:
            _repair(store, summary, run)
        if summary.damaged:
            rows = Attachment.objects.referencing(islice(summary.damaged, BATCH)).order_by("pk")
            summary.to_mend = run.query(rows.values_list("pk", flat=True).first)
        elif run.query(unmigrated().exists):
            summary.onward = "manage.py migrate_to_cas --dry-run"
        elif _has_old_objects(store, run):
            summary.onward = "manage.py cleanup_legacy_blobs --dry-run"
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
    """Hash what is due. However it ends, what was found intact is remembered."""
    hasher = _Hasher(store, options, run.stop)
    pool = Pool[Digest, Verified](hasher.verified, pace=hasher.pace, stop=run.stop)
    intact: list[BlobStat] = []
    run.progress.begin("hashed", summary.planned)
    try:
        for verified in pool.run(_due(due_before, run.stop)):
            if verified is not None:
                _record(verified, summary, run)
                if verified.blob is not None:
                    intact.append(verified.blob)
                    _remember(intact, run.stop, at_least=BATCH)
            run.progress.show_if_due()
    finally:
        with suppress(Stopped):
            _remember(intact, Stop(0) if run.stop.requested else run.stop)


def _survey(store: BlobStore, summary: VerifySummary, run: Run, *, repair: bool) -> None:
    """Note what a look at the listing shows, and enrol every blob for its turn."""
    enrolled: list[Verification] = []
    present = 0
    for entry in run.watch("listed", survey(store, CAS_PREFIX, run.stop)):
        if not is_cas_key(entry.key):
            summary.strays += 1
            logger.warning("below %s, but no blob's key: %s", CAS_PREFIX, entry.key)
            run.report.write({"key": entry.key, "verdict": "stray"})
            continue
        digest = Digest.from_key(entry.key)
        if entry.stat is None:
            _damage(Verified(digest, Verdict.MISSING, detail=f"row {entry.row}"), summary, run)
            run.query(Verification.objects.filter(digest=digest.hex).delete)
            continue
        present += entry.referenced
        if entry.wrong_size:
            _damage(Verified(digest, Verdict.WRONG_SIZE, detail=_misfit(entry)), summary, run)
            # Whether the blob or the row is wrong is to be known in this run.
            due = Verification.objects.filter(digest=digest.hex)
            run.query(partial(due.update, verified_at=NEVER))
        summary.held += entry.held
        if entry.unreferenced:
            summary.orphans += 1
            summary.orphan_bytes += entry.stat.size
            run.report.write({"key": entry.key, "verdict": "orphan", "bytes": entry.stat.size})
        enrolled.append(Verification(digest=digest.hex, verified_at=NEVER))
        if len(enrolled) >= BATCH:
            run.query(partial(_enrol, enrolled))
            enrolled.clear()
    run.query(partial(_enrol, enrolled))
    missing = summary.verdicts[Verdict.MISSING]
    # Who asks for a repair of a store that has old objects has said which one it is.
    if missing and not present and not (repair and _has_old_objects(store, run)):
        key = next(iter(summary.damaged)).key
        summary.damaged.clear()
        summary.verdicts.clear()
        summary.failures.clear()
        raise wrong_store(store, missing, key)


def _has_old_objects(store: BlobStore, run: Run) -> bool:
    return next(listed(store, LEGACY_PREFIX, run.stop), None) is not None


def _enrol(blobs: list[Verification]) -> None:
    Verification.objects.bulk_create(blobs, ignore_conflicts=True)


def _misfit(entry: Entry) -> str:
    if entry.stat is None or entry.misfit is None:
        return ""
    return f"{entry.stat.size} bytes are stored, row {entry.misfit.row} says {entry.misfit.size}"


def _due(before: datetime, stop: Stop) -> Iterator[Digest]:
    """Enrolled blobs, the least recently verified first, in keyset portions."""
    rows = Verification.objects.filter(verified_at__lte=before).order_by("verified_at", "digest")
    portion: list[Verification] = query(partial(list, rows[:BATCH]), stop)
    while portion:
        for row in portion:
            yield Digest(row.digest)
        last = portion[-1]
        behind = Q(verified_at__gt=last.verified_at) | Q(
            verified_at=last.verified_at, digest__gt=last.digest
        )
        portion = query(partial(list, rows.filter(behind)[:BATCH]), stop)


class _Hasher:
    """Compares blobs with their keys; called from several threads."""

    def __init__(self, store: BlobStore, options: VerifyOptions, stop: Stop) -> None:
        self.pace = Pace(options.workers)
        self._store = store
        self._bandwidth = Bandwidth(options.bandwidth, stop)
        self._read_all = options.read_all
        self._stop = stop

    def verified(self, digest: Digest) -> Iterator[Verified]:
        tries = Tries(self._stop, self._store, self.pace)
        try:
            yield tries.of(partial(self._once, digest))
        except Absent:
            # Missing if a row still says otherwise, else deleted since the survey.
            entry = look(self._store, digest.key, self._stop)
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
            # Damaged at rest, or only on the way to us? A second reading tells.
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
        run.stop.request(ExitStatus.DAMAGE_FOUND, "too much damage to go on")


def _remember(intact: list[BlobStat], stop: Stop, *, at_least: int = 1) -> None:
    if len(intact) >= at_least:
        query(partial(verifications.record, intact), stop)
        intact.clear()


def _repair(store: BlobStore, summary: VerifySummary, run: Run) -> None:
    # A blob of the wrong size that hashes to its key is sound: its row is what is wrong.
    corrupt, missing, unreadable = (
        [digest for digest, found in summary.damaged.items() if found.verdict is verdict]
        for verdict in (Verdict.CORRUPT, Verdict.MISSING, Verdict.UNREADABLE)
    )
    for key, action in repair(store, corrupt, missing, unreadable, run.stop):
        run.report.write({"key": key, "action": action})
        summary.quarantined += action == "quarantined"
        if action == "restored":
            summary.restored += 1
            del summary.damaged[Digest.from_key(key)]
