"""`manage.py migration_status`: how far the move to content-addressed storage has come."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from attachments.maintenance.command import MaintenanceCommand
from attachments.maintenance.run import ExitStatus
from attachments.maintenance.status import (
    MigrationStatus,
    ObjectStatus,
    check_objects,
    migration_status,
)
from cas.storage import attachment_store


class Command(MaintenanceCommand):
    help = "Says how many rows are migrated and how many are not, from the table itself."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
        parser.add_argument(
            "--check-objects", action="store_true",
            help="also compare every reference with what the store lists",
        )  # fmt: skip

    def run_maintenance(self, options: dict[str, Any]) -> ExitStatus:
        status = migration_status()
        objects = check_objects(attachment_store()) if options["check_objects"] else None
        figures: dict[str, Any] = status.figures()
        if objects is not None:
            figures |= {"missing": objects.missing, "wrong_size": objects.wrong_size}
        command = next_command(status, objects)
        if options["json"]:
            samples = list(objects.samples) if objects else []
            self.print_json({"status": {**figures, "samples": samples, "next": command}})
        else:
            self.print_figures(figures)
            for sample in objects.samples if objects else ():
                self.fail(sample)
            self.stdout.write(f"Next: {command}")
        return ExitStatus.DONE if objects is None or objects.sound else ExitStatus.DAMAGE_FOUND


def next_command(status: MigrationStatus, objects: ObjectStatus | None) -> str:
    """What the operator should type after reading this."""
    if objects is not None and not objects.sound:
        return "manage.py verify_cas --repair"
    if status.unmigrated:
        return "manage.py migrate_to_cas --dry-run"
    if objects is None:
        return "manage.py migration_status --check-objects"
    return "manage.py verify_cas"
