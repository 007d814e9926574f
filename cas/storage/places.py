"""Directories on this machine that a store needs beside the blobs.

`CAS_STAGING_DIR` holds uploads and copies on their way to a bucket; `CAS_STATE_DIR` what was
found out about a store and would be slow to find out again.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from django.conf import settings

from cas.storage.base import Denied
from cas.storage.disk_files import translated


def staging_dir() -> Path:
    """`CAS_STAGING_DIR`, by default this user's own directory below the system's temporary one.

    Created if missing. Raises StoreError if it cannot be, and Denied if it belongs to somebody
    else, who could then exchange staged bytes.
    """
    chosen = getattr(settings, "CAS_STAGING_DIR", None)
    path = Path(chosen or Path(tempfile.gettempdir(), f"cas-staging-{os.getuid()}"))
    with translated(""):
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = path.stat().st_uid
    if owner not in (os.getuid(), 0):
        raise Denied(f"the staging directory {path} belongs to another user")
    return path


def state_dir() -> Path | None:
    """`CAS_STATE_DIR`, created if missing; None if it is not set. Raises StoreError."""
    chosen = getattr(settings, "CAS_STATE_DIR", None)
    if not chosen:
        return None
    path = Path(chosen)
    with translated(""):
        path.mkdir(parents=True, exist_ok=True)
    return path
