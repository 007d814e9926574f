"""A part's column is a line in the model, and its place in the form; the rest follows."""

from __future__ import annotations

from django.contrib.admin.utils import flatten_fieldsets

from parts.admin import PartAdmin
from parts.legacy_import.map import PART_COLUMNS
from parts.models import Part
from parts.serializers import PartSerializer

EDITED = {
    field.name
    for field in [*Part._meta.fields, *Part._meta.many_to_many]
    if field.editable and not field.primary_key
}


def test_the_api_shows_every_column() -> None:
    shown = set(PartSerializer().fields)
    assert (EDITED - {"cover_attachment"}) | {
        "id",
        "key",
        "created_at",
        "updated_at",
        "version",
    } == shown


def test_the_admin_has_a_place_for_every_column() -> None:
    placed = set(flatten_fieldsets(PartAdmin.fieldsets))
    assert EDITED - {"cover_attachment"} | {"cover"} <= placed


def test_an_import_takes_every_column() -> None:
    taken = {"cover_attachment": "cover_attachment_id"}
    assert {taken.get(name, name) for name in EDITED} <= PART_COLUMNS
