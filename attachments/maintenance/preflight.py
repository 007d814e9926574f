"""What must hold before the first row is touched."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Final

from django.conf import settings

from attachments.locks import storing
from attachments.maintenance.attempts import Attempts
from attachments.maintenance.pacing import Pace
from attachments.maintenance.run import ExitStatus, Halt, Stop
from attachments.models import LEGACY_PREFIX
from cas.digest import Digest
from cas.storage.base import Absent, BlobStore, Changed, Corrupt, StoreError, Versioning
from cas.storage.staging import staged_bytes

logger = logging.getLogger(__name__)

UPLOAD_HANDLER = "attachments.uploads.HashingUploadHandler"

PROBE_BYTES: Final = b"Inventory writes this object to see whether blobs can be stored here.\n"
PROBE: Final = Digest.of(PROBE_BYTES)
"""Of an object that is ours, and that no row references."""

OBJECTS_TRIED: Final = 10
"""Old objects of which one must be readable, if there are any."""


def check_before_migrating(store: BlobStore, stop: Stop, *, write: bool) -> None:
    """Prove the store, our rights in it, and that new uploads go to their digest.

    Without `write` only listing and reading are tried. Raises Halt with what to do, Stopped.
    """
    if list(settings.FILE_UPLOAD_HANDLERS)[:1] != [UPLOAD_HANDLER]:
        raise Halt(
            ExitStatus.REFUSED,
            "new uploads do not go to their digest: FILE_UPLOAD_HANDLERS must begin with "
            + UPLOAD_HANDLER,
        )
    attempts = Attempts(Pace(1), stop, store)
    try:
        attempts.of(partial(_list_and_read, store))
        if write:
            attempts.of(partial(_write_and_read_back, store))
    except StoreError as error:
        raise Halt(
            ExitStatus.UNAVAILABLE, f"the store failed the check before the first row: {error}"
        ) from error


def _list_and_read(store: BlobStore) -> None:
    for stat in islice(store.scan(LEGACY_PREFIX), OBJECTS_TRIED):
        # One object that is damaged, or gone since, says nothing about the store.
        with suppress(Absent, Corrupt), store.read(stat.key) as stream:
            stream.read(1)
            return


def _write_and_read_back(store: BlobStore) -> None:
    with probe(store) as stored:
        try:
            found, _ = store.digest_of(stored.key)
        except Absent as error:
            raise Changed("another run has removed the check's object", key=stored.key) from error
        if found != stored:
            raise Corrupt("it did not keep what was written", key=stored.key)


@contextmanager
def probe(store: BlobStore, *, fresh: bool = False) -> Iterator[Digest]:
    """A small blob that is there while the block runs; with `fresh` it was written just now.

    Below `cas/`, because rights may depend on the prefix, and held against a collection. Its
    bytes are always the same, so that runs which may not delete it leave one object in all, which
    no survey takes for garbage. Another run may remove it meanwhile. Raises StoreError if the
    store did not keep it, and with `fresh` Denied if it may not be deleted.
    """
    with storing(PROBE):
        with staged_bytes(store, PROBE_BYTES) as staged:
            if fresh:
                store.remove(PROBE.key)
            store.create(staged)
        try:
            yield PROBE
        finally:
            _take_away(store)


def _take_away(store: BlobStore) -> None:
    """Where a deletion only adds to an object's versions it is left for the next run."""
    try:
        if store.versioning() not in (Versioning.KEPT, Versioning.LOCKED):
            store.remove(PROBE.key)
    except StoreError as error:
        logger.warning("the check's object %s stays for the next run: %s", PROBE.key, error)
