"""What a person or a log sees of a run while it goes on."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, deque
from typing import Any

from django.core.management.base import OutputWrapper

logger = logging.getLogger(__name__)

LIVE_SECONDS = 0.5
LOG_SECONDS = 60.0
WINDOW_SECONDS = 120.0


class Progress:
    """One live line on a terminal; otherwise one log line a minute, or JSON lines if asked for.

    `total` is the number of items planned, `done` how many are over. Rates are those of the last
    two minutes. Only the calling thread uses it.
    """

    def __init__(self, total: int, stream: OutputWrapper, *, as_json: bool = False) -> None:
        self.total = total
        self.done = 0
        self.bytes = 0
        self.deduplicated = 0
        self.retries = 0
        self.failures: Counter[str] = Counter()
        self._stream = stream
        self._json = as_json
        self._live = not as_json and stream.isatty()
        self._interval = LIVE_SECONDS if self._live else LOG_SECONDS
        now = time.monotonic()
        self._shown_at = now
        self._samples: deque[tuple[float, int, int]] = deque([(now, 0, 0)])

    def show_if_due(self) -> None:
        now = time.monotonic()
        if now - self._shown_at < self._interval:
            return
        self._shown_at = now
        self._samples.append((now, self.done, self.bytes))
        while len(self._samples) > 1 and now - self._samples[0][0] > WINDOW_SECONDS:
            self._samples.popleft()
        state = self.state()
        if self._json:
            self._stream.write(json.dumps({"progress": state}))
            self._stream.flush()
        elif self._live:
            self._stream.write("\r\x1b[K" + self._line(state), ending="")
            self._stream.flush()
        else:
            logger.info("%s", self._line(state))

    def clear(self) -> None:
        """Take the live line away, so that something else can be printed."""
        if self._live:
            self._stream.write("\r\x1b[K", ending="")
            self._stream.flush()

    def state(self) -> dict[str, Any]:
        """The figures; rates per second, `seconds_left` None while unknown."""
        now = time.monotonic()
        then, done, sent = self._samples[0]
        seconds = max(now - then, 1e-6)
        rate = (self.done - done) / seconds
        left = max(0, self.total - self.done)
        return {
            "done": self.done,
            "total": self.total,
            "bytes": self.bytes,
            "items_per_second": round(rate, 1),
            "bytes_per_second": round((self.bytes - sent) / seconds),
            "seconds_left": round(left / rate) if rate > 0 else None,
            "deduplicated": self.deduplicated,
            "retries": self.retries,
            "failures": dict(self.failures),
        }

    def _line(self, state: dict[str, Any]) -> str:
        share = self.deduplicated / self.done if self.done else 0.0
        left = state["seconds_left"]
        parts = [
            f"{self.done}/{self.total}",
            human_bytes(self.bytes),
            f"{state['items_per_second']}/s",
            f"{human_bytes(state['bytes_per_second'])}/s",
            f"{left} s left" if left is not None else "time left unknown",
            f"{share:.0%} deduplicated",
            f"{self.retries} retries",
        ]
        parts += [f"{count} {name}" for name, count in sorted(self.failures.items())]
        return ", ".join(parts)


def human_bytes(count: float) -> str:
    """A size for people, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
