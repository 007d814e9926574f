"""What a row becomes in the scratch database."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from attachments.models import LEGACY_PREFIX
from cas.digest import CAS_PREFIX
from parts.legacy_import.records import (
    LARGEST_SIZE,
    LONGEST_ID,
    AttachmentRecord,
    PartRecord,
    Raw,
    own_id,
)
from parts.legacy_import.shapes import Shape
from parts.legacy_import.sources import Table
from parts.legacy_import.values import BadRow, identifier, text, whole

Columns = dict[str, Any]

_KEYS: Final = re.compile(rf"{CAS_PREFIX}[0-9a-f]{{64}}|{LEGACY_PREFIX}[^\"',\t\r\n]+")
"""What looks like an object's key, wherever it stands."""


def label_of(row: Raw, table: Table, shape: Shape) -> Columns:
    """What a refused row is known by, and the object it names, as far as these can be told."""
    label: Columns = {}
    if table is Table.PARTS:
        wanted: dict[str, Callable[[Any, str], Any]] = {"id": identifier, "key": text}
        if shape.has_sets:
            wanted["set_id"] = identifier
    else:
        wanted = {"id": identifier, "s3_key": text, "url": text, "size": whole}
        wanted["set_id" if shape.has_sets else "part"] = identifier
    columns = {"size": "file_size", "set_id": "attachment_set_id", "part": "part_id"}
    for name, read in wanted.items():
        with suppress(BadRow):
            column = columns.get(name, name)
            label[name] = read(row.get(column), column) or None
    if abs(label.get("size") or 0) > LARGEST_SIZE:
        del label["size"]
    if label.get("id"):
        label["id"] = label["id"][:LONGEST_ID]
    if table is not Table.PARTS:
        with suppress(BadRow):
            title = text(row.get("title"), "title") or text(row.get("filename"), "filename")
            label["name"] = (title or label.get("url") or "")[:255]
    return label


def labels_in(written: str) -> Iterator[Columns]:
    """One for each object that a row which cannot be read may name; an empty one if none."""
    keys = dict.fromkeys(_KEYS.findall(written))
    yield from [{"s3_key": key, "name": key[:255]} for key in keys] or [{}]


def part_columns(record: PartRecord) -> Columns:
    return {
        "id": record.source_id,
        "key": record.key,
        "set_id": record.set_id,
        "cover": record.cover,
        "created": instant(record.created),
        "own_id": own_id(record.source_id),
        "record": _json(record),
    }


def attachment_columns(record: AttachmentRecord, shape: Shape) -> Columns:
    return {
        "id": record.source_id,
        "set_id" if shape.has_sets else "part": record.owner,
        "kind": record.kind,
        "name": record.title,
        "s3_key": record.s3_key,
        "url": record.url,
        "size": record.size,
        "created": instant(record.created),
        "has_picture": record.has_picture,
        "own_id": own_id(record.source_id),
        "record": _json(record),
    }


def _json(record: PartRecord | AttachmentRecord) -> str:
    return json.dumps(asdict(record), default=datetime.isoformat)


def instant(value: datetime | None) -> str | None:
    """One spelling for one instant; all of them are in UTC."""
    return None if value is None else value.isoformat(timespec="microseconds")
