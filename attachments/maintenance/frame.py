"""The frame every maintenance run stands in, so that each of them ends in the same ways."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import psycopg
from django.core.management.base import OutputWrapper
from django.db import ProgrammingError

from attachments.maintenance import retry
from attachments.maintenance.database import CONNECTION_ERRORS
from attachments.maintenance.progress import Progress
from attachments.maintenance.report import Report
from attachments.maintenance.run import (
    ExitStatus,
    Halt,
    Stop,
    Stopped,
    one_line,
    stopped_by_signals,
)
from attachments.maintenance.summary import RunSummary
from cas.storage.base import StoreError

Item = TypeVar("Item")
Value = TypeVar("Value")

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


@dataclass(frozen=True, slots=True)
class Output:
    """Where a run's progress goes, and its report, if one is wanted.

    `patience` is how many seconds it waits for a store or a database; None for the usual.
    """

    stream: OutputWrapper
    as_json: bool = False
    report: Path | None = None
    patience: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run while it goes on."""

    stop: Stop
    report: Report
    progress: Progress

    def query(self, operation: Callable[[], Value]) -> Value:
        """What the database says, waited for. Raises Halt, Stopped."""
        return retry.query(operation, self.stop)

    def watch(self, phase: str, items: Iterable[Item]) -> Iterator[Item]:
        """Pass the items on, shown as a phase of their own. Raises Stopped when asked to end."""
        self.progress.begin(phase)
        for item in items:
            self.stop.check()
            self.progress.step()
            yield item


@contextmanager
def running(summary: RunSummary, output: Output) -> Iterator[Run]:
    """Run the block; however it ends, the summary knows and can be printed.

    Signals, a Halt, and errors of store, database and report end the block, not the command.
    Raises Halt if the report cannot be opened.
    """
    stop = Stop(output.patience)
    with (
        Report(output.report) as report,
        Progress(summary, output.stream, as_json=output.as_json, stop=stop) as progress,
        stopped_by_signals(stop),
        ending(stop),
    ):
        yield Run(stop, report, progress)
    summary.conclude(stop)


@contextmanager
def ending(stop: Stop) -> Iterator[None]:
    """Whatever ends the block is kept as the reason why the run ends; then the code goes on."""
    try:
        yield
    except Stopped:
        # The reason has been given already.
        pass
    except Halt as halt:
        stop.end_by(halt)
    except UNAVAILABLE as error:
        stop.end_by(unavailable(error))


def unavailable(error: Exception) -> Halt:
    """The end of a run that such an error is."""
    return retry.lasting_end(error) or Halt(ExitStatus.UNAVAILABLE, one_line(error))
