"""`manage.py import_legacy`: bring in the rows of an older installation."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from django.core.management.base import CommandError, CommandParser

from attachments.maintenance.command import MaintenanceCommand, add_asking, add_output
from attachments.maintenance.run import ExitStatus
from parts.adoption import dumps, postgresql
from parts.adoption.run import ImportOptions, import_rows
from parts.adoption.sources import Opening, Table
from parts.adoption.summary import ImportSummary

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

    def run_maintenance(self, options: dict[str, Any]) -> ExitStatus:
        opening = _opening(options)
        if not options["dry_run"]:
            self.confirm("Parts and attachments will be added.", sure=options["yes_i_am_sure"])
        summary = import_rows(
            opening,
            ImportOptions(
                without=frozenset(options["without"]),
                report=options["report"],
                dry_run=options["dry_run"],
                as_json=options["json"],
            ),
            self.stdout if options["json"] else self.stderr,
        )
        self._print(summary, options)
        return summary.status

    def _print(self, summary: ImportSummary, options: dict[str, Any]) -> None:
        command = next_command(summary, options)
        if options["json"]:
            self.print_json({"summary": {**summary.figures(), "next": command}})
            return
        self.print_figures(summary.figures())
        for sample in summary.samples:
            self.fail(sample)
        self.stdout.write(f"Next: {command}")


def _opening(options: dict[str, Any]) -> Opening:
    paths = {table: options[name] for name, table in FILES.items() if options[name]}
    if options["database"] and not paths:
        return postgresql.opened(options["database"])
    if not options["database"] and {Table.PARTS, Table.ATTACHMENTS} <= paths.keys():
        return dumps.opened(paths)
    raise CommandError("give either --database, or --parts and --attachments")


def next_command(summary: ImportSummary, options: dict[str, Any]) -> str:
    """What the operator should type after this run; never a password."""
    if summary.status is ExitStatus.DONE and not summary.dry_run:
        return "manage.py migrate_to_cas --dry-run"
    words = ["manage.py", "import_legacy"]
    if url := options["database"]:
        password = urlsplit(url).password
        words += ["--database", url.replace(f":{password}@", "@", 1) if password else url]
    for option in FILES:
        if options[option]:
            words += [f"--{option}", str(options[option])]
    for table in options["without"]:
        words += ["--without", str(table)]
    if options["report"]:
        words += ["--report", str(options["report"])]
    if summary.dry_run and summary.status is not ExitStatus.DONE:
        words.append("--dry-run")
    return shlex.join(words)
