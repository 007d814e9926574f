"""Whether the directories that blobs are kept in can be worked in, each tried by itself."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from cas.digest import CAS_PREFIX
from cas.storage.base import StoreError
from cas.storage.disk_files import fsync_directory, translated
from cas.storage.guards import PROBE_PREFIX
from cas.storage.preflight import Need, Preflight, Weight
from cas.storage.quarantine import QUARANTINE_PREFIX

WRITE: Final = {
    CAS_PREFIX: Need("write", CAS_PREFIX, Weight.ESSENTIAL, "nothing can be uploaded or migrated"),
    "parts/": Need("write", "parts/", Weight.NEEDED, "cleanup_legacy_blobs cannot delete"),
    QUARANTINE_PREFIX: Need(
        "write",
        QUARANTINE_PREFIX,
        Weight.NEEDED,
        "wrong bytes cannot be moved aside, so they are neither repaired nor healed",
    ),
}
DURABLE: Final = Need(
    "fsync", "", Weight.NEEDED, "a power failure can lose what was said to be stored"
)


def preflight(location: Path, staging: Path) -> Preflight:
    """Raises StoreError if the directory itself cannot be written to, Denied above all."""
    source = staging / f"probe-{uuid.uuid4().hex}"
    with translated(PROBE_PREFIX):
        try:
            source.write_bytes(b"written, moved and deleted\n")
            found = {DURABLE: _tried(lambda: _make_durable(source), "")}
            found |= {
                need: _tried(partial(_move_to, location, source, prefix), prefix)
                for prefix, need in WRITE.items()
            }
        finally:
            source.unlink(missing_ok=True)
        room = shutil.disk_usage(location)
    percent = 100 * room.free // room.total
    return Preflight(found, notes=(f"{room.free / 2**30:.1f} GiB are free, {percent} %.",))


def _tried(call: Callable[[], None], prefix: str) -> StoreError | None:
    try:
        with translated(prefix):
            call()
    except StoreError as error:
        return error
    return None


def _make_durable(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    fsync_directory(path.parent)


def _move_to(location: Path, source: Path, prefix: str) -> None:
    """Move a file to where an object would be put, and take it away.

    That fails where the directory may not be written to, and where it is on another filesystem
    than the staging directory. One that is not there yet is made when it is needed.
    """
    directory = location / prefix
    if not directory.is_dir():
        directory = location
    name = f".cas-probe-{uuid.uuid4().hex}"
    copied = source.with_name(name)
    copied.touch(exist_ok=False)
    try:
        target = copied.rename(directory / name)
    except OSError:
        copied.unlink()
        raise
    target.unlink()
