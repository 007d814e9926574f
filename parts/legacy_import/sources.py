"""What an older installation's rows are read from: its database, or dumps of its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, Protocol

from cas.exit_status import ExitStatus, RunAborted
from parts.legacy_import.values import BadRow


class Table(StrEnum):
    """The older tables that an import reads; which of them there are, `shapes` says."""

    PARTS = "parts"
    PART_ATTACHMENTS = "part_attachments"
    ATTACHMENTS = "attachments"
    ATTACHMENT_SETS = "attachment_sets"
    KITS = "kits"
    TYPES = "types"
    SELLERS = "sellers"
    PART_SELLERS = "part_sellers"
    TAGS = "tags"
    PART_TAGS = "part_tags"


class Source(Protocol):
    """Tables and their rows, read one row at a time in flat memory."""

    def tables(self) -> list[str]:
        """The names of all tables, also of those that no import knows. Raises RunAborted."""

    def columns(self, table: str) -> frozenset[str] | None:
        """The table's columns; None if there is no such table. Raises RunAborted.

        A dump of a table without rows may not say them: then the set is empty.
        """

    def count(self, table: str) -> int | None:
        """How many rows the table has; None if it may not be read. Raises RunAborted."""

    def rows(self, table: str) -> Iterator[Mapping[str, Any] | BadRow]:
        """Every row, in an order that is the same each time as long as no row is added.

        BadRow stands for one that cannot be told. Raises RunAborted.
        """


Opening = AbstractContextManager[Source]


def unreadable(name: str, problem: str) -> RunAborted:
    """A source that is not what it should be: no row of it can be trusted to be complete."""
    return RunAborted(ExitStatus.REFUSED, f"{name} cannot be read: {problem}. Nothing was imported")
