"""The frame every maintenance run stands in: exit statuses, stopping, and the worker pool.

A run is a stream of items through a few threads. Everything that counts, writes reports or
prints happens in the calling thread, which receives the results; the threads only work.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import Generic, TypeVar

from django.db import connections

from attachments.maintenance.pacing import Pace

Item = TypeVar("Item")
Result = TypeVar("Result")

TICK_SECONDS = 0.5
"""How long the calling thread waits for a result before it may redraw its progress."""

RESULTS_WAITING = 1000
"""Results kept for a slow reader before the workers wait for it."""


class ExitStatus(IntEnum):
    """How a maintenance command ended. 1 and 2 are Django's and argparse's own."""

    DONE = 0
    ITEMS_FAILED = 3
    REFUSED = 4
    UNAVAILABLE = 5
    LIMIT_REACHED = 6
    DAMAGE_FOUND = 7
    LOCKED = 8
    INTERRUPTED = 9


class Halt(Exception):
    """The whole run must end, with this status; the message says why and what to do."""

    def __init__(self, status: ExitStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Stopped(Exception):
    """The run is ending: give up this item's waiting, and leave the item for the next run."""


class Stop:
    """Asks a run to end after what is in flight. The first reason given is the one kept."""

    def __init__(self, *, max_seconds: float | None = None) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._deadline = time.monotonic() + max_seconds if max_seconds is not None else None
        self.status: ExitStatus | None = None
        self.reason = ""

    def request(self, status: ExitStatus, reason: str) -> None:
        with self._lock:
            if self.status is None:
                self.status, self.reason = status, reason
        self._event.set()

    @property
    def requested(self) -> bool:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self.request(ExitStatus.LIMIT_REACHED, "the time allowed is over")
        return self._event.is_set()

    def sleep(self, seconds: float) -> None:
        """Wait. Raises Stopped as soon as the run is asked to end."""
        if self._event.wait(seconds):
            raise Stopped


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """SIGINT and SIGTERM ask the run to end; a second one ends the process there and then.

    Ending at once is safe: every step of a run may be cut off anywhere.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(number: int, _frame: FrameType | None) -> None:
        if stop.status is ExitStatus.INTERRUPTED:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        name = signal.Signals(number).name
        stop.request(ExitStatus.INTERRUPTED, f"{name}: finishing what is in flight")

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Produced(Generic[Result]):
    __slots__ = ("result",)

    def __init__(self, result: Result) -> None:
        self.result = result


class _Finished(Generic[Item]):
    __slots__ = ("error", "item")

    def __init__(self, item: Item, error: BaseException | None) -> None:
        self.item = item
        self.error = error


class Pool(Generic[Item, Result]):
    """Runs `work` on items in threads, with no more items in flight than the pace allows.

    `work` yields an item's results. A Halt it raises ends the run: what is in flight is finished
    first, and only the first Halt is raised, so that one cause is one error. `finished` is called
    in the calling thread when an item is over, whatever came of it.
    """

    def __init__(
        self,
        work: Callable[[Item], Iterator[Result]],
        *,
        pace: Pace,
        stop: Stop,
        finished: Callable[[Item], None] = lambda item: None,
    ) -> None:
        self._work = work
        self._pace = pace
        self._stop = stop
        self._finished = finished
        self._inbox: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._outbox: queue.Queue[_Produced[Result] | _Finished[Item]] = queue.Queue(
            RESULTS_WAITING
        )
        self._in_flight = 0
        self._ask_again_at = 0.0
        self._error: BaseException | None = None

    def run(self, items: Iterator[Item | None]) -> Iterator[Result | None]:
        """Yield results as they come, and None when none came for a while.

        An item that is None means that there is none at this moment, but may be one later.
        """
        threads = [
            threading.Thread(target=self._serve, name=f"maintenance-{number}", daemon=True)
            for number in range(self._pace.workers)
        ]
        for thread in threads:
            thread.start()
        try:
            yield from self._exchange(items)
        finally:
            self._end(threads)
        if self._error is not None:
            raise self._error

    def _exchange(self, items: Iterator[Item | None]) -> Iterator[Result | None]:
        more = True
        while True:
            if more and not self._ending:
                more = self._hand_out(items)
            if self._in_flight == 0 and (not more or self._ending):
                return
            try:
                message = self._outbox.get(timeout=TICK_SECONDS / 2)
            except queue.Empty:
                yield None
                continue
            if isinstance(message, _Produced):
                yield message.result
            else:
                self._take_back(message)

    @property
    def _ending(self) -> bool:
        return self._error is not None or self._stop.requested

    def _hand_out(self, items: Iterator[Item | None]) -> bool:
        """Fill up to the pace's limit. False when there are no more items."""
        if time.monotonic() < self._ask_again_at:
            return True
        while self._in_flight < self._pace.in_flight and not self._ending:
            try:
                item = next(items)
            except (StopIteration, Stopped):
                return False
            if item is None:
                # Not after each result: what others wait for may be in those still to be taken.
                self._ask_again_at = time.monotonic() + TICK_SECONDS / 2
                return True
            self._in_flight += 1
            self._inbox.put(item)
        return True

    def _take_back(self, message: _Finished[Item]) -> None:
        self._in_flight -= 1
        self._finished(message.item)
        if message.error is not None and self._error is None:
            self._error = message.error

    def _serve(self) -> None:
        try:
            while (item := self._inbox.get()) is not None:
                error: BaseException | None = None
                try:
                    for result in self._work(item):
                        self._outbox.put(_Produced(result))
                except Stopped:
                    pass
                except BaseException as raised:  # noqa: BLE001 - raised in the calling thread
                    error = raised
                self._outbox.put(_Finished(item, error))
        finally:
            # Django's connections belong to the thread that opened them; nobody else closes them.
            connections.close_all()

    def _end(self, threads: list[threading.Thread]) -> None:
        # After an error in the caller there may be items nobody has begun: they stay undone.
        while True:
            try:
                self._inbox.get_nowait()
            except queue.Empty:
                break
        for _ in threads:
            self._inbox.put(None)
        while any(thread.is_alive() for thread in threads):
            # A reader that left early must not leave workers waiting for room.
            try:
                self._outbox.get(timeout=0.01)
            except queue.Empty:
                continue
        for thread in threads:
            thread.join()
