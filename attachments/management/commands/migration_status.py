"""`manage.py migration_status`: how far the move to content-addressed storage has come."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from attachments.maintenance.command import MaintenanceCommand, add_output, add_right_store
from attachments.maintenance.runner import Output
from attachments.maintenance.status import StatusSummary, check_status
from cas.exit_status import ExitStatus


class Command(MaintenanceCommand):
    help = "Says how many rows are migrated and how many are not, from the table itself."

    def add_arguments(self, parser: CommandParser) -> None:
        add_output(parser)
        add_right_store(parser)
        parser.add_argument(
            "--check-objects", action="store_true",
            help="also compare every reference with what the store lists",
        )  # fmt: skip

    def run_maintenance(self, options: dict[str, Any], output: Output) -> StatusSummary:
        return check_status(
            output, objects=options["check_objects"], right_store=options["right_store"]
        )

    def next_command(self, summary: StatusSummary, options: dict[str, Any]) -> str:
        if summary.damaged_blobs:
            return "manage.py verify_cas --repair"
        if summary.to_mend is not None:
            return f"manage.py mend_row {summary.to_mend}"
        if summary.rows is None or summary.status is not ExitStatus.DONE:
            return self.again(options)
        if summary.rows.unmigrated:
            return "manage.py migrate_to_cas --dry-run"
        if not options["check_objects"]:
            return self.again(options, check_objects=True)
        return "manage.py verify_cas"
