"""The only module that points a row at a blob, and that says whether one does.

A collector that looks for references and then deletes could delete a blob that an upload has
found in between and relies on. So whoever adds a reference holds the digest's lock, shared, from
before it looks at the object until its row is committed; the collector holds it exclusively while
it looks for references and deletes. `attachments.locks` has the protocol, step by step.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

from django.apps import apps
from django.db import transaction
from django.db.models import Case, F, Model, Q, QuerySet, Value, When
from django.db.models.functions import Lower
from django.db.models.lookups import In
from django.dispatch import Signal
from django.utils import timezone
from prometheus_client import Counter

from attachments.locks import ExclusiveLock, SharedLock, exclusive_lock, lock_shared, shared_lock
from attachments.models import LEGACY_PREFIX, Attachment
from attachments.object_keys import KeyKind, ObjectKeyField
from attachments.timestamps import create_with_times
from attachments.uploads import StagedUpload
from attachments.verifications import PROOFS
from cas.content_types import HEAD, OPAQUE_TYPE, PDF, TOLD_BY_BYTES, identify, may_be_pdf, sniff
from cas.digest import Digest
from cas.storage import attachment_store
from cas.storage.base import (
    Absent,
    BlobStore,
    ByteRange,
    Changed,
    Corrupt,
    Outcome,
    StoreError,
    Versioning,
)
from cas.storage.staging import staged_bytes

logger = logging.getLogger(__name__)

TEST_BYTES: Final = b"Inventory writes this object to see whether blobs can be stored here.\n"
TEST_OBJECT: Final = Digest.of(TEST_BYTES)
"""Of an object of our own that no row references, and that is nevertheless never collected."""

IMPORT_REQUESTS: Final = 16
"""Requests at a time for the sizes of objects, while imported rows are attached under the locks."""

DEDUPLICATED_UPLOADS = Counter(
    "cas_deduplicated_uploads_total", "Uploads whose blob was stored already."
)
DEDUPLICATED_BYTES = Counter(
    "cas_deduplicated_bytes_total", "Bytes that uploads did not have to store again."
)


before_type_is_set = Signal()
"""Sent with an `attachment_id`, in the transaction that is about to set the row's content type.

Who refers to pictures locks its own rows now, as they are locked before attachments, and returns
whether there are any. If so, `type_was_set` follows, with the row as `instance`.
"""

type_was_set = Signal()


class KeyColumn(NamedTuple):
    """A column that can name an object; see `ObjectKeyField`."""

    model: type[Model]
    field: ObjectKeyField

    @property
    def name(self) -> str:
        return self.field.attname

    def rows(self) -> QuerySet[Any]:
        """The rows that name an object: without those of holds that were released."""
        # Not the default manager, which may leave rows out.
        rows = self.model._base_manager.filter(**{f"{self.name}__isnull": False})
        return rows if self.field.active is None else rows.filter(self.field.active)


def key_columns(*kinds: KeyKind) -> list[KeyColumn]:
    """Every column of these kinds, or of any, that can name an object, found from the models.

    What none of them names is unreferenced, and will be collected.
    """
    return [
        KeyColumn(model, field)
        for model in apps.get_models(include_auto_created=True)
        for field in model._meta.concrete_fields
        if isinstance(field, ObjectKeyField) and (not kinds or field.kind in kinds)
    ]


class SourceGone(LookupError):
    """The attachment to copy was deleted meanwhile."""


def attach(part_id: int, upload: StagedUpload, title: str) -> Attachment:
    """Store the upload's blob and a row that points at it, or neither row.

    Row first, so that a constraint speaks before bytes are sent; then bytes; then commit. If the
    transaction fails after that, the blob stays for the collector: it may already be shared.
    Raises StoreError; the row is rolled back.
    """
    digest = upload.staged.digest
    with transaction.atomic():
        row = Attachment.objects.create(
            part_id=part_id,
            attachment_type=upload.kind,
            title=title or upload.filename,
            s3_key=digest.key,
            filename=upload.filename,
            content_type=upload.content_type,
            file_size=upload.staged.size,
        )
        lock_shared([digest])
        outcome = attachment_store().create(upload.staged, PROOFS)
    if outcome is Outcome.PRESENT:
        DEDUPLICATED_UPLOADS.inc()
        DEDUPLICATED_BYTES.inc(upload.staged.size)
    return row


def attach_url(part_id: int, url: str, title: str) -> Attachment:
    """A row for a link; it references no blob."""
    return Attachment.objects.create(
        part_id=part_id, attachment_type=Attachment.Kind.URL, url=url, title=title or url[:255]
    )


def copy(source_id: int, part_id: int) -> Attachment:
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
            lock_shared([source.digest])
            if not Attachment.objects.filter(pk=source_id, s3_key=source.s3_key).exists():
                raise SourceGone
        return Attachment.objects.create(
            part_id=part_id,
            attachment_type=source.attachment_type,
            title=source.title,
            s3_key=source.s3_key,
            url=source.url,
            filename=source.filename,
            content_type=source.content_type,
            file_size=source.file_size,
        )


def repoint(
    attachment_id: int,
    old_key: str,
    digest: Digest,
    size: int,
    lock: SharedLock,
    head: bytes | None = None,
) -> bool:
    """Move a row from its old key to a blob that is stored already. Size in bytes.

    `head` is what the blob begins with, which tells its type; None if it was not read. When the row
    was last updated by a person stays as it is. A cover without a picture is none any more.
    If `lock` is held, the caller has seen or stored the blob since it took it. False if the row no
    longer points at `old_key`: somebody else moved or deleted it, and nothing was changed. Raises
    Absent if the blob is not there, Corrupt if its size is wrong.
    """
    if lock.is_held(digest):
        # If the connection, and with it the lock, went this moment, the statement fails with it.
        return _point(attachment_id, old_key, digest, size, head)
    with transaction.atomic():
        # The blob was stored when nothing referenced it. Only now, under the lock, is it certain
        # that a collection has not taken it since.
        lock_shared([digest])
        stat = attachment_store().stat(digest.key)
        if stat.size != size:
            raise Corrupt(f"{stat.size} bytes are stored, {size} were read", key=digest.key)
        return _point(attachment_id, old_key, digest, size, head)


def head_of(store: BlobStore, digest: Digest, size: int) -> bytes:
    """What a blob begins with, as far as tells its type. Raises StoreError."""
    if size == 0:
        return b""
    with store.read(digest.key, ByteRange(0, min(size, HEAD))) as stream:
        return stream.read(HEAD)


def set_size(attachment_id: int, key: str, old_size: int | None, size: int) -> bool:
    """Correct a row's size in bytes. False if the row has come to be another; nothing changed."""
    rows = Attachment.objects.filter(pk=attachment_id, s3_key=key, file_size=old_size)
    changes = {"file_size": size, "updated_at": timezone.now(), "version": F("version") + 1}
    return rows.update(**changes) == 1


