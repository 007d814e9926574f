"""How a maintenance run ended, in the same words for every command."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from attachments.maintenance.run import ExitStatus, Halt, Stop

SAMPLES: Final = 5
"""Failures that a summary names one by one; the report has them all."""


@dataclass
class RunSummary:
    """What is common to every run's summary; each command adds its own counts.

    `bytes` are those the run is about: moved, hashed or deleted. `failures` counts items by class
    of error, and `samples` names a few.
    """

    dry_run: bool = False
    status: ExitStatus = ExitStatus.DONE
    reason: str = ""
    bytes: int = 0
    retries: int = 0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    halt: Halt | None = None

    WOULD_BE: ClassVar[Mapping[str, str]] = {}
    """What a dry run calls the counts of what it did not do, to people."""

    @property
    def items(self) -> int:
        """How many items the run finished with, for its rate."""
        return 0

    @property
    def deduplicated(self) -> int:
        """Of these, how many only shared what another had brought."""
        return 0

    def counts(self) -> dict[str, Any]:
        """What this command counts, in the order in which people read it."""
        return {}

    def judge(self) -> None:
        """Set the status, and the reason, that what was counted asks for."""
        if self.status in (ExitStatus.DONE, ExitStatus.LIMIT_REACHED) and self.failures:
            self.status = ExitStatus.ITEMS_FAILED

    def fail(self, code: str, sample: str) -> None:
        """Count an item that failed, and keep the first few by name."""
        self.failures[code] += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(sample)

    def conclude(self, stop: Stop) -> None:
        """The run is over: decide how it ended."""
        self.seconds = time.monotonic() - self.began
        if stop.status is not None:
            self.status, self.reason, self.halt = stop.status, stop.reason, stop.halt
        self.judge()

    def figures(self) -> dict[str, Any]:
        """The summary as plain data. Rates are those of the whole run, per second."""
        seconds = max(self.seconds, 1e-6)
        return {
            "status": self.status.name.lower(),
            "reason": self.reason,
            "dry_run": self.dry_run,
            **self.counts(),
            "seconds": round(self.seconds, 1),
            "items_per_second": round(self.items / seconds, 1),
            "bytes_per_second": round(self.bytes / seconds),
            "failures": dict(+self.failures),
            "samples": self.samples,
        }
