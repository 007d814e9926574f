"""The only module that points a row at a blob, and that says whether one does.

A garbage collector that looks for references and then deletes can lose to an upload that, in
between, found the blob already there and relied on it. So whoever adds a reference holds the
digest's lock (`attachments.locks`), shared, from before it looks at the object until its row is
committed; the collector takes the same lock exclusively, looks for references once it has it,
and deletes while it holds it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from prometheus_client import Counter

from attachments.locks import Exclusion, Hold, excluding, hold_shared
from attachments.models import Attachment
from attachments.timestamps import create_with_times
from attachments.uploads import StagedUpload
from attachments.verifications import PROOFS
from cas.digest import Digest
from cas.storage import attachment_store
from cas.storage.base import Absent, BlobStore, Corrupt, Outcome, StoreError

if TYPE_CHECKING:
    from parts.models import Part

REFERENCE_COLUMNS: Final = (("attachments.Attachment", "s3_key"),)
"""Every column that can hold an object key. What is not listed here is garbage to the collector."""

ADOPTION_LOOKS: Final = 16
"""Objects that are looked at at a time while rows are adopted and their digests are held."""

DEDUPLICATED_UPLOADS = Counter(
    "cas_deduplicated_uploads_total", "Uploads whose blob was stored already."
)
DEDUPLICATED_BYTES = Counter(
    "cas_deduplicated_bytes_total", "Bytes that uploads did not have to store again."
)


class SourceGone(LookupError):
    """The attachment to copy was deleted meanwhile."""


def attach(part: Part, upload: StagedUpload, title: str) -> Attachment:
    """Store the upload's blob and a row that points at it, or neither row.

    Row first, so that a constraint speaks before bytes are sent; then bytes; then commit. If the
    transaction fails after that, the blob stays for the collector: it may already be shared.
    Raises StoreError; the row is rolled back.
    """
    digest = upload.staged.digest
    with transaction.atomic():
        row = Attachment.objects.create(
            part=part,
            attachment_type=upload.kind,
            title=title or upload.filename,
            s3_key=digest.key,
            filename=upload.filename,
            content_type=upload.content_type,
            file_size=upload.staged.size,
        )
        hold_shared([digest])
        outcome = attachment_store().create(upload.staged, PROOFS)
    if outcome is Outcome.PRESENT:
        DEDUPLICATED_UPLOADS.inc()
        DEDUPLICATED_BYTES.inc(upload.staged.size)
    return row


def attach_url(part: Part, url: str, title: str) -> Attachment:
    """A row for a link; it references no blob."""
    return Attachment.objects.create(
        part=part, attachment_type=Attachment.Kind.URL, url=url, title=title or url[:255]
    )


def copy(source_id: int, target: Part) -> Attachment:
    """A second row for the same blob or link, on another part. No bytes move.

    Raises SourceGone if the source row is no longer there.
    """
    with transaction.atomic():
        # The row lock keeps a migration from moving the source, and so a cleanup from deleting
        # its old object, while a copy that still carries the old key is on its way.
        source = Attachment.objects.select_for_update().filter(pk=source_id).first()
        if source is None:
            raise SourceGone
        if source.digest is not None:
            # While the source row is there the blob is; with the lock it stays until we commit.
            hold_shared([source.digest])
            if not Attachment.objects.filter(pk=source_id, s3_key=source.s3_key).exists():
                raise SourceGone
        return Attachment.objects.create(
            part=target,
            attachment_type=source.attachment_type,
            title=source.title,
            s3_key=source.s3_key,
            url=source.url,
            filename=source.filename,
            content_type=source.content_type,
            file_size=source.file_size,
        )


def repoint(attachment_id: int, old_key: str, digest: Digest, size: int, hold: Hold) -> bool:
    """Move a row from its old key to a blob that is stored already. Size in bytes.

    If `hold` stands, the caller has seen or stored the blob since it took it. False if the row no
    longer points at `old_key`: somebody else moved or deleted it, and nothing was changed. Raises
    Absent if the blob is not there, Corrupt if its size is wrong.
    """
    rows = Attachment.objects.filter(pk=attachment_id, s3_key=old_key)
    if hold.stands_for(digest):
        # A statement of its own is a transaction; if the connection, and with it the lock, went
        # this moment, the statement fails with it.
        return _point(rows, digest, size)
    with transaction.atomic():
        # The blob was stored when nothing referenced it. Only now, under the lock, is it certain
        # that a collection has not taken it since.
        hold_shared([digest])
        stat = attachment_store().stat(digest.key)
        if stat.size != size:
            raise Corrupt(f"{stat.size} bytes are stored, {size} were read", key=digest.key)
        return _point(rows, digest, size)


def _point(rows: QuerySet[Attachment], digest: Digest, size: int) -> bool:
    return rows.update(s3_key=digest.key, file_size=size, updated_at=timezone.now()) == 1


def adopt(rows: Sequence[Attachment]) -> dict[int, StoreError]:
    """Save rows that come with their keys, times and, where set, ids. No signal is sent.

    A row on a blob is saved only if the blob is stored in the row's size. Returns the others, by
    their position in `rows`, and what is wrong with each. Whoever adopts rows on older keys must
    keep a cleanup away (`LEGACY_LAYOUT`). Raises StoreError if the store cannot tell, and the
    database's errors; then nothing is saved.
    """
    with transaction.atomic():
        digests = sorted({row.digest for row in rows if row.digest is not None})
        hold_shared(digests)
        # As in repoint: only under the lock does what the store says hold until the commit.
        with ThreadPoolExecutor(ADOPTION_LOOKS) as looks:
            sizes = looks.map(partial(_size_or_absence, attachment_store()), digests)
            found = dict(zip(digests, sizes, strict=True))
        refused: dict[int, StoreError] = {}
        for position, row in enumerate(rows):
            if row.digest is not None and (fault := _misfit(row, found[row.digest])):
                refused[position] = fault
        create_with_times([row for at, row in enumerate(rows) if at not in refused])
    return refused


def _size_or_absence(store: BlobStore, digest: Digest) -> int | Absent:
    try:
        return store.stat(digest.key).size
    except Absent as absent:
        return absent


def _misfit(row: Attachment, found: int | Absent) -> StoreError | None:
    if isinstance(found, Absent):
        return found
    if found != row.file_size:
        said = f"{found} bytes are stored, the row says {row.file_size}"
        return Corrupt(said, key=row.s3_key or "")
    return None


@contextmanager
def collecting(store: BlobStore, digests: Collection[Digest]) -> Iterator[Exclusion]:
    """Of these digests, those that no row references and none can come to while the block runs."""
    with excluding(store, digests) as exclusion:
        # This look must come after the lock: an upload that committed before we got it is seen
        # here, one that comes later waits for us and then finds the blob gone and stores it.
        exclusion.removable -= referenced(exclusion.removable)
        yield exclusion


def referenced(digests: set[Digest]) -> set[Digest]:
    """Those of the digests that any registered column references."""
    keys = {digest.key: digest for digest in digests}
    found: set[Digest] = set()
    for label, column in REFERENCE_COLUMNS:
        rows: Any = apps.get_model(label)._default_manager
        named = rows.filter(**{f"{column}__in": list(keys)}).values_list(column, flat=True)
        found.update(keys[key] for key in named.distinct())
    return found
