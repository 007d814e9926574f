"""`manage.py collect_garbage`: delete blobs that no row references."""

from __future__ import annotations

import argparse
import shlex
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser

from attachments.maintenance.collect import (
    FEW,
    MOST_PERCENT,
    CollectOptions,
    CollectSummary,
    collect,
)
from attachments.maintenance.command import (
    MaintenanceCommand,
    add_asking,
    add_output,
    duration,
)
from attachments.maintenance.run import ExitStatus


def percent(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError("a percentage is between 0 and 100")
    return number


class Command(MaintenanceCommand):
    help = (
        "Deletes blobs that no row references and that are older than the grace period. Safe "
        "while the application runs."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_asking(parser)
        add_output(parser)
        parser.add_argument(
            "--grace", type=duration, default=duration("7d"), metavar="TIME",
            help="leave blobs that are younger, as in 30d (default: 7d)",
        )  # fmt: skip
        parser.add_argument(
            "--max-delete-percent", type=percent, metavar="PERCENT",
            help=f"refuse to delete a larger share of all blobs (default: {MOST_PERCENT:g}, or "
            f"{FEW} blobs if that is more)",
        )  # fmt: skip

    def run_maintenance(self, options: dict[str, Any]) -> ExitStatus:
        if not options["dry_run"]:
            self.confirm(
                "Blobs that no row references will be deleted for good.",
                sure=options["yes_i_am_sure"],
            )
        summary = collect(
            CollectOptions(
                grace=timedelta(seconds=options["grace"]),
                max_percent=options["max_delete_percent"],
                dry_run=options["dry_run"],
                report=options["report"],
                as_json=options["json"],
            ),
            self.stdout if options["json"] else self.stderr,
        )
        self._print(summary, options)
        return summary.status

    def _print(self, summary: CollectSummary, options: dict[str, Any]) -> None:
        command = next_command(summary, options)
        if options["json"]:
            self.print_json({"summary": {**summary.figures(), "next": command}})
            return
        self.print_figures(summary.figures())
        for sample in summary.samples:
            self.fail(sample)
        if command:
            self.stdout.write(f"Next: {command}")


def next_command(summary: CollectSummary, options: dict[str, Any]) -> str | None:
    """What the operator should type after this run; None if there is nothing left to do."""
    over = summary.status is ExitStatus.DONE and not summary.dry_run
    if over or not summary.garbage:
        return None
    words = ["manage.py", "collect_garbage", "--grace", f"{options['grace']:g}s"]
    if options["max_delete_percent"] is not None:
        words += ["--max-delete-percent", f"{options['max_delete_percent']:g}"]
    if options["report"]:
        words += ["--report", str(options["report"])]
    return shlex.join(words)
