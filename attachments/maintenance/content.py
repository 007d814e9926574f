"""Re-hashing what rows reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

from attachments import verifications
from attachments.maintenance.frame import Run
from attachments.maintenance.pacing import Pace
from attachments.maintenance.pool import Pool
from attachments.maintenance.retry import Tries
from attachments.maintenance.run import ExitStatus, Halt
from attachments.maintenance.survey import Entry, survey
from attachments.models import Verification
from cas.digest import CAS_PREFIX, Digest
from cas.storage.base import Absent, BlobStat, BlobStore, Corrupt

BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Hashed:
    """A referenced object, and the version of it whose bytes hash to its key, if they do."""

    key: str
    intact: BlobStat | None


def verify_content(store: BlobStore, run: Run, *, workers: int, everything: bool) -> None:
    """Hash the referenced objects that were not verified since they were last written, or all.

    What is found intact is remembered. Raises Halt at the first object whose bytes are not what
    its key says, StoreError.
    """
    pace = Pace(workers)

    def hashed(key: str) -> Iterator[Hashed]:
        try:
            # One answer that does not come must not be the end of hours of reading.
            digest, stat = Tries(run.stop, store, pace).of(partial(store.digest_of, key))
        except (Absent, Corrupt):
            yield Hashed(key, None)
        else:
            yield Hashed(key, stat if digest.key == key else None)

    entries = (e for e in survey(store, CAS_PREFIX, run.stop) if e.referenced)
    keys = (entry.key for entry in entries) if everything else _unverified(entries, run)
    pool = Pool[str, Hashed](hashed, pace=pace, stop=run.stop)
    intact: list[BlobStat] = []
    run.progress.begin("hashed")
    for result in pool.run(keys):
        if result is not None:
            if result.intact is None:
                raise Halt(
                    ExitStatus.DAMAGE_FOUND,
                    f"the bytes of {result.key} do not hash to it. Nothing was deleted; run "
                    "verify_cas --repair while the old objects are still there",
                )
            intact.append(result.intact)
            if len(intact) >= BATCH:
                run.query(partial(verifications.record, intact))
                intact.clear()
            run.progress.step(result.intact.size)
        run.progress.show_if_due()
    run.query(partial(verifications.record, intact))
    run.stop.check()


def _unverified(entries: Iterator[Entry], run: Run) -> Iterator[str]:
    """The keys of those that nobody has hashed since they were written."""
    while portion := list(islice(entries, BATCH)):
        digests = [Digest.from_key(entry.key).hex for entry in portion]
        rows = Verification.objects.filter(digest__in=digests)
        found: list[Verification] = run.query(partial(list, rows))
        verified = {row.digest: row for row in found}
        for entry in portion:
            row = verified.get(Digest.from_key(entry.key).hex)
            if row is None or entry.stat is None or not _is_of(row, entry.stat):
                yield entry.key


def _is_of(row: Verification, stat: BlobStat) -> bool:
    """Whether it was this version that was verified."""
    return bool(stat.etag) and row.etag == stat.etag and row.verified_at >= stat.modified
