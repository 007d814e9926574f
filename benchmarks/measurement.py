"""What a benchmark found: ours beside a rival, measured in turns in one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's figure; `ratio` to the rival's, above 1 where it is better than it."""

    contender: str
    figure: str
    ratio: float | None = None
    target: float | None = None

    @property
    def verdict(self) -> str:
        if self.target is None or self.ratio is None:
            return ""
        return "met" if self.ratio >= self.target else "**missed**"


@dataclass(frozen=True, slots=True)
class Table:
    """Contenders at one task; `command` is what was run to measure them."""

    title: str
    rival: str
    rows: list[Row]
    command: str = ""
    note: str = ""

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Table:
        return cls(**{**plain, "rows": [Row(**row) for row in plain["rows"]]})


@dataclass(slots=True)
class Contest:
    """Measures contenders in turns, so that what else the machine does hits them alike.

    Each of `measures` returns a rate: the more, the better. The median of the rounds counts.
    """

    measures: dict[str, Callable[[], float]]
    rounds: int
    rates: dict[str, list[float]] = field(default_factory=dict)

    def run(self) -> dict[str, float]:
        for _ in range(self.rounds):
            for name, measure in self.measures.items():
                self.rates.setdefault(name, []).append(measure())
        return {name: statistics.median(rates) for name, rates in self.rates.items()}


def rows(
    rates: Mapping[str, float],
    rival: str,
    show: Callable[[float], str],
    targets: Mapping[str, float] | None = None,
) -> list[Row]:
    """A row a contender, in their order."""
    return [
        Row(name, show(rate), rate / rates[rival], (targets or {}).get(name))
        for name, rate in rates.items()
    ]


def per_second(rate: float) -> str:
    return f"{rate:,.0f}/s"


def megabytes(rate: float) -> str:
    return f"{rate / 1e6:,.0f} MB/s"


def milliseconds(rate: float) -> str:
    """A rate of once a so many milliseconds."""
    return f"{1000 / rate:,.1f} ms"