def point_at_legacy(attachment_id: int, old_key: str, key: str, size: int) -> bool:
    """Have a row name another object of the older layout, which is there in this size.

    Whoever does so must keep a cleanup away (`LEGACY_LAYOUT`). False as of `repoint`.
    """
    if not key.startswith(LEGACY_PREFIX):
        raise ValueError("only keys of the older layout are pointed at without a digest")
    rows = Attachment.objects.filter(pk=attachment_id, s3_key=old_key)
    changes = {"s3_key": key, "updated_at": timezone.now(), "version": F("version") + 1}
    return rows.update(file_size=size, **changes) == 1


def replace(attachment_id: int, old_key: str, upload: StagedUpload) -> bool:
    """Store the upload's blob and have a row point at it in place of its old key, or neither.

    In the order of `attach`, and for its reasons. False as of `repoint`. Raises StoreError.
    """
    digest = upload.staged.digest
    with transaction.atomic():
        row = Attachment.objects.select_for_update().filter(pk=attachment_id, s3_key=old_key)
        changed = row.update(
            s3_key=digest.key,
            file_size=upload.staged.size,
            content_type=upload.content_type,
            updated_at=timezone.now(),
            version=F("version") + 1,
        )
        if not changed:
            return False
        lock_shared([digest])
        attachment_store().create(upload.staged)
    return True


def _point(attachment_id: int, old_key: str, digest: Digest, size: int, head: bytes | None) -> bool:
    rows = Attachment.objects.filter(pk=attachment_id, s3_key=old_key)
    changes: dict[str, Any] = {
        "s3_key": digest.key,
        "file_size": size,
        "migrated_at": timezone.now(),
    }
    if head is not None:
        changes["content_type"] = _stored_type(head)
    if head is None or ((found := sniff(head)) and found.max_pixels):
        return rows.update(**changes) == 1
    with transaction.atomic():
        answers = before_type_is_set.send(Attachment, attachment_id=attachment_id)
        if not rows.update(**changes):
            return False
        if any(refers for _receiver, refers in answers):
            row = Attachment.objects.get(pk=attachment_id)
            type_was_set.send(Attachment, instance=row)
    return True


def _stored_type(head: bytes) -> Any:
    """What `cas.content_types.stored_type` makes of the type that a row has."""
    if told := identify(head):
        return told
    declared = Lower("content_type")
    disproved = Q(content_type__isnull=True) | Q(In(declared, list(TOLD_BY_BYTES)))
    pdf = Q(In(declared, [PDF, "application/x-pdf"]))
    cases = [When(pdf, then=Value(PDF))] if may_be_pdf(head) else []
    return Case(*cases, When(disproved, then=Value(OPAQUE_TYPE)), default=F("content_type"))


