"""`manage.py migrate_to_cas`: move the rows of the older layout to content-addressed keys."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import CommandParser

from attachments.maintenance.command import (
    MaintenanceCommand,
    add_asking,
    add_output,
    add_pace,
    add_right_store,
    options_as,
    positive,
)
from attachments.maintenance.migrate import (
    IdRange,
    MigrationOptions,
    MigrationSummary,
    migrate,
    unmigrated,
)
from attachments.maintenance.retry import query
from attachments.maintenance.runner import CancelToken, Output
from cas.exit_status import ExitStatus


def id_range(text: str) -> IdRange:
    try:
        return IdRange.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class Command(MaintenanceCommand):
    help = (
        "Moves attachments from the older layout to content-addressed keys. May be stopped and "
        "started again at any time, and on PostgreSQL run on several machines at once. "
        "The old objects stay until cleanup_legacy_blobs."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_asking(parser)
        add_output(parser)
        add_right_store(parser)
        add_pace(parser, "transfers")
        parser.add_argument(
            "--id-range", type=id_range, default=IdRange(), metavar="FIRST-LAST",
            help="only rows with these ids; either end may be left out",
        )  # fmt: skip
        parser.add_argument("--limit", type=positive, help="transfer at most so many objects")
        parser.add_argument("--max-failures", type=positive, help="stop when so many rows failed")

    def run_maintenance(self, options: dict[str, Any], output: Output) -> MigrationSummary:
        if self.must_ask(options):
            rows = query(unmigrated(options["id_range"]).count, CancelToken(options["patience"]))
            self.confirm(f"{rows} rows will be moved to content-addressed keys.")
        return migrate(options_as(MigrationOptions, options), output)

    def next_command(self, summary: MigrationSummary, options: dict[str, Any]) -> str:
        if summary.status is ExitStatus.DONE:
            return self.again(options, dry_run=None) if summary.dry_run else "manage.py verify_cas"
        if summary.status is ExitStatus.ITEMS_FAILED and summary.to_mend is not None:
            return f"manage.py mend_row {summary.to_mend}"
        if summary.failures["database_refused"] or summary.failures["unexpected"]:
            return f"Put right what the samples say, then: {self.again(options)}"
        if summary.dry_run:
            # It begins anew each time: with its limits it would not see more than this time.
            return self.again(options, limit=None, max_duration=None)
        # A limit is for a first trial; the rest is to follow.
        return self.again(options, limit=None)
