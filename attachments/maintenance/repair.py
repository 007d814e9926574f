"""Restores damaged blobs from the older layout's copies, while those still exist.

What is corrupt is moved aside, never destroyed: it may be all there is. With it out of the way a
fresh upload of the right bytes repairs the blob as well.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from typing import Final

from attachments import references
from attachments.models import LEGACY_PREFIX, Attachment
from cas.digest import CHUNK, Digest, Hasher
from cas.storage.base import Absent, BlobStore, Changed, Corrupt

logger = logging.getLogger(__name__)

QUARANTINE_PREFIX: Final = "quarantine/"


def repair(
    store: BlobStore, corrupt: Sequence[Digest], wanted: Sequence[Digest]
) -> Iterator[tuple[str, str]]:
    """Move the corrupt aside and restore what is wanted, yielding each key and its action.

    The action is `quarantined` or `restored`. Raises StoreError.
    """
    for digest in corrupt:
        if _quarantine(store, digest):
            yield digest.key, "quarantined"
    for digest in _restored(store, set(wanted)):
        yield digest.key, "restored"


def _quarantine(store: BlobStore, digest: Digest) -> bool:
    """Move a corrupt blob aside. False if it is sound by now, or in use at this moment."""
    aside = QUARANTINE_PREFIX + digest.hex
    path = store.staging_dir / f"quarantine-{uuid.uuid4().hex}"
    hasher = Hasher()
    try:
        before = store.stat(digest.key)
        with store.read(digest.key) as source, path.open("xb") as copy:
            while chunk := source.read(CHUNK):
                hasher.update(chunk)
                copy.write(chunk)
        if hasher.digest == digest:
            return False
        store.put_legacy(aside, path)
    except Absent:
        return False
    finally:
        path.unlink(missing_ok=True)
    # An upload of the right bytes would find this blob and rely on it; while the digest's lock
    # is ours, none can, and one that healed it since shows by another etag.
    with references.excluding([digest]) as held:
        if digest not in held or store.stat(digest.key).etag != before.etag:
            logger.warning("%s is in use and was not moved aside; run this again", digest.key)
            return False
        store.remove(digest.key)
    logger.warning("moved the corrupt %s to %s; shown by %s", digest.key, aside, _shown_by(digest))
    return True


def _restored(store: BlobStore, wanted: set[Digest]) -> Iterator[Digest]:
    """One pass over the old objects; only those of a size that is wanted are read."""
    sizes = _sizes(wanted)
    if not sizes:
        return
    for stat in store.scan(LEGACY_PREFIX):
        if stat.size not in sizes:
            continue
        try:
            digest, _ = store.digest_of(stat.key)
            if digest not in wanted:
                continue
            store.ingest(stat.key)
        except (Absent, Changed, Corrupt) as error:
            logger.warning("%s is of no use for a repair: %s", stat.key, error)
            continue
        if store.digest_of(digest.key)[0] != digest:
            logger.error("%s is still not sound after %s was copied", digest.key, stat.key)
            continue
        logger.info("restored %s from %s", digest.key, stat.key)
        wanted.remove(digest)
        yield digest
        if not wanted:
            return


def _sizes(digests: set[Digest]) -> set[int]:
    rows = Attachment.objects.referencing(digests).values_list("file_size", flat=True)
    return {size for size in rows.distinct() if size is not None}


def _shown_by(digest: Digest) -> str:
    """The parts that show a blob, for a person who is to upload it again."""
    rows = Attachment.objects.referencing([digest]).order_by("pk")
    named = rows.values_list("part__key", "pk")[:10]
    return ", ".join(f"part {part} (row {pk})" for part, pk in named) or "no row"
