"""`manage.py load_sample`: fill an installation with a collection to look at and try things on."""

from __future__ import annotations

import argparse
import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from attachments.uploads import UploadRefused
from cas.storage.base import StoreError
from parts.sample.files import MEGAPIXELS
from parts.sample.load import LoadSummary, load


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _megapixels(text: str) -> float:
    if not 0.01 <= (number := float(text)) <= 24:
        raise argparse.ArgumentTypeError("must be from 0.01 to 24")
    return number


class Command(BaseCommand):
    help = (
        "Adds a sample collection: parts with photos, datasheets and links. The same seed always "
        "gives the same collection; parts of it that are there already are left as they are."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add, default = parser.add_argument, "default: %(default)s"
        layouts = "store files content-addressed (cas) or as an older installation did (legacy)"
        workers = "files made at a time; default: the number of processors, at most 4"
        size = f"average size of the photos, 0.01 to 24; {default}"
        add("--layout", choices=("legacy", "cas"), default="cas", help=layouts)
        add("--parts", type=_positive, default=60, help=default)
        add("--seed", type=int, default=1, help=default)
        add("--megapixels", type=_megapixels, default=MEGAPIXELS, help=size)
        add("--workers", type=_positive, default=min(4, os.cpu_count() or 1), help=workers)

    def handle(self, *args: Any, **options: Any) -> None:
        live = self.stderr.isatty() and options["verbosity"] > 0
        names = ("layout", "parts", "seed", "megapixels", "workers")

        def progress(summary: LoadSummary) -> None:
            """For a terminal; a log gets the summary alone."""
            if live:
                done = summary.parts_added + summary.parts_present
                line = f"\r\033[K{done} of {options['parts']} parts, {summary.files} files"
                self.stderr.write(line, ending="")
                self.stderr.flush()

        try:
            summary = load(progress=progress, **{name: options[name] for name in names})
        except (StoreError, UploadRefused, OSError) as error:
            raise CommandError(f"stopped: {error}") from error
        except KeyboardInterrupt:
            interrupted = "stopped; the same command goes on where it was"
            raise CommandError(interrupted, returncode=130) from None
        if live:
            self.stderr.write("\r\033[K", ending="")
        self.stdout.write(
            f"{summary.parts_added} parts added, {summary.parts_present} were there already."
        )
        self.stdout.write(
            f"{summary.files} files ({summary.size / 1e6:,.1f} MB) and {summary.links} links "
            f"attached; {summary.duplicates} files are identical to another."
        )
