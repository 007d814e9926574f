"""Values of settings from the environment, with all problems reported at once.

An operator who has three variables wrong learns of all three, not of one per restart: `read` does
not raise, it notes the problem and returns the default, and `check` raises for all of them.
"""

from __future__ import annotations

import difflib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured

from cas.conf import DIRECTORY, Setting

PREFIXES: Final = ("INVENTORY_", "CAS_")
"""Variables that start so are ours alone: an unknown one is a misspelt one."""

REMOVED: Final = {
    "INVENTORY_ALLOW_OPEN_API": "The API has accounts now: write INVENTORY_AUTH=accounts instead, "
    "and make the first one with: manage.py createsuperuser",
}
"""Variables of earlier releases, and what to do in their place."""

MINIMUM_KEY_LENGTH: Final = 50
"""Characters; Django's own deployment check requires as many."""


class EnvironmentFault(ImproperlyConfigured):
    """Variables are missing or wrong. The message names each of them."""


class Environment:
    """Reads settings from `values`; an empty variable counts as unset.

    Relative paths are below `base`.
    """

    def __init__(self, values: Mapping[str, str], base: Path) -> None:
        self._values = {name: value.strip() for name, value in values.items() if value.strip()}
        self._base = base
        self._problems: list[str] = []
        self._known: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def read(self, setting: Setting, default: Any = None) -> Any:
        """The value, or the default: the setting's own unless another one is given."""
        self._known.add(setting.name)
        value = setting.default if default is None else default
        if text := self._values.get(setting.name):
            try:
                parsed = setting.kind.parse(text)
                problem = setting.problem(parsed)
            except ValueError:
                problem = setting.refusal(text)
            if problem:
                self.fault(setting.name, problem)
            else:
                value = parsed
        return self._directory(setting.name, value) if setting.kind is DIRECTORY else value

    def _directory(self, name: str, path: Path) -> Path:
        """The absolute path, created if missing."""
        path = self._base / path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.fault_of_directory(name, path, error)
        return path

    def fault_of_directory(self, name: str, path: Path, error: OSError) -> None:
        problem = f"is {str(path)!r}, which cannot be written to ({error.strerror})."
        self.fault(name, f"{problem} Write {DIRECTORY.expected}.")

    def fault(self, name: str, problem: str) -> None:
        """Note that a variable is wrong. `problem` says how, and what to write instead."""
        self._problems.append(f"{name} {problem}")

    def check(self) -> None:
        """Raise EnvironmentFault if anything was wrong, or if a variable of ours is unknown."""
        for name in sorted(self._values.keys() - self._known):
            if name.startswith(PREFIXES):
                close = difflib.get_close_matches(name, self._known, n=1)
                cure = f"Did you mean {close[0]}?" if close else "Remove it."
                cure = REMOVED.get(name, cure)
                self.fault(name, f"is not a variable of this application. {cure}")
        if self._problems:
            lines = "".join(f"\n  - {problem}" for problem in self._problems)
            raise EnvironmentFault(f"These environment variables have to be corrected:{lines}")


def kept_key(path: Path) -> str:
    """The key in the file at `path`, created with a random one, for its owner only, if missing.

    Raises OSError.
    """
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        pass
    # Written under another name and then linked: of two processes that start at once, neither
    # may read half a key, and both must end up with the same one.
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(64) + "\n")
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text("ascii").strip()
