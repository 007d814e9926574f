"""What can be the matter with a blob, and the count of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any, Final

from attachments.maintenance.run import ExitStatus
from attachments.maintenance.summary import RunSummary
from cas.digest import Digest
from cas.storage.base import BlobStat

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

    `to_mend` is a row that shows one of those, if any does, and `onward` the command that is the
    next step of the whole move once all is sound.
    """

    planned: int = 0
    hashed: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    orphans: int = 0
    orphan_bytes: int = 0
    held: int = 0
    strays: int = 0
    quarantined: int = 0
    restored: int = 0
    damaged: dict[Digest, Verified] = field(default_factory=dict)
    to_mend: int | None = None
    onward: str = ""

    @property
    def items(self) -> int:
        return self.hashed

    @property
    def remaining(self) -> int:
        return max(0, self.planned - self.verdicts.total())

    def note(self, verified: Verified) -> None:
        """Count a verdict, in place of what the survey said about the same blob."""
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
            "orphans": self.orphans,
            "orphan_bytes": self.orphan_bytes,
            "held": self.held,
            "strays": self.strays,
            "quarantined": self.quarantined,
            "restored": self.restored,
            "still_damaged": len(self.damaged),
        }


def _named(found: Verified) -> str:
    return f"{found.digest.key}: {found.verdict.replace('_', ' ')} {found.detail}".rstrip()
