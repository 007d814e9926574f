#!/usr/bin/env python3
"""Django's command line for Inventory."""

import os
import sys

from inventory.environment import EnvironmentFault
from inventory.metrics import COUNTING_COMMANDS, add_up_ended, share


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "inventory.settings")
    from django.core.management import execute_from_command_line

    try:
        if COUNTING_COMMANDS & set(sys.argv[1:2]):
            from inventory.settings import DATA_DIR

            add_up_ended(share(DATA_DIR, os.environ))
        execute_from_command_line(sys.argv)
    except EnvironmentFault as fault:
        # The message says all there is to know; a traceback would only bury it.
        sys.exit(f"{fault}")


if __name__ == "__main__":
    main()
