"""The system checks, run by whatever serves the application and not only by commands."""

from __future__ import annotations

from django.core import checks
from django.core.exceptions import ImproperlyConfigured


def refuse_faulty_settings() -> None:
    """Raises ImproperlyConfigured, which names every error that the checks of the settings find."""
    errors = [found for found in checks.run_checks() if found.is_serious()]
    if errors:
        lines = "".join(
            f"\n  - {error.id}: {error.msg}" + (f" {error.hint}" if error.hint else "")
            for error in errors
        )
        raise ImproperlyConfigured(f"The settings have to be corrected before serving:{lines}")
