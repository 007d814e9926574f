"""What must hold before the first row is touched."""

from __future__ import annotations

import logging
import secrets
import uuid
from functools import partial
from types import TracebackType
from typing import Self

from django.conf import settings

from attachments.maintenance.attempts import Attempts
from attachments.maintenance.pacing import Pace
from attachments.maintenance.run import ExitStatus, Halt, Stop
from attachments.models import LEGACY_PREFIX
from cas.digest import Digest, Hasher
from cas.storage.base import BlobStore, Corrupt, Staged, StoreError

logger = logging.getLogger(__name__)

UPLOAD_HANDLER = "attachments.uploads.HashingUploadHandler"


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
    first = next(store.scan(LEGACY_PREFIX), None)
    if first is not None:
        with store.read(first.key) as stream:
            stream.read(1)


def _write_and_read_back(store: BlobStore) -> None:
    with Probe(store) as probe:
        if store.digest_of(probe.digest.key)[0] != probe.digest:
            raise Corrupt("it did not keep what was written", key=probe.digest.key)


class Probe:
    """A small blob of random bytes, stored on entry and taken away on exit.

    Random, so that no row can reference it. If the run is killed in between, or may not delete,
    the collector removes it later. Entering raises StoreError if the store did not keep it.
    """

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        content = b"write check " + secrets.token_bytes(20)
        hasher = Hasher()
        hasher.update(content)
        self._content = content
        path = store.staging_dir / f"check-{uuid.uuid4().hex}"
        self._staged = Staged(path, hasher.digest, hasher.md5, hasher.size)

    @property
    def digest(self) -> Digest:
        return self._staged.digest

    def __enter__(self) -> Self:
        path = self._staged.path
        try:
            path.write_bytes(self._content)
            self._store.create(self._staged)
        finally:
            path.unlink(missing_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._store.remove(self.digest.key)
        except StoreError as failure:
            logger.warning("the check's object %s stays: %s", self.digest.key, failure)
