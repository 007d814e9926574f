"""What a run says: a live line or log lines, a file of JSON lines, and a summary at its end."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self
from urllib.parse import unquote

from django.core.management.base import OutputWrapper

from cas.exit_status import ExitStatus, RunAborted

if TYPE_CHECKING:
    from attachments.maintenance.retry import Outage
    from attachments.maintenance.runner import CancelToken

logger = logging.getLogger(__name__)

SAMPLES: Final = 5
"""Failures that a summary names one by one; the report has them all."""


@dataclass
class RunSummary:
    """What is common to every run's summary; each command adds its own counts.

    `bytes` are those the run is about: moved, hashed or deleted. `failures` counts items by class
    of error, and `samples` names a few.
    """

    dry_run: bool = False
    status: ExitStatus = ExitStatus.DONE
    reason: str = ""
    bytes: int = 0
    retries: int = 0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    aborted: RunAborted | None = None

    WOULD_BE: ClassVar[Mapping[str, str]] = {}
    """What a dry run calls the counts of what it did not do, to people."""

    @property
    def items(self) -> int:
        """How many items the run finished with, for its rate."""
        return 0

    @property
    def deduplicated(self) -> int:
        """Of these, how many only shared what another had brought."""
        return 0

    def counts(self) -> dict[str, Any]:
        """What this command counts, in the order in which people read it.

        Unless a subclass says otherwise, all the fields that it adds.
        """
        common = {each.name for each in fields(RunSummary)}
        return {
            each.name: getattr(self, each.name) for each in fields(self) if each.name not in common
        }

    def judge(self) -> None:
        """Set the status, and the reason, that follow from the counts."""
        if self.status in (ExitStatus.DONE, ExitStatus.LIMIT_REACHED) and self.failures:
            self.status = ExitStatus.ITEMS_FAILED

    def fail(self, code: str, sample: str) -> None:
        """Count an item that failed, and keep the first few by name."""
        self.failures[code] += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(sample)

    def conclude(self, cancel: CancelToken) -> None:
        """Decide how the run ended, once it is over."""
        self.seconds = time.monotonic() - self.began
        if cancel.status is not None:
            self.status, self.reason, self.aborted = cancel.status, cancel.reason, cancel.aborted
        self.judge()

    def figures(self) -> dict[str, Any]:
        """The summary as plain data. Rates are those of the whole run, per second."""
        seconds = max(self.seconds, 1e-6)
        return {
            "status": self.status.name.lower(),
            "reason": self.reason,
            "dry_run": self.dry_run,
            **self.counts(),
            "seconds": round(self.seconds, 1),
            "items_per_second": round(self.items / seconds, 1),
            "bytes_per_second": round(self.bytes / seconds),
            "failures": dict(+self.failures),
            "samples": self.samples,
        }


LIVE_SECONDS: Final = 0.5
LOG_SECONDS: Final = 60.0
WINDOW_SECONDS: Final = 120.0
CLEAR_LINE: Final = "\r\x1b[K"


class Progress:
    """One live line on a terminal; otherwise one log line a minute, or JSON lines with --json.

    A run is a sequence of phases, each with its own count of items and bytes. Rates are those of
    the last two minutes. An outage that `cancel` knows of is shown as soon as it is one. While
    there is a live line, the terminal shows only warnings and errors of the log. Only the calling
    thread uses it.
    """

    def __init__(
        self,
        summary: RunSummary,
        stream: OutputWrapper,
        *,
        cancel: CancelToken,
        as_json: bool = False,
    ) -> None:
        self.phase = ""
        self.done = 0
        self.total: int | None = None
        self.bytes = 0
        self._summary = summary
        self._stream = stream
        self._cancel = cancel
        self._outage_shown = False
        self._json = as_json
        self._live = not as_json and stream.isatty()
        self._interval = LIVE_SECONDS if self._live else LOG_SECONDS
        self._shown_at = time.monotonic()
        self._seen: deque[tuple[float, int, int]] = deque([(self._shown_at, 0, 0)])

    def __enter__(self) -> Self:
        self._cancel.while_waiting = self.show_if_due
        if self._live:
            for handler in _terminal_handlers():
                handler.addFilter(self._may_interrupt)
        return self

    def __exit__(self, *_error: object) -> None:
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
        if due or (self._cancel.outage is not None) != self._outage_shown:
            self._show()

    def _show(self) -> None:
        now = self._shown_at = time.monotonic()
        self._outage_shown = self._cancel.outage is not None
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
            "waiting": _waiting(outage, now) if (outage := self._cancel.outage) else None,
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


WRITABLE: Final = "Have --report name a file that can be written"


class Report:
    """Appends to a file, so that a resumed run continues the record; None writes nowhere.

    Each line is flushed: a run that is killed leaves every finished item on record. Raises
    RunAborted if the file cannot be opened or written: a run with --report needs its report.
    """

    def __init__(self, path: Path | None) -> None:
        try:
            self._file = path.open("a", encoding="utf-8") if path else None
        except OSError as error:
            raise RunAborted(
                ExitStatus.REFUSED,
                f"the report cannot be opened: {error}",
                first=WRITABLE,
                changed={"report": "FILE"},
            ) from error

    def write(self, record: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(without_passwords(json.dumps(record)) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunAborted(
                ExitStatus.UNAVAILABLE, f"the report cannot be written: {error}", first=WRITABLE
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._file is not None:
            # Every line was flushed, or has ended the run; what is left then cannot be written.
            with contextlib.suppress(OSError):
                self._file.close()


SECRET_PARAMETERS: Final = {"password", "sslpassword"}

# An unencoded password may itself have "@", "/" and ":" in it: up to the last "@" of the word.
_IN_URL: Final = re.compile(r"(?<=://)([^\s:/@?#]*):[^\s'\"]*@")
# One that has a space or a quote in it ends at the last "@" before the next URL or line.
_RAW_IN_URL: Final = re.compile(
    r"(?<=://)([^\s:/@?#\[]*):(?!\d{1,5}(?:[/?#\s'\"]|$))(?:(?!://)[^\r\n])*@"
)
# In JSON or a dict's text, which may itself be in JSON, quotes escaped.
_IN_MAPPING: Final = re.compile(
    r"""((\\*['"])(?:ssl)?password\2\s*:\s*)"""
    # It ends at a quote that is escaped as the first one is, no more.
    r"""(?:(\\*['"])(?:(?!(?<!\\)\3).)*(?:\3|$)|[^\s,}]+)""",
    re.I,
)
# A password with "@" in it, unencoded, is for libpq half a host's name, which errors repeat.
_IN_HOST: Final = re.compile(r"(host(?: name)? ['\"])[^'\"]*@")
_QUERY: Final = re.compile(r"\?([^\s?'\"]+)")
_KEYWORD: Final = re.compile(
    r"\b(?:ssl)?password\s*=\s*(?:'(?:\\.|[^'\\])*(?:'|$)|(?:\\.|\S)+)", re.I
)


def without_passwords(text: str) -> str:
    """The text without any password of a database URL or of libpq's keywords (`password=…`).

    A URL that had one can still be used: libpq then takes the password from PGPASSWORD or a file.
    """
    text = _RAW_IN_URL.sub(r"\1@", _IN_URL.sub(r"\1@", text))
    text = _IN_MAPPING.sub(r"\1\2***\2", _IN_HOST.sub(r"\1", text))
    return _KEYWORD.sub("", _QUERY.sub(_without_secrets, text))


def _without_secrets(query: re.Match[str]) -> str:
    kept = [one for one in query[1].split("&") if not _is_secret(one)]
    return f"?{'&'.join(kept)}" if kept else ""


def _is_secret(parameter: str) -> bool:
    # libpq takes the names of parameters percent-encoded too.
    name, equals, _ = parameter.partition("=")
    return bool(equals) and unquote(name).strip().lower() in SECRET_PARAMETERS
