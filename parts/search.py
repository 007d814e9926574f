"""Search: every word must be found, in folded form (`attachments.folding`).

Each row keeps its own text: a part its fields, a type and a tag their names. No row has a copy of
what another says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.db import models
from django.db.models import Case, Exists, IntegerField, OuterRef, Q, QuerySet, Value, When

from attachments.models import fold

if TYPE_CHECKING:
    from parts.models import Part

FEW: Final = 500
"""Tags that a query names one by one."""

MOST_WORDS: Final = 32
LONGEST: Final = 500
"""Characters of a query once it is folded: a single one may unfold to many."""


class TooLong(ValueError):
    """The query has more words or characters than a search takes."""


def words_of(query: str) -> list[str]:
    """The folded words of a query, each once. Raises TooLong."""
    folded = fold(query)
    words = list(dict.fromkeys(folded.split()))
    if len(folded) > LONGEST or len(words) > MOST_WORDS:
        raise TooLong(f"A search has at most {MOST_WORDS} words and {LONGEST} characters.")
    return words


def _having(word: str) -> Q:
    """The condition that a word occurs in a part's own text, or the name of its type or of a tag.

    What has no such name at all is left out. Tags are looked up for each part that is left: as one
    set, PostgreSQL would search through them for each part.
    """
    from parts.models import Part, Tag, Type

    condition = Q(search_text__contains=word)
    if types := list(Type.objects.filter(folded__contains=word).values_list("pk", flat=True)):
        condition |= Q(type__in=types)
    tags = Tag.objects.filter(folded__contains=word)
    if few := list(tags.order_by().values_list("pk", flat=True)[: FEW + 1]):
        of_part = Part.tags.through._default_manager.filter(part=OuterRef("pk"))
        named = {"tag__in": few} if len(few) <= FEW else {"tag__folded__contains": word}
        condition |= Q(Exists(of_part.filter(**named)))
    return condition


def matching(parts: QuerySet[Part], query: str) -> QuerySet[Part]:
    """Parts in which every word of `query` occurs, one whose key is the whole query first.

    Raises TooLong.
    """
    for word in words_of(query):
        parts = parts.filter(_having(word))
    exact = Case(
        When(key=query.strip().upper(), then=Value(0)),
        default=Value(1),
        output_field=IntegerField(),
    )
    return parts.annotate(not_exact=exact)


def tagged_with(parts: QuerySet[Part], names: list[str]) -> QuerySet[Part]:
    """Parts that have all of these tags, in a query that does not grow with their number."""
    from parts.models import Part, Tag

    wanted = {Tag.folded_name(name) for name in names}
    tagged = Part.tags.through._default_manager
    rows: QuerySet[Any] = tagged.filter(tag__folded__in=wanted).values("part_id")
    counted = rows.annotate(found=models.Count("tag__folded", distinct=True))
    having_all: Any = counted.filter(found=len(wanted))
    return parts.filter(pk__in=having_all.values("part_id"))
