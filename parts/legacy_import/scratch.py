"""Where the older rows wait, beside what is known of the rows here, while the import is planned.

A private SQLite database on disk that is gone with its connection, and so with the process. It
keeps memory flat whatever the number of rows, and lets the plan be a handful of joins.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

CACHE_KIB: Final = 32 * 1024

SCHEMA: Final = """
-- What ids of types, sellers and tags stand for; `used` if a part has it.
CREATE TABLE name (
    kind TEXT, id TEXT, name TEXT, used INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE INDEX name_name ON name (kind, name);
CREATE TABLE part_seller (number INTEGER PRIMARY KEY, part TEXT, seller TEXT, link TEXT);
CREATE TABLE part_tag (number INTEGER PRIMARY KEY, part TEXT, tag TEXT);
CREATE TABLE attachment_set (id TEXT PRIMARY KEY, cover TEXT) WITHOUT ROWID;
CREATE TABLE kit (number INTEGER PRIMARY KEY, id TEXT, set_id TEXT);

-- `number` counts the source's rows from 1, `map_id` is the row's id in the table of source rows.
-- `outcome` is set for what is neither to be imported nor refused: already_here (as the row
-- `target`), deleted_here, forgotten, left_out. A row with a `fault` is not imported, for `reason`.
-- `own_id` is the id it had and is to keep if it can. `record` is the row as JSON; the other
-- columns repeat of it what the plan asks for. `former` is the attachment here that the row became
-- when it named another object.
CREATE TABLE part (
    number INTEGER PRIMARY KEY, id TEXT, map_id TEXT, key TEXT, set_id TEXT, cover TEXT,
    created TEXT, own_id INTEGER, record TEXT, fault TEXT, reason TEXT, outcome TEXT,
    target INTEGER, cover_here INTEGER, lost_cover TEXT
);
CREATE TABLE attachment (
    number INTEGER PRIMARY KEY, id TEXT, map_id TEXT, part TEXT, set_id TEXT, kind TEXT,
    name TEXT, s3_key TEXT, url TEXT, size INTEGER, created TEXT, has_picture INTEGER,
    own_id INTEGER, record TEXT, fault TEXT, reason TEXT, outcome TEXT, target INTEGER,
    former INTEGER, is_cover INTEGER NOT NULL DEFAULT 0
);

-- What earlier imports of this source recorded, and the ids here that any source's rows got.
CREATE TABLE known (
    kind TEXT, id TEXT, our_id INTEGER, state TEXT, released TEXT, name TEXT, s3_key TEXT,
    size INTEGER, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE TABLE given_id (kind TEXT, id INTEGER, PRIMARY KEY (kind, id)) WITHOUT ROWID;

CREATE TABLE part_here (
    id INTEGER PRIMARY KEY, key TEXT, cover INTEGER, created TEXT, description TEXT
);
CREATE TABLE attachment_here (
    id INTEGER PRIMARY KEY, part INTEGER, kind TEXT, created TEXT, s3_key TEXT
);
"""

INDEXES: Final = """
CREATE INDEX part_id ON part (id);
CREATE INDEX part_key ON part (key);
CREATE INDEX part_map ON part (map_id);
CREATE INDEX part_set ON part (set_id);
CREATE INDEX kit_set ON kit (set_id);
CREATE INDEX attachment_id ON attachment (id);
CREATE INDEX attachment_map ON attachment (map_id);
CREATE INDEX attachment_set_id ON attachment (set_id);
CREATE INDEX attachment_part ON attachment (part);
CREATE INDEX attachment_key ON attachment (s3_key);
CREATE INDEX attachment_target ON attachment (target);
CREATE INDEX here_part ON attachment_here (part);
"""

LONGEST_KEY: Final = 1024
"""Characters of an object's key; no store has a longer one."""

TABLES: Final = ("part", "attachment")
"""The tables that hold rows to import."""


@contextmanager
def scratch() -> Iterator[sqlite3.Connection]:
    """An empty scratch database; `INDEXES` are for when it has been filled."""
    # An empty name is SQLite's for a private file, deleted as soon as it is open.
    with closing(sqlite3.connect("", isolation_level=None)) as database:
        database.row_factory = sqlite3.Row
        database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        database.execute("PRAGMA journal_mode = OFF")
        database.create_function("short_hash", 1, short_hash, deterministic=True)
        database.executescript(SCHEMA)
        yield database


def short_hash(text: str) -> str:
    """What stands for a text in a name."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
