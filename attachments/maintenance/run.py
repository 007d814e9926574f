"""How a maintenance run ends: exit statuses, errors that end it, limits and signals."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, TypeVar

from cas.exit_status import ExitStatus as ExitStatus

Item = TypeVar("Item")

WAKE_SECONDS: Final = 0.1
"""How long a wait may go on after the run was asked to end."""

PATIENCE_SECONDS = 600.0
"""How long a store or a database that does not answer is waited for, unless told otherwise."""

SHOWN_AFTER_SECONDS = 1.0
"""An outage that is over sooner is not worth a word on the progress line."""


class Halt(Exception):
    """The whole run must end, with this status; the message says why.

    What to do next, where it is not simply the same command again: `first` is what a person must
    do before the command, then with the options `changed`, can do better; `command` is another
    command to type.
    """

    def __init__(
        self,
        status: ExitStatus,
        message: str,
        *,
        first: str = "",
        changed: Mapping[str, Any] | None = None,
        command: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.first = first
        self.changed = dict(changed or {})
        self.command = command


def one_line(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class Stopped(Exception):
    """The run is ending: give up this item's waiting, and leave the item for the next run."""


@dataclass(frozen=True, slots=True)
class Outage:
    """What does not answer, since when and until when it is waited for (`time.monotonic()`)."""

    what: str
    since: float
    until: float


class Stop:
    """Asks a run to end after what is in flight. The first reason given is the one kept.

    `patience` is how many seconds an outage of store or database is waited for; `outages` has
    those of this moment, by who waits. `while_waiting` is called again and again while the
    thread that made this object waits.
    """

    def __init__(self, patience: float | None = None) -> None:
        # A signal's handler runs in the main thread, which may be in here already.
        self._lock = threading.RLock()
        self._deadline = math.inf
        self._thread = threading.get_ident()
        self.patience = PATIENCE_SECONDS if patience is None else patience
        self.outages: dict[int, Outage] = {}
        self.while_waiting: Callable[[], None] = lambda: None
        self.status: ExitStatus | None = None
        self.reason = ""
        self.halt: Halt | None = None

    @property
    def outage(self) -> Outage | None:
        """The outage that will end the run first, if one has lasted long enough to be told."""
        told = time.monotonic() - SHOWN_AFTER_SECONDS
        lasting = [outage for outage in list(self.outages.values()) if outage.since <= told]
        return min(lasting, key=lambda outage: outage.until, default=None)

    def request(self, status: ExitStatus, reason: str) -> None:
        with self._lock:
            if self.status is None:
                self.status, self.reason = status, reason

    def end_by(self, halt: Halt) -> None:
        with self._lock:
            if self.status is None:
                self.halt = halt
            self.request(halt.status, str(halt))

    def after(self, seconds: float | None) -> None:
        """Ask to end so many seconds from now; None is no limit."""
        if seconds is not None:
            self._deadline = time.monotonic() + seconds

    @property
    def requested(self) -> bool:
        if self.status is None and time.monotonic() >= self._deadline:
            self.request(ExitStatus.LIMIT_REACHED, "the time allowed is over")
        return self.status is not None

    def check(self) -> None:
        """Raises Stopped if the run is asked to end."""
        if self.requested:
            raise Stopped

    def sleep(self, seconds: float) -> None:
        """Wait. Raises Stopped as soon as the run is asked to end."""
        until = time.monotonic() + seconds
        self.check()
        # Looking again and again needs no lock, which a signal's handler could find taken.
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, WAKE_SECONDS))
            self.check()
            if threading.get_ident() == self._thread:
                self.while_waiting()


def limited(items: Iterator[Item], limit: int | None, stop: Stop, noun: str) -> Iterator[Item]:
    """At most so many of the items; asks the run to end if there are more. None is not counted."""
    begun = 0
    for item in items:
        if item is not None:
            if begun == limit:
                stop.request(ExitStatus.LIMIT_REACHED, f"{limit} {noun} were the limit")
                return
            begun += 1
        yield item


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """SIGINT and SIGTERM ask the run to end; a second one ends the process there and then.

    Ending at once is safe: every step of a run may be cut off anywhere.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked_before = False

    def asked(number: int, _frame: FrameType | None) -> None:
        nonlocal asked_before
        if asked_before:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        asked_before = True
        name = signal.Signals(number).name
        stop.request(ExitStatus.INTERRUPTED, f"{name}: what was in flight was finished")

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
