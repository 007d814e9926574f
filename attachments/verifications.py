"""The memory of which blobs were read and found to hash to their key."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import transaction
from django.utils import timezone

from attachments.models import Verification
from cas.digest import Digest
from cas.storage.base import BlobStat, Proofs


def holds(blob: BlobStat) -> bool:
    """Whether this version of the blob was verified, and nothing was written there since."""
    if not blob.etag:
        return False
    rows = Verification.objects.filter(digest=Digest.from_key(blob.key).hex, etag=blob.etag)
    return rows.filter(verified_at__gte=blob.modified).exists()


def record(blobs: Sequence[BlobStat]) -> None:
    """Remember that these versions were verified just now."""
    Verification.objects.bulk_create(
        [_row(blob) for blob in blobs],
        update_conflicts=True,
        unique_fields=["digest"],
        update_fields=["verified_at", "etag"],
    )


def record_at_commit(blob: BlobStat) -> None:
    """Remember it once the transaction at hand, if any, is over. A failure is logged: it costs
    another reading and no more."""

    # A function with a name: Django's message about a failure has it, and a partial has none.
    def record_blob() -> None:
        record([blob])

    transaction.on_commit(record_blob, robust=True)


PROOFS = Proofs(hold=holds, record=record_at_commit)
"""For a store that creates blobs."""


def _row(blob: BlobStat) -> Verification:
    # A store's clock that is ahead must not make what was just read look written to since.
    return Verification(
        digest=Digest.from_key(blob.key).hex,
        etag=blob.etag,
        verified_at=max(timezone.now(), blob.modified),
    )
