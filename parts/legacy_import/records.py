"""An older row as a value that the models accept, or the reason why they would not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db.models import Model

from attachments.maintenance.rows import LEGACY_KEY
from attachments.models import Attachment
from attachments.uploads import safe_name
from cas.digest import is_cas_key
from parts.legacy_import.values import BadRow, identifier, moment, names, text, whole
from parts.models import Part, Tag, Type

Raw = Mapping[str, Any]

LARGEST_KEPT_ID: Final = 2**53 - 1
"""A larger id is not kept: clients that read JSON numbers as doubles would confuse it with its
neighbours, and ids would run out behind the largest that a column can hold."""

MOST_PINS: Final = 2**31 - 1
"""What the column holds on PostgreSQL; SQLite's would hold more."""

TEXT_COLUMNS: Final = (
    "description",
    "manufacturer",
    "manufacturer_code",
    "product_page",
    "seller_link",
    "package",
    "pin_pitch",
    "voltage_rating",
    "input_voltage",
    "output_voltage",
    "mounting_type",
    "series",
    "dimensions",
)

PART_COLUMNS: Final = frozenset(TEXT_COLUMNS) | {
    "id", "key", "pin_count", "type", "type_id", "seller", "seller_id", "tags",
    "cover_attachment_id", "created_at", "updated_at",
}  # fmt: skip

ATTACHMENT_COLUMNS: Final = frozenset(
    {
        "id", "part_id", "attachment_type", "title", "s3_key", "url", "filename",
        "content_type", "file_size", "created_at", "updated_at",
    }
)  # fmt: skip

_CONTENT_TYPE: Final = re.compile(r"[\w.+-]+/[\w.+-]+(?: *;[ -~]*)?", re.ASCII)

Lookup = Callable[[str, str], str | None]
"""The name that a type's or a seller's id stands for; None if there is no such id."""


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A part as its row here will be; `fields` are those that are copied as they are."""

    source_id: str
    key: str
    cover: str | None
    type_name: str
    tags: list[str]
    created: datetime | None
    updated: datetime | None
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AttachmentRecord:
    """An attachment as its row here will be, but for its part. Sizes in bytes."""

    source_id: str | None
    part: str
    kind: str
    s3_key: str | None
    url: str | None
    filename: str | None
    size: int | None
    content_type: str | None
    title: str
    created: datetime | None
    updated: datetime | None


def parse_part(raw: Raw, look_up: Lookup) -> PartRecord:
    """Raises BadRow."""
    source_id = identifier(raw.get("id"), "id")
    if source_id is None:
        raise BadRow("invalid", "id is empty")
    fields: dict[str, Any] = {column: text(raw.get(column), column) for column in TEXT_COLUMNS}
    fields["seller"] = _named(raw, "seller", look_up)
    fields["pin_count"] = whole(raw.get("pin_count"), "pin_count")
    if fields["pin_count"] is not None and not 1 <= fields["pin_count"] <= MOST_PINS:
        raise BadRow("invalid", f"pin_count is not from 1 to {MOST_PINS}")
    record = PartRecord(
        source_id=source_id,
        key=text(raw.get("key"), "key"),
        cover=identifier(raw.get("cover_attachment_id"), "cover_attachment_id"),
        type_name=_named(raw, "type", look_up),
        tags=names(raw.get("tags"), "tags"),
        created=moment(raw.get("created_at"), "created_at"),
        updated=moment(raw.get("updated_at"), "updated_at"),
        fields=fields,
    )
    _check(Part(key=record.key, **fields), "type", "cover_attachment")
    if record.type_name:
        _check(Type(name=record.type_name))
    for name in record.tags:
        _check(Tag(name=name))
    return record


def parse_attachment(raw: Raw) -> AttachmentRecord:
    """Raises BadRow."""
    part = identifier(raw.get("part_id"), "part_id")
    if part is None:
        raise BadRow("invalid", "part_id is empty")
    url = text(raw.get("url"), "url") or None
    content_type = text(raw.get("content_type"), "content_type") or None
    filename = text(raw.get("filename"), "filename") or None
    if filename is not None:
        filename = safe_name(filename, content_type or "")
    title = text(raw.get("title"), "title").strip() or (filename or url or "")[:255]
    record = AttachmentRecord(
        source_id=identifier(raw.get("id"), "id"),
        part=part,
        kind=text(raw.get("attachment_type"), "attachment_type").lower(),
        s3_key=text(raw.get("s3_key"), "s3_key") or None,
        url=url,
        filename=filename,
        size=whole(raw.get("file_size"), "file_size"),
        content_type=content_type,
        title=title,
        created=moment(raw.get("created_at"), "created_at"),
        updated=moment(raw.get("updated_at"), "updated_at"),
    )
    _check_kind(record)
    _check(model_of(record), "part")
    return record


def model_of(record: AttachmentRecord) -> Attachment:
    """The unsaved row, without its part and its id."""
    # A time the source does not know is left None, for `create_with_times`.
    times: dict[str, Any] = {"created_at": record.created, "updated_at": record.updated}
    return Attachment(
        attachment_type=record.kind,
        title=record.title,
        s3_key=record.s3_key,
        url=record.url,
        filename=record.filename,
        content_type=record.content_type,
        file_size=record.size,
        **times,
    )


def own_id(source_id: str | None) -> int | None:
    """The id to keep here if it is free; None if it is not one that should be kept."""
    if source_id is None or not re.fullmatch(r"[1-9][0-9]{0,15}", source_id):
        return None
    number = int(source_id)
    return number if number <= LARGEST_KEPT_ID else None


def _named(raw: Raw, column: str, look_up: Lookup) -> str:
    """The name in the column itself, or the one that the column of ids stands for."""
    if name := text(raw.get(column), column).strip():
        return name
    reference = identifier(raw.get(f"{column}_id"), f"{column}_id")
    if reference is None:
        return ""
    name_found = look_up(column, reference)
    if name_found is None:
        raise BadRow("invalid", f"{column}_id {reference} is not among the {column}s")
    return name_found


def _check_kind(record: AttachmentRecord) -> None:
    """What the row's type implies; the database would only say which constraint refused."""
    if record.kind == Attachment.Kind.URL:
        if record.s3_key is not None:
            raise BadRow("invalid", "s3_key is set on a link")
        if not (record.url or "").lower().startswith(("http://", "https://")):
            raise BadRow("invalid", "url is not an http or https link")
        return
    for column in ("s3_key", "filename", "content_type", "size"):
        if getattr(record, column) is None:
            raise BadRow("invalid", f"{'file_size' if column == 'size' else column} is empty")
    if record.size is not None and record.size < 0:
        raise BadRow("invalid", "file_size is negative")
    if not (is_cas_key(record.s3_key or "") or LEGACY_KEY.match(record.s3_key or "")):
        raise BadRow(
            "invalid", "s3_key is neither parts/{part_id}/attachments/{uuid}.{ext} nor cas/{hash}"
        )
    if not _CONTENT_TYPE.fullmatch(record.content_type or ""):
        raise BadRow("invalid", "content_type is not a media type")


def _check(row: Model, *unchecked: str) -> None:
    """Lengths, ranges, choices and forms, as the model's own fields judge them."""
    try:
        row.clean_fields(exclude={*unchecked, "created_at", "updated_at"})
    except ValidationError as error:
        reason = "; ".join(
            f"{field}: {' '.join(messages)}" for field, messages in error.message_dict.items()
        )
        raise BadRow("invalid", reason) from None
