"""Search: every word must be found, ignoring case, accents and the two ways to write micro.

Each row keeps its own text in folded form: a part its fields, a type and a tag their names. That
gives SQLite and PostgreSQL the same answers, which neither's own case folding would, and no row has
a copy of what another says.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.db import models, transaction
from django.db.models import Case, Exists, IntegerField, OuterRef, Q, QuerySet, Value, When

if TYPE_CHECKING:
    from parts.models import Part

    TextField = models.TextField[str, str]
else:
    TextField = models.TextField

BATCH: Final = 500

FEW: Final = 500
"""Tags that a query names one by one."""

MOST_WORDS: Final = 32
LONGEST: Final = 500
"""Characters of a query once it is folded: a single one may unfold to many."""


def fold(text: str) -> str:
    """Case, accents and compatibility forms removed; µ, μ and u become the same letter."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(char for char in decomposed if not unicodedata.combining(char))
    # NFKD has turned U+00B5 MICRO SIGN into U+03BC GREEK SMALL LETTER MU.
    return bare.casefold().replace("\u03bc", "u")


class FoldedField(TextField):
    """The folded text of other columns of the same row, a line each so that no word spans two.

    It is made whenever the row is written. A write of some columns must name this one as well, of a
    row that was read under its lock.
    """

    def __init__(self, *sources: str, **kwargs: Any) -> None:
        self.sources = sources
        super().__init__(**{"blank": True, "default": "", "editable": False, **kwargs})

    def pre_save(self, model_instance: Any, add: bool) -> str:
        text = fold("\n".join(getattr(model_instance, name) for name in self.sources))
        setattr(model_instance, self.attname, text)
        return text

    def deconstruct(self) -> Any:
        name, _path, args, kwargs = super().deconstruct()
        return name, "django.db.models.TextField", args, kwargs

    def clone(self) -> FoldedField:
        """A copy with the sources, which `deconstruct` leaves out."""
        copied: FoldedField = super().clone()
        copied.sources = self.sources
        return copied


class TooLong(ValueError):
    """The query has more words or characters than a search takes."""


def words_of(query: str) -> list[str]:
    """The folded words of a query, each once. Raises TooLong."""
    folded = fold(query)
    words = list(dict.fromkeys(folded.split()))
    if len(folded) > LONGEST or len(words) > MOST_WORDS:
        raise TooLong(f"A search has at most {MOST_WORDS} words and {LONGEST} characters.")
    return words


@transaction.atomic
def _refold(model: type[models.Model], ids: list[int]) -> int:
    rows = model._base_manager.select_for_update(no_key=True).filter(pk__in=ids).order_by("pk")
    corrected = 0
    for row in rows:
        for field in _folded(model):
            stored = getattr(row, field.attname)
            if field.pre_save(row, False) != stored:
                same = model._base_manager.filter(pk=row.pk)
                corrected += same.update(**{field.attname: getattr(row, field.attname)})
    return corrected


def _folded(model: type[models.Model]) -> list[FoldedField]:
    return [field for field in model._meta.concrete_fields if isinstance(field, FoldedField)]


def rebuild() -> dict[str, tuple[int, int]]:
    """Fold every row's text again: of each kind of row, how many there are and were corrected.

    A batch of rows at a time is locked, read and written.
    """
    found: dict[str, tuple[int, int]] = {}
    for model in apps.get_models():
        if not _folded(model):
            continue
        rows = corrected = last = 0
        while ids := list(
            model._base_manager.filter(pk__gt=last)
            .order_by("pk")
            .values_list("pk", flat=True)[:BATCH]
        ):
            corrected += _refold(model, ids)
            rows, last = rows + len(ids), ids[-1]
        found[str(model._meta.verbose_name_plural)] = rows, corrected
    return found


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
    from parts.models import Part

    wanted = {fold(name) for name in names}
    tagged = Part.tags.through._default_manager
    rows: QuerySet[Any] = tagged.filter(tag__folded__in=wanted).values("part_id")
    counted = rows.annotate(found=models.Count("tag__folded", distinct=True))
    having_all: Any = counted.filter(found=len(wanted))
    return parts.filter(pk__in=having_all.values("part_id"))
