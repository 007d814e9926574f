"""A part's tags in their order, and merging: one name for what was written in several ways.

The order of a part's tags is the one in which they were put on it: that of `part_tags.id`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from django.db import transaction
from django.db.models import Prefetch
from django.db.models.signals import m2m_changed, pre_delete

from attachments.locks import lock_rows, retried
from attachments.models import raise_versions
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
    """Give the part, which is locked, these tags in this order; a new name becomes a tag."""
    written: dict[str, str] = {}
    for name in names:
        # Of several ways to write a name the first counts.
        written.setdefault(Tag.folded_name(name), name)
    # Created in one order everywhere: of two that create the same, one waits for the other.
    made = {folded: Tag.named(written[folded])[0] for folded in sorted(written)}
    tags = [made[folded] for folded in written]
    part.tags.set(tags)
    through = part.tags.through
    rows = through._default_manager.filter(part_id=part.pk).order_by("id")
    if list(rows.values_list("tag_id", flat=True)) != [tag.pk for tag in tags]:
        rows.delete()
        through._default_manager.bulk_create(
            [through(part_id=part.pk, tag_id=tag.pk) for tag in tags]
        )
        _raise_version(part)


@retried
def merge(kept: Tag, merged: Iterable[Tag]) -> int:
    """Put `kept` on every part that has one of `merged`, then delete those.

    Returns how many parts had one. Raises Tag.DoesNotExist if `kept` was deleted meanwhile.
    """
    ids = {tag.pk for tag in merged} - {kept.pk}
    with transaction.atomic():
        lock_rows(Part, Part.objects.filter(tags__in={*ids, kept.pk}).values("pk"))
        # Locked, so that nobody puts a tag on another part between this query and its deletion.
        rows = Tag.objects.select_for_update().filter(pk__in={*ids, kept.pk}).order_by("folded")
        tags = {tag.pk: tag for tag in rows}
        if tags.pop(kept.pk, None) is None:
            raise Tag.DoesNotExist
        moved = set(Part.objects.filter(tags__in=tags).values_list("pk", flat=True))
        kept.parts.add(*moved)
        for tag in tags.values():
            tag.delete()
    return len(moved)


def _raise_version(part: Part) -> None:
    raise_versions(Part.objects.filter(pk=part.pk))
    part.version += 1


def _tags_changed(
    instance: Any, action: str, reverse: bool, pk_set: set[int] | None, **_: Any
) -> None:
    """Raise the versions of parts that get or lose tags, whoever does it."""
    if not reverse:
        if action == "post_clear" or (action in {"post_add", "post_remove"} and pk_set):
            _raise_version(instance)
    elif action == "pre_clear":
        raise_versions(instance.parts.all())
    elif action in {"post_add", "post_remove"}:
        raise_versions(Part.objects.filter(pk__in=pk_set or ()))


def _tag_deleted(instance: Tag, **_: Any) -> None:
    """Deletions come from everywhere, lists of the admin among them."""
    parts = Part.objects.filter(tags=instance)
    lock_rows(Part, parts.values("pk"))
    raise_versions(parts)


def connect() -> None:
    pre_delete.connect(_tag_deleted, sender=Tag, dispatch_uid="tags-deleted")
    m2m_changed.connect(_tags_changed, sender=Part.tags.through, dispatch_uid="tags-versions")
