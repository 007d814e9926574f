"""The one place that decides a part's cover.

A part's first image becomes its cover; when the cover is deleted, the oldest remaining image
takes its place. Both hold for every way an attachment comes or goes (API, admin, cascade), so
they hang on the rows' own signals.
"""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models.signals import post_delete, post_save, pre_delete

from attachments.models import Attachment
from parts.models import Part


class NotACover(ValueError):
    """The attachment is no picture of this part."""


def set_cover(part: Part, attachment: Attachment | None) -> None:
    """Make `attachment` the cover of `part`, or remove the cover. Raises NotACover."""
    if attachment is not None and not (attachment.part_id == part.pk and attachment.has_picture):
        raise NotACover("the cover must be an image, or a link with one, attached to this part")
    part.cover_attachment = attachment
    part.save(update_fields=["cover_attachment", "updated_at"])


def _first_image_becomes_cover(instance: Attachment, created: bool, raw: bool, **_: Any) -> None:
    if created and not raw and instance.is_file and instance.has_picture:
        # Compare-and-set: of two first images that arrive at once, one wins and neither is lost.
        Part.objects.filter(pk=instance.part_id, cover_attachment=None).update(
            cover_attachment=instance.pk
        )


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


def connect() -> None:
    pre_delete.connect(_remember_whether_it_was_cover, sender=Attachment, dispatch_uid="cover-was")
    post_save.connect(_first_image_becomes_cover, sender=Attachment, dispatch_uid="cover-first")
    post_delete.connect(_next_image_becomes_cover, sender=Attachment, dispatch_uid="cover-next")
