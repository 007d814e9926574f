"""What must hold before the first row is touched."""

from __future__ import annotations

import logging
import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Final

from django.conf import settings
from django.db.models import QuerySet

from attachments.locks import storing
from attachments.maintenance.retry import Tries, query
from attachments.maintenance.rows import unmigrated
from attachments.maintenance.run import ExitStatus, Halt, Stop
from attachments.maintenance.survey import wrong_store
from attachments.models import LEGACY_PREFIX, Attachment
from cas.digest import Digest, Hasher
from cas.storage.base import Absent, BlobStore, Changed, Corrupt, Staged, StoreError

logger = logging.getLogger(__name__)

UPLOAD_HANDLER = "attachments.uploads.HashingUploadHandler"

OBJECTS_TRIED: Final = 10
"""Old objects of which one must be readable, if there are any."""


KEYS_AT_A_TIME: Final = 100


def check_before_migrating(store: BlobStore, stop: Stop, *, write: bool) -> None:
    """Prove the store, our rights in it, and that new uploads go to their digest.

    Without `write` only listing and reading are tried. Raises Halt with what to do, Stopped.
    """
    if list(settings.FILE_UPLOAD_HANDLERS)[:1] != [UPLOAD_HANDLER]:
        raise Halt(
            ExitStatus.REFUSED,
            "new uploads do not go to their digest: FILE_UPLOAD_HANDLERS must begin with "
            + UPLOAD_HANDLER,
            first=f"Put {UPLOAD_HANDLER} first in FILE_UPLOAD_HANDLERS",
        )
    tries = Tries(stop)
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


def _list_and_read(store: BlobStore) -> None:
    for stat in islice(store.scan(LEGACY_PREFIX), OBJECTS_TRIED):
        # One object that is damaged, or gone since, says nothing about the store.
        with suppress(Absent, Corrupt), store.read(stat.key) as stream:
            stream.read(1)
            return


def _write_and_read_back(store: BlobStore) -> None:
    with probe(store) as stored:
        if store.digest_of(stored.key)[0] != stored:
            raise Corrupt("it did not keep what was written", key=stored.key)


@contextmanager
def probe(store: BlobStore) -> Iterator[Digest]:
    """A small blob of random bytes that is there while the block runs.

    Below `cas/`, because rights may depend on the prefix, and held against a collection. Random,
    so that no row can reference it: if the run is killed, or may not delete, the collector
    removes it later. Raises StoreError if the store did not keep it.
    """
    content = b"write check " + secrets.token_bytes(20)
    hasher = Hasher()
    hasher.update(content)
    path = store.staging_dir / f"check-{uuid.uuid4().hex}"
    with storing(hasher.digest):
        try:
            path.write_bytes(content)
            store.create(Staged(path, hasher.digest, hasher.md5, hasher.size))
        finally:
            path.unlink(missing_ok=True)
        try:
            yield hasher.digest
        finally:
            _take_away(store, hasher.digest)


def _take_away(store: BlobStore, digest: Digest) -> None:
    try:
        store.remove(digest.key)
    except StoreError as error:
        logger.warning("the check's object %s stays: %s", digest.key, error)
