"""What the maintenance commands share on the command line."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from django.core.management.base import BaseCommand, CommandParser

from attachments.maintenance import runner
from attachments.maintenance.report import RunSummary, human_bytes, without_passwords
from attachments.maintenance.runner import UNAVAILABLE, Output, abort_for
from cas.exit_status import ExitStatus, RunAborted

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Kind = TypeVar("Kind", bound="DataclassInstance")

NEEDED: Final = {
    ExitStatus.REFUSED: "Put right what the reason says",
    ExitStatus.UNAVAILABLE: "See to it that store and database can be used",
    ExitStatus.LOCKED: "Wait until the other run has ended",
}
"""What must change first, where the run's end does not say it in better words."""

NOT_REPEATED: Final = {
    "help", "version", "verbosity", "traceback", "no_color", "force_color", "skip_checks",
    "yes_i_am_sure",
}  # fmt: skip
"""Options that say nothing about what is done, and the one that must not be pasted unseen."""


class MaintenanceCommand(BaseCommand):
    """Runs, prints the summary however the run ended, and exits with its status.

    Subclasses implement `run_maintenance`, and say what to type after its summary.
    """

    def run_maintenance(self, options: dict[str, Any], output: Output) -> RunSummary:
        raise NotImplementedError

    def next_command(self, summary: Any, options: dict[str, Any]) -> str | None:
        """What the operator should type after this summary; None if there is nothing to do.

        Not called after a refusal or an outage. After a limit or a signal, the same command again.
        """
        return self.again(options)

    def next_line(self, summary: RunSummary, options: dict[str, Any]) -> str | None:
        """What to do next. What was refused is not repeated before something has changed."""
        aborted = summary.aborted
        command = aborted.command if aborted else ""
        changed = aborted.changed if aborted else {}
        first = (aborted.first if aborted else "") or NEEDED.get(summary.status, "")
        if command and not (aborted and aborted.first):
            return command
        if first:
            return f"{first}, then: {command or self.again(options, **changed)}"
        if type(summary) is RunSummary:
            return self.again(options, **changed)
        return self.next_command(summary, options)

    def handle(self, *_args: Any, **options: Any) -> None:
        output = Output(
            self.stdout if options["json"] else self.stderr,
            options["json"],
            options.get("report"),
            options["patience"],
        )
        try:
            summary = self.run_maintenance(options, output)
        except RunAborted as aborted:
            summary = _ended(aborted)
        except KeyboardInterrupt:
            summary = _ended(RunAborted(ExitStatus.INTERRUPTED, "SIGINT, before the run"))
        except UNAVAILABLE as error:
            summary = _ended(abort_for(error))
        try:
            self.print_summary(summary, self.next_line(summary, options), as_json=options["json"])
            self.stdout.flush()
        except BrokenPipeError:
            # Whoever read the output wants no more of it. Python flushes once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(int(summary.status) or 1) from None
        if summary.status is not ExitStatus.DONE:
            raise SystemExit(int(summary.status))

    def again(self, options: dict[str, Any], **changed: Any) -> str:
        """This command with the options it was given, or changed: None and False take one out."""
        _, _, name = type(self).__module__.rpartition(".")
        words = ["manage.py", name]
        for action in self.create_parser("manage.py", name)._actions:
            value = changed.get(action.dest, options.get(action.dest))
            if action.dest in NOT_REPEATED or value is None or value is False:
                continue
            if not action.option_strings:
                words.append(str(value))
                continue
            if value == action.default:
                continue
            for one in value if isinstance(value, list) else [value]:
                words += [action.option_strings[-1], *([] if one is True else [str(one)])]
        return shlex.join(words)

    def print_summary(self, summary: RunSummary, command: str | None, *, as_json: bool) -> None:
        figures = _cleared(summary.figures())
        command = command and without_passwords(command)
        if as_json:
            self.stdout.write(json.dumps({"summary": {**figures, "next": command}}))
            return
        samples = figures.pop("samples")
        if summary.dry_run:
            figures = {summary.WOULD_BE.get(name, name): found for name, found in figures.items()}
        self.print_figures(figures)
        for sample in samples:
            self.stderr.write(sample)
        if command:
            self.stdout.write(f"Next: {command}")

    def print_figures(self, figures: dict[str, Any]) -> None:
        """Figures for people: one a line, sizes in binary units."""
        width = max([18, *(len(name) for name, value in figures.items() if value)])
        for name, value in figures.items():
            if value in ("", None, {}, []):
                continue
            if not value and (name == "dry_run" or name.endswith("_per_second")):
                continue
            if name == "bytes" or name.endswith("_bytes") or name.startswith("bytes_to_be"):
                value = f"{human_bytes(value)} ({value} bytes)"
            elif name.startswith("bytes_per"):
                value = human_bytes(value)
            elif isinstance(value, dict):
                value = ", ".join(_figure(key, count) for key, count in value.items())
            elif isinstance(value, bool):
                value = "yes" if value else "no"
            self.stdout.write(f"{name.replace('_', ' '):>{width}}  {value}")

    def must_ask(self, options: dict[str, Any]) -> bool:
        return not (options["yes_i_am_sure"] or options.get("dry_run"))

    def confirm(self, question: str) -> None:
        """Go on only if a person agrees. Raises RunAborted."""
        if not sys.stdin.isatty():
            raise RunAborted(
                ExitStatus.REFUSED,
                "there is no terminal to confirm at: give --yes-i-am-sure to go ahead",
                first="Be at a terminal or give --yes-i-am-sure",
            )
        self.stdout.write(f"{question} Type 'yes' to go ahead: ", ending="")
        self.stdout.flush()
        try:
            answer = sys.stdin.readline().strip()
        except KeyboardInterrupt:
            raise RunAborted(ExitStatus.INTERRUPTED, "not confirmed; nothing was done") from None
        if answer != "yes":
            first = "Be sure"
            raise RunAborted(ExitStatus.REFUSED, "not confirmed; nothing was done", first=first)


