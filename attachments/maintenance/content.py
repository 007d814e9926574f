"""Re-hashing what rows reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attachments.maintenance.pacing import Pace
from attachments.maintenance.progress import Progress
from attachments.maintenance.run import ExitStatus, Halt, Pool, Stop
from attachments.maintenance.survey import survey
from cas.digest import CAS_PREFIX
from cas.storage.base import Absent, BlobStore, Corrupt


@dataclass(frozen=True, slots=True)
class Hashed:
    """A referenced object's size in bytes, and whether its bytes hash to its key."""

    key: str
    size: int
    intact: bool


def verify_content(store: BlobStore, progress: Progress, *, workers: int, stop: Stop) -> None:
    """Raises Halt at the first referenced object whose bytes are not what its key says."""

    def hashed(key: str) -> Iterator[Hashed]:
        try:
            digest, stat = store.digest_of(key)
        except (Absent, Corrupt):
            yield Hashed(key, 0, intact=False)
        else:
            yield Hashed(key, stat.size, digest.key == key)

    pool = Pool[str, Hashed](hashed, pace=Pace(workers), stop=stop)
    referenced = (entry.key for entry in survey(store, CAS_PREFIX) if not entry.unreferenced)
    for result in pool.run(referenced):
        if result is not None:
            if not result.intact:
                raise Halt(
                    ExitStatus.DAMAGE_FOUND,
                    f"the bytes of {result.key} do not hash to it. Nothing was deleted; run "
                    "verify_cas --repair while the old objects are still there",
                )
            progress.done += 1
            progress.bytes += result.size
        progress.show_if_due()
