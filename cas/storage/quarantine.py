"""Keeping wrong bytes that were found at a blob's key, before anything else is put there."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter

from cas.digest import Digest
from cas.storage.base import BlobStat, BlobStore, Changed

log = logging.getLogger(__name__)

QUARANTINE_PREFIX: Final = "quarantine/"

HEALED = Counter("cas_healed_blobs", "Blobs of wrong bytes that were replaced by the right ones.")


@dataclass(frozen=True, slots=True)
class Examined:
    """A blob that was read. `aside` is the key of the copy of wrong bytes, empty for right ones."""

    blob: BlobStat
    aside: str = ""


def examine(store: BlobStore, digest: Digest) -> Examined:
    """Read what is at the digest's key, and if the bytes are wrong copy them aside.

    The copy's name says what they were and what they are, so that one never replaces another.
    The object itself stays. Raises Absent, Changed, Corrupt, Unreachable.
    """
    found, blob = store.digest_of(digest.key)
    if found == digest:
        return Examined(blob)
    aside = f"{QUARANTINE_PREFIX}{digest}.{found}"
    # Only what was read: an upload may have healed the blob since, and what it kept aside under
    # this name must stay.
    store.copy(digest.key, aside, etag=blob.etag)
    if store.digest_of(aside)[0] != found:
        raise Changed("overwritten while it was copied aside", key=digest.key)
    return Examined(blob, aside)


def healed(key: str) -> None:
    """Count and log a blob whose wrong bytes were replaced."""
    HEALED.inc()
    log.warning("healed %s: other bytes were there", key)
