"""Older installations as their dumps and their databases would show them."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from django.db import connection
from psycopg import sql

from attachments.tests.factories import PDF, picture
from attachments.tests.legacy import put
from cas.digest import Digest
from cas.storage.base import BlobStore

Row = dict[str, Any]
Tables = dict[str, list[Row]]

CREATED = "2019-03-01T10:20:30+00:00"

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


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


def older_file(number: int, part: Any, size: int, kind: str = "pdf", **changes: Any) -> Row:
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


@dataclass
class Older:
    """An older installation with what such systems write in ordinary use.

    `contents` are the bytes of the attachments that must come over, by id; `refused` the ids of
    those that must not, and `kits` of those that kits own.
    """

    tables: Tables
    contents: dict[Any, bytes]
    refused: set[Any]
    kits: set[Any] = field(default_factory=set)
    attachments: str = "part_attachments"

    @property
    def keys(self) -> set[str]:
        """Every object that a row names."""
        return {row["s3_key"] for row in self.tables[self.attachments] if row["s3_key"]}


PARTS = [
    older_part(
        1,
        description="x" * 3000,
        tags=["zener", "3 V", "smd", "y" * 150],
        voltage_rating="v" * 100,
        product_page="see catalogue, p. 5",
        cover_attachment_id=1,
    ),
    older_part(2, cover_attachment_id=3),
    older_part(3, tags=["3 V", "zener"], cover_attachment_id=6),
    older_part(4, key="abcd"),
]


def older_files() -> tuple[list[Row], dict[Any, bytes]]:
    """Attachments of those parts, and the bytes of their objects."""
    blue, red, mauve = picture("blue", codec="JPEG"), picture("red"), picture("purple")
    contents = {1: blue, 2: red, 3: PDF, 4: PDF, 5: SVG, 6: mauve, 8: PDF + b"4", 9: PDF + b"lost"}
    sheet = "https://example.org/data/BZX84%20C3.pdf?x=1"
    files = [
        older_file(1, 1, 0, "image", content_type="image/jpg", filename="front.jpg"),
        older_file(2, 1, 0, "image", content_type="binary/octet-stream"),
        older_file(3, 2, 0, filename=None, url=sheet, content_type="application/x-pdf"),
        older_file(4, 2, 0, s3_key="parts/2/attachments/our data sheet (2).pdf", filename=None),
        older_file(5, 3, 0, "image", content_type="image/svg+xml", filename="logo"),
        older_file(6, 3, 0, "url", url="https://example.org/shop", filename=None),
        older_link(7, 3),
        older_file(8, 4, 0),
        older_file(9, 1, 0),
    ]
    for row in files:
        row["file_size"] = len(contents[row["id"]]) if row["s3_key"] else None
    return files, contents


def on_parts(store: BlobStore) -> Older:
    """Attachments of parts, on older keys. One row's object is missing, one's part is refused."""
    files, contents = older_files()
    for row in files:
        if row["s3_key"] and row["id"] != 9:
            put(store, row["s3_key"], contents[row["id"]])
    tables = {
        "parts": PARTS,
        "part_attachments": files,
        "boxes": [{"id": 1, "name": "A"}, {"id": 2, "name": "B"}],
    }
    return Older(tables, _come_over(contents), {8, 9})


def on_blobs(store: BlobStore) -> Older:
    """The same, on keys below `cas/`; the missing object is one with other bytes."""
    files, contents = older_files()
    for row in files:
        if row["s3_key"]:
            content = contents[row["id"]]
            row["s3_key"] = Digest.of(content).key
            put_blob(store, content, b"x" * len(content) if row["id"] == 9 else content)
    tables = {"parts": PARTS, "part_attachments": files}
    return Older(tables, _come_over(contents), {8, 9})


def in_sets(store: BlobStore) -> Older:
    """Attachments in sets of parts and kits, with UUIDs as ids; one on a key below `cas/`."""
    files, contents = older_files()
    ids = {number: str(uuid.UUID(int=number + 100)) for number in range(1, 13)}
    contents[11] = b"of a kit"
    files.append(older_file(11, 90, len(contents[11]), s3_key="kits/1/attachments/plan v2.pdf"))
    for row in files:
        if row["id"] == 2:
            row["s3_key"] = Digest.of(contents[2]).key
            put_blob(store, contents[2], contents[2])
        elif row["s3_key"] and row["id"] != 9:
            put(store, row["s3_key"], contents[row["id"]])
        row["attachment_set_id"] = row.pop("part_id") + 50
        row["id"] = ids[row["id"]]
        row["created_at"] = row["created_at"].removesuffix("+00:00")
    parts, sets = [], []
    for part in PARTS:
        cover = part["cover_attachment_id"]
        sets.append({"id": part["id"] + 50, "cover_attachment_id": ids.get(cover)})
        parts.append({**part, "attachment_set_id": part["id"] + 50, "quantity": 7})
        del parts[-1]["cover_attachment_id"]
    tables = {
        "parts": parts,
        "attachments": files,
        "attachment_sets": [*sets, {"id": 140, "cover_attachment_id": None}],
        "kits": [{"id": 1, "name": "Starter", "attachment_set_id": 140}],
        "sellers": [
            {"id": 1, "name": "Mouser", "website": "https://mouser.example"},
            {"id": 2, "name": "Reichelt", "website": None},
        ],
        "part_sellers": [
            {"part_id": 1, "seller_id": 1, "link": "ask for Mr. Schmidt"},
            {"part_id": 1, "seller_id": 2, "link": "https://reichelt.example/1"},
        ],
        "pick_lists": [{"id": 1, "name": "Radio"}],
    }
    of = {ids[number]: content for number, content in _come_over(contents).items()}
    return Older(tables, of, {ids[8], ids[9]}, {ids[11]}, "attachments")


def _come_over(contents: Mapping[Any, bytes]) -> dict[Any, bytes]:
    return {number: content for number, content in contents.items() if number <= 6}


def put_blob(store: BlobStore, content: bytes, kept: bytes) -> None:
    """Bytes at the key of `content`, as another program would put them there."""
    key = Digest.of(content).key
    if hasattr(store, "bucket"):
        store.bucket.put_object(Key=key, Body=kept)
    else:
        path = Path(store.location, key)  # type: ignore[attr-defined]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(kept)


def as_lines(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_csv(path: Path, rows: Sequence[Row]) -> Path:
    """The way PostgreSQL's COPY writes it: arrays in braces, NULL as nothing."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, _columns(rows))
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


