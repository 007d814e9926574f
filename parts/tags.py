"""A part's tags in their order, and merging: one name for what was written in several ways.

The order of a part's tags is the one in which they were put on it: that of `part_tags.id`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from django.db import transaction
from django.db.models import Prefetch

from parts.models import Part, Tag

ORDER: Final = f"{Part.tags.through.__name__}+__id"
"""The order of a part's tags, for a query of tags that is joined to it."""


def prefetched() -> Prefetch[Any]:
    """For `prefetch_related`: tags in the order that `names_in_order` keeps."""
    return Prefetch("tags", Tag.objects.order_by(ORDER))


def names_in_order(tags: Any) -> list[str]:
    """The names of a part's tags, given `part.tags`; no query where they were prefetched."""
    fetched = getattr(tags.instance, "_prefetched_objects_cache", {})
    found = tags.all() if "tags" in fetched else tags.order_by(ORDER)
    return [tag.name for tag in found]


def set_tags(part: Part, names: Sequence[str]) -> None:
    """Give the part these tags, in this order; a name that is new becomes a tag."""
    tags = [Tag.objects.get_or_create(name=name)[0] for name in dict.fromkeys(names)]
    part.tags.set(tags)
    through = part.tags.through
    rows = through._default_manager.filter(part_id=part.pk).order_by("id")
    if list(rows.values_list("tag_id", flat=True)) != [tag.pk for tag in tags]:
        rows.delete()
        through._default_manager.bulk_create(
            [through(part_id=part.pk, tag_id=tag.pk) for tag in tags]
        )


def merge(kept: Tag, merged: Iterable[Tag]) -> int:
    """Put `kept` on every part that has one of `merged`, then delete those.

    Returns how many parts had one. The parts' search text follows, as with any change of tags.
    Raises Tag.DoesNotExist if `kept` was deleted meanwhile.
    """
    ids = {tag.pk for tag in merged} - {kept.pk}
    with transaction.atomic():
        # Locked, so that nobody puts a tag on another part between this query and its deletion.
        rows = Tag.objects.select_for_update().filter(pk__in={*ids, kept.pk}).order_by("pk")
        tags = {tag.pk: tag for tag in rows}
        if tags.pop(kept.pk, None) is None:
            raise Tag.DoesNotExist
        moved = set(Part.objects.filter(tags__in=tags).values_list("pk", flat=True))
        kept.parts.add(*moved)
        for tag in tags.values():
            tag.delete()
    return len(moved)
