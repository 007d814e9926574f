"""Taking a change of a part back: its fields, a tag, or an attachment's title."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from django.db import transaction
from rest_framework.exceptions import ErrorDetail, ValidationError

from attachments.locks import lock_rows, retried
from attachments.models import Attachment, Change
from parts.covers import NotACover, set_cover
from parts.models import Part, Tag
from parts.serializers import PartSerializer
from parts.tags import names_in_order
from parts.updates import history

COVER: Final = "cover_attachment_id"


class NotRestorable(ValueError):
    """The change cannot be taken back. The message says why; nothing was changed."""


@retried
def restore(
    part_id: int,
    change_id: int,
    fields: Collection[str] | None = None,
    check: Callable[[Part], None] = lambda part: None,
) -> None:
    """Make what a change has changed as it was before, or these fields of a part.

    `check` gets the part, locked, before anything is written. Raises Part.DoesNotExist,
    Change.DoesNotExist if the change is none of this part, NotRestorable, ValidationError.
    """
    with transaction.atomic():
        part = Part.objects.select_for_update(no_key=True).get(pk=part_id)
        check(part)
        change = history(part).get(pk=change_id)
        table, updated = change.table_name, change.action == Change.Action.UPDATE
        if table == Part._meta.db_table and updated:
            _restore_fields(part, change, fields)
        elif fields is not None:
            raise ValidationError({"fields": [ErrorDetail("Only parts have fields.", "invalid")]})
        elif table == Part.tags.through._meta.db_table:
            _restore_tag(part, change)
        elif table == Attachment._meta.db_table and updated:
            _restore_title(change)
        else:
            raise NotRestorable("What was added or deleted is not taken back by this.")


def _restore_fields(part: Part, change: Change, fields: Collection[str] | None) -> None:
    before, after = change.before or {}, change.after or {}
    if unknown := set(fields or ()) - (set(before) - {"key"}):
        faults = {name: [ErrorDetail("A part has no such field.", "invalid")] for name in unknown}
        raise ValidationError(faults)
    if fields is None:
        fields = [name for name in before if before[name] != after.get(name)]
    values = {name: before[name] for name in fields}
    if COVER in values:
        try:
            set_cover(part.pk, values.pop(COVER))
        except Attachment.DoesNotExist as error:
            raise NotRestorable("The cover that it had is not among its attachments.") from error
        except NotACover as error:
            raise NotRestorable(str(error)) from error
        part.refresh_from_db()
    _write(part, values)


def _write(part: Part, values: dict[str, Any]) -> None:
    serializer = PartSerializer(part, data=values, partial=True)
    serializer.is_valid(raise_exception=True)
    serializer.save()


def _restore_tag(part: Part, change: Change) -> None:
    names = names_in_order(part.tags)
    if change.action == Change.Action.INSERT:
        taken = Tag.folded_name((change.after or {})["tag"] or "")
        names = [name for name in names if Tag.folded_name(name) != taken]
    else:
        names.append((change.before or {})["tag"])
    _write(part, {"tags": names})


def _restore_title(change: Change) -> None:
    before: Any = change.before or {}
    if not lock_rows(Attachment, [change.row_id]):
        raise NotRestorable("The attachment was deleted.")
    Attachment.objects.get(pk=change.row_id).rename(before["title"])
