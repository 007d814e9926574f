"""Writes planned rows: a part with its tags, its files and its cover, or nothing of it.

Rows are created in bulk, which sends no signals: the cover is the one the older installation
chose, not the first image that arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from django.db import DataError, Error, IntegrityError, transaction

from attachments import references
from attachments.models import Attachment
from attachments.timestamps import create_with_times
from parts.legacy_import.loads import Load, PlannedAttachment, PlannedPart
from parts.legacy_import.records import PartRecord, model_of
from parts.legacy_import.scratch import TABLES
from parts.legacy_import.source_rows import Result, SourceRows
from parts.models import Part, Tag, Type
from parts.search import folded_with

REFUSALS: Final = (IntegrityError, DataError)

PART, ATTACHMENT = TABLES

Named = TypeVar("Named", Type, Tag)
Targets = Mapping[int, int]
"""The ids of parts that a transaction created, by their row's number in the source."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one row: it is the row `new_id` now, or has a `fault`. `size` in bytes.

    `table` is the scratch table it was planned in.
    """

    table: str
    planned: PlannedPart | PlannedAttachment
    new_id: int | None = None
    fault: str = ""
    reason: str = ""

    @property
    def size(self) -> int:
        if self.fault or isinstance(self.planned, PlannedPart):
            return 0
        return self.planned.record.size or 0

    @property
    def result(self) -> Result:
        size = None if isinstance(self.planned, PlannedPart) else self.planned.record.size
        return Result(self.table, self.planned.map_id, self.new_id, size, self.fault, self.reason)


class Writer:
    """Writes rows, and in the same transaction what became of them in the table of source rows."""

    def __init__(self, source_rows: SourceRows) -> None:
        self._source_rows = source_rows

    def write(self, portion: list[Load]) -> list[Written]:
        """Write a portion: together if that goes, else each of its parts alone.

        Every row was judged before, so the database refuses one only because of what others wrote
        since, or for what nobody thought of; that row is then refused and the rest written.
        Raises StoreError.
        """
        try:
            return self._committed(partial(_write_together, portion))
        except REFUSALS:
            return [
                each for load in portion for each in self._committed(partial(_write_alone, load))
            ]

    def _committed(self, write: Callable[[], list[Written]]) -> list[Written]:
        with transaction.atomic():
            written = write()
            self._source_rows.settle(each.result for each in written)
        for each in written:
            if isinstance(each.planned, PlannedPart) and each.new_id is not None:
                each.planned.target = each.new_id
        return written


def rehearsed(portion: list[Load]) -> list[Written]:
    """What `Writer.write` would create, if the database refuses nothing."""
    found = []
    for load in portion:
        if load.part.target is None:
            found.append(Written(PART, load.part))
            # More portions may follow with files of the same part, which counts once.
            load.part.target = 0
        found += [Written(ATTACHMENT, each) for each in load.attachments]
    return found


def _write_together(portion: list[Load]) -> list[Written]:
    if portion[0].part.refused:
        # The rest of the files of a part that an earlier portion could not create.
        return [_orphan(each) for load in portion for each in load.attachments]
    targets = _create_parts(load.part for load in portion)
    files = [(load.part, each) for load in portion for each in load.attachments]
    return _created(portion, targets) + _attach(files, targets)


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
            return [Written(ATTACHMENT, each, None, *_said(error)) for each in load.attachments]
        part.refused = True
        files = [_orphan(each) for each in load.attachments]
        return [Written(PART, part, None, *_said(error)), *files]
    return _created([load], targets) + written


def _attach_alone(part: PlannedPart, planned: PlannedAttachment, targets: Targets) -> Written:
    if planned.own_id and Attachment.objects.filter(pk=planned.own_id).exists():
        planned.own_id = None
    try:
        with transaction.atomic():
            return _attach([(part, planned)], targets)[0]
    except REFUSALS as error:
        return Written(ATTACHMENT, planned, None, *_said(error))


def _created(portion: list[Load], targets: Targets) -> list[Written]:
    """The parts that the transaction created."""
    return [
        Written(PART, load.part, targets[load.part.number])
        for load in portion
        if load.part.number in targets
    ]


def _create_parts(parts: Iterable[PlannedPart]) -> dict[int, int]:
    """Create those that are not here yet, with their types and tags."""
    new = [(part, part.record) for part in parts if part.target is None and part.record]
    types = _named(Type, {record.type_name for _part, record in new} - {""})
    tags = _named(Tag, {name for _part, record in new for name in record.tags})
    rows = [
        Part(
            pk=part.own_id,
            key=record.key,
            type=types.get(record.type_name),
            **_times(record),
            **record.fields,
        )
        for part, record in new
    ]
    for (_part, record), row in zip(new, rows, strict=True):
        row.search_text = folded_with(row, record.tags)
    create_with_times(rows)
    tagged = Part.tags.through
    tagged._default_manager.bulk_create(
        tagged(part_id=row.pk, tag_id=tags[name].pk)
        for (_part, record), row in zip(new, rows, strict=True)
        for name in record.tags
    )
    return {part.number: row.pk for (part, _record), row in zip(new, rows, strict=True)}


def _times(record: PartRecord) -> dict[str, Any]:
    """None where the source does not know, for `create_with_times`."""
    return {"created_at": record.created, "updated_at": record.updated}


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
    written = [
        Written(ATTACHMENT, planned, None, planned.fault.code, str(planned.fault))
        for _part, planned in files
        if planned.fault
    ]
    sound = [(part, planned) for part, planned in files if not planned.fault]
    rows = []
    for part, planned in sound:
        row = model_of(planned.record)
        row.pk = planned.own_id
        row.part_id = targets.get(part.number, part.target or 0)
        rows.append(row)
    refused = references.attach_imported(rows)
    for position, ((_part, planned), row) in enumerate(zip(sound, rows, strict=True)):
        if fault := refused.get(position):
            written.append(Written(ATTACHMENT, planned, None, fault.code, str(fault)))
            continue
        if planned.is_cover and row.has_picture:
            Part.objects.filter(pk=row.part_id, cover_attachment=None).update(
                cover_attachment=row.pk
            )
        written.append(Written(ATTACHMENT, planned, row.pk))
    return written


def _orphan(planned: PlannedAttachment) -> Written:
    return Written(ATTACHMENT, planned, None, "no_part", "its part could not be created")


def _said(error: Error) -> tuple[str, str]:
    """A fault's code and reason, on one line."""
    return "database", " ".join(str(error).split())
