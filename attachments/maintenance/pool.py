"""A few threads that work through a stream of items.

Everything that counts, writes reports or prints happens in the calling thread, which receives the
results; the threads only work.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from django.db import connections

from attachments.maintenance.pacing import Pace
from attachments.maintenance.run import Halt, Stop, Stopped

Item = TypeVar("Item")
Result = TypeVar("Result")

TICK_SECONDS: Final = 0.5
"""How long the calling thread waits for a result before it may redraw its progress."""

RESULTS_WAITING: Final = 1000
"""Results kept for a slow reader before the workers wait for it."""


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
        error = message.error
        try:
            self._finished(message.item)
        except Stopped:
            # Nothing more is begun anyway; what is in flight still has results to give.
            pass
        except Halt as halt:
            error = error or halt
        self._error = self._error or error

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
