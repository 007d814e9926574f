"""`manage.py verify_cas`: compare every blob with its digest, and repair what can be repaired."""

from __future__ import annotations

from typing import Any, Final

from django.core.management.base import CommandParser

from attachments.maintenance.command import (
    MaintenanceCommand,
    add_output,
    add_pace,
    add_right_store,
    duration,
    options_as,
)
from attachments.maintenance.runner import Output
from attachments.maintenance.verify import VerifyOptions, VerifySummary, verify
from cas.exit_status import ExitStatus

A_DAY: Final = duration("1d")


class Command(MaintenanceCommand):
    help = (
        "Hashes every blob, the least recently verified first, and reports what is corrupt, "
        "missing, unreferenced or of the wrong size. Changes nothing in the store without --repair."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_output(parser)
        add_right_store(parser)
        add_pace(parser, "blobs hashed")
        parser.add_argument(
            "--older-than", type=duration, default=duration("0"), metavar="TIME",
            help="only blobs not verified for so long, as in 30d; resumes a run that ended early",
        )  # fmt: skip
        parser.add_argument(
            "--read-all", action="store_true",
            help="read every blob, even where the store keeps a SHA-256 of it",
        )  # fmt: skip
        parser.add_argument(
            "--repair", action="store_true",
            help="move corrupt blobs aside and restore from the older layout what can be restored",
        )  # fmt: skip
        parser.add_argument("--yes-i-am-sure", action="store_true", help="repair without asking")

    def run_maintenance(self, options: dict[str, Any], output: Output) -> VerifySummary:
        if options["repair"] and self.must_ask(options):
            self.confirm("Corrupt blobs will be moved aside and restored where a copy exists.")
        return verify(options_as(VerifyOptions, options), output)

    def next_command(self, summary: VerifySummary, options: dict[str, Any]) -> str | None:
        if summary.damaged:
            if not options["repair"] or summary.reason:
                return self.again(options, repair=True)
            if summary.to_mend is not None:
                return f"manage.py mend_row {summary.to_mend}"
            # No row shows what is damaged, and it was moved aside if it could be.
            return "manage.py collect_garbage --dry-run"
        if summary.status is ExitStatus.DONE:
            return summary.next_step or None
        # Without --older-than the next run would also repeat what this one has verified.
        return self.again(options, older_than=options["older_than"] or A_DAY)
