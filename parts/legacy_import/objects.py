"""Whether the objects that rows name are there, and what is in them where a row is believed on it.

Older objects are listed, in one ordered pass merged with the rows: a migration reads them later.
A row on a blob is not migrated any more, so here is where the blob is read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

from attachments import verifications
from attachments.maintenance.retry import Tries, listed
from attachments.maintenance.run import Stop
from attachments.maintenance.transfer import head_of
from attachments.models import LEGACY_PREFIX, Verification
from cas.digest import CAS_PREFIX, Digest
from cas.sniff import stored_type
from cas.storage.base import Absent, BlobStat, BlobStore, Corrupt, StoreError
from parts.legacy_import.file_names import file_name
from parts.legacy_import.loads import Load

READS_AT_A_TIME: Final = 16
"""Blobs that are read at a time."""

# Compared as bytes, which is how stores list and how SQLite sorts unless told otherwise.
NAMED: Final = """
SELECT number, s3_key, size FROM attachment
WHERE fault IS NULL AND outcome IS NULL AND s3_key >= ? AND s3_key < ?
ORDER BY s3_key
"""

FOUND: Final = "INSERT INTO object_found VALUES (?, ?, ?, ?)"

APPLY: Final = """
UPDATE attachment SET
    size = object_found.size, fault = object_found.fault, reason = object_found.reason
FROM object_found WHERE object_found.number = attachment.number
"""


class Proven(NamedTuple):
    """A blob that hashes to its key, and what its bytes begin with."""

    blob: BlobStat
    head: bytes


def check_objects(scratch: sqlite3.Connection, store: BlobStore, stop: Stop) -> None:
    """Refuse the rows to import whose object is missing or of another size.

    A row that does not know its object's size gets it. Only the part of the listing that rows
    name is read. Raises StoreError if it cannot be completed, Stopped.
    """
    scratch.execute(
        "CREATE TEMP TABLE object_found ("
        "number INTEGER PRIMARY KEY, size INTEGER, fault TEXT, reason TEXT)"
    )
    for prefix in (CAS_PREFIX, LEGACY_PREFIX):
        # The first string behind all that start with the prefix: its last character, one further.
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        # Not changed in place: a statement must not change the rows that another is reading.
        scratch.executemany(FOUND, _compared(scratch.execute(NAMED, [prefix, end]), store, stop))
    scratch.execute(APPLY)


def _compared(
    rows: Iterator[sqlite3.Row], store: BlobStore, stop: Stop
) -> Iterator[tuple[int, int | None, str | None, str | None]]:
    """What is to be changed in the rows: a size, or a fault and its reason."""
    listing: Iterator[BlobStat] | None = None
    stat: BlobStat | None = None
    for number, key, size in rows:
        stop.check()
        if listing is None:
            listing = _from(store, key, stop)
            stat = next(listing, None)
        while stat is not None and stat.key < key:
            stat = next(listing, None)
        if stat is None or stat.key != key:
            yield number, size, "object_missing", f"there is no object at {key}"
        elif size is None:
            yield number, stat.size, None, None
        elif stat.size != size:
            reason = f"{key} has {stat.size} bytes, the row says {size}"
            yield number, size, "object_size", reason


def _from(store: BlobStore, key: str, stop: Stop) -> Iterator[BlobStat]:
    """The listing from `key` on, and its neighbours below."""
    prefix = CAS_PREFIX if key.startswith(CAS_PREFIX) else LEGACY_PREFIX
    # A store lists behind a key; anything shorter than ours comes before it.
    after = key[:-1]
    return listed(store, prefix, stop, after=after if after.startswith(prefix) else "")


def prove_blobs(store: BlobStore, portion: Sequence[Load], stop: Stop) -> None:
    """Before rows on blobs are attached: what the store has there is believed only on proof.

    A planned attachment whose blob is not what it says gets the fault; the others get the type
    that their bytes have. Raises StoreError where the store cannot tell, Stopped.
    """
    planned = [each for load in portion for each in load.attachments]
    on_blobs = [each for each in planned if (each.record.s3_key or "").startswith(CAS_PREFIX)]
    digests = sorted({Digest.from_key(each.record.s3_key or "") for each in on_blobs})
    rows = Verification.objects.filter(digest__in=[digest.hex for digest in digests])
    verified = {Digest(row.digest): row for row in rows}
    prove = partial(_waited, store, verified, stop)
    with ThreadPoolExecutor(READS_AT_A_TIME) as reads:
        proofs = dict(zip(digests, reads.map(prove, digests), strict=True))
    verifications.record([proof.blob for proof in proofs.values() if isinstance(proof, Proven)])
    for each in on_blobs:
        proof = proofs[Digest.from_key(each.record.s3_key or "")]
        if isinstance(proof, StoreError):
            each.fault = proof
            continue
        told = stored_type(each.record.content_type or "", proof.head)
        filename = each.record.filename
        if filename is not None:
            filename = file_name(filename, told, "")
        each.record = replace(each.record, content_type=told, filename=filename)


def _waited(
    store: BlobStore, verified: Mapping[Digest, Verification], stop: Stop, digest: Digest
) -> Proven | Absent | Corrupt:
    """The proof, or why there is none; a store that is away is waited for. Raises Halt, Stopped."""
    stop.check()
    try:
        return Tries(stop, store).of(partial(_proof, store, verified.get(digest), digest))
    except (Absent, Corrupt) as fault:
        return fault


def _proof(store: BlobStore, verified: Verification | None, digest: Digest) -> Proven:
    """By a checksum that the store holds, by an earlier reading of this version, else by reading.

    Raises StoreError.
    """
    blob = store.stat(digest.key)
    found: Digest | None = blob.sha256
    if found is None and not (verified and _is_of(verified, blob)):
        found, blob = store.digest_of(digest.key)
    if found not in (None, digest):
        raise Corrupt(f"its bytes hash to {found}", key=digest.key)
    return Proven(blob, head_of(store, digest, blob.size))


def _is_of(verified: Verification, blob: BlobStat) -> bool:
    same = bool(blob.etag) and verified.etag == blob.etag
    return same and verified.verified_at >= blob.modified
