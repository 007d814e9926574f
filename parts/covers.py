"""How attachments come to a part, and what becomes of its cover when they come and go.

A part's first image becomes its cover; when the cover is deleted, the oldest remaining image takes
its place, and a cover whose bytes turn out to be no picture is none any more. Whoever attaches
something to a part calls `attach`, `attach_url` or `copy` here. Deletions come from everywhere
(API, admin, cascades), so they are followed by the rows' signals. An import brings its covers along
and decides by itself.

Locks are taken in the order that `attachments.locks` has. While bytes are being stored no part
is locked: the cover is decided after them, in the same transaction.
"""

from __future__ import annotations

import logging
from typing import Any

from django.db import transaction
from django.db.models import F
from django.db.models.signals import post_delete, pre_delete

from attachments import references
from attachments.locks import lock_rows, retried
from attachments.models import Attachment, raise_versions
from attachments.uploads import StagedUpload
from parts.models import Part

logger = logging.getLogger(__name__)


class NotACover(ValueError):
    """The attachment is no picture of this part."""


@retried
def set_cover(part_id: int, attachment_id: int | None) -> Attachment | None:
    """Make an attachment the cover of its part, or remove the cover.

    Raises Part.DoesNotExist, Attachment.DoesNotExist if the part has none with this id, NotACover.
    """
    with transaction.atomic():
        part = Part.objects.select_for_update(no_key=True).get(pk=part_id)
        chosen = None
        if attachment_id is not None:
            # Locked as well: a migration may find out that its bytes are no picture.
            rows = Attachment.objects.select_for_update(no_key=True)
            chosen = rows.get(pk=attachment_id, part=part)
            if not chosen.has_picture:
                raise NotACover("the cover must be an image, or a link with one, of this part")
        if part.cover_attachment_id != attachment_id:
            part.cover_attachment = chosen
            part.save(update_fields=["cover_attachment", "updated_at"])
    return chosen


@retried
def attach(part: Part, upload: StagedUpload, title: str) -> Attachment:
    """Store an upload and attach it to a part, all of it or nothing.

    Raises StoreError, Part.DoesNotExist if the part was deleted meanwhile.
    """
    with transaction.atomic():
        row = references.attach(part.pk, upload, title)
        row.part = part
        first_image_becomes_cover(row)
    return row


@retried
def attach_url(part: Part, url: str, title: str) -> Attachment:
    """Attach a link to a part. Raises Part.DoesNotExist if it was deleted meanwhile."""
    with transaction.atomic():
        row = references.attach_url(part.pk, url, title)
        row.part = part
        first_image_becomes_cover(row)
    return row


@retried
def copy(source_id: int, target: Part, *, as_cover: bool = False) -> Attachment:
    """Attach a stored blob, or a link, to another part, with `as_cover` as its cover.

    Raises SourceGone, NotACover, Part.DoesNotExist if the target was deleted meanwhile.
    """
    with transaction.atomic():
        # Both parts before the row, which its own part's writers lock after that.
        lock_rows(Part, {target.pk, *_parts_of(source_id)})
        row = references.copy(source_id, target.pk)
        row.part = target
        first_image_becomes_cover(row)
        if as_cover:
            set_cover(target.pk, row.pk)
    return row


def _parts_of(attachment_id: int) -> list[int]:
    return list(Attachment.objects.filter(pk=attachment_id).values_list("part_id", flat=True))


@transaction.atomic
def first_image_becomes_cover(row: Attachment) -> None:
    """Make a row that was just added its part's cover, if that has none and it is an image.

    Raises Part.DoesNotExist if the part was deleted meanwhile.
    """
    # Whoever deletes the part waits for this, and then sees the row.
    if not lock_rows(Part, [row.part_id]):
        raise Part.DoesNotExist(f"part {row.part_id} was deleted meanwhile")
    if row.is_file and row.has_picture:
        # Compare-and-set: of two first images that arrive at once, one wins and neither is lost.
        first = Part.objects.filter(pk=row.part_id, cover_attachment=None)
        first.update(cover_attachment=row.pk, version=F("version") + 1)


@retried
def delete(row: Attachment) -> None:
    """Delete an attachment. Its part is locked before it, as everywhere."""
    with transaction.atomic():
        lock_rows(Part, [row.part_id])
        row.delete()


def _remember_whether_it_was_cover(instance: Attachment, origin: Any, **_: Any) -> None:
    if _deletes_parts(origin):
        return
    lock_rows(Part, [instance.part_id])
    # The foreign key is set to null before post_delete is sent; afterwards nobody could tell.
    instance.__dict__["was_cover"] = Part.objects.filter(cover_attachment=instance.pk).exists()


def _next_image_becomes_cover(instance: Attachment, **_: Any) -> None:
    if not instance.__dict__.pop("was_cover", False):
        return
    with transaction.atomic():
        # The part's row lock: a second deletion cannot take the image that is chosen here.
        part = Part.objects.select_for_update(no_key=True).filter(pk=instance.part_id).first()
        if part is None:
            return
        # Without its cover, which the foreign key has set to null, it is another already.
        raise_versions(Part.objects.filter(pk=part.pk))
        if part.cover_attachment_id is not None:
            return
        pictures = Attachment.objects.pictures().filter(part_id=part.pk)
        images = pictures.filter(attachment_type=Attachment.Kind.IMAGE).exclude(pk=instance.pk)
        oldest = images.order_by("created_at", "pk").first()
        if oldest is not None:
            Part.objects.filter(pk=part.pk).update(cover_attachment=oldest.pk)


def _deletes_parts(origin: Any) -> bool:
    """Whether the attachment goes because its part does."""
    return isinstance(origin, Part) or getattr(origin, "model", None) is Part


def _covered_parts_are_locked(attachment_id: int, **_: Any) -> bool:
    """Whether the attachment is a cover. Its part is locked, so that it cannot become one now."""
    parts = Part.objects.select_for_update(no_key=True, of=("self",))
    covers = parts.filter(attachments=attachment_id).values_list("cover_attachment_id", flat=True)
    return attachment_id in list(covers)


def _a_cover_is_a_picture(instance: Attachment, **_: Any) -> None:
    if not instance.has_picture:
        logger.warning("the cover of part %d is no picture: row %d", instance.part_id, instance.pk)
        parts = Part.objects.filter(cover_attachment=instance.pk)
        parts.update(cover_attachment=None, version=F("version") + 1)


def connect() -> None:
    pre_delete.connect(_remember_whether_it_was_cover, sender=Attachment, dispatch_uid="cover-was")
    post_delete.connect(_next_image_becomes_cover, sender=Attachment, dispatch_uid="cover-next")
    references.before_type_is_set.connect(_covered_parts_are_locked, dispatch_uid="cover-locked")
    references.type_was_set.connect(_a_cover_is_a_picture, dispatch_uid="cover-picture")
