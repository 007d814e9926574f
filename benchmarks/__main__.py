"""`python -m benchmarks [--quick] [GROUP...]`: measures and writes RESULTS.md."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path

GROUPS = ("serving", "thumbnails", "decoding", "memory", "migration", "scale")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument(
        "--quick", action="store_true", help="small and short, to see that it works; keeps nothing"
    )
    options = parser.parse_args()
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"there is no group {', '.join(sorted(unknown))}")
    # Loading Django makes a data directory; it must not be the one of this checkout.
    with tempfile.TemporaryDirectory(prefix="inventory-bench-") as name:
        os.environ["INVENTORY_DATA_DIR"] = name
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "inventory.settings")
        import django

        django.setup()
        from benchmarks import results

        for group in options.groups or GROUPS:
            begun = time.monotonic()
            directory = Path(name, "measured", group)
            directory.mkdir(parents=True)
            tables = importlib.import_module(f"benchmarks.{group}").run(
                directory, quick=options.quick
            )
            if not options.quick:
                results.keep(group, tables)
            for table in tables:
                for row in table.rows:
                    ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
                    print(f"{table.title}: {row.contender}: {row.figure} {ratio} {row.verdict}")
            print(f"{group}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
