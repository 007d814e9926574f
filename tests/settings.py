"""The settings of a test run: nothing of this machine's environment, a data directory of its own.

A test must not read or write the collection of whoever runs it, and two runs at once must not
share a database. `DATABASE_URL` stays: it says which database the tests are to run on.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from inventory.environment import PREFIXES

_data_dir = Path(tempfile.mkdtemp(prefix="inventory-tests-"))
_owner = os.getpid()


@atexit.register
def _clean() -> None:
    if os.getpid() == _owner:
        shutil.rmtree(_data_dir, ignore_errors=True)


for _name in list(os.environ):
    if _name.startswith(PREFIXES) or _name in {"PORT", "SECRET_KEY"}:
        del os.environ[_name]
os.environ["INVENTORY_DATA_DIR"] = str(_data_dir)
# What a test starts is the application itself, in the environment that the test gives it.
os.environ["DJANGO_SETTINGS_MODULE"] = "inventory.settings"

from inventory.settings import *  # noqa: E402, F403

# Accounts are made by the hundred, and what makes passwords slow to guess makes that slow.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
