"""Merging tags: one name for what was written in several ways."""

from __future__ import annotations

from collections.abc import Iterable

from django.db import transaction

from parts.models import Part, Tag


def merge(kept: Tag, merged: Iterable[Tag]) -> int:
    """Put `kept` on every part that has one of `merged`, then delete those.

    Returns how many parts had one. The parts' search text follows, as with any change of tags.
    Raises Tag.DoesNotExist if `kept` was deleted meanwhile.
    """
    ids = {tag.pk for tag in merged} - {kept.pk}
    with transaction.atomic():
        # Locked, so that nobody puts a tag on another part between our look and its deletion.
        rows = Tag.objects.select_for_update().filter(pk__in={*ids, kept.pk}).order_by("pk")
        tags = {tag.pk: tag for tag in rows}
        if tags.pop(kept.pk, None) is None:
            raise Tag.DoesNotExist
        moved = set(Part.objects.filter(tags__in=tags).values_list("pk", flat=True))
        kept.parts.add(*moved)
        for tag in tags.values():
            tag.delete()
    return len(moved)
