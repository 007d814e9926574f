"""`manage.py collect_garbage`: delete blobs that no row references."""

from __future__ import annotations

import argparse
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
    Percent,
    add_asking,
    add_output,
    add_versions,
    duration,
    options_as,
)
from attachments.maintenance.runner import Output
from cas.exit_status import ExitStatus


def percent(text: str) -> Percent:
    number = Percent(text)
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

        add_versions(parser)

    def run_maintenance(self, options: dict[str, Any], output: Output) -> CollectSummary:
        if self.must_ask(options):
            self.confirm("Blobs that no row references will be deleted for good.")
        return collect(options_as(CollectOptions, options), output)

    def next_command(self, summary: CollectSummary, options: dict[str, Any]) -> str | None:
        if summary.status is ExitStatus.DAMAGE_FOUND:
            return "manage.py verify_cas --repair"
        if summary.status is not ExitStatus.DONE:
            return self.again(options)
        if not (summary.dry_run and summary.plan.unreferenced):
            return None
        return self.again(options, dry_run=None)
