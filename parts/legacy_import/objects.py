"""Whether the objects that rows name are there: one ordered listing merged with the rows.

And what is in them, for the few rows that only this can tell.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

from attachments.maintenance.run import Stop, Stopped
from attachments.models import LEGACY_PREFIX
from cas.digest import CAS_PREFIX, Digest
from cas.storage.base import Absent, BlobStat, BlobStore, Corrupt

# Compared as bytes, which is how stores list and how SQLite sorts unless told otherwise.
NAMED: Final = """
SELECT number, s3_key, size FROM attachment
WHERE fault IS NULL AND target IS NULL AND s3_key >= ? AND s3_key < ?
ORDER BY s3_key
"""

FAULT: Final = "INSERT INTO object_fault VALUES (?, ?, ?)"

REFUSE: Final = """
UPDATE attachment SET fault = object_fault.fault, reason = object_fault.reason
FROM object_fault WHERE object_fault.number = attachment.number
"""


def check_objects(scratch: sqlite3.Connection, store: BlobStore, stop: Stop) -> None:
    """Refuse the rows to import whose object is missing or of another size.

    Only the part of the listing that rows name is read. Raises StoreError if it cannot be
    completed, Stopped.
    """
    scratch.execute("CREATE TEMP TABLE object_fault (number INTEGER, fault TEXT, reason TEXT)")
    for prefix in (CAS_PREFIX, LEGACY_PREFIX):
        # The first string behind all that start with the prefix: its last character, one further.
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        # Not refused in place: a statement must not change the rows that another is reading.
        scratch.executemany(FAULT, _faults(scratch.execute(NAMED, [prefix, end]), store, stop))
    scratch.execute(REFUSE)


def digest_of(store: BlobStore, stop: Stop, key: str) -> Digest | Absent | Corrupt:
    """What an object's bytes hash to, or why they do not. Raises StoreError, Stopped."""
    if stop.requested:
        raise Stopped
    try:
        return store.digest_of(key)[0]
    except (Absent, Corrupt) as fault:
        return fault


def _faults(
    rows: Iterator[sqlite3.Row], store: BlobStore, stop: Stop
) -> Iterator[tuple[int, str, str]]:
    listing: Iterator[BlobStat] | None = None
    stat: BlobStat | None = None
    for number, key, size in rows:
        if stop.requested:
            raise Stopped
        if listing is None:
            listing = _from(store, key)
            stat = next(listing, None)
        while stat is not None and stat.key < key:
            stat = next(listing, None)
        if stat is None or stat.key != key:
            yield number, "object_missing", f"there is no object at {key}"
        elif stat.size != size:
            yield number, "object_size", f"{key} has {stat.size} bytes, the row says {size}"


def _from(store: BlobStore, key: str) -> Iterator[BlobStat]:
    """The listing from `key` on, and its neighbours below."""
    prefix = CAS_PREFIX if key.startswith(CAS_PREFIX) else LEGACY_PREFIX
    # A store lists behind a key; anything shorter than ours comes before it.
    after = key[:-1]
    return store.scan(prefix, after=after if after.startswith(prefix) else "")
