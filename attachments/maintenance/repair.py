"""Restores damaged blobs from the older layout's copies, while those still exist.

What is corrupt is moved aside, never destroyed: it may be all there is. With it out of the way a
fresh upload of the right bytes repairs the blob as well.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial

from attachments.locks import exclusive_lock, refuse_pending_deletion
from attachments.maintenance.retry import Retry, listed, query
from attachments.maintenance.runner import CancelToken
from attachments.models import LEGACY_PREFIX, Attachment
from attachments.object_keys import KeyKind
from attachments.references import referenced
from cas.digest import Digest
from cas.storage.base import Absent, BlobStat, BlobStore, Changed, Corrupt, Unreachable
from cas.storage.quarantine import examine

logger = logging.getLogger(__name__)


def repair(
    store: BlobStore,
    corrupt: Sequence[Digest],
    missing: Sequence[Digest],
    unreadable: Sequence[Digest],
    cancel: CancelToken,
) -> Iterator[tuple[str, str]]:
    """Restore all from old objects and move the corrupt aside, yielding each key and its action.

    The action is `quarantined` or `restored`. A corrupt blob is moved only when the object to
    restore it from has been read, or there is none; an unreadable one makes way only for such an
    object. What nothing but holds names is left where it is. The caller must hold
    `LEGACY_LAYOUT`, so that no cleanup runs meanwhile. Raises StoreError, RunAborted, Cancelled.
    """
    left = set(corrupt)
    for digest, source in _sources(store, {*corrupt, *missing, *unreadable}, cancel):
        tries = Retry(cancel, store)
        if digest in unreadable and not tries.call(partial(_make_way, store, digest)):
            continue
        if digest in left:
            left.remove(digest)
            if tries.call(partial(_quarantine, store, digest)):
                yield digest.key, "quarantined"
        if tries.call(partial(_restore, store, digest, source)):
            yield digest.key, "restored"
    for digest in sorted(left):
        if Retry(cancel, store).call(partial(_quarantine, store, digest)):
            yield digest.key, "quarantined"


def _sources(
    store: BlobStore, wanted: set[Digest], cancel: CancelToken
) -> Iterator[tuple[Digest, str]]:
    """Old objects that hold what is wanted, one for each digest.

    One pass over them; only those of a size that is wanted are read.
    """
    sizes = query(partial(_sizes, wanted), cancel)
    if not sizes:
        return
    for stat in listed(store, LEGACY_PREFIX, cancel):
        if stat.size not in sizes:
            continue
        try:
            digest, _ = Retry(cancel, store).call(partial(store.digest_of, stat.key))
        except (Absent, Changed, Corrupt, Unreachable) as error:
            logger.warning("%s cannot be used for a repair: %s", stat.key, error)
            continue
        if digest in wanted:
            wanted.remove(digest)
            yield digest, stat.key
            if not wanted:
                return


def _restore(store: BlobStore, digest: Digest, source: str) -> bool:
    """Put the blob back from the old object at `source`. Raises StoreError."""
    try:
        # A delete that an earlier repair sent before it was killed must not remove this again.
        refuse_pending_deletion([digest])
    except Unreachable as error:
        logger.error("%s was not restored: %s; run this again later", digest.key, error)
        return False
    try:
        store.ingest(source)
    except (Absent, Changed, Corrupt) as error:
        logger.error("%s was not restored from %s: %s", digest.key, source, error)
        return False
    if store.digest_of(digest.key)[0] != digest:
        logger.error("%s is still not sound after %s was copied", digest.key, source)
        return False
    logger.info("restored %s from %s", digest.key, source)
    return True


def _quarantine(store: BlobStore, digest: Digest) -> bool:
    """Move a corrupt blob aside. False if it is sound by now, or in use at this moment."""
    if _held(digest):
        logger.warning("%s is corrupt and stays: an older installation names it", digest.key)
        return False
    try:
        examined = examine(store, digest)
        if not examined.aside:
            return False
        if not _remove(store, digest, examined.blob):
            logger.warning("%s is in use and was not moved aside; run this again", digest.key)
            return False
    except Absent:
        return False
    except Changed as error:
        logger.warning("%s was not moved aside; run this again: %s", digest.key, error)
        return False
    logger.warning(
        "moved the corrupt %s to %s; shown by %s", digest.key, examined.aside, _shown_by(digest)
    )
    return True


def _make_way(store: BlobStore, digest: Digest) -> bool:
    """Delete a blob that cannot be read; its bytes are at hand elsewhere, and cannot be kept here.

    False if it can be read by now, or is in use at this moment.
    """
    try:
        before = store.stat(digest.key)
        store.digest_of(digest.key)
    except Absent:
        return True
    except Unreachable as error:
        logger.warning("%s cannot be read, and makes way: %s", digest.key, error)
        return _remove(store, digest, before)
    return False


def _remove(store: BlobStore, digest: Digest, seen: BlobStat) -> bool:
    """Delete a blob if it is still the version that was seen. Raises StoreError.

    An upload of the right bytes would find this blob and rely on it; while the digest's lock is
    ours, none can, and one that healed it since shows by another etag.
    """
    with exclusive_lock(store, [digest]) as lock:
        if digest not in lock.removable or _held(digest):
            return False
        if store.stat(digest.key).etag != seen.etag:
            return False
        outcomes = dict(lock.remove_many([digest.key]))
    if error := outcomes[digest.key]:
        raise error
    return True


def _held(digest: Digest) -> bool:
    """Whether holds are all that names the blob: it is not ours to move."""
    return bool(referenced([digest])) and not referenced([digest], KeyKind.REFERENCE)


def _sizes(digests: set[Digest]) -> set[int]:
    rows = Attachment.objects.referencing(digests).values_list("file_size", flat=True)
    return {size for size in rows.distinct() if size is not None}


def _shown_by(digest: Digest) -> str:
    """The parts that show a blob, for a person who is to upload it again."""
    rows = Attachment.objects.referencing([digest]).order_by("pk")
    named = rows.values_list("part__key", "pk")[:10]
    return ", ".join(f"part {part} (row {pk})" for part, pk in named) or "no row"
