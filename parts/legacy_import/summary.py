"""What an import did, in figures that must balance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attachments.maintenance.run import ExitStatus
from attachments.maintenance.summary import RunSummary
from parts.legacy_import.plan import Planned
from parts.legacy_import.sources import Table


@dataclass(slots=True)
class Tally:
    """A table's rows: those read are the sum of the others."""

    read: int = 0
    imported: int = 0
    already_here: int = 0
    failed: int = 0
    remaining: int = 0

    @property
    def balances(self) -> bool:
        parts = (self.imported, self.already_here, self.failed, self.remaining)
        return min(parts) >= 0 and self.read == sum(parts)


@dataclass
class ImportSummary(RunSummary):
    """`bytes` are those of the objects that imported rows name.

    `lost_covers` are parts whose cover could not be brought over. `unknown_columns` were read
    past.
    """

    tallies: dict[Table, Tally] = field(
        default_factory=lambda: {Table.PARTS: Tally(), Table.ATTACHMENTS: Tally()}
    )
    lost_covers: int = 0
    unknown_columns: dict[Table, list[str]] = field(default_factory=dict)

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

    def plan(self, table: Table, planned: Planned) -> None:
        """Take over what the plan decided; what is to be imported remains for now."""
        self.tallies[table] = Tally(
            read=planned.read,
            already_here=planned.present,
            failed=planned.refused,
            remaining=planned.to_import,
        )

    def count(self, table: Table, fault: str, size: int) -> None:
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

    def blame(self, table: Table, number: int, name: str, fault: str, reason: str) -> None:
        """A row that failed, for the classes by count and the samples."""
        self.fail(fault, f"{table}, row {number} ({name}): {fault}: {reason}")

    def counts(self) -> dict[str, Any]:
        return {
            **{
                str(table): {name: getattr(tally, name) for name in Tally.__slots__}
                for table, tally in self.tallies.items()
            },
            "balances": self.balances,
            "bytes": self.bytes,
            "lost_covers": self.lost_covers,
            "unknown_columns": {
                str(table): columns for table, columns in self.unknown_columns.items() if columns
            },
        }
