"""Search: every word must be found, ignoring case, accents and the two ways to write micro.

The searchable text of a part is folded once, when it is written, and kept beside it. That gives
SQLite and PostgreSQL the same answers, which neither's own case folding would.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.db.models import Case, IntegerField, QuerySet, Value, When
from django.db.models.signals import m2m_changed, post_save, pre_delete

if TYPE_CHECKING:
    from parts.models import Part

BATCH = 500


def fold(text: str) -> str:
    """Case, accents and compatibility forms removed; µ, μ and u become the same letter."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(char for char in decomposed if not unicodedata.combining(char))
    # NFKD has turned U+00B5 MICRO SIGN into U+03BC GREEK SMALL LETTER MU.
    return bare.casefold().replace("\u03bc", "u")


def folded_text(part: Part) -> str:
    """The text that a search looks through, one field a line so that no word spans two."""
    return folded_with(part, part.tags.values_list("name", flat=True) if part.pk else [])


def folded_with(part: Part, tags: Iterable[str]) -> str:
    """The same for a part whose tags the caller knows, without a query."""
    searched = [part.key, part.description, part.manufacturer, part.manufacturer_code]
    return fold("\n".join([*searched, part.type.name if part.type else "", *tags]))


def matching(parts: QuerySet[Part], query: str) -> QuerySet[Part]:
    """Parts in which every word of `query` occurs, one whose key is the whole query first."""
    for word in fold(query).split():
        parts = parts.filter(search_text__contains=word)
    exact = Case(
        When(key=query.strip().upper(), then=Value(0)),
        default=Value(1),
        output_field=IntegerField(),
    )
    return parts.annotate(not_exact=exact)


def refresh(parts: Iterable[Part]) -> None:
    """Fold the text of these parts again, after a change that did not go through their save()."""
    from parts.models import Part

    for part in parts:
        Part.objects.filter(pk=part.pk).update(search_text=folded_text(part))


def _type_or_tag_saved(instance: Any, created: bool, **_: Any) -> None:
    if not created:
        refresh(instance.parts.select_related("type").iterator(BATCH))


def _tag_deleted(instance: Any, **_: Any) -> None:
    # Cleared before the delete: m2m_changed then refreshes each part, which a cascade would not.
    instance.parts.clear()


def _tags_changed(
    instance: Any, action: str, reverse: bool, pk_set: set[int] | None, **_: Any
) -> None:
    from parts.models import Part

    if not reverse:
        if action in {"post_add", "post_remove", "post_clear"}:
            refresh([instance])
        return
    if action == "pre_clear":
        instance.parts_to_refresh = list(instance.parts.values_list("pk", flat=True))
    elif action in {"post_add", "post_remove", "post_clear"}:
        changed = pk_set if pk_set is not None else instance.__dict__.pop("parts_to_refresh", [])
        refresh(Part.objects.select_related("type").filter(pk__in=changed))


def connect() -> None:
    from parts.models import Part, Tag, Type

    post_save.connect(_type_or_tag_saved, sender=Type, dispatch_uid="search-type")
    post_save.connect(_type_or_tag_saved, sender=Tag, dispatch_uid="search-tag")
    pre_delete.connect(_tag_deleted, sender=Tag, dispatch_uid="search-tag-delete")
    m2m_changed.connect(_tags_changed, sender=Part.tags.through, dispatch_uid="search-tags")
