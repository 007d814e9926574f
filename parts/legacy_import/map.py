"""What a row of an older installation becomes here, or why it cannot be imported.

From the bottom up: one value as the type that its column has here, whatever a dump made of it (a
PostgreSQL driver gives numbers and times, JSON strings and numbers, CSV strings alone); the name
and the type of a file whose row does not say them; a part or an attachment; and what the scratch
database keeps of it.
"""

from __future__ import annotations

import json
import mimetypes
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlsplit
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import CharField, Model, TextField

from attachments.addresses import LONGEST, web_address
from attachments.models import LEGACY_PREFIX, Attachment, fold
from attachments.uploads import safe_name
from cas.content_types import FORMATS, PDF, UNTYPED, canonical
from cas.digest import CAS_PREFIX, is_cas_key
from parts.addresses import is_executed
from parts.legacy_import.sources import BadRow, Shape, Table
from parts.models import Part, Tag, Type

LONGEST_NUMBER: Final = 40
"""Characters; Python takes its time over numbers of thousands of digits."""

_ARRAY_ELEMENT: Final = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^,"{}\s][^,"{}]*))\s*(?:,|\Z)')


def text(value: Any, column: str) -> str:
    """Text; NULL is empty, a number is written out."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise _invalid(column, "is not text")
    written = value if isinstance(value, str) else f"{value}"
    if "\x00" in written:
        raise _invalid(column, "has a NUL character")
    try:
        written.encode()
    except UnicodeEncodeError:
        raise _invalid(column, "is not well-formed Unicode") from None
    return written


def identifier(value: Any, column: str) -> str | None:
    """An older id as text, so that 7 and "7" are the same; None for NULL."""
    if isinstance(value, UUID):
        value = str(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return text(value, column).strip() or None


def whole(value: Any, column: str) -> int | None:
    """A whole number; None for NULL."""
    if isinstance(value, float | Decimal) and value == value // 1:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise _invalid(column, "is not a whole number")
    written = f"{value}".strip() if value is not None else ""
    if not written:
        return None
    if not re.fullmatch(rf"[+-]?[0-9]{{1,{LONGEST_NUMBER}}}", written):
        raise _invalid(column, "is not a whole number")
    return int(written)


def moment(value: Any, column: str) -> datetime | None:
    """A point in time in UTC, which is also what one without a zone is taken for."""
    if not isinstance(value, str | datetime | None):
        raise _invalid(column, "is not a time")
    if value is None or value == "":
        return None
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _invalid(column, "is not a time in ISO 8601") from None


def names(value: Any, column: str) -> list[str]:
    """Names in their order, each once however it is written, and none of which nothing is seen.

    A list, or one written as JSON, `{a,b}` or `a, b`.
    """
    given = _listed(value, column) if isinstance(value, str) else value
    if given is None:
        return []
    if not isinstance(given, list):
        raise _invalid(column, "is not a list of names")
    if any(not isinstance(name, str) for name in given):
        raise _invalid(column, "has something in it that is not a name")
    written: dict[str, str] = {}
    for name in given:
        bare = text(name, column).strip()
        written.setdefault(fold(bare).strip(), bare)
    written.pop("", None)
    return list(written.values())


def _listed(value: str, column: str) -> Any:
    bare = value.strip()
    if bare.startswith("["):
        try:
            return json.loads(bare)
        except (ValueError, RecursionError):
            raise _invalid(column, "is not a JSON array") from None
    if bare.startswith("{") and bare.endswith("}"):
        return _array(bare[1:-1].strip(), column)
    return bare.split(",")


def _array(inside: str, column: str) -> list[str]:
    """A one-dimensional array as PostgreSQL writes it."""
    found = []
    position = 0
    while position < len(inside):
        element = _ARRAY_ELEMENT.match(inside, position)
        if element is None or element[2] == "NULL":
            raise _invalid(column, "is not an array of names")
        quoted, bare = element.groups()
        found.append(bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        position = element.end()
    return found


def _invalid(column: str, problem: str) -> BadRow:
    return BadRow("invalid", f"{column} {problem}")


OCTETS: Final = frozenset({"application/octet-stream", *UNTYPED})
"""Content types that say nothing."""

UNIDENTIFIED: Final = "binary/octet-stream"
"""The one of them that stands for bytes that may be a picture, until they are looked at."""


def file_name(name: str, content_type: str, key: str) -> str:
    """A safe name that ends as files of the type do; where the type says nothing, as the key."""
    if content_type not in FORMATS and "." not in name.strip("."):
        guessed = None if content_type in OCTETS else mimetypes.guess_extension(content_type)
        name = (name or "attachment") + (guessed or _suffix(key))
    return safe_name(name, content_type) or "attachment"


def name_in(url: str | None) -> str:
    """The last part of a URL's path."""
    try:
        return PurePosixPath(unquote(urlsplit(url or "").path)).name
    except ValueError:
        return ""


