"""`manage.py cleanup_legacy_blobs`: delete the older layout's objects after the migration."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from attachments.maintenance.cleanup import CleanupOptions, CleanupSummary, cleanup
from attachments.maintenance.command import (
    MaintenanceCommand,
    add_asking,
    add_output,
    add_versions,
    duration,
    options_as,
    positive,
)
from attachments.maintenance.runner import Output
from cas.exit_status import ExitStatus


class Command(MaintenanceCommand):
    help = (
        "Deletes objects of the older layout that no row references. Refuses unless every row is "
        "migrated, every referenced object is there and hashes to its key, and "
        "CAS_MIGRATION_DELETE_OLD_OBJECTS=true."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_asking(parser)
        add_output(parser)
        parser.add_argument(
            "--min-age", type=duration, default=duration("0"), metavar="TIME",
            help="leave objects that are younger, as in 30d",
        )  # fmt: skip
        parser.add_argument("--max-delete", type=positive, help="delete at most so many objects")
        parser.add_argument(
            "--verify-content", action="store_true",
            help="hash every referenced object again before anything is deleted; otherwise those "
            "that were not verified since they were written",
        )  # fmt: skip
        parser.add_argument(
            "--delete-unnamed", action="store_true",
            help="once rows of an older installation were imported: also delete what none of "
            "them ever named",
        )  # fmt: skip
        add_versions(parser)
        parser.add_argument("--workers", type=positive, default=4, help="objects hashed at a time")

    def run_maintenance(self, options: dict[str, Any], output: Output) -> CleanupSummary:
        if self.must_ask(options):
            self.confirm("The objects of the older layout will be deleted for good.")
        return cleanup(options_as(CleanupOptions, options), output)

    def next_command(self, summary: CleanupSummary, options: dict[str, Any]) -> str:
        if summary.status is ExitStatus.DAMAGE_FOUND:
            return "manage.py verify_cas --repair"
        over = summary.status in (ExitStatus.DONE, ExitStatus.LIMIT_REACHED)
        if summary.dry_run and over and summary.deleted:
            return f"CAS_MIGRATION_DELETE_OLD_OBJECTS=true {self.again(options, dry_run=None)}"
        if summary.status is ExitStatus.DONE:
            return "manage.py collect_garbage --dry-run"
        return self.again(options)
