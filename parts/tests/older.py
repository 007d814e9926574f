"""An older installation as its dumps and its database would show it."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attachments.tests.legacy import put
from cas.storage.base import BlobStore

Row = dict[str, Any]

CREATED = "2019-03-01T10:20:30+00:00"


def older_part(number: int, **changes: Any) -> Row:
    return {
        "id": number,
        "key": "".join(chr(65 + digit) for digit in divmod(number, 26)).rjust(4, "Q"),
        "description": f"Older part {number}",
        "manufacturer": "Vishay",
        "manufacturer_code": f"CRCW{number}",
        "type": "Resistor",
        "tags": ["smd", "thick film"],
        "pin_count": 2,
        "cover_attachment_id": None,
        "created_at": CREATED,
        "updated_at": CREATED,
        **changes,
    }


def older_file(number: int, part: int, size: int, kind: str = "pdf", **changes: Any) -> Row:
    extension, content_type = ("pdf", "application/pdf") if kind == "pdf" else ("png", "image/png")
    return {
        "id": number,
        "part_id": part,
        "attachment_type": kind,
        "title": f"File {number}",
        "s3_key": f"parts/{part}/attachments/{uuid.UUID(int=number)}.{extension}",
        "url": None,
        "filename": f"file {number}.{extension}",
        "content_type": content_type,
        "file_size": size,
        "created_at": CREATED,
        "updated_at": CREATED,
        **changes,
    }


def older_link(number: int, part: int) -> Row:
    nothing: Row = dict.fromkeys(["s3_key", "filename", "content_type", "file_size"])
    link = {"attachment_type": "url", "url": "https://example.org/part"}
    return {**older_file(number, part, 0), **nothing, **link}


def collection(store: BlobStore) -> tuple[list[Row], list[Row]]:
    """Three parts with a cover, a shared datasheet and a link, and their objects in the store."""
    contents = {10: b"photo", 11: b"datasheet", 12: b"datasheet", 13: b"notes"}
    files = [
        older_file(10, 1, 5, "image"),
        older_file(11, 1, 9),
        older_file(12, 2, 9),
        older_file(13, 3, 5),
    ]
    for row in files:
        put(store, row["s3_key"], contents[row["id"]])
    parts = [older_part(1, cover_attachment_id=10), older_part(2), older_part(3)]
    return parts, [*files, older_link(14, 3)]


def as_lines(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_csv(path: Path, rows: Sequence[Row]) -> Path:
    """The way PostgreSQL's COPY writes it: arrays in braces, NULL as nothing."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys() if rows else [])
        writer.writeheader()
        for row in rows:
            tags = "{" + ",".join(f'"{tag}"' for tag in row.get("tags", [])) + "}"
            writer.writerow({**row, "tags": tags} if "tags" in row else row)
    return path


def dump(
    directory: Path,
    tables: Mapping[str, Sequence[Row]],
    write: Callable[[Path, Sequence[Row]], Path] = as_lines,
) -> Path:
    """A directory with a dump of each table."""
    directory.mkdir(exist_ok=True)
    suffix = "csv" if write is as_csv else "jsonl"
    for table, rows in tables.items():
        write(directory / f"{table}.{suffix}", rows)
    return directory
