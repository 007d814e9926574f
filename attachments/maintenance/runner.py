"""The frame all maintenance runs stand in: their output, their cancellation, and how they end."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, TypeVar

import psycopg
from django.core.management.base import OutputWrapper
from django.db import ProgrammingError

from attachments.locks import CONNECTION_ERRORS
from attachments.maintenance import retry
from attachments.maintenance.report import Progress, Report, RunSummary
from attachments.maintenance.retry import Outage
from cas.exit_status import ExitStatus, RunAborted
from cas.storage.base import StoreError

Item = TypeVar("Item")
Value = TypeVar("Value")

WAKE_SECONDS: Final = 0.1
"""How long a wait may go on after the run was cancelled."""

PATIENCE_SECONDS = 600.0
"""How long a store or a database that does not answer is waited for, unless the operator says."""

SHOWN_AFTER_SECONDS = 1.0
"""Outages shorter than this are not shown on the progress line."""

# A right that is missing, and a table that is not there yet, are a ProgrammingError. The drivers'
# own errors come from an older installation's database, and from scratch files on a full disk.
# The operating system's are about files of this machine: staging, scratch, locks, a full disk.
UNAVAILABLE: Final = (
    StoreError,
    ProgrammingError,
    *CONNECTION_ERRORS,
    psycopg.OperationalError,
    sqlite3.OperationalError,
    OSError,
)
"""Errors that say that the store or the database cannot be worked with at this moment."""


class Cancelled(Exception):
    """The run is ending: stop waiting for this item, and leave it for the next run."""


class CancelToken:
    """Tells every thread of a run that it is to end after what is in flight.

    The first reason given is the one kept. `patience` is how many seconds an outage of store or
    database is waited for; `outages` has those of this moment, by the id of what waits.
    `while_waiting` is called repeatedly while the thread that made this object waits.
    """

    def __init__(self, patience: float | None = None) -> None:
        # A signal's handler runs in the main thread, which may hold this lock already.
        self._lock = threading.RLock()
        self._deadline = math.inf
        self._thread = threading.get_ident()
        self.patience = PATIENCE_SECONDS if patience is None else patience
        self.outages: dict[int, Outage] = {}
        self.while_waiting: Callable[[], None] = lambda: None
        self.status: ExitStatus | None = None
        self.reason = ""
        self.aborted: RunAborted | None = None

    @property
    def outage(self) -> Outage | None:
        """The outage that will end the run first, of those that have lasted long enough."""
        latest = time.monotonic() - SHOWN_AFTER_SECONDS
        lasting = [outage for outage in list(self.outages.values()) if outage.since <= latest]
        return min(lasting, key=lambda outage: outage.until, default=None)

    def request(self, status: ExitStatus, reason: str) -> None:
        """Cancel the run."""
        with self._lock:
            if self.status is None:
                self.status, self.reason = status, reason

    def abort(self, error: RunAborted) -> None:
        """Cancel the run, and keep what the error says is to be done next."""
        with self._lock:
            if self.status is None:
                self.aborted = error
            self.request(error.exit_status, str(error))

    def expire_after(self, seconds: float | None) -> None:
        """Cancel the run so many seconds from now; None is no limit."""
        if seconds is not None:
            self._deadline = time.monotonic() + seconds

    @property
    def requested(self) -> bool:
        if self.status is None and time.monotonic() >= self._deadline:
            self.request(ExitStatus.LIMIT_REACHED, "the time allowed is over")
        return self.status is not None

    def check(self) -> None:
        """Raises Cancelled if the run is cancelled."""
        if self.requested:
            raise Cancelled

    def sleep(self, seconds: float) -> None:
        """Wait. Raises Cancelled as soon as the run is cancelled."""
        until = time.monotonic() + seconds
        self.check()
        # Polling needs no lock, which a signal's handler could find taken.
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, WAKE_SECONDS))
            self.check()
            if threading.get_ident() == self._thread:
                self.while_waiting()


def limited(
    items: Iterator[Item], limit: int | None, cancel: CancelToken, noun: str
) -> Iterator[Item]:
    """At most so many of the items; cancels the run if there are more. None is not counted."""
    begun = 0
    for item in items:
        if item is not None:
            if begun == limit:
                cancel.request(ExitStatus.LIMIT_REACHED, f"{limit} {noun} were the limit")
                return
            begun += 1
        yield item


@contextmanager
def cancelled_by_signals(cancel: CancelToken) -> Iterator[None]:
    """SIGINT and SIGTERM cancel the run; a second one ends the process immediately.

    Ending immediately is safe: every step of a run may be cut off anywhere.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal received
        if received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        received = True
        name = signal.Signals(number).name
        cancel.request(ExitStatus.INTERRUPTED, f"{name}: what was in flight was finished")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class Output:
    """Where a run's progress goes, and its report, if one is wanted.

    `patience` is how many seconds it waits for a store or a database; None for the default.
    """

    stream: OutputWrapper
    as_json: bool = False
    report: Path | None = None
    patience: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run while it goes on."""

    cancel: CancelToken
    report: Report
    progress: Progress

    def query(self, operation: Callable[[], Value]) -> Value:
        """`retry.query`. Raises RunAborted, Cancelled."""
        return retry.query(operation, self.cancel)

    def watch(self, phase: str, items: Iterable[Item]) -> Iterator[Item]:
        """Pass the items on, shown as a phase of their own. Raises Cancelled."""
        self.progress.begin(phase)
        for item in items:
            self.cancel.check()
            self.progress.step()
            yield item


@contextmanager
def maintenance_run(summary: RunSummary, output: Output) -> Iterator[Run]:
    """Run the block. However it ends, the summary says how, and the code after it goes on.

    Raises RunAborted if the report cannot be opened.
    """
    cancel = CancelToken(output.patience)
    with (
        Report(output.report) as report,
        Progress(summary, output.stream, cancel=cancel, as_json=output.as_json) as progress,
        cancelled_by_signals(cancel),
        aborts_recorded(cancel),
    ):
        yield Run(cancel, report, progress)
    summary.conclude(cancel)


@contextmanager
def aborts_recorded(cancel: CancelToken) -> Iterator[None]:
    """An error that ends the run ends the block; it is recorded, and the code after it goes on."""
    try:
        yield
    except Cancelled:
        # The reason is recorded already.
        pass
    except RunAborted as aborted:
        cancel.abort(aborted)
    except UNAVAILABLE as error:
        cancel.abort(abort_for(error))


def abort_for(error: Exception) -> RunAborted:
    """The end of the run that an error of store, database or file causes."""
    return retry.lasting_abort(error) or RunAborted(ExitStatus.UNAVAILABLE, retry.one_line(error))
