"""Folded text: what is compared, searched and sorted by, so that both databases agree.

SQLite and PostgreSQL each fold and sort in a way of their own. So each row keeps its texts in
folded form too: without case, accents, strokes and invisible characters, and with one dash for all.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.db import models, transaction

if TYPE_CHECKING:
    TextField = models.TextField[str, str]
else:
    TextField = models.TextField

BATCH: Final = 500

_SPELLED: Final = {
    "\u03bc": "u",  # Greek mu, which the micro sign is turned into: u stands for micro.
    "\u00e6": "ae",
    "\u0153": "oe",
    "\u0131": "i",
    "\u2212": "-",
    "\u02d7": "-",
    "\u2043": "-",
}
_SHOWN_FORMATS: Final = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd]")
"""Format characters that are seen, as signs of numbers."""

_UNSEEN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
"""Characters of other categories that Unicode lets a display ignore."""

_STROKED: Final = re.compile(
    r"LATIN SMALL LETTER ([A-Z]) WITH (?:DIAGONAL |OBLIQUE |SHORT |LONG |DOUBLE )?(?:STROKE|BAR)\b"
)
_LATIN: Final = (
    range(0x80, 0x2B0), range(0x1D00, 0x1F00), range(0x2C60, 0x2C80), range(0xA720, 0xA800)
)  # fmt: skip


def _stroked() -> dict[str, str]:
    """Letters with a stroke, which Unicode does not decompose, and their bases."""
    found = {}
    for block in _LATIN:
        for character in map(chr, block):
            if match := _STROKED.match(unicodedata.name(character, "")):
                found[character] = match[1].lower()
    return found


_TABLE: Final = str.maketrans(_stroked() | _SPELLED)


def fold(text: str) -> str:
    """The text without case, accents, strokes, invisible characters and compatibility forms.

    All dashes and minus signs become a hyphen; µ, μ and u the same letter. A character may become
    several.
    """
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(filter(None, map(_folded, decomposed))).casefold().translate(_TABLE)


def _folded(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Pd":
        return "-"
    if category == "Cf":
        return character if _SHOWN_FORMATS.match(character) else ""
    if unicodedata.combining(character) or _UNSEEN.match(character):
        return ""
    return character


def shortened(text: str, limit: int) -> str:
    """A text of at most `limit` characters that is another one for each other text."""
    if len(text) <= limit:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text[: limit - len(digest)] + digest


class FoldedField(TextField):
    """The folded text of other columns of the same row, a line each so that no word spans two.

    It is made whenever the row is written. A write of some columns must name this one as well, of a
    row that was read under its lock; `attachments.models.Versioned.save` does. Sorted by code point
    on both databases. `limit`, in characters, is for a column with an index: a longer text is cut,
    and its end is a checksum of the whole.
    """

    def __init__(self, *sources: str, limit: int | None = None, **kwargs: Any) -> None:
        self.sources = sources
        self.limit = limit
        super().__init__(**{"blank": True, "default": "", "editable": False, **kwargs})

    def of(self, *texts: str) -> str:
        """The folded form of these texts, as it is stored."""
        text = fold("\n".join(texts))
        return text if self.limit is None else shortened(text, self.limit)

    def pre_save(self, model_instance: Any, add: bool) -> str:
        text = self.of(*(getattr(model_instance, name) or "" for name in self.sources))
        setattr(model_instance, self.attname, text)
        return text

    def db_parameters(self, connection: Any) -> Any:
        # SQLite sorts by code point unless told otherwise, and knows no collation of this name.
        collation = "C" if connection.vendor == "postgresql" else None
        return {**super().db_parameters(connection), "collation": collation}

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        if self.limit is not None:
            kwargs["limit"] = self.limit
        return name, path, [*args, *self.sources], kwargs


def folded_fields(model: type[models.Model]) -> list[FoldedField]:
    """Those of a model."""
    return [field for field in model._meta.concrete_fields if isinstance(field, FoldedField)]


def rebuild() -> dict[str, tuple[int, int]]:
    """Fold every row's text again: of each kind of row, how many there are and were corrected.

    A batch of rows at a time is locked, read and written.
    """
    found: dict[str, tuple[int, int]] = {}
    for model in apps.get_models():
        if folded_fields(model):
            found[str(model._meta.verbose_name_plural)] = refold(model)
    return found


def refold(model: type[models.Model]) -> tuple[int, int]:
    """Fold the text of all rows of a model again: how many there are and were corrected."""
    rows = corrected = last = 0
    while ids := list(
        model._base_manager.filter(pk__gt=last).order_by("pk").values_list("pk", flat=True)[:BATCH]
    ):
        corrected += _refold(model, ids)
        rows, last = rows + len(ids), ids[-1]
    return rows, corrected


@transaction.atomic
def _refold(model: type[models.Model], ids: list[int]) -> int:
    rows = model._base_manager.select_for_update(no_key=True).filter(pk__in=ids).order_by("pk")
    changed = []
    fields = folded_fields(model)
    for row in rows:
        stored = [getattr(row, field.attname) for field in fields]
        if [field.pre_save(row, False) for field in fields] != stored:
            changed.append(row)
    if changed:
        model._base_manager.bulk_update(changed, [field.attname for field in fields])
    return len(changed)
