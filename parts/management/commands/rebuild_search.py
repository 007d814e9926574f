"""`manage.py rebuild_search`: fold again what searches look through."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from attachments.folding import rebuild


class Command(BaseCommand):
    help = (
        "Folds the texts of all parts, types, tags and attachments again, and corrects those that "
        "differ: what was written past this application, or by a release that folded otherwise."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        for name, (rows, corrected) in rebuild().items():
            self.stdout.write(f"{name}: {corrected} of {rows} corrected")
