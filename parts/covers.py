"""How attachments come to a part, and what becomes of its cover when they come and go.

A part's first image becomes its cover; when the cover is deleted, the oldest remaining image takes
its place, and a cover whose bytes turn out to be no picture is none any more. Whoever attaches
something to a part calls `attach`, `attach_url` or `copy` here. Deletions come from everywhere
(API, admin, cascades), so they are followed by the rows' signals. An import brings its covers along
and decides by itself.

Locks are taken in one order: the blob's digest, then the part, then its attachments. While bytes
are being stored no part is locked: the cover is decided after them, in the same transaction.
"""

from __future__ import annotations

import logging
from typing import Any

from django.db import transaction
from django.db.models.signals import post_delete, pre_delete

from attachments import references
from attachments.models import Attachment
from attachments.uploads import StagedUpload
from parts.models import Part

logger = logging.getLogger(__name__)


class NotACover(ValueError):
    """The attachment is no picture of this part."""


def set_cover(part: Part, attachment: Attachment | None) -> None:
    """Make `attachment` the cover of `part`, or remove the cover. Raises NotACover."""
    if attachment is not None and not (attachment.part_id == part.pk and attachment.has_picture):
        raise NotACover("the cover must be an image, or a link with one, attached to this part")
    part.cover_attachment = attachment
    part.save(update_fields=["cover_attachment", "updated_at"])


def attach(part: Part, upload: StagedUpload, title: str) -> Attachment:
    """Store an upload and attach it to a part, all of it or nothing. Raises StoreError."""
    with transaction.atomic():
        row = references.attach(part.pk, upload, title)
        row.part = part
        first_image_becomes_cover(row)
    return row


def attach_url(part: Part, url: str, title: str) -> Attachment:
    """Attach a link to a part."""
    row = references.attach_url(part.pk, url, title)
    row.part = part
    return row


def copy(source_id: int, target: Part) -> Attachment:
    """Attach a stored blob, or a link, to another part. Raises SourceGone."""
    with transaction.atomic():
        row = references.copy(source_id, target.pk)
        row.part = target
        first_image_becomes_cover(row)
    return row


def first_image_becomes_cover(row: Attachment) -> None:
    """Make a row that was just added its part's cover, if that has none and it is an image."""
    if row.is_file and row.has_picture:
        # Compare-and-set: of two first images that arrive at once, one wins and neither is lost.
        Part.objects.filter(pk=row.part_id, cover_attachment=None).update(cover_attachment=row.pk)


def _remember_whether_it_was_cover(instance: Attachment, **_: Any) -> None:
    # The foreign key is set to null before post_delete is sent; afterwards nobody could tell.
    instance.__dict__["was_cover"] = Part.objects.filter(cover_attachment=instance.pk).exists()


def _next_image_becomes_cover(instance: Attachment, origin: Any, **_: Any) -> None:
    if not instance.__dict__.pop("was_cover", False) or _deletes_parts(origin):
        return
    with transaction.atomic():
        # The part's row lock: a second deletion cannot take the image that is chosen here.
        part = Part.objects.select_for_update().filter(pk=instance.part_id).first()
        if part is None or part.cover_attachment_id is not None:
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
    """Whether the attachment is a cover; then its part is locked, which comes before the row."""
    parts = Part.objects.select_for_update(no_key=True).filter(cover_attachment=attachment_id)
    return bool(parts.values_list("pk", flat=True))


def _a_cover_is_a_picture(instance: Attachment, **_: Any) -> None:
    if not instance.has_picture:
        logger.warning("the cover of part %d is no picture: row %d", instance.part_id, instance.pk)
        Part.objects.filter(cover_attachment=instance.pk).update(cover_attachment=None)


def connect() -> None:
    pre_delete.connect(_remember_whether_it_was_cover, sender=Attachment, dispatch_uid="cover-was")
    post_delete.connect(_next_image_becomes_cover, sender=Attachment, dispatch_uid="cover-next")
    references.before_type_is_set.connect(_covered_parts_are_locked, dispatch_uid="cover-locked")
    references.type_was_set.connect(_a_cover_is_a_picture, dispatch_uid="cover-picture")
