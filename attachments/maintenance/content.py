"""Re-hashing what rows reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from attachments.maintenance.attempts import Attempts
from attachments.maintenance.frame import Run
from attachments.maintenance.pacing import Pace
from attachments.maintenance.pool import Pool
from attachments.maintenance.run import ExitStatus, Halt
from attachments.maintenance.survey import survey
from cas.digest import CAS_PREFIX
from cas.storage.base import Absent, BlobStore, Corrupt


@dataclass(frozen=True, slots=True)
class Hashed:
    """A referenced object's size in bytes, and whether its bytes hash to its key."""

    key: str
    size: int
    intact: bool


def verify_content(store: BlobStore, run: Run, *, workers: int, total: int) -> None:
    """Hash the referenced objects, of which there are `total`.

    Raises Halt at the first one whose bytes are not what its key says, StoreError.
    """
    pace = Pace(workers)

    def hashed(key: str) -> Iterator[Hashed]:
        try:
            # One answer that does not come must not be the end of hours of reading.
            digest, stat = Attempts(pace, run.stop, store).of(partial(store.digest_of, key))
        except (Absent, Corrupt):
            yield Hashed(key, 0, intact=False)
        else:
            yield Hashed(key, stat.size, digest.key == key)

    pool = Pool[str, Hashed](hashed, pace=pace, stop=run.stop)
    referenced = (entry.key for entry in survey(store, CAS_PREFIX) if entry.referenced)
    run.progress.begin("hashed", total)
    for result in pool.run(referenced):
        if result is not None:
            if not result.intact:
                raise Halt(
                    ExitStatus.DAMAGE_FOUND,
                    f"the bytes of {result.key} do not hash to it. Nothing was deleted; run "
                    "verify_cas --repair while the old objects are still there",
                )
            run.progress.step(result.size)
        run.progress.show_if_due()
    run.stop.check()
