"""What must hold before the first row is touched."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any, Final

from django.conf import settings
from django.db.models import QuerySet

from attachments.locks import storing
from attachments.maintenance.retry import Tries, query
from attachments.maintenance.rows import unmigrated
from attachments.maintenance.run import ExitStatus, Halt, Stop
from attachments.models import LEGACY_PREFIX, Attachment
from cas.digest import Digest
from cas.storage.base import Absent, BlobStore, Changed, Corrupt, StoreError, Versioning
from cas.storage.staging import staged_bytes

logger = logging.getLogger(__name__)

UPLOAD_HANDLER = "attachments.uploads.HashingUploadHandler"

PROBE_BYTES: Final = b"Inventory writes this object to see whether blobs can be stored here.\n"
PROBE: Final = Digest.of(PROBE_BYTES)
"""Of an object that is ours, and that no row references."""

LOST: Final = "manage.py verify_cas --right-store"
"""What names every lost object, for commands that delete and so do not go on without them."""

OBJECTS_TRIED: Final = 10
"""Old objects of which one must be readable, if there are any."""


KEYS_AT_A_TIME: Final = 100


def check_before_migrating(
    store: BlobStore, stop: Stop, *, write: bool, right_store: bool = False
) -> None:
    """Prove the store, our rights in it, and that new uploads go to their digest.

    Without `write` only listing and reading are tried. `right_store` goes on although the store
    has none of the objects. Raises Halt with what to do, Stopped.
    """
    if list(settings.FILE_UPLOAD_HANDLERS)[:1] != [UPLOAD_HANDLER]:
        raise Halt(
            ExitStatus.REFUSED,
            "new uploads do not go to their digest: FILE_UPLOAD_HANDLERS must begin with "
            + UPLOAD_HANDLER,
            first=f"Put {UPLOAD_HANDLER} first in FILE_UPLOAD_HANDLERS",
        )
    tries = Tries(stop)
    if not right_store:
        _refuse_wrong_store(store, stop)
    try:
        tries.of(partial(_list_and_read, store))
        if write:
            tries.of(partial(_write_and_read_back, store))
    except StoreError as error:
        raise Halt(
            ExitStatus.UNAVAILABLE, f"the store failed the check before the first row: {error}"
        ) from error


def _refuse_wrong_store(store: BlobStore, stop: Stop) -> None:
    """Raises Halt if rows are to be migrated and the store has not one of their objects.

    Looks no further than the first that is there; only where there is none, at all of them.
    """
    missing = after = 0
    rows = unmigrated().filter(s3_key__startswith=LEGACY_PREFIX)
    while portion := query(partial(_portion, rows.filter(pk__gt=after)), stop):
        for row in portion:
            key, after = row.s3_key or "", row.pk
            try:
                Tries(stop, store).of(partial(store.stat, key))
            except Absent:
                missing += 1
            except (Changed, Corrupt):
                # It is there, however it is.
                return
            else:
                return
    if missing:
        raise wrong_store(store, missing, key)


def _portion(rows: QuerySet[Attachment]) -> list[Attachment]:
    return list(rows.only("pk", "s3_key")[:KEYS_AT_A_TIME])


def wrong_store(store: BlobStore, count: int, key: str, **again: Any) -> Halt:
    """The end of a run that finds nothing of what rows reference: `count` objects, `key` is one.

    A store that was lost looks the same, but another one's name is far more often the reason. A
    person who knows that it is lost says so with `--right-store`, to see what is missing.
    """
    name = getattr(store, "identity", "the store")
    return Halt(
        ExitStatus.REFUSED,
        f"{name} has none of the {count} objects that rows name, such as {key}. "
        "Is it the right bucket or directory?",
        first="Make sure that CAS_S3_BUCKET or INVENTORY_DATA_DIR names the right store. If it "
        "does, and the objects are lost",
        **(again or {"changed": {"right_store": True}}),
    )


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
