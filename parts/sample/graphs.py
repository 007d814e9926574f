"""What the tables and graphs of a sample datasheet consist of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Row = tuple[str, str, str, str, str, str]
"""Parameter, conditions, minimum, typical, maximum, unit."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A graph's axis. A logarithmic one runs over whole decades."""

    label: str
    low: float
    high: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where `value` lies between the axis's ends, 0 to 1, cut off beyond them."""
        if self.logarithmic:
            low, high, value = (math.log10(max(v, 1e-12)) for v in (self.low, self.high, value))
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def value(self, place: float) -> float:
        if self.logarithmic:
            return float(self.low * (self.high / self.low) ** place)
        return self.low + (self.high - self.low) * place

    def ticks(self) -> list[float]:
        if self.logarithmic:
            decades = round(math.log10(self.high / self.low))
            return [self.low * 10.0**step for step in range(decades + 1)]
        return [self.low + (self.high - self.low) * step / 5 for step in range(6)]


@dataclass(frozen=True, slots=True)
class Graph:
    title: str
    x: Axis
    y: Axis
    curves: tuple[tuple[str, Callable[[float], float]], ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """Absolute limits (parameter, value, unit), characteristics, and two graphs."""

    limits: tuple[tuple[str, str, str], ...]
    rows: tuple[Row, ...]
    graphs: tuple[Graph, Graph]


AMBIENT: Final = Axis("Ambient temperature (°C)", -50, 150)
RATED_CURRENT: Final = Axis("Rated current (%)", 0, 125)


def derating(start: float, end: float) -> Callable[[float], float]:
    """Full load up to `start` °C, then falling to none at `end` °C."""
    return lambda t: 100.0 if t <= start else max(0.0, 100 * (end - t) / (end - start))
