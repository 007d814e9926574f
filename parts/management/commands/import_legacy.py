"""`manage.py import_legacy`: bring in the rows of an older installation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandError, CommandParser

from attachments.maintenance.command import MaintenanceCommand, add_asking, add_output
from attachments.maintenance.report import RunSummary
from attachments.maintenance.runner import Output
from cas.exit_status import ExitStatus
from parts.legacy_import.run import ImportOptions, import_rows
from parts.legacy_import.source_rows import Release, forget, retire
from parts.legacy_import.sources import Opening, Table, open_database, open_dumps

SOURCE: Final = "older"
"""The name of a source that was given none."""


class Command(MaintenanceCommand):
    help = (
        "Imports parts and attachments of an older installation from its PostgreSQL database or "
        "from dumps of its tables. The objects must be in this installation's store, under their "
        "old keys. May be repeated: what is here already is found and left as it is."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_asking(parser)
        add_output(parser)
        parser.add_argument(
            "--database", metavar="URL",
            help="postgresql://USER@HOST/NAME of the older database; the password is better given "
            "as PGPASSWORD or in ~/.pgpass",
        )  # fmt: skip
        parser.add_argument(
            "--dump", type=Path, metavar="DIRECTORY",
            help="a directory with a file for each table, named after it (parts.csv, "
            "parts.jsonl): CSV with a header, or JSON lines",
        )  # fmt: skip
        parser.add_argument(
            "--source", metavar="NAME", default=SOURCE,
            help="the name by which the older installation is remembered ('%(default)s')",
        )  # fmt: skip
        parser.add_argument(
            "--without", type=Table, choices=[Table.TYPES, Table.SELLERS], action="append",
            default=[], help="import parts without the names that this missing table would hold",
        )  # fmt: skip
        parser.add_argument(
            "--retire", metavar="NAME",
            help="let go of the old objects of all rows that were imported from this source, "
            "instead of importing: the older installation is switched off",
        )  # fmt: skip
        parser.add_argument(
            "--forget", metavar="ROW", action="append", default=[],
            help="let go of a row that was not imported and of its object, instead of importing: "
            "TABLE/ID, or a reason for all rows refused for it. May be repeated",
        )  # fmt: skip

    def run_maintenance(self, options: dict[str, Any], output: Output) -> RunSummary:
        opening = _opening(options)
        without = frozenset(options["without"])
        confirm = self.confirm if self.must_ask(options) else None
        if options["retire"]:
            release = Release(options["retire"], options["dry_run"], confirm, without)
            return retire(release, opening, output)
        if options["forget"]:
            release = Release(options["source"], options["dry_run"], confirm)
            return forget(release, options["forget"], output)
        if opening is None:
            raise CommandError("give --database or --dump")
        if confirm:
            confirm("Parts and attachments will be added.")
        return import_rows(
            opening,
            ImportOptions(
                source=options["source"],
                without=without,
                dry_run=options["dry_run"],
            ),
            output,
        )

    def next_command(self, summary: RunSummary, options: dict[str, Any]) -> str:
        if summary.status is ExitStatus.ITEMS_FAILED:
            # The sound rows need not wait for the others, which stay held.
            if summary.dry_run:
                first = "Mend the rows in the report, or import the others (docs/howto/adopt.md)"
                return f"{first}, then: {self.again(options, dry_run=None)}"
            first = "Mend or forget the rows in the report (docs/howto/adopt.md)"
            return f"{first}, then: manage.py migrate_to_cas --dry-run"
        if summary.status is not ExitStatus.DONE:
            return self.again(options)
        if summary.dry_run:
            return self.again(options, dry_run=None)
        if options["retire"]:
            return "manage.py cleanup_legacy_blobs --dry-run"
        if options["forget"]:
            return "manage.py migration_status"
        return "manage.py migrate_to_cas --dry-run"


def _opening(options: dict[str, Any]) -> Opening | None:
    """What is to be read. Raises CommandError for options that do not go together."""
    given = {name for name in ("database", "dump", "retire", "forget", "without") if options[name]}
    if {"database", "dump"} <= given:
        raise CommandError("give --database or --dump, not both")
    if "forget" in given and given != {"forget"}:
        raise CommandError("--forget goes with --source and nothing else")
    if "retire" in given and options["source"] != SOURCE:
        raise CommandError("name the source after --retire, without --source")
    if options["database"]:
        return open_database(options["database"])
    return open_dumps(options["dump"]) if options["dump"] else None
