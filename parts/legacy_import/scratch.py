"""Where the older rows wait, beside what is known of the rows here, while the import is planned.

A private SQLite database on disk that is gone with its connection, and so with the process. It
keeps memory flat whatever the number of rows, and lets the plan be a handful of joins.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

CACHE_KIB: Final = 32 * 1024

SCHEMA: Final = """
CREATE TABLE name (kind TEXT, id TEXT, name TEXT, PRIMARY KEY (kind, id)) WITHOUT ROWID;

-- `number` counts the source's rows from 1. A row with a `fault` is not imported, for `reason`.
-- `target` is the row here that it is already, `own_id` the id it had and is to keep if it can.
-- `record` is the row as JSON; the other columns repeat of it what the plan asks for. `was_read`
-- if its object's bytes had to tell whether it is here.
CREATE TABLE part (
    number INTEGER PRIMARY KEY, id TEXT, key TEXT, cover TEXT, created TEXT, description TEXT,
    code TEXT, own_id INTEGER, record TEXT, fault TEXT, reason TEXT, target INTEGER,
    cover_here INTEGER, lost_cover INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE attachment (
    number INTEGER PRIMARY KEY, id TEXT, part TEXT, kind TEXT, s3_key TEXT, url TEXT,
    filename TEXT, size INTEGER, created TEXT, own_id INTEGER, record TEXT, fault TEXT,
    reason TEXT, target INTEGER, is_cover INTEGER NOT NULL DEFAULT 0,
    was_read INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE part_here (
    id INTEGER PRIMARY KEY, key TEXT, cover INTEGER, created TEXT, description TEXT, code TEXT
);
CREATE TABLE attachment_here (
    id INTEGER PRIMARY KEY, part INTEGER, s3_key TEXT, url TEXT, kind TEXT, filename TEXT,
    size INTEGER, created TEXT
);
"""

INDEXES: Final = """
CREATE INDEX part_id ON part (id);
CREATE INDEX part_key ON part (key);
CREATE INDEX attachment_id ON attachment (id);
CREATE INDEX attachment_part ON attachment (part);
CREATE INDEX attachment_key ON attachment (s3_key);
CREATE INDEX attachment_target ON attachment (target);
CREATE INDEX here_part ON attachment_here (part, filename);
"""


@contextmanager
def scratch() -> Iterator[sqlite3.Connection]:
    """An empty scratch database; `INDEXES` are for when it has been filled."""
    # An empty name is SQLite's for a private file, deleted as soon as it is open.
    with closing(sqlite3.connect("", isolation_level=None)) as database:
        database.row_factory = sqlite3.Row
        database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        database.execute("PRAGMA journal_mode = OFF")
        database.executescript(SCHEMA)
        yield database
