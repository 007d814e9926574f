"""`python -m inventory.first_run`: what `make run` does before it serves. Safe to repeat.

The schema is brought up to date. In development, an empty installation also gets an account and
the sample collection, stored as an older installation would have and then migrated.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command

from inventory.environment import EnvironmentFault
from inventory.serve import CannotServe, check_address

ADMIN = "admin"
STEPS = (
    ("load_sample", "--layout", "legacy", "--parts", "60", "--seed", "1"),
    ("migrate_to_cas", "--yes-i-am-sure"),
)


class StepFailed(Exception):
    """A command of the first run failed; it has said why. The next run takes it up again."""


def prepare() -> None:
    """Raises EnvironmentFault, CannotServe, StepFailed, and the database's errors."""
    django.setup()
    # Before minutes of work, not after.
    check_address(settings.INVENTORY_BIND, settings.INVENTORY_PORT)
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        # SQLite would create its file for everybody to read, and sessions are in it.
        Path(database["NAME"]).touch(mode=0o600)
    call_command("migrate", verbosity=0, interactive=False)
    if settings.PRODUCTION:
        return
    _make_account(settings.DATA_DIR / "admin-password")
    _load_collection(settings.DATA_DIR / "sample-collection")


def _make_account(password_file: Path) -> None:
    """An administrator with a random password, unless there is one."""
    from django.contrib.auth import get_user_model

    users = get_user_model()._default_manager
    if users.filter(is_superuser=True).exists():
        return
    password = secrets.token_urlsafe(16)
    # The file first: an account with an unknown password would be of no use.
    password_file.unlink(missing_ok=True)
    with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(password + "\n")
    get_user_model().objects.create_superuser(ADMIN, password=password)
    print(f"The password of the account '{ADMIN}' is in {password_file}", flush=True)


def _load_collection(progress_file: Path) -> None:
    """Load and migrate the sample once. Whoever deletes it again does not get it back.

    A run that was interrupted is taken up where it stopped: both commands can be repeated.
    """
    from parts.models import Part

    begun = progress_file.exists()
    done = progress_file.read_text().split() if begun else []
    if not begun and Part.objects.exists():
        return
    for step in STEPS:
        if step[0] in done:
            continue
        progress_file.write_text("\n".join(done))
        _run(step)
        done.append(step[0])
        progress_file.write_text("\n".join(done))


def _run(step: tuple[str, ...]) -> None:
    print(f"\n$ manage.py {' '.join(step)}", flush=True)
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), *step]
    # A line for every row would hide the progress and the summary.
    environment = {"INVENTORY_LOG_LEVEL": "WARNING", **os.environ}
    if status := subprocess.run(command, env=environment, check=False).returncode:
        raise StepFailed(f"manage.py {step[0]} ended with status {status}; see above.")


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "inventory.settings")
    try:
        prepare()
    except (EnvironmentFault, CannotServe, StepFailed) as fault:
        sys.exit(str(fault))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. Type make run to go on.")


if __name__ == "__main__":
    main()
