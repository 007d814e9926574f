"""What an import did, in figures that must balance."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from attachments.maintenance.run import ExitStatus
from attachments.maintenance.summary import RunSummary
from parts.legacy_import.plan import Planned

COVERS_NAMED: Final = 20
"""Parts without their cover that a summary names; the report has them all."""


@dataclass(slots=True)
class Tally:
    """A table's rows: those read are the sum of the others.

    `deleted_here` were imported before and deleted here since, `forgotten` by name; `left_out`
    belong to what is not imported at all.
    """

    read: int = 0
    imported: int = 0
    already_here: int = 0
    deleted_here: int = 0
    forgotten: int = 0
    left_out: int = 0
    failed: int = 0
    remaining: int = 0

    @property
    def balances(self) -> bool:
        parts = asdict(self)
        read: int = parts.pop("read")
        return bool(min(parts.values()) >= 0 and read == sum(parts.values()))


@dataclass
class ImportSummary(RunSummary):
    """`bytes` are those of the objects that imported rows name.

    `lost_covers` counts the parts whose cover could not be brought over; `covers` has why, by the
    keys of some of them.
    `left_out` counts, by name, what the source has and an import does not bring.
    """

    source: str = ""
    tallies: dict[str, Tally] = field(default_factory=dict)
    lost_covers: int = 0
    covers: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def items(self) -> int:
        return sum(tally.read - tally.remaining for tally in self.tallies.values())

    @property
    def failed(self) -> int:
        return sum(tally.failed for tally in self.tallies.values())

    @property
    def remaining(self) -> int:
        return sum(tally.remaining for tally in self.tallies.values())

    @property
    def balances(self) -> bool:
        return all(tally.balances for tally in self.tallies.values())

    def plan(self, table: str, planned: Planned) -> None:
        """Take over what the plan decided; what is to be imported remains for now."""
        self.tallies[table] = Tally(
            read=planned.read,
            already_here=planned.already_here,
            deleted_here=planned.deleted_here,
            forgotten=planned.forgotten,
            left_out=planned.left_out,
            failed=planned.failed,
            remaining=planned.to_import,
        )

    def lose_cover(self, part: str, reason: str) -> None:
        self.lost_covers += 1
        if len(self.covers) < COVERS_NAMED:
            self.covers[part] = reason

    def count(self, table: str, fault: str, size: int) -> None:
        """One of the rows that remained is over."""
        tally = self.tallies[table]
        tally.remaining -= 1
        if fault:
            tally.failed += 1
        else:
            tally.imported += 1
            self.bytes += size

    def judge(self) -> None:
        super().judge()
        if self.status is ExitStatus.DONE and not self.balances:
            self.status = ExitStatus.ITEMS_FAILED
            self.reason = "the counts do not balance"

    def blame(self, table: str, row_id: str, name: str, fault: str, reason: str) -> None:
        """A row that failed, for the classes by count and the samples."""
        self.fail(fault, f"{table}/{row_id} ({name}): {fault}: {reason}")

    def counts(self) -> dict[str, Any]:
        return {
            "source": self.source,
            **{table: asdict(tally) for table, tally in self.tallies.items()},
            "balances": self.balances,
            "bytes": self.bytes,
            "lost_covers": self.lost_covers,
            "covers": {key: [reason] for key, reason in self.covers.items()},
            "left_out": {name: count for name, count in sorted(self.left_out.items()) if count},
        }
