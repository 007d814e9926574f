"""`manage.py prune_history`: forget changes that are older than is asked for."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from attachments.history import count_prunable, prune
from attachments.maintenance.command import duration


class Command(BaseCommand):
    help = (
        "Deletes what the history has of changes that are older than this: who changed what, and "
        "the means to take it back. Rows and files stay as they are. Clients whose copy is older "
        "than that are told to begin anew."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than", type=duration, required=True, metavar="TIME", help="as in 365d"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="say how many there are, delete none"
        )

    def handle(self, *, older_than: float, dry_run: bool, **_: Any) -> None:
        if dry_run:
            self.stdout.write(f"{count_prunable(older_than)} changes would be deleted")
            return
        self.stdout.write(f"{prune(older_than)} changes deleted")
