"""Signing in to the admin: after a few wrong guesses, each further one has to wait."""

from __future__ import annotations

import math
import threading
import time
from typing import Any, Final

from django.contrib.admin.forms import AdminAuthenticationForm
from django.core.exceptions import ValidationError

FREE_GUESSES: Final = 5
LONGEST_WAIT: Final = 60.0
REMEMBERED: Final = 10_000
"""Names and addresses of which wrong guesses are remembered, by each process for itself."""


class Guesses:
    """Wrong passwords by user name and address, and when the next may be tried.

    The wait doubles with each guess, up to a minute: no thread sleeps, and an owner who mistypes is
    not locked out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str], tuple[int, float]] = {}

    def wait(self, who: tuple[str, str]) -> float:
        """Seconds until the next guess is looked at."""
        with self._lock:
            return max(0.0, self._found.get(who, (0, 0.0))[1] - time.monotonic())

    def failed(self, who: tuple[str, str]) -> None:
        with self._lock:
            count = self._found.pop(who, (0, 0.0))[0] + 1
            further = count - FREE_GUESSES
            seconds = min(LONGEST_WAIT, 2.0 ** min(further, 10)) if further > 0 else 0.0
            self._found[who] = (count, time.monotonic() + seconds)
            while len(self._found) > REMEMBERED:
                del self._found[next(iter(self._found))]

    def succeeded(self, who: tuple[str, str]) -> None:
        with self._lock:
            self._found.pop(who, None)


guesses: Final = Guesses()


class LoginForm(AdminAuthenticationForm):
    """The admin's, which looks at no password before its time."""

    def clean(self) -> dict[str, Any]:
        address = self.request.META.get("REMOTE_ADDR", "") if self.request else ""
        who = (self.cleaned_data.get("username") or "", address)
        if (seconds := guesses.wait(who)) > 0:
            raise ValidationError(
                f"Too many wrong passwords. Try again in {math.ceil(seconds)} seconds.",
                code="permission_denied",
            )
        try:
            cleaned: dict[str, Any] = super().clean()
        except ValidationError:
            guesses.failed(who)
            raise
        guesses.succeeded(who)
        return cleaned
