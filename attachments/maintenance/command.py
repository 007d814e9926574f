"""What the maintenance commands share on the command line."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import InterfaceError, OperationalError

from attachments.maintenance.progress import human_bytes
from attachments.maintenance.run import ExitStatus, Halt
from cas.storage.base import StoreError


class MaintenanceCommand(BaseCommand):
    """Turns whatever ends a run into one line and an exit status.

    Subclasses implement `run_maintenance` and return the status.
    """

    def run_maintenance(self, options: dict[str, Any]) -> ExitStatus:
        raise NotImplementedError

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            status = self.run_maintenance(options)
        except Halt as halt:
            status = halt.status
            self.fail(str(halt))
        except (StoreError, OperationalError, InterfaceError) as error:
            status = ExitStatus.UNAVAILABLE
            self.fail(f"{type(error).__name__}: {error}")
        if status is not ExitStatus.DONE:
            raise SystemExit(int(status))

    def fail(self, message: str) -> None:
        self.stderr.write(self.style.ERROR(message))

    def print_json(self, record: dict[str, Any]) -> None:
        self.stdout.write(json.dumps(record, ensure_ascii=False))

    def print_figures(self, figures: dict[str, Any]) -> None:
        """A summary for people: one figure a line, sizes in binary units."""
        for name, value in figures.items():
            if value in ("", None, {}, []):
                continue
            if name == "bytes" or name.endswith("_bytes"):
                value = f"{human_bytes(value)} ({value} bytes)"
            elif isinstance(value, dict):
                value = ", ".join(_figure(key, count) for key, count in value.items())
            elif isinstance(value, bool):
                value = "yes" if value else "no"
            self.stdout.write(f"{name.replace('_', ' '):>16}  {value}")

    def confirm(self, question: str, *, sure: bool) -> None:
        """Go on only if a person agrees, or said so with the option. Raises Halt."""
        if sure:
            return
        if not sys.stdin.isatty():
            raise Halt(
                ExitStatus.REFUSED, "nobody is there to ask: give --yes-i-am-sure to go ahead"
            )
        self.stdout.write(f"{question} Type 'yes' to go ahead: ", ending="")
        self.stdout.flush()
        if sys.stdin.readline().strip() != "yes":
            raise Halt(ExitStatus.REFUSED, "not confirmed; nothing was done")


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


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def size(text: str) -> int:
    """Bytes: `5000000`, `500K`, `20M`, `1G` (binary multiples)."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text.upper())
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError("a size is a number, with K, M or G if wanted")
    power = " KMG".index(match[2] or " ")
    return int(match[1]) << (10 * power)


def duration(text: str) -> float:
    """Seconds: `90`, `90s`, `15m`, `8h`, `30d`."""
    match = re.fullmatch(r"(\d+)([smhd]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError("a duration is a number, with s, m, h or d if wanted")
    return int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
