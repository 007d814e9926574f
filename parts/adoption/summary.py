"""What an import did, in figures that must balance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from attachments.maintenance.run import ExitStatus
from parts.adoption.plan import Planned
from parts.adoption.sources import Table

SAMPLES: Final = 5


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


@dataclass(slots=True)
class ImportSummary:
    """`bytes` are those of the objects that imported rows name.

    `lost_covers` are parts whose cover could not be brought over. `unknown_columns` were read
    past.
    """

    dry_run: bool
    status: ExitStatus = ExitStatus.DONE
    reason: str = ""
    tallies: dict[Table, Tally] = field(
        default_factory=lambda: {Table.PARTS: Tally(), Table.ATTACHMENTS: Tally()}
    )
    bytes: int = 0
    lost_covers: int = 0
    unknown_columns: dict[Table, list[str]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)

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

    def blame(self, table: Table, number: int, name: str, fault: str, reason: str) -> None:
        """A row that failed, for the classes by count and the samples."""
        self.failures[fault] += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(f"{table}, row {number} ({name}): {fault}: {reason}")

    def figures(self) -> dict[str, Any]:
        """The summary as plain data."""
        figures: dict[str, Any] = {
            "status": self.status.name.lower(),
            "reason": self.reason,
            "dry_run": self.dry_run,
        }
        for table, tally in self.tallies.items():
            figures[str(table)] = {name: getattr(tally, name) for name in Tally.__slots__}
        return {
            **figures,
            "balances": self.balances,
            "bytes": self.bytes,
            "lost_covers": self.lost_covers,
            "unknown_columns": {
                str(table): columns for table, columns in self.unknown_columns.items() if columns
            },
            "failures": dict(self.failures),
        }
