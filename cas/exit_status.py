"""How commands end, for whoever starts them from a script."""

from __future__ import annotations

from enum import IntEnum


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