def likely_type(kind: str, key: str) -> str:
    """What a file whose type nobody looked at is taken for, until its bytes are read."""
    guessed = mimetypes.guess_type(f"x{_suffix(key)}")[0]
    if kind == Attachment.Kind.PDF:
        return guessed or PDF
    return guessed if guessed in FORMATS else UNIDENTIFIED


def _suffix(key: str) -> str:
    suffix = PurePosixPath(key).suffix
    return suffix if re.fullmatch(r"\.[0-9A-Za-z]{1,10}", suffix) else ""


Raw = Mapping[str, Any]

LONGEST_ID: Final = 100
"""Characters of an id that the table of source rows has room for, with what may be added."""

LARGEST_SIZE: Final = 2**63 - 1

LARGEST_KEPT_ID: Final = 2**53 - 1
"""A larger id is not kept: clients that read JSON numbers as doubles would confuse it with its
neighbours, and ids would run out behind the largest that a column can hold."""

MOST_PINS: Final = 2**31 - 1
"""What the column holds on PostgreSQL; SQLite's would hold more."""

TEXT_COLUMNS: Final = tuple(
    field.name
    for field in Part._meta.fields
    if field.editable and isinstance(field, CharField | TextField) and field.name != "seller"
)
"""Columns of a part that are copied as they are. A seller may stand in a table of its own."""

PART_COLUMNS: Final = frozenset(TEXT_COLUMNS) | {
    "id", "key", "pin_count", "type", "type_id", "seller", "seller_id", "tags",
    "cover_attachment_id", "attachment_set_id", "created_at", "updated_at",
}  # fmt: skip

ATTACHMENT_COLUMNS: Final = frozenset(
    {
        "id", "part_id", "attachment_set_id", "attachment_type", "title", "s3_key", "url",
        "filename", "content_type", "file_size", "created_at", "updated_at",
    }
)  # fmt: skip

_CONTENT_TYPE: Final = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)


