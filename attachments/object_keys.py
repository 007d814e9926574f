"""The field of every column that can name an object in the store, whichever app's model has it.

What no such column names is unreferenced: a cleanup or a collection may delete it.
`attachments.references` finds the columns from the models.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models import Q

if TYPE_CHECKING:
    CharField = models.CharField[str | None, str | None]
else:
    CharField = models.CharField


class KeyKind(StrEnum):
    """What it means that a column names an object.

    A REFERENCE is a row that shows the object: it must be migrated, and the object present and
    whole, or nothing is deleted. A HOLD only keeps the object from being deleted: the object is
    skipped and counted, and is never called missing or not migrated.
    """

    REFERENCE = "reference"
    HOLD = "hold"


class ObjectKeyField(CharField):
    """A column that can name an object by its key.

    For a hold, `active` is the condition, over the model's own columns, outside which a row names
    nothing (any more); `reasons` are the columns that say why it holds, by which a status groups
    the holds. Neither is part of the schema, so migrations see a plain CharField.
    """

    def __init__(
        self,
        *args: Any,
        kind: KeyKind = KeyKind.REFERENCE,
        active: Q | None = None,
        reasons: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> None:
        if kind is KeyKind.REFERENCE and (active is not None or reasons):
            raise ValueError(
                "only a hold can be released; a reference counts while its row is there"
            )
        self.kind = kind
        self.active = active
        self.reasons = reasons
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        name, _path, args, kwargs = super().deconstruct()
        return name, "django.db.models.CharField", args, kwargs

    def clone(self) -> ObjectKeyField:
        """A copy with the kind, which `deconstruct` leaves out."""
        copied: ObjectKeyField = super().clone()
        copied.kind, copied.active, copied.reasons = self.kind, self.active, self.reasons
        return copied
