"""What the commands need of a store, found out before thousands of objects depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum

from cas.storage.base import StoreError


class Weight(IntEnum):
    """How much depends on an operation."""

    REPLACEABLE = 0
    """Something else is done in its place, or nothing has to be."""
    NEEDED = 1
    """Some command cannot do its work without it."""
    ESSENTIAL = 2
    """The store cannot be used without it."""


@dataclass(frozen=True, slots=True)
class Need:
    """An operation that commands need, on keys that begin with `prefix`.

    `cost` says what cannot be done without it.
    """

    operation: str
    prefix: str
    weight: Weight
    cost: str

    def __str__(self) -> str:
        return f"{self.operation} in {self.prefix}" if self.prefix else self.operation


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found: for each need the error it met, or None.

    `clock_ahead` is how far the store's clock is ahead of this machine's (behind: negative), to
    about a second; None if it is not known. `notes` are for the operator.
    """

    found: Mapping[Need, StoreError | None]
    clock_ahead: timedelta | None = None
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> list[tuple[Need, StoreError]]:
        return [(need, error) for need, error in self.found.items() if error is not None]

    @property
    def weight(self) -> Weight | None:
        """That of the weightiest need that is not met, if any is not."""
        return max((need.weight for need, _ in self.missing), default=None)
