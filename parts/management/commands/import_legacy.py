"""`manage.py import_legacy`: bring in the rows of an older installation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from django.core.management.base import CommandError, CommandParser

from attachments.maintenance.command import MaintenanceCommand, add_asking, add_output
from attachments.maintenance.frame import Output
from attachments.maintenance.run import ExitStatus
from parts.legacy_import import dumps, postgresql
from parts.legacy_import.run import ImportOptions, import_rows
from parts.legacy_import.sources import Opening, Table
from parts.legacy_import.summary import ImportSummary

FILES: Final = {
    "parts": Table.PARTS,
    "attachments": Table.ATTACHMENTS,
    "types": Table.TYPES,
    "sellers": Table.SELLERS,
}
"""Options that name a dump, by the table that is in it."""


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
        for option, table in FILES.items():
            parser.add_argument(
                f"--{option}", type=Path, metavar="FILE",
                help=f"a dump of the table {table}: JSON array, JSON lines, or CSV with a header",
            )  # fmt: skip
        parser.add_argument(
            "--without", type=Table, choices=[Table.TYPES, Table.SELLERS], action="append",
            default=[], help="import parts without the names that this missing table would hold",
        )  # fmt: skip

    def run_maintenance(self, options: dict[str, Any], output: Output) -> ImportSummary:
        opening = _opening(options)
        if self.must_ask(options):
            self.confirm("Parts and attachments will be added.")
        return import_rows(
            opening,
            ImportOptions(without=frozenset(options["without"]), dry_run=options["dry_run"]),
            output,
        )

    def next_command(self, summary: ImportSummary, options: dict[str, Any]) -> str:
        if summary.status is not ExitStatus.DONE:
            return self.again(options)
        if summary.dry_run:
            return self.again(options, dry_run=None)
        return "manage.py migrate_to_cas --dry-run"

    def again(self, options: dict[str, Any], **changed: Any) -> str:
        """As for every command, but never with the password."""
        url = options["database"]
        if url and (password := urlsplit(url).password):
            changed["database"] = url.replace(f":{password}@", "@", 1)
        return super().again(options, **changed)


def _opening(options: dict[str, Any]) -> Opening:
    paths = {table: options[name] for name, table in FILES.items() if options[name]}
    if options["database"] and not paths:
        return postgresql.opened(options["database"])
    if not options["database"] and {Table.PARTS, Table.ATTACHMENTS} <= paths.keys():
        return dumps.opened(paths)
    raise CommandError("give either --database, or --parts and --attachments")