def attach_imported(rows: Sequence[Attachment]) -> dict[int, StoreError]:
    """Save rows that come with their keys, times and, where set, ids. No signal is sent.

    A row on a blob is saved only if the blob is stored in the row's size. Returns the others, by
    their position in `rows`, and what is wrong with each. Whoever brings rows on older keys must
    keep a cleanup away (`LEGACY_LAYOUT`). Raises StoreError if the store cannot tell, and the
    database's errors; then nothing is saved.
    """
    with transaction.atomic():
        digests = sorted({row.digest for row in rows if row.digest is not None})
        lock_shared(digests)
        # As in repoint: only under the lock does what the store says hold until the commit.
        with ThreadPoolExecutor(IMPORT_REQUESTS) as requests:
            sizes = requests.map(partial(_size_or_absence, attachment_store()), digests)
            found = dict(zip(digests, sizes, strict=True))
        refused: dict[int, StoreError] = {}
        for position, row in enumerate(rows):
            if row.digest is not None and (fault := _fault(row, found[row.digest])):
                refused[position] = fault
        create_with_times([row for at, row in enumerate(rows) if at not in refused])
    return refused


def _size_or_absence(store: BlobStore, digest: Digest) -> int | Absent:
    try:
        return store.stat(digest.key).size
    except Absent as absent:
        return absent


def _fault(row: Attachment, found: int | Absent) -> StoreError | None:
    if isinstance(found, Absent):
        return found
    if found != row.file_size:
        said = f"{found} bytes are stored, the row says {row.file_size}"
        return Corrupt(said, key=row.s3_key or "")
    return None


@contextmanager
def collecting(store: BlobStore, digests: Collection[Digest]) -> Iterator[ExclusiveLock]:
    """Of these digests, those that no row references or holds, nor can while the block runs."""
    with exclusive_lock(store, digests) as lock:
        # After the lock was taken: an upload that committed before is seen here, one that comes
        # later waits for the lock, and then finds the blob gone and stores it.
        lock.removable -= referenced(lock.removable)
        yield lock


def referenced(digests: Collection[Digest], *kinds: KeyKind) -> set[Digest]:
    """Those of the digests that a row names, in a column of these kinds or of any."""
    keys = {digest.key: digest for digest in digests}
    return {keys[key] for key in named(keys, *kinds)}


def named(keys: Collection[str], *kinds: KeyKind) -> set[str]:
    """Those of the keys that a row names, in a column of these kinds or of any."""
    return {
        key
        for column in key_columns(*kinds)
        for key in _keys(column.rows().filter(**{f"{column.name}__in": list(keys)}), column)
    }


def any_named(*kinds: KeyKind) -> bool:
    """Whether any row names an object, in a column of these kinds or of any."""
    return any(column.rows().exists() for column in key_columns(*kinds))


def sources_recorded() -> bool:
    """Whether any row of an older installation was ever recorded."""
    return any(column.model._base_manager.exists() for column in _releasable())


def rows_migrated() -> bool:
    """Whether any row of this installation was moved from an older key to its blob."""
    return Attachment.objects.filter(migrated_at__isnull=False).exists()


def ever_named(keys: Collection[str]) -> set[str]:
    """Those of the keys that a recorded row of an older installation named, released or not."""
    return {
        key
        for column in _releasable()
        for key in _keys(
            column.model._base_manager.filter(**{f"{column.name}__in": list(keys)}), column
        )
    }


def _releasable() -> list[KeyColumn]:
    """The columns of source rows: holds whose row stays, as a record, when it is released."""
    return [column for column in key_columns(KeyKind.HOLD) if column.field.active is not None]


def _keys(rows: QuerySet[Any], column: KeyColumn) -> QuerySet[Any]:
    return rows.order_by().values_list(column.name, flat=True).distinct()


@contextmanager
def stored_test_object(store: BlobStore, *, fresh: bool = False) -> Iterator[Digest]:
    """A small blob that exists while the block runs; with `fresh` it was written just now.

    It is below `cas/`, because rights may depend on the prefix, and locked against a collection.
    Its bytes are always the same, so that runs which may not delete it leave one object in all.
    Another run may remove it meanwhile: Absent from within the block becomes Changed, which is
    worth another try. Raises StoreError if the store did not keep it, and with `fresh` Denied if it
    may not be deleted.
    """
    with shared_lock(TEST_OBJECT):
        with staged_bytes(store, TEST_BYTES) as staged:
            if fresh:
                store.remove(TEST_OBJECT.key)
            store.create(staged)
        try:
            yield TEST_OBJECT
        except Absent as error:
            raise Changed("another run has removed the test object", key=TEST_OBJECT.key) from error
        finally:
            _remove_test_object(store)


def _remove_test_object(store: BlobStore) -> None:
    """Where a deletion only adds to an object's versions it is left for the next run."""
    try:
        if store.versioning() not in (Versioning.KEPT, Versioning.LOCKED):
            store.remove(TEST_OBJECT.key)
    except StoreError as error:
        logger.warning("the test object %s stays for the next run: %s", TEST_OBJECT.key, error)