class Lookup(Protocol):
    """What a part's row says by ids, found in the source's other tables."""

    def name(self, kind: str, reference: str) -> str | None:
        """The name of a type or seller; None if there is no such id."""

    def used(self, kind: str, name: str) -> None:
        """A part's row has this name itself."""

    def seller(self, part: str) -> tuple[str | None, str]:
        """The id of a part's first seller, and the link to the part there."""

    def tags(self, part: str) -> list[str]:
        """The names of a part's tags, from tables of their own."""


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A part as its row here will be; `fields` are those that are copied as they are."""

    source_id: str
    key: str
    cover: str | None
    set_id: str | None
    type_name: str
    tags: list[str]
    created: datetime | None
    updated: datetime | None
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AttachmentRecord:
    """An attachment as its row here will be, but for its part. Sizes in bytes.

    `owner` is the id of its part, or of its set. A `size` that the source does not know is taken
    from the object.
    """

    source_id: str
    owner: str
    kind: str
    s3_key: str | None
    url: str | None
    filename: str | None
    size: int | None
    content_type: str | None
    title: str
    created: datetime | None
    updated: datetime | None

    @property
    def has_picture(self) -> bool:
        return model_of(self).has_picture


def parse_part(raw: Raw, lookup: Lookup) -> PartRecord:
    """Raises BadRow."""
    source_id = _id(raw)
    fields: dict[str, Any] = {column: text(raw.get(column), column) for column in TEXT_COLUMNS}
    seller, link = lookup.seller(source_id)
    fields["seller"] = _named(raw, "seller", lookup) or _by_id("seller", seller, lookup)
    fields["seller_link"] = fields["seller_link"] or link
    for column in ("product_page", "seller_link"):
        fields[column] = fields[column].strip()
    fields["pin_count"] = whole(raw.get("pin_count"), "pin_count")
    if fields["pin_count"] is not None and not 1 <= fields["pin_count"] <= MOST_PINS:
        raise BadRow("invalid", f"pin_count is not from 1 to {MOST_PINS}")
    record = PartRecord(
        source_id=source_id,
        key=text(raw.get("key"), "key"),
        cover=identifier(raw.get("cover_attachment_id"), "cover_attachment_id"),
        set_id=identifier(raw.get("attachment_set_id"), "attachment_set_id"),
        type_name=_named(raw, "type", lookup),
        tags=names(raw["tags"], "tags") if "tags" in raw else lookup.tags(source_id),
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


def parse_attachment(raw: Raw, owner_column: str) -> AttachmentRecord:
    """Raises BadRow."""
    source_id = _id(raw)
    owner = identifier(raw.get(owner_column), owner_column)
    if owner is None:
        raise BadRow("invalid", f"{owner_column} is empty")
    kind = text(raw.get("attachment_type"), "attachment_type").strip().lower()
    key = text(raw.get("s3_key"), "s3_key") or None
    url = text(raw.get("url"), "url").strip() or None
    title = text(raw.get("title"), "title").strip()
    content_type = filename = None
    if key is not None:
        given = canonical(text(raw.get("content_type"), "content_type"))
        # An image whose row says another type may be one all the same, and the part's cover.
        untold = given in OCTETS or (kind == Attachment.Kind.IMAGE and given == PDF)
        content_type = likely_type(kind, key) if untold else given
        named = text(raw.get("filename"), "filename") or name_in(url) or title
        if kind != Attachment.Kind.URL or raw.get("filename"):
            filename = file_name(named, content_type, key)
    record = AttachmentRecord(
        source_id=source_id,
        owner=owner,
        kind=kind,
        s3_key=key,
        url=url,
        filename=filename,
        size=whole(raw.get("file_size"), "file_size") if key is not None else None,
        content_type=content_type,
        title=title or (filename or url or "")[:255],
        created=moment(raw.get("created_at"), "created_at"),
        updated=moment(raw.get("updated_at"), "updated_at"),
    )
    _check_kind(record)
    _check(model_of(record), "part", "url")
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


def _id(raw: Raw) -> str:
    found = identifier(raw.get("id"), "id")
    if found is None:
        raise BadRow("invalid", "id is empty")
    if len(found) > LONGEST_ID:
        raise BadRow("invalid", f"id is longer than {LONGEST_ID} characters")
    return found


def _named(raw: Raw, column: str, lookup: Lookup) -> str:
    """The name in the column itself, or the one that the column of ids stands for."""
    if name := text(raw.get(column), column).strip():
        lookup.used(column, name)
        return name
    reference = identifier(raw.get(f"{column}_id"), f"{column}_id")
    return _by_id(column, reference, lookup)


def _by_id(column: str, reference: str | None, lookup: Lookup) -> str:
    if reference is None:
        return ""
    name = lookup.name(column, reference)
    if name is None:
        raise BadRow("invalid", f"{column}_id {reference} is not among the {column}s")
    return name


def _check_kind(record: AttachmentRecord) -> None:
    """What the row's type implies; the database would only say which constraint refused."""
    if len(record.url or "") > LONGEST:
        raise BadRow("invalid", f"url is longer than {LONGEST} characters")
    if is_executed(record.url or ""):
        raise BadRow("invalid", "url is one that a browser would run")
    if record.kind == Attachment.Kind.URL:
        _check_link(record.url)
    elif record.s3_key is None:
        raise BadRow("invalid", "s3_key is empty")
    if record.s3_key is None:
        return
    if record.size is not None and not 0 <= record.size <= LARGEST_SIZE:
        raise BadRow("invalid", "file_size is not the size of a file")
    if not (is_cas_key(record.s3_key) or is_older_key(record.s3_key)):
        raise BadRow("unknown_key", "s3_key is neither below parts/ nor cas/{hash}")
    if not _CONTENT_TYPE.fullmatch(record.content_type or ""):
        raise BadRow("invalid", "content_type is not a media type")


