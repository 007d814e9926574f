"""Folding the text of every row again: after an upgrade that folds otherwise, and in migrations."""

from __future__ import annotations

from typing import Final

from django.apps import apps
from django.db import models, transaction

from attachments.models import folded_fields

BATCH: Final = 500


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
