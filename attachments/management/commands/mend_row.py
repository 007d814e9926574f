"""`manage.py mend_row`: show one attachment's row and object, and mend what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from attachments.maintenance.command import MaintenanceCommand, add_asking, add_output, positive
from attachments.maintenance.mend import Mend, MendOptions, MendSummary, mend
from attachments.maintenance.runner import Output
from cas.digest import is_cas_key
from cas.exit_status import ExitStatus

QUESTIONS = {
    Mend.ACCEPT_SIZE: "Row {row} says {row_bytes} bytes and will say {object_bytes}.",
    Mend.POINT_AT: "Row {row} will point at {target} in place of {key}.",
    Mend.REPLACE: "{file} will be stored, and row {row} will point at it in place of {key}.",
    Mend.DELETE: "Row {row} ({title}, part {part}) will be deleted for good.",
}


class Command(MaintenanceCommand):
    help = (
        "Shows an attachment's row beside its object, and mends it as chosen. Without one of "
        "--accept-size, --point-at, --replace-with and --delete-row nothing is changed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("row", type=positive, help="the row's id, as reports name it")
        add_asking(parser)
        add_output(parser)
        ways = parser.add_mutually_exclusive_group()
        ways.add_argument(
            "--accept-size", action="store_true",
            help="have the row say the size that its object has",
        )  # fmt: skip
        ways.add_argument(
            "--point-at", metavar="KEY", help="have the row name the object at another key"
        )
        ways.add_argument(
            "--replace-with", type=Path, metavar="FILE",
            help="store this file, and have the row name it",
        )  # fmt: skip
        ways.add_argument("--delete-row", action="store_true", help="delete the row")

    def run_maintenance(self, options: dict[str, Any], output: Output) -> MendSummary:
        chosen = MendOptions(
            row=options["row"],
            mend=next((way for way in Mend if options[str(way)]), None),
            target=options["point_at"] or "",
            file=options["replace_with"],
            dry_run=options["dry_run"],
        )
        if chosen.mend is not None and self.must_ask(options):
            seen = mend(MendOptions(row=chosen.row), Output(output.stream, output.as_json))
            if seen.status is not ExitStatus.DONE:
                return seen
            question = QUESTIONS[chosen.mend]
            self.confirm(question.format(**seen.counts(), target=chosen.target, file=chosen.file))
        return mend(chosen, output)

    def next_command(self, summary: MendSummary, options: dict[str, Any]) -> str | None:
        if summary.status is not ExitStatus.DONE:
            return self.again(options)
        if summary.mended:
            return "manage.py migration_status --check-objects"
        if summary.mend is not None:
            return self.again(options, dry_run=None)
        if summary.fault == "size_mismatch":
            return self.again(options, accept_size=True)
        if summary.fault == "unknown_key":
            return self.again(options, point_at="KEY")
        if summary.fault in ("absent", "corrupt"):
            replace = self.again(options, replace_with="FILE")
            if is_cas_key(summary.key):
                return f"manage.py verify_cas --repair; if it restores nothing: {replace}"
            return replace
        if summary.fault:
            return "choose a cure from docs/howto/bad-rows.md"
        return "manage.py migration_status"
