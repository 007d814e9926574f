"""Proving the bytes found at a blob's key, and keeping wrong ones before they are replaced."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter

from cas.digest import Digest
from cas.storage.base import BlobStat, BlobStore, Changed, Outcome, Proofs

log = logging.getLogger(__name__)

QUARANTINE_PREFIX: Final = "quarantine/"
NOT_MOVED_ASIDE: Final = (
    "wrong bytes cannot be moved aside, so they are neither repaired nor healed"
)
"""What it costs if nothing can be written there."""

ATTEMPTS: Final = 5
"""Times to begin again when others write the same key at the same moment."""

HEALED = Counter("cas_healed_blobs", "Blobs of wrong bytes that were replaced by the right ones.")


@dataclass(frozen=True, slots=True)
class Examined:
    """A blob that was read. `aside` is the key of the copy of wrong bytes, empty for right ones."""

    blob: BlobStat
    aside: str = ""


def examine(store: BlobStore, digest: Digest) -> Examined:
    """Read what is at the digest's key, and if the bytes are wrong copy them aside.

    The copy is named by the digest they should have and the one they have, so that no copy
    replaces another. The object itself stays. Raises Absent, Changed, Corrupt, Unreachable.
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


def is_sound(
    store: BlobStore, digest: Digest, found: BlobStat, proven: bool | None, proofs: Proofs
) -> bool:
    """Whether the blob `found` at the digest's key has the right bytes; wrong ones are kept aside.

    `proven` is what the store's checksums prove, None if nothing. Where neither they nor `proofs`
    prove the bytes right, the blob is read. Raises what `examine` raises.
    """
    if proven or (proven is None and proofs.hold(found)):
        return True
    examined = examine(store, digest)
    if examined.aside:
        return False
    proofs.record(examined.blob)
    return True


def healed(key: str) -> Outcome:
    """Count and log a blob whose wrong bytes were replaced."""
    HEALED.inc()
    log.warning("healed %s: other bytes were there", key)
    return Outcome.HEALED
