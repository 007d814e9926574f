"""The secret key of a development installation: random, made once, kept beside its data."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

MINIMUM_LENGTH = 50
"""Characters; Django's own deployment check asks for as many."""

MINIMUM_DISTINCT = 5

HOW_TO_MAKE = "python3 -c 'import secrets; print(secrets.token_urlsafe(50))'"


def is_weak(key: str) -> bool:
    """Whether a key is too short or too uniform to sign sessions with, or is a placeholder."""
    return (
        len(key) < MINIMUM_LENGTH
        or len(set(key)) < MINIMUM_DISTINCT
        or key.startswith(("django-insecure-", "insecure"))
    )


def kept_key(path: Path) -> str:
    """The key in the file at `path`, which is made with a new one, for its owner only, if missing.

    Raises OSError.
    """
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        pass
    # Written whole under another name, then linked: of two processes that start at once, neither
    # may read half a key and both must end up with the same one.
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
