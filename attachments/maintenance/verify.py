"""An fsck of the blobs: is everything there that rows reference, and is it what its key says?

First a survey: what is missing, of the wrong size, or unreferenced. Then every blob's bytes are
hashed, the least recently verified first, so that runs of limited length get round to all.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

from django.core.management.base import OutputWrapper
from django.db.models import Q
from django.utils import timezone
from prometheus_client import Counter as Metric

from attachments.maintenance.attempts import Attempts
from attachments.maintenance.database import LEGACY_LAYOUT, run_lock
from attachments.maintenance.pacing import Bandwidth, Pace
from attachments.maintenance.progress import Progress
from attachments.maintenance.repair import repair
from attachments.maintenance.report import Report
from attachments.maintenance.run import ExitStatus, Pool, Stop, stopped_by_signals
from attachments.maintenance.survey import Entry, look, survey
from attachments.models import Verification
from cas.digest import CAS_PREFIX, Digest, is_cas_key
from cas.storage import attachment_store
from cas.storage.base import Absent, BlobStore, Corrupt, StoreError

logger = logging.getLogger(__name__)

VERIFIED = Metric("inventory_verified_blobs_total", "Blobs verified, by verdict.", ["verdict"])

NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""When a blob that was not verified yet was verified: before all others."""

BATCH: Final = 500

MOST_DAMAGED: Final = 10_000
"""Damaged blobs kept in mind for the repair; more than that and the run stops to be repeated."""


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
    """One blob's verdict; `size` is the bytes read, `detail` what a person should know."""

    digest: Digest
    verdict: Verdict
    size: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """`older_than` leaves out blobs verified more recently; `bandwidth` in bytes a second.

    `read_all` hashes even where the store keeps a full-object SHA-256 of its own.
    """

    workers: int = 4
    bandwidth: int | None = None
    max_seconds: float | None = None
    older_than: timedelta = timedelta()
    read_all: bool = False
    repair: bool = False
    report: Path | None = None
    as_json: bool = False


@dataclass(slots=True)
class VerifySummary:
    """`verdicts` counts blobs; `damaged` names what is left of the damage after any repair."""

    status: ExitStatus = ExitStatus.DONE
    reason: str = ""
    planned: int = 0
    hashed: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    bytes: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    strays: int = 0
    quarantined: int = 0
    restored: int = 0
    damaged: dict[Digest, Verified] = field(default_factory=dict)

    @property
    def remaining(self) -> int:
        return max(0, self.planned - self.hashed)

    def note(self, verified: Verified) -> None:
        self.verdicts[verified.verdict] += 1
        if verified.verdict not in (Verdict.INTACT, Verdict.GONE):
            self.damaged[verified.digest] = verified

    def figures(self) -> dict[str, Any]:
        return {
            "status": self.status.name.lower(),
            "reason": self.reason,
            "planned": self.planned,
            **{str(verdict): self.verdicts[verdict] for verdict in Verdict},
            "remaining": self.remaining,
            "bytes": self.bytes,
            "orphans": self.orphans,
            "orphan_bytes": self.orphan_bytes,
            "strays": self.strays,
            "quarantined": self.quarantined,
            "restored": self.restored,
            "still_damaged": len(self.damaged),
        }


def verify(options: VerifyOptions, stream: OutputWrapper) -> VerifySummary:
    """Verify, and with `repair` restore what can be. Raises Halt, StoreError."""
    store = attachment_store()
    stop = Stop(max_seconds=options.max_seconds)
    summary = VerifySummary()
    began = timezone.now()
    # A repair relies on the old objects, which a cleanup would delete meanwhile.
    keep_old = run_lock(LEGACY_LAYOUT, shared=True) if options.repair else nullcontext()
    with run_lock("verify"), keep_old, stopped_by_signals(stop), Report(options.report) as report:
        _survey(store, summary, report, stop)
        due = Verification.objects.filter(verified_at__lte=began - options.older_than)
        summary.planned = due.count()
        progress = Progress(summary.planned, stream, as_json=options.as_json)
        hasher = _Hasher(store, options, stop)
        pool = Pool[Digest, Verified](hasher.verified, pace=hasher.pace, stop=stop)
        intact: list[Digest] = []
        for verified in pool.run(_due(began - options.older_than)):
            if verified is not None:
                _record(verified, summary, report, progress)
                if verified.verdict is Verdict.INTACT:
                    intact.append(verified.digest)
                    _remember(intact, at_least=BATCH)
                if len(summary.damaged) >= MOST_DAMAGED:
                    stop.request(ExitStatus.DAMAGE_FOUND, "too much damage to go on")
            progress.show_if_due()
        _remember(intact)
        progress.clear()
        if options.repair and summary.damaged:
            _repair(store, summary, report)
    _conclude(summary, stop)
    return summary