def _check_link(url: str | None) -> None:
    if url is None:
        raise BadRow("invalid", "url is empty")
    try:
        web_address(url)
    except ValidationError:
        raise BadRow("invalid", "url is not an http or https link") from None


def is_older_key(key: str) -> bool:
    """Whether this is a key below `parts/` that every store can keep: it names no directory."""
    pieces = key.split("/")
    return (
        key.startswith(LEGACY_PREFIX)
        and not {"", ".", ".."} & set(pieces)
        and all(character >= " " and character != "\x7f" for character in key)
    )


def _check(row: Model, *unchecked: str) -> None:
    """Lengths, ranges, choices and forms, as the model's own fields judge them."""
    try:
        row.clean_fields(exclude={*unchecked, "created_at", "updated_at"})
    except ValidationError as error:
        reason = "; ".join(
            f"{field}: {' '.join(messages)}" for field, messages in error.message_dict.items()
        )
        raise BadRow("invalid", reason) from None


Columns = dict[str, Any]

LONGEST_KEY: Final = 1024
"""Characters of an object's key; no store has a longer one."""

_BLOB: Final = rf"{CAS_PREFIX}[0-9a-f]{{64}}(?![0-9a-f])"
_KEY: Final = re.compile(rf"({_BLOB})|({LEGACY_PREFIX}.+)", re.IGNORECASE | re.DOTALL)

_QUOTED: Final = re.compile(
    rf"""(?:(?P<quote>["'])[^"']*?)?(?P<key>(?i:{_BLOB})|{LEGACY_PREFIX}(?(quote)(?:(?!(?P=quote)).)+|[^",\t]+))"""
)
"""What looks like an object's key, wherever it stands: in quotes, or up to the next separator."""

_ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})|\\(.)")


def recognised_key(written: str) -> str | None:
    """The object that a key means: with a slash or a bucket before it, or in capitals; or None."""
    if is_cas_key(written) or is_older_key(written):
        return written
    found = _KEY.search(written)
    if found is None:
        return None
    return found[1].lower() if found[1] else LEGACY_PREFIX + found[2][len(LEGACY_PREFIX) :]


def held_key(written: str | None) -> str | None:
    """The key by which a row's object is held, whatever it is written like; None if it has none.

    No store has an object for a longer key than LONGEST_KEY, nor PostgreSQL a text with a NUL.
    """
    key = recognised_key(written or "") or written
    return key if key and len(key) <= LONGEST_KEY and "\0" not in key else None


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
    keys = dict.fromkeys(
        found["key"].rstrip("\r\n")
        for spelling in (written, _ESCAPE.sub(_unescaped, written))
        for found in _QUOTED.finditer(spelling)
    )
    yield from [{"s3_key": key, "name": key[:255]} for key in keys] or [{}]


def _unescaped(escape: re.Match[str]) -> str:
    """A character of a JSON text (RFC 8259, 7), without the pairs of UTF-16."""
    return chr(int(escape[1], 16)) if escape[1] else escape[2]


def other_keys(row: Raw, known: frozenset[str]) -> Iterator[tuple[str, str]]:
    """The objects that columns name which are not imported, each with its column."""
    for column in sorted(row.keys() - known):
        values = row[column] if isinstance(row[column], list) else [row[column]]
        for value in values:
            if isinstance(value, str) and (key := held_key(recognised_key(value.strip()))):
                yield column, key


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
