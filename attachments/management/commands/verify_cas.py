"""`manage.py verify_cas`: compare every blob with its digest, and repair what can be repaired."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser

from attachments.maintenance.command import (
    MaintenanceCommand,
    add_output,
    duration,
    positive,
    size,
)
from attachments.maintenance.run import ExitStatus
from attachments.maintenance.verify import VerifyOptions, VerifySummary, verify

SHOWN = 20


class Command(MaintenanceCommand):
    help = (
        "Hashes every blob, the least recently verified first, and reports what is corrupt, "
        "missing, orphaned or of the wrong size. Changes nothing in the store without --repair."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_output(parser)
        parser.add_argument("--workers", type=positive, default=4, help="blobs hashed at a time")
        parser.add_argument(
            "--bandwidth", type=size, metavar="BYTES", help="bytes a second at most, as in 20M"
        )
        parser.add_argument(
            "--max-duration", type=duration, metavar="TIME", help="stop after so long, as in 8h"
        )
        parser.add_argument(
            "--older-than", type=duration, default=0.0, metavar="TIME",
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

    def run_maintenance(self, options: dict[str, Any]) -> ExitStatus:
        if options["repair"]:
            self.confirm(
                "Corrupt blobs will be moved aside and restored where a copy exists.",
                sure=options["yes_i_am_sure"],
            )
        summary = verify(
            VerifyOptions(
                workers=options["workers"],
                bandwidth=options["bandwidth"],
                max_seconds=options["max_duration"],
                older_than=timedelta(seconds=options["older_than"]),
                read_all=options["read_all"],
                repair=options["repair"],
                report=options["report"],
                as_json=options["json"],
            ),
            self.stdout if options["json"] else self.stderr,
        )
        self._print(summary, options)
        return summary.status

    def _print(self, summary: VerifySummary, options: dict[str, Any]) -> None:
        command = next_command(summary, repaired=options["repair"])
        if options["json"]:
            self.print_json({"summary": {**summary.figures(), "next": command}})
            return
        self.print_figures(summary.figures())
        for digest, verified in list(summary.damaged.items())[:SHOWN]:
            self.fail(f"{digest.key}: {verified.verdict.replace('_', ' ')} {verified.detail}")
        self.stdout.write(f"Next: {command}")


def next_command(summary: VerifySummary, *, repaired: bool) -> str:
    """What the operator should type after this run."""
    if summary.damaged:
        return (
            "manage.py migration_status --check-objects"
            if repaired
            else ("manage.py verify_cas --repair")
        )
    if summary.remaining:
        return "manage.py verify_cas --older-than 1d"
    return "manage.py cleanup_legacy_blobs --dry-run"
