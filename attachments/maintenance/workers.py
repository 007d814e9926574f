"""Threads that work through a stream of items, and how fast they may go.

Everything that counts, writes reports or prints happens in the calling thread, which receives the
results; the threads only work.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from django.db import connections

from attachments.maintenance.runner import Cancelled, CancelToken
from cas.exit_status import RunAborted

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL_SECONDS: Final = 0.25
"""How long the calling thread waits for a result before it may redraw its progress."""

RESULTS_WAITING: Final = 1000
"""Results kept for a slow reader before the workers wait for it."""

HALVING_PAUSE_SECONDS = 1.0


class Pace:
    """How many items may be in flight: halved when the store is overloaded, then raised slowly.

    Refusals within a second of halving belong to the same overload, and do not halve again.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._allowed = float(workers)
        self._halved_at = -math.inf
        self._lock = threading.Lock()

    @property
    def in_flight(self) -> int:
        """At full pace two for each worker, so that none waits for work."""
        if self._allowed >= self.workers:
            return 2 * self.workers
        return max(1, int(self._allowed))

    def overloaded(self) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._halved_at >= HALVING_PAUSE_SECONDS:
                self._halved_at = now
                self._allowed = max(1.0, self._allowed / 2)

    def succeeded(self) -> None:
        if self._allowed < self.workers:
            with self._lock:
                self._allowed = min(float(self.workers), self._allowed + 1 / self._allowed)


class Bandwidth:
    """Limits all threads together to so many bytes a second; None is no limit.

    A cancelled run is not limited any more: what is in flight is to be finished soon.
    """

    def __init__(self, bytes_per_second: int | None, cancel: CancelToken) -> None:
        self._rate = bytes_per_second
        self._cancel = cancel
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def spend(self, count: int) -> None:
        """Account for `count` bytes, and wait if they came too soon."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            wait = self._free_at - now
            self._free_at = max(now, self._free_at) + count / self._rate
        if wait > 0:
            with contextlib.suppress(Cancelled):
                self._cancel.sleep(wait)


@dataclass(frozen=True, slots=True)
class _Done(Generic[Item]):
    """An item is over, after all its results."""

    item: Item
    error: BaseException | None


class Pool(Generic[Item, Result]):
    """Runs `work` on items in threads, with no more items in flight than the pace allows.

    `work` yields an item's results. An error it raises ends the run: what is in flight is finished
    first, and only the first error is raised, so that one cause is one error. `finished` is called
    in the calling thread when an item is over, whatever came of it.
    """

    def __init__(
        self,
        work: Callable[[Item], Iterator[Result]],
        *,
        pace: Pace,
        cancel: CancelToken,
        finished: Callable[[Item], None] = lambda item: None,
    ) -> None:
        self._work = work
        self._pace = pace
        self._cancel = cancel
        self._finished = finished
        self._inbox: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._outbox: queue.Queue[Result | _Done[Item]] = queue.Queue(RESULTS_WAITING)
        self._in_flight = 0
        self._next_poll = 0.0
        self._error: BaseException | None = None

    def results(self, items: Iterator[Item | None]) -> Iterator[Result | None]:
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
            more = more and not self._ending and self._hand_out(items)
            if self._in_flight == 0 and (not more or self._ending):
                return
            try:
                message = self._outbox.get(timeout=POLL_SECONDS)
            except queue.Empty:
                yield None
                continue
            if isinstance(message, _Done):
                self._take_back(message)
            else:
                yield message

    @property
    def _ending(self) -> bool:
        return self._error is not None or self._cancel.requested

    def _hand_out(self, items: Iterator[Item | None]) -> bool:
        """Fill up to the pace's limit. False when there are no more items."""
        if time.monotonic() < self._next_poll:
            return True
        while self._in_flight < self._pace.in_flight and not self._ending:
            try:
                item = next(items)
            except (StopIteration, Cancelled):
                return False
            if item is None:
                # Not after each result: results still to be taken may make the next item ready.
                self._next_poll = time.monotonic() + POLL_SECONDS
                return True
            self._in_flight += 1
            self._inbox.put(item)
        return True

    def _take_back(self, done: _Done[Item]) -> None:
        self._in_flight -= 1
        self._error = self._error or done.error
        try:
            self._finished(done.item)
        except Cancelled:
            # Nothing more is begun anyway; what is in flight still has results to give.
            pass
        except RunAborted as aborted:
            self._error = self._error or aborted

    def _serve(self) -> None:
        try:
            while (item := self._inbox.get()) is not None:
                error: BaseException | None = None
                try:
                    for result in self._work(item):
                        self._outbox.put(result)
                except Cancelled:
                    pass
                except BaseException as raised:  # noqa: BLE001 - raised in the calling thread
                    error = raised
                self._outbox.put(_Done(item, error))
        finally:
            # Django's connections belong to the thread that opened them; nobody else closes them.
            connections.close_all()

    def _end(self, threads: list[threading.Thread]) -> None:
        # After an error in the caller there may be items that no worker has begun.
        with contextlib.suppress(queue.Empty):
            while True:
                self._inbox.get_nowait()
        for _ in threads:
            self._inbox.put(None)
        while any(thread.is_alive() for thread in threads):
            # A reader that left early must not leave workers waiting for room.
            with contextlib.suppress(queue.Empty):
                self._outbox.get(timeout=0.01)
        for thread in threads:
            thread.join()