def _cleared(value: Any) -> Any:
    """The figures without passwords that errors may have repeated."""
    if isinstance(value, dict):
        return {name: _cleared(found) for name, found in value.items()}
    if isinstance(value, list):
        return [_cleared(found) for found in value]
    return without_passwords(value) if isinstance(value, str) else value


def _ended(aborted: RunAborted) -> RunSummary:
    return RunSummary(status=aborted.exit_status, reason=str(aborted), aborted=aborted)


def _figure(key: str, value: Any) -> str:
    return f"{key}: {', '.join(value)}" if isinstance(value, list) else f"{value} {key}"


def add_asking(parser: CommandParser) -> None:
    parser.add_argument("--yes-i-am-sure", action="store_true", help="act without asking")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and do none of it"
    )


def add_output(parser: CommandParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="progress and summary as JSON lines on standard output"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="append one JSON line for every item to FILE"
    )
    parser.add_argument(
        "--patience", type=duration, default=Duration(runner.PATIENCE_SECONDS), metavar="TIME",
        help="wait so long for a store or database that does not answer (default: 10m)",
    )  # fmt: skip


def add_pace(parser: CommandParser, at_a_time: str) -> None:
    parser.add_argument("--workers", type=positive, default=4, help=f"{at_a_time} at a time")
    parser.add_argument(
        "--bandwidth", type=size, metavar="BYTES", help="bytes a second at most, as in 20M"
    )
    parser.add_argument(
        "--max-duration", type=duration, metavar="TIME", help="stop after so long, as in 8h"
    )


def add_versions(parser: CommandParser) -> None:
    parser.add_argument(
        "--delete-versions", action="store_true",
        help="in a bucket that keeps old versions, delete those of what is deleted as well",
    )  # fmt: skip


def add_right_store(parser: CommandParser) -> None:
    parser.add_argument(
        "--right-store", action="store_true",
        help="go on although the store has none of the objects that rows name: they are lost",
    )  # fmt: skip


def options_as(kind: type[Kind], options: dict[str, Any]) -> Kind:
    """What was given on the command line, as a dataclass whose fields have the options' names."""
    return kind(**{each.name: options[each.name] for each in fields(kind)})


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


class Size(int):
    """Bytes, written as they are typed: `5000000`, `500K`, `20M`, `1G` (binary multiples)."""

    def __str__(self) -> str:
        return _in_units(self, SIZE_UNITS)


class Duration(float):
    """Seconds, written as they are typed: `90`, `90s`, `15m`, `8h`, `30d`."""

    def __str__(self) -> str:
        return _in_units(int(self), DURATION_UNITS)


class Percent(float):
    """Written without a point if it needs none."""

    def __str__(self) -> str:
        return repr(float(self)).removesuffix(".0")


SIZE_UNITS: Final = {"G": 1 << 30, "M": 1 << 20, "K": 1 << 10, "": 1}
DURATION_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def _in_units(count: int, units: dict[str, int]) -> str:
    """The count in the largest unit that divides it; the last of them is one."""
    fitting = [unit for unit, worth in units.items() if count >= worth and count % worth == 0]
    unit = fitting[0] if fitting else list(units)[-1]
    return f"{count // units[unit]}{unit}"


def size(text: str) -> Size:
    match = re.fullmatch(r"(\d+)([KMG]?)", text.upper())
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError("a size is a number, with K, M or G if wanted")
    return Size(int(match[1]) * SIZE_UNITS[match[2]])


def duration(text: str) -> Duration:
    match = re.fullmatch(r"(\d+)([smhd]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError("a duration is a number, with s, m, h or d if wanted")
    return Duration(int(match[1]) * DURATION_UNITS[match[2] or "s"])
