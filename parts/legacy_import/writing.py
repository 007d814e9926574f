"""Writes planned rows: a part with its tags, its files and its cover, or nothing of it.

Rows are created in bulk, which sends no signals: the cover is the one the older installation
chose, not the first image that arrives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from django.db import DataError, Error, IntegrityError, transaction

from attachments import references
from attachments.models import Attachment
from attachments.timestamps import create_with_times
from parts.legacy_import.loads import Load, PlannedAttachment, PlannedPart
from parts.legacy_import.records import model_of
from parts.legacy_import.sources import Table
from parts.models import Part, Tag, Type
from parts.search import folded_with

REFUSALS: Final = (IntegrityError, DataError)

Named = TypeVar("Named", Type, Tag)
Targets = Mapping[int, int]
"""The ids of parts that a transaction created, by their row's number in the source."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one row: it is the row `new_id` now, or has a `fault`. `size` in bytes."""

    table: Table
    planned: PlannedPart | PlannedAttachment
    new_id: int | None = None
    fault: str = ""
    reason: str = ""

    @property
    def size(self) -> int:
        if self.fault or isinstance(self.planned, PlannedPart):
            return 0
        return self.planned.record.size or 0


def write(portion: list[Load]) -> list[Written]:
    """Write a portion: together if that goes, else each of its parts alone. Raises StoreError.

    Every row was judged before, so the database refuses one only because of what others wrote
    since, or for what nobody thought of; that row is then refused and the rest written.
    """
    if portion[0].part.refused:
        # The rest of the files of a part that an earlier portion could not create.
        return [_orphan(each) for load in portion for each in load.attachments]
    try:
        with transaction.atomic():
            targets = _create_parts(load.part for load in portion)
            files = [(load.part, each) for load in portion for each in load.attachments]
            written = _attach(files, targets)
    except REFUSALS:
        return [result for load in portion for result in _write_alone(load)]
    return _created(portion, targets) + written


def rehearsed(portion: list[Load]) -> list[Written]:
    """What `write` would create, if the database refuses nothing."""
    found = []
    for load in portion:
        if load.part.target is None:
            found.append(Written(Table.PARTS, load.part))
            # More portions may follow with files of the same part, which counts once.
            load.part.target = 0
        found += [Written(Table.ATTACHMENTS, each) for each in load.attachments]
    return found


def _write_alone(load: Load) -> list[Written]:
    part = load.part
    if part.own_id and Part.objects.filter(pk=part.own_id).exists():
        part.own_id = None
    try:
        with transaction.atomic():
            targets = _create_parts([part])
            written = [_attach_alone(part, each, targets) for each in load.attachments]
    except REFUSALS as error:
        if part.target is not None:
            return [
                Written(Table.ATTACHMENTS, each, None, *_said(error)) for each in load.attachments
            ]
        part.refused = True
        files = [_orphan(each) for each in load.attachments]
        return [Written(Table.PARTS, part, None, *_said(error)), *files]
    return _created([load], targets) + written


def _attach_alone(part: PlannedPart, planned: PlannedAttachment, targets: Targets) -> Written:
    if planned.own_id and Attachment.objects.filter(pk=planned.own_id).exists():
        planned.own_id = None
    try:
        with transaction.atomic():
            return _attach([(part, planned)], targets)[0]
    except REFUSALS as error:
        return Written(Table.ATTACHMENTS, planned, None, *_said(error))


def _created(portion: list[Load], targets: Targets) -> list[Written]:
    """After the commit: the parts that are here now."""
    for load in portion:
        load.part.target = targets.get(load.part.number, load.part.target)
    return [
        Written(Table.PARTS, load.part, load.part.target)
        for load in portion
        if load.part.number in targets
    ]


def _create_parts(parts: Iterable[PlannedPart]) -> dict[int, int]:
    """Create those that are not here yet, with their types and tags."""
    new = [part for part in parts if part.target is None]
    types = _named(Type, {part.record.type_name for part in new} - {""})
    tags = _named(Tag, {name for part in new for name in part.record.tags})
    rows = [
        Part(
            pk=part.own_id,
            key=part.record.key,
            type=types.get(part.record.type_name),
            **_times(part),
            **part.record.fields,
        )
        for part in new
    ]
    for part, row in zip(new, rows, strict=True):
        row.search_text = folded_with(row, part.record.tags)
    create_with_times(rows)
    tagged = Part.tags.through
    tagged._default_manager.bulk_create(
        tagged(part_id=row.pk, tag_id=tags[name].pk)
        for part, row in zip(new, rows, strict=True)
        for name in part.record.tags
    )
    return {part.number: row.pk for part, row in zip(new, rows, strict=True)}


def _times(part: PlannedPart) -> dict[str, Any]:
    """None where the source does not know, for `create_with_times`."""
    return {"created_at": part.record.created, "updated_at": part.record.updated}


def _named(model: type[Named], names: set[str]) -> dict[str, Named]:
    """The rows with these names, made where they are new."""
    found = {row.name: row for row in model._default_manager.filter(name__in=names)}
    if missing := sorted(names - found.keys()):
        # Somebody else may make one of them at this moment.
        model._default_manager.bulk_create(
            [model(name=name) for name in missing], ignore_conflicts=True
        )
        found |= {row.name: row for row in model._default_manager.filter(name__in=missing)}
    return found


def _attach(files: list[tuple[PlannedPart, PlannedAttachment]], targets: Targets) -> list[Written]:
    """Create the files' rows, and make those covers that are to be."""
    rows = []
    for part, planned in files:
        row = model_of(planned.record)
        row.pk = planned.own_id
        row.part_id = targets.get(part.number, part.target or 0)
        rows.append(row)
    refused = references.attach_imported(rows)
    written = []
    for position, ((_part, planned), row) in enumerate(zip(files, rows, strict=True)):
        if fault := refused.get(position):
            written.append(Written(Table.ATTACHMENTS, planned, None, fault.code, str(fault)))
            continue
        if planned.is_cover:
            Part.objects.filter(pk=row.part_id, cover_attachment=None).update(
                cover_attachment=row.pk
            )
        written.append(Written(Table.ATTACHMENTS, planned, row.pk))
    return written


def _orphan(planned: PlannedAttachment) -> Written:
    return Written(Table.ATTACHMENTS, planned, None, "no_part", "its part could not be created")


def _said(error: Error) -> tuple[str, str]:
    """A fault's code and reason, on one line."""
    return "database", " ".join(str(error).split())