@contextmanager
def database() -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """Another database in the server of the tests, and its URL."""
    settings = connection.get_connection_params()
    server = {name: settings[name] for name in ("host", "port", "user") if settings.get(name)}
    name = f"older_{uuid.uuid4().hex}"
    with psycopg.connect(dbname="postgres", autocommit=True, **server) as administrator:
        administrator.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            with psycopg.connect(dbname=name, autocommit=True, **server) as session:
                host, port = server.get("host", ""), server.get("port", "")
                yield f"postgresql://{server['user']}@{host}:{port}/{name}", session
        finally:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            administrator.execute(drop)


def create(session: psycopg.Connection[Any], tables: Mapping[str, Sequence[Row]]) -> None:
    """Make these tables, with the types that such columns have."""
    for table, rows in tables.items():
        columns = _columns(rows)
        defined = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(_type(name, rows)))
            for name in columns
        )
        session.execute(sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(table), defined))
        insert = sql.SQL("INSERT INTO {} VALUES ({})").format(
            sql.Identifier(table), sql.SQL(", ").join(sql.Placeholder() * len(columns))
        )
        with session.cursor() as cursor:
            cursor.executemany(insert, [[row.get(name) for name in columns] for row in rows])


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _type(column: str, rows: Sequence[Row]) -> str:
    values = [row[column] for row in rows if row.get(column) is not None]
    if column.endswith("_at"):
        return "timestamp" if values and "+" not in values[0] else "timestamptz"
    if column == "tags":
        return "text[]"
    if values and isinstance(values[0], int):
        return "bigint"
    if column.endswith("id") and values and len(values[0]) == 36:
        return "uuid"
    return "text"
