"""Re-hashing what rows reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Final

from django.utils import timezone

from attachments.maintenance.clocks import MOST_APART
from attachments.maintenance.frame import Run
from attachments.maintenance.pacing import Pace
from attachments.maintenance.pool import Pool
from attachments.maintenance.retry import Tries
from attachments.maintenance.run import ExitStatus, Halt
from attachments.maintenance.survey import Entry, survey
from attachments.models import Verification
from cas.digest import CAS_PREFIX, Digest
from cas.storage.base import Absent, BlobStore, Corrupt

BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Hashed:
    """A referenced object's size in bytes, and whether its bytes hash to its key."""

    key: str
    size: int
    intact: bool


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
            yield Hashed(key, 0, intact=False)
        else:
            yield Hashed(key, stat.size, digest.key == key)

    entries = (e for e in survey(store, CAS_PREFIX, run.stop) if e.referenced)
    keys = (entry.key for entry in entries) if everything else _unverified(entries, run)
    pool = Pool[str, Hashed](hashed, pace=pace, stop=run.stop)
    intact: list[Digest] = []
    run.progress.begin("hashed")
    for result in pool.run(keys):
        if result is not None:
            if not result.intact:
                raise Halt(
                    ExitStatus.DAMAGE_FOUND,
                    f"the bytes of {result.key} do not hash to it. Nothing was deleted; run "
                    "verify_cas --repair while the old objects are still there",
                )
            intact.append(Digest.from_key(result.key))
            if len(intact) >= BATCH:
                run.query(partial(remember_intact, intact))
                intact.clear()
            run.progress.step(result.size)
        run.progress.show_if_due()
    run.query(partial(remember_intact, intact))
    run.stop.check()


def _unverified(entries: Iterator[Entry], run: Run) -> Iterator[str]:
    """The keys of those that nobody has hashed since they were written, as their times tell."""
    while portion := list(islice(entries, BATCH)):
        digests = [Digest.from_key(entry.key).hex for entry in portion]
        rows = Verification.objects.filter(digest__in=digests)
        verified: dict[str, datetime] = dict(
            run.query(partial(list, rows.values_list("digest", "verified_at")))
        )
        for entry in portion:
            at = verified.get(Digest.from_key(entry.key).hex)
            # The store's clock says when an object was written, ours when it was read.
            if at is None or entry.stat is None or at <= entry.stat.modified + MOST_APART:
                yield entry.key


def remember_intact(digests: Sequence[Digest]) -> None:
    """These blobs hash to their keys now. Raises the database's errors."""
    Verification.objects.bulk_create(
        [Verification(digest=digest.hex, verified_at=timezone.now()) for digest in digests],
        update_conflicts=True,
        unique_fields=["digest"],
        update_fields=["verified_at"],
    )
