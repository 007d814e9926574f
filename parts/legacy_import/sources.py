"""What an older installation's rows are read from: its database, or dumps of its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, Protocol

from attachments.maintenance.run import ExitStatus, Halt
from parts.legacy_import.values import BadRow


class Table(StrEnum):
    """The older tables. Only the first two must be there."""

    PARTS = "parts"
    ATTACHMENTS = "part_attachments"
    TYPES = "types"
    SELLERS = "sellers"


class Source(Protocol):
    """Rows, one at a time in flat memory, each a mapping of the columns that it has."""

    def has(self, table: Table) -> bool:
        """Whether the table can be read."""

    def rows(self, table: Table) -> Iterator[Mapping[str, Any] | BadRow]:
        """Every row; BadRow stands for one that cannot be told. Raises Halt."""


Opening = AbstractContextManager[Source]


def unreadable(name: str, problem: str) -> Halt:
    """A source that is not what it should be: no row of it can be trusted to be complete."""
    return Halt(ExitStatus.REFUSED, f"{name} cannot be read: {problem}. Nothing was imported")