def _survey(store: BlobStore, summary: VerifySummary, report: Report, stop: Stop) -> None:
    """Note what a look at the listing shows, and enrol every blob for its turn."""
    enrolled: list[Verification] = []
    for entry in survey(store, CAS_PREFIX):
        if stop.requested or len(summary.damaged) >= MOST_DAMAGED:
            break
        if not is_cas_key(entry.key):
            summary.strays += 1
            logger.warning("below %s, but no blob's key: %s", CAS_PREFIX, entry.key)
            report.write({"key": entry.key, "verdict": "stray"})
            continue
        digest = Digest.from_key(entry.key)
        if entry.stat is None:
            _damage(Verified(digest, Verdict.MISSING, detail=f"row {entry.row}"), summary, report)
            continue
        if entry.wrong_size:
            _damage(Verified(digest, Verdict.WRONG_SIZE, detail=_misfit(entry)), summary, report)
        if entry.unreferenced:
            summary.orphans += 1
            summary.orphan_bytes += entry.stat.size
            report.write({"key": entry.key, "verdict": "orphan", "bytes": entry.stat.size})
        enrolled.append(Verification(digest=digest.hex, verified_at=NEVER))
        if len(enrolled) >= BATCH:
            Verification.objects.bulk_create(enrolled, ignore_conflicts=True)
            enrolled.clear()
    Verification.objects.bulk_create(enrolled, ignore_conflicts=True)


def _misfit(entry: Entry) -> str:
    if entry.stat is None or entry.misfit is None:
        return ""
    return f"{entry.stat.size} bytes are stored, row {entry.misfit.row} says {entry.misfit.size}"


def _due(before: datetime) -> Iterator[Digest]:
    """Enrolled blobs, the least recently verified first, in keyset portions."""
    rows = Verification.objects.filter(verified_at__lte=before).order_by("verified_at", "digest")
    portion = list(rows[:BATCH])
    while portion:
        for row in portion:
            yield Digest(row.digest)
        last = portion[-1]
        behind = Q(verified_at__gt=last.verified_at) | Q(
            verified_at=last.verified_at, digest__gt=last.digest
        )
        portion = list(rows.filter(behind)[:BATCH])


class _Hasher:
    """Compares blobs with their keys; called from several threads."""

    def __init__(self, store: BlobStore, options: VerifyOptions, stop: Stop) -> None:
        self.pace = Pace(options.workers)
        self._store = store
        self._bandwidth = Bandwidth(options.bandwidth)
        self._read_all = options.read_all
        self._stop = stop

    def verified(self, digest: Digest) -> Iterator[Verified]:
        attempts = Attempts(self.pace, self._stop, self._store)
        try:
            yield attempts.of(partial(self._once, digest))
        except Absent:
            # Missing if a row still says otherwise, else deleted since the survey.
            entry = look(self._store, digest.key)
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
                return self._verdict(digest, stat.sha256, stat.size)
        found, stat = self._store.digest_of(digest.key, self._bandwidth.spend)
        if found != digest:
            # Damaged at rest, or only on the way to us? A second reading tells.
            found, stat = self._store.digest_of(digest.key, self._bandwidth.spend)
        return self._verdict(digest, found, stat.size)

    def _verdict(self, digest: Digest, found: Digest, size: int) -> Verified:
        if found == digest:
            return Verified(digest, Verdict.INTACT, size)
        return Verified(digest, Verdict.CORRUPT, size, f"its bytes hash to {found}")


def _record(verified: Verified, summary: VerifySummary, report: Report, progress: Progress) -> None:
    VERIFIED.labels(str(verified.verdict)).inc()
    summary.hashed += 1
    summary.bytes += verified.size
    progress.done += 1
    progress.bytes = summary.bytes
    if verified.verdict is Verdict.GONE:
        Verification.objects.filter(digest=verified.digest.hex).delete()
    if verified.verdict in (Verdict.INTACT, Verdict.GONE):
        summary.note(verified)
        report.write({"key": verified.digest.key, "verdict": str(verified.verdict)})
        return
    progress.failures[str(verified.verdict)] += 1
    _damage(verified, summary, report)


def _damage(verified: Verified, summary: VerifySummary, report: Report) -> None:
    summary.note(verified)
    key, verdict, detail = verified.digest.key, str(verified.verdict), verified.detail
    logger.error("%s is %s: %s", key, verdict.replace("_", " "), detail)
    report.write({"key": key, "verdict": verdict, "detail": detail})


def _remember(intact: list[Digest], *, at_least: int = 1) -> None:
    if len(intact) >= at_least:
        found = Verification.objects.filter(digest__in=[digest.hex for digest in intact])
        found.update(verified_at=timezone.now())
        intact.clear()


def _repair(store: BlobStore, summary: VerifySummary, report: Report) -> None:
    # A blob of the wrong size that hashes to its key is sound: its row is what is wrong.
    corrupt = [d for d, v in summary.damaged.items() if v.verdict is Verdict.CORRUPT]
    missing = [d for d, v in summary.damaged.items() if v.verdict is Verdict.MISSING]
    for key, action in repair(store, corrupt, missing):
        report.write({"key": key, "action": action})
        summary.quarantined += action == "quarantined"
        if action == "restored":
            summary.restored += 1
            del summary.damaged[Digest.from_key(key)]


def _conclude(summary: VerifySummary, stop: Stop) -> None:
    if stop.status is not None:
        summary.status, summary.reason = stop.status, stop.reason
    if summary.damaged:
        summary.status = ExitStatus.DAMAGE_FOUND
