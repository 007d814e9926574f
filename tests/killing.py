"""Migrates again and again, each time in a process that is killed at a random moment.

    python -m tests.killing TIMES SEED REPORT

Works on the installation that the environment names. Prints how many of the processes were
killed, as opposed to having ended before, as one JSON object. Processes are forked from this one,
because starting Python so many times would take most of the test's time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

PATIENCE = 60


def lines_in(report: Path) -> int:
    return report.read_bytes().count(b"\n") if report.exists() else 0


def migrate(report: Path) -> int:
    """In the forked child: a migration like any other, silent. Its exit status."""
    from django.core.management import call_command

    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device
        try:
            call_command(
                "migrate_to_cas", "--yes-i-am-sure", "--workers", "4", "--report", str(report),
                stdout=nowhere, stderr=nowhere,
            )  # fmt: skip
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def killed_at(report: Path, rows: int, pause: float) -> bool:
    """Start a migration, kill it `pause` seconds after so many more rows. Whether it was alive."""
    before = lines_in(report)
    child = os.fork()
    if child == 0:
        os._exit(migrate(report))
    deadline = time.monotonic() + PATIENCE
    while lines_in(report) < before + rows and time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.001)
    time.sleep(pause)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status)


def main() -> None:
    times, seed, report = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "inventory.settings")
    import django

    django.setup()
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    killed = sum(
        killed_at(report, chance.randint(0, 8), chance.uniform(0, 0.03)) for _ in range(times)
    )
    sys.stdout.write(json.dumps({"killed": killed}) + "\n")


if __name__ == "__main__":
    main()
