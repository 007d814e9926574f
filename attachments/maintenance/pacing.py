"""How fast a run may go: items in flight, bytes a second, waiting before another attempt."""

from __future__ import annotations

import math
import random
import threading
import time
from contextlib import suppress

from attachments.maintenance.run import Stop, Stopped

FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 20.0
HALVING_PAUSE_SECONDS = 1.0


def backoff(attempt: int) -> float:
    """Seconds to wait after failed attempt `attempt` (from 1).

    Doubling, with half of it random: workers that failed together must not return together.
    """
    longest: float = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(attempt - 1, 20))
    return longest * (0.5 + random.random() / 2)  # noqa: S311 - nothing secret about it


class Pace:
    """How many items may be in flight: halved when the store is overloaded, then raised slowly.

    One burst of refusals is one event: after halving, further refusals count only a second later.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._allowed = float(workers)
        self._halved_at = -math.inf
        self._lock = threading.Lock()

    @property
    def in_flight(self) -> int:
        """At full pace one more than there are workers for each, so that none waits for work."""
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
    """Holds all threads together to so many bytes a second; None is no limit.

    A run that is asked to end is not held any more: what is in flight is to be finished soon.
    """

    def __init__(self, bytes_per_second: int | None, stop: Stop) -> None:
        self._rate = bytes_per_second
        self._stop = stop
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
            with suppress(Stopped):
                self._stop.sleep(wait)
