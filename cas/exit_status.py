"""How commands end, for whoever starts them from a script."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any


class ExitStatus(IntEnum):
    """How a command ended. 1 and 2 are Django's and argparse's own."""

    DONE = 0
    ITEMS_FAILED = 3
    REFUSED = 4
    UNAVAILABLE = 5
    LIMIT_REACHED = 6
    DAMAGE_FOUND = 7
    LOCKED = 8
    INTERRUPTED = 9


class RunAborted(Exception):
    """The whole run must end, with this status; the message says why.

    What to do next, where it is not simply the same command again: `first` is what a person must
    do before the command, then with the options `changed`, can do better; `command` is another
    command to type.
    """

    def __init__(
        self,
        exit_status: ExitStatus,
        message: str,
        *,
        first: str = "",
        changed: Mapping[str, Any] | None = None,
        command: str = "",
    ) -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.first = first
        self.changed = dict(changed or {})
        self.command = command
