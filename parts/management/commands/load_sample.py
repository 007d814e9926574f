"""`manage.py load_sample`: fill an installation with a collection to look at and try things on."""

from __future__ import annotations

import argparse
import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from attachments.uploads import UploadRefused
from cas.storage.base import StoreError
from parts.sample.load import Layout, LoadOptions, LoadSummary, load
from parts.sample.photos import MEGAPIXELS


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _megapixels(text: str) -> float:
    number = float(text)
    if not 0.01 <= number <= 24:
        raise argparse.ArgumentTypeError("must be from 0.01 to 24")
    return number


class Command(BaseCommand):
    help = (
        "Adds a sample collection: parts with photos, datasheets and links. The same seed always "
        "gives the same collection; parts of it that are there already are left as they are."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--layout",
            choices=[str(layout) for layout in Layout],
            default=str(Layout.CAS),
            help="store files content-addressed (cas) or as an older installation did (legacy)",
        )
        parser.add_argument("--parts", type=_positive, default=60, help="default: %(default)s")
        parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
        parser.add_argument(
            "--megapixels",
            type=_megapixels,
            default=MEGAPIXELS,
            help="average size of the photos, 0.01 to 24; default: %(default)s",
        )
        parser.add_argument(
            "--workers",
            type=_positive,
            default=min(4, os.cpu_count() or 1),
            help="files drawn at a time; default: the number of processors, at most 4",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        chosen = LoadOptions(
            layout=Layout(options["layout"]),
            parts=options["parts"],
            seed=options["seed"],
            megapixels=options["megapixels"],
            workers=options["workers"],
        )
        live = self.stderr.isatty() and options["verbosity"] > 0
        try:
            summary = load(chosen, self._progress(chosen) if live else _silent)
        except (StoreError, UploadRefused) as error:
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

    def _progress(self, chosen: LoadOptions) -> Any:
        def show(summary: LoadSummary) -> None:
            done = summary.parts_added + summary.parts_present
            line = f"\r\033[K{done} of {chosen.parts} parts, {summary.files} files"
            self.stderr.write(line, ending="")
            self.stderr.flush()

        return show


def _silent(summary: LoadSummary) -> None:
    """Progress is for a terminal; a log gets the summary alone."""
