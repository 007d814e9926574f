"""Which of the older systems' shapes a source has, found by looking at its tables and columns.

| shape | its attachments | its keys |
|---|---|---|
| PART_ATTACHMENTS | `part_attachments`, each row with its `part_id` | older ones, or `cas/` |
| ATTACHMENT_SETS | `attachments`, each row in a set that a part or a kit owns | either |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cas.exit_status import ExitStatus, RunAborted
from parts.legacy_import.sources import Source, Table

Columns = dict[Table, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Shape:
    """`attachments` is the table of attachments, `owner` its column that says whose they are.

    `required` are the columns without which it is not this shape.
    """

    attachments: Table
    owner: str
    required: Columns

    @property
    def has_sets(self) -> bool:
        return self.owner == "attachment_set_id"


PART: Final = ("id", "key", "description")
ATTACHMENT: Final = ("id", "attachment_type", "s3_key", "file_size")

PART_ATTACHMENTS: Final = Shape(
    Table.PART_ATTACHMENTS,
    "part_id",
    {Table.PARTS: PART, Table.PART_ATTACHMENTS: ("part_id", *ATTACHMENT)},
)
ATTACHMENT_SETS: Final = Shape(
    Table.ATTACHMENTS,
    "attachment_set_id",
    {
        Table.PARTS: (*PART, "attachment_set_id"),
        Table.ATTACHMENTS: ("attachment_set_id", *ATTACHMENT),
        Table.ATTACHMENT_SETS: ("id", "cover_attachment_id"),
    },
)


def recognise(source: Source) -> Shape:
    """The shape of the source. Raises RunAborted if it has none, or more than one."""
    lacking = {
        shape.owner: _lacking(source, shape) for shape in (PART_ATTACHMENTS, ATTACHMENT_SETS)
    }
    whole = [shape for shape in (PART_ATTACHMENTS, ATTACHMENT_SETS) if not lacking[shape.owner]]
    if len(whole) == 2:
        # A table that is no longer in use names objects, too: it must not go unread.
        whole = [shape for shape in whole if source.count(shape.attachments) != 0] or whole[:1]
    if len(whole) == 1:
        return whole[0]
    if whole:
        raise _halt(
            "it has rows in part_attachments and in attachments. Dump its tables, without the one "
            "that is no longer in use, and import the dump"
        )
    with_parts, with_sets = lacking["part_id"], lacking["attachment_set_id"]
    if common := [what for what in with_parts if what in with_sets]:
        raise _halt(f"it has no {', no '.join(common)}")
    raise _halt(
        f"for attachments of parts it has no {', no '.join(with_parts)}; for sets of attachments "
        f"it has no {', no '.join(with_sets)}"
    )


def _lacking(source: Source, shape: Shape) -> list[str]:
    """What the source would need to have this shape, in words."""
    found = []
    for table, required in shape.required.items():
        columns = source.columns(table)
        if columns is None:
            found.append(f"table {table}")
        elif columns:
            found += [f"column {table}.{name}" for name in required if name not in columns]
    return found


def _halt(problem: str) -> RunAborted:
    return RunAborted(ExitStatus.REFUSED, f"this source cannot be imported: {problem}")
