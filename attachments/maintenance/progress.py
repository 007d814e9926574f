"""What a person or a log sees of a run while it goes on."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import deque
from types import TracebackType
from typing import Any, Final, Self

from django.core.management.base import OutputWrapper

from attachments.maintenance.run import Outage, Stop
from attachments.maintenance.summary import RunSummary

logger = logging.getLogger(__name__)

LIVE_SECONDS: Final = 0.5
LOG_SECONDS: Final = 60.0
WINDOW_SECONDS: Final = 120.0
CLEAR_LINE: Final = "\r\x1b[K"


class Progress:
    """One live line on a terminal; otherwise one log line a minute, or JSON lines if asked for.

    A run is a sequence of phases, each with its own count of items and bytes. Rates are those of
    the last two minutes. An outage that `stop` knows of is shown as soon as it is one. While
    there is a live line, the log shows on the terminal from warnings
    up. Only the calling thread uses it.
    """

    def __init__(
        self,
        summary: RunSummary,
        stream: OutputWrapper,
        *,
        as_json: bool = False,
        stop: Stop | None = None,
    ) -> None:
        self.phase = ""
        self.done = 0
        self.total: int | None = None
        self.bytes = 0
        self._summary = summary
        self._stream = stream
        self._stop = stop or Stop()
        self._outage_shown = False
        self._json = as_json
        self._live = not as_json and stream.isatty()
        self._interval = LIVE_SECONDS if self._live else LOG_SECONDS
        self._shown_at = time.monotonic()
        self._seen: deque[tuple[float, int, int]] = deque([(self._shown_at, 0, 0)])

    def __enter__(self) -> Self:
        self._stop.while_waiting = self.show_if_due
        if self._live:
            for handler in _terminal_handlers():
                handler.addFilter(self._may_interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            for handler in _terminal_handlers():
                handler.removeFilter(self._may_interrupt)
            self._clear()

    def begin(self, phase: str, total: int | None = None) -> None:
        """Count anew, up to `total` items, None if nobody knows."""
        self.phase, self.total, self.done, self.bytes = phase, total, 0, 0
        self._seen = deque([(time.monotonic(), 0, 0)])
        if self._live:
            self._show()

    def step(self, size: int = 0) -> None:
        """One item of so many bytes is over."""
        self.done += 1
        self.bytes += size
        self.show_if_due()

    def show_if_due(self) -> None:
        due = time.monotonic() - self._shown_at >= self._interval
        if due or (self._stop.outage is not None) != self._outage_shown:
            self._show()

    def _show(self) -> None:
        now = self._shown_at = time.monotonic()
        self._outage_shown = self._stop.outage is not None
        self._seen.append((now, self.done, self.bytes))
        while len(self._seen) > 1 and now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()
        if self._json:
            self._write(json.dumps({"progress": self.state()}), ending="\n")
        elif self._live:
            # A line that wraps could not be taken back.
            width = shutil.get_terminal_size().columns - 1
            self._write(CLEAR_LINE + self._line()[:width])
        else:
            logger.info("%s", self._line())

    def state(self) -> dict[str, Any]:
        """The figures; rates per second, `total` and `seconds_left` None while unknown."""
        now = time.monotonic()
        then, done, size = self._seen[0]
        seconds = max(now - then, 1e-6)
        rate = (self.done - done) / seconds
        known = self.total is not None and rate > 0
        return {
            "phase": self.phase,
            "done": self.done,
            "total": self.total,
            "bytes": self.bytes,
            "items_per_second": round(rate, 1),
            "bytes_per_second": round((self.bytes - size) / seconds),
            "seconds_left": round(max(0, (self.total or 0) - self.done) / rate) if known else None,
            "deduplicated": self._summary.deduplicated,
            "retries": self._summary.retries,
            "failures": dict(+self._summary.failures),
            "waiting": _waiting(outage, now) if (outage := self._stop.outage) else None,
        }

    def _line(self) -> str:
        state = self.state()
        parts = [f"{self.phase} {self.done}" + (f"/{self.total}" if self.total is not None else "")]
        parts.append(f"{state['items_per_second']}/s")
        if self.bytes:
            parts += [human_bytes(self.bytes), f"{human_bytes(state['bytes_per_second'])}/s"]
        if state["seconds_left"] is not None:
            parts.append(f"{human_seconds(state['seconds_left'])} left")
        parts += [f"{count} {name}" for name, count in sorted(state["failures"].items())]
        if state["deduplicated"]:
            parts.append(f"{state['deduplicated'] / max(1, self.done):.0%} deduplicated")
        if state["retries"]:
            parts.append(f"{state['retries']} retries")
        if state["waiting"]:
            parts.insert(0, state["waiting"])
        return ", ".join(parts)

    def _may_interrupt(self, record: logging.LogRecord) -> bool:
        """A filter of the terminal's log: makes room for warnings, keeps the rest out."""
        if record.levelno < logging.WARNING:
            return False
        self._clear()
        return True

    def _clear(self) -> None:
        """Take the live line away, so that something else can be printed."""
        self._write(CLEAR_LINE)

    def _write(self, text: str, *, ending: str = "") -> None:
        # Django would colour what goes to standard error as an error.
        self._stream.write(text, style_func=str, ending=ending)
        self._stream.flush()


def _waiting(outage: Outage, now: float) -> str:
    left = human_seconds(max(0, round(outage.until - now)))
    return f"{outage.what} does not answer, waiting, {left} left"


def _terminal_handlers() -> list[logging.Handler]:
    """The log's handlers that write to a terminal."""
    return [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream.isatty()
    ]


def human_bytes(count: float) -> str:
    """A size for people, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_seconds(count: int) -> str:
    """A duration for people: `41 s`, `3 min 20 s`, `12 min`, `3 h 20 min`."""
    minutes, seconds = divmod(count, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    if 0 < minutes < 10 and seconds:
        return f"{minutes} min {seconds} s"
    return f"{minutes} min" if minutes else f"{seconds} s"
