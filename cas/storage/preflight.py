"""Finding out that a store can be written to before thousands of objects depend on it."""

from __future__ import annotations

import contextlib
import uuid
from datetime import UTC, datetime, timedelta

from cas.storage.base import Absent, BlobStore, Corrupt, StoreError
from cas.storage.guards import PROBE_PREFIX

_BYTES = b"written, read, listed and deleted\n"


def preflight(store: BlobStore) -> timedelta:
    """Write, read, list and delete an object below `.cas-probe/`.

    Returns how far the store's clock is ahead of this machine's (behind: negative), to about a
    second. Raises the StoreError that names what is wrong: Denied, Unreachable, StoreFull;
    Corrupt if other bytes come back, StoreError if what was written is not listed or what was
    deleted still is there.
    """
    key = PROBE_PREFIX + uuid.uuid4().hex
    path = store.staging_dir / f"preflight-{uuid.uuid4().hex}"
    try:
        path.write_bytes(_BYTES)
        before = datetime.now(UTC)
        store.put_legacy(key, path)
    finally:
        path.unlink(missing_ok=True)
    blob = store.stat(key)
    with store.read(key) as stream:
        if stream.read(len(_BYTES) + 1) != _BYTES:
            raise Corrupt("other bytes came back than were written", key=key)
    if key not in (found.key for found in store.scan(key)):
        raise StoreError("an object that was written is not listed", key=key)
    store.remove(key)
    with contextlib.suppress(Absent):
        store.stat(key)
        raise StoreError("an object that was deleted is still there", key=key)
    return blob.modified - before
