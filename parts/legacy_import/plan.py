"""Decides what becomes of every row, before anything is changed.

Each step is a statement over the whole scratch database. Identity is a matter of counting: the
n-th row of a part with some key is the n-th row here of that part with that key, so that a part
which really has one file twice keeps both, and a second import finds them all. A row that has
moved to another key since is known by the id it kept, else by its bytes, and only counted where
neither can tell.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from attachments.models import LEGACY_PREFIX
from cas.digest import CAS_PREFIX, Digest
from cas.storage.base import Absent, Corrupt
from parts.legacy_import.sources import Table

SCRATCH_TABLES: Final = {Table.PARTS: "part", Table.ATTACHMENTS: "attachment"}

READS_AT_A_TIME: Final = 16
"""Objects that are read at a time where their bytes must tell."""

REPEATED: Final = """
UPDATE {table} SET fault = 'duplicate',
    reason = '{column} ' || {table}.{column} || ' is that of row ' || twin.first || ' too'
FROM (
    SELECT number, min(number) OVER (PARTITION BY {column}) AS first
    FROM {table} WHERE fault IS NULL AND {column} IS NOT NULL
) AS twin
WHERE twin.number = {table}.number AND twin.first < {table}.number
"""

MATCH_PARTS: Final = """
UPDATE part SET target = part_here.id, cover_here = part_here.cover
FROM part_here WHERE part_here.key = part.key AND part.fault IS NULL
"""

# Keys are drawn by chance: two collections can have given one key to two different parts, and
# the files of one must not end up with the other. A part that was edited here still has its time.
STRANGERS: Final = """
UPDATE part SET target = NULL, cover_here = NULL, fault = 'conflict',
    reason = 'here the key ' || part.key || ' is that of another part: ' || part_here.description
FROM part_here
WHERE part_here.id = part.target
    AND NOT (part_here.created IS part.created
        OR part_here.description = part.description
        OR (part.code <> '' AND part_here.code = part.code))
"""

WITHOUT_PART: Final = """
UPDATE attachment SET fault = 'no_part', reason = coalesce(
    (SELECT 'its part, row ' || part.number || ', is refused'
     FROM part WHERE part.id = attachment.part),
    'there is no part with the id ' || attachment.part)
WHERE fault IS NULL
    AND NOT EXISTS (SELECT 1 FROM part WHERE part.id = attachment.part AND part.fault IS NULL)
"""

MATCH_SAME_KEY: Final = """
WITH theirs AS (
    SELECT attachment.number, part.target AS part, coalesce(s3_key, url) AS place,
        row_number() OVER (
            PARTITION BY part.target, coalesce(s3_key, url) ORDER BY attachment.number) AS n
    FROM attachment JOIN part ON part.id = attachment.part AND part.fault IS NULL
    WHERE attachment.fault IS NULL AND part.target IS NOT NULL
), ours AS (
    SELECT id, part, coalesce(s3_key, url) AS place,
        row_number() OVER (PARTITION BY part, coalesce(s3_key, url) ORDER BY id) AS n
    FROM attachment_here
)
UPDATE attachment SET target = ours.id
FROM theirs JOIN ours USING (part, place, n) WHERE theirs.number = attachment.number
"""

# A row that was imported before and migrated since has another key here. What nobody can edit
# tells it: part, type, file name, size and, where the source has it, the time it was made.
CANDIDATES: Final = f"""
CREATE TEMP VIEW candidate AS
SELECT attachment.*, attachment_here.id AS id_here, attachment_here.s3_key AS key_here
FROM attachment
    JOIN part ON part.id = attachment.part AND part.fault IS NULL
    JOIN attachment_here ON attachment_here.part = part.target
        AND attachment_here.kind = attachment.kind
        AND attachment_here.filename = attachment.filename
        AND attachment_here.size = attachment.size
        AND coalesce(attachment.created, attachment_here.created) = attachment_here.created
WHERE attachment.fault IS NULL AND attachment.target IS NULL
    AND attachment.s3_key GLOB '{LEGACY_PREFIX}*' AND attachment_here.s3_key GLOB '{CAS_PREFIX}*'
    AND NOT EXISTS (SELECT 1 FROM attachment AS found WHERE found.target = attachment_here.id)
"""  # noqa: S608 - our own constants

MATCH_KEPT_ID: Final = """
UPDATE attachment SET target = own_id
WHERE number IN (SELECT number FROM candidate WHERE own_id = id_here)
"""

# A name and a size alone are little to go by; and of two rows alike, one may not have come in.
DOUBTFUL: Final = """
CREATE TEMP TABLE doubtful AS SELECT DISTINCT number, s3_key FROM candidate
WHERE created IS NULL OR EXISTS (
    SELECT 1 FROM attachment AS twin
    WHERE twin.part = candidate.part AND twin.number <> candidate.number
        AND twin.fault IS NULL AND twin.target IS NULL AND twin.created = candidate.created
        AND twin.kind = candidate.kind AND twin.filename = candidate.filename
        AND twin.size = candidate.size)
"""

MATCH_BYTES: Final = """
UPDATE attachment SET was_read = 1, target = (
    SELECT min(id_here) FROM candidate
    WHERE candidate.number = attachment.number AND key_here = :key)
WHERE number = :number
"""

MATCH_COUNTED: Final = f"""
WITH theirs AS (
    SELECT attachment.number, part.target AS part, kind, filename, size,
        {{their_time}} AS made,
        row_number() OVER (
            PARTITION BY part.target, kind, filename, size, {{their_time}}
            ORDER BY attachment.number) AS n
    FROM attachment JOIN part ON part.id = attachment.part AND part.fault IS NULL
    WHERE attachment.fault IS NULL AND attachment.target IS NULL AND part.target IS NOT NULL
        -- Bytes that were read and are not here have not come in.
        AND NOT was_read
        AND s3_key GLOB '{LEGACY_PREFIX}*' AND (attachment.created IS NULL) = {{timeless}}
), ours AS (
    SELECT id, part, kind, filename, size, {{our_time}} AS made,
        row_number() OVER (
            PARTITION BY part, kind, filename, size, {{our_time}} ORDER BY id) AS n
    FROM attachment_here
    WHERE s3_key GLOB '{CAS_PREFIX}*'
        AND id NOT IN (SELECT target FROM attachment WHERE target IS NOT NULL)
)
UPDATE attachment SET target = ours.id
FROM theirs JOIN ours USING (part, kind, filename, size, made, n)
WHERE theirs.number = attachment.number
"""  # noqa: S608 - our own constants

UNREADABLE: Final = "UPDATE attachment SET fault = 'object_unreadable', reason = ? WHERE number = ?"

COVERS: Final = """
UPDATE attachment SET is_cover = 1
FROM part
WHERE part.cover = attachment.id AND part.id = attachment.part AND part.fault IS NULL
    AND part.cover_here IS NULL
    AND attachment.fault IS NULL AND attachment.target IS NULL AND attachment.kind = 'image'
"""

LOST_COVERS: Final = """
UPDATE part SET lost_cover = 1
WHERE fault IS NULL AND cover IS NOT NULL AND cover_here IS NULL
    AND NOT EXISTS (
        SELECT 1 FROM attachment
        WHERE attachment.id = part.cover AND attachment.part = part.id
            AND attachment.kind = 'image' AND attachment.fault IS NULL)
"""

TAKEN_IDS: Final = """
UPDATE {table} SET own_id = NULL
WHERE own_id IS NOT NULL AND EXISTS (SELECT 1 FROM {table}_here WHERE id = {table}.own_id)
"""


@dataclass(frozen=True, slots=True)
class Planned:
    """How many of a table's rows were read, are here already, are refused, are to come."""

    read: int
    present: int
    refused: int
    to_import: int


def match(scratch: sqlite3.Connection) -> None:
    """Refuse what contradicts other rows, and find by key or id what is here already."""
    for table, column in (("part", "id"), ("part", "key"), ("attachment", "id")):
        scratch.execute(REPEATED.format(table=table, column=column))
    scratch.execute(MATCH_PARTS)
    scratch.execute(STRANGERS)
    scratch.execute(WITHOUT_PART)
    scratch.execute(MATCH_SAME_KEY)
    scratch.execute(CANDIDATES)
    scratch.execute(MATCH_KEPT_ID)


def match_by_content(
    scratch: sqlite3.Connection, digest_of: Callable[[str], Digest | Absent | Corrupt]
) -> None:
    """Tell by the bytes at their keys which of the rows left are here already.

    Rows whose object is gone, as after a cleanup, are counted. One whose object is damaged is
    refused: it may be here or not. Raises what `digest_of` raises.
    """
    scratch.execute(DOUBTFUL)
    with ThreadPoolExecutor(READS_AT_A_TIME) as pool:
        doubtful = scratch.execute("SELECT number, s3_key FROM doubtful ORDER BY number")
        while rows := doubtful.fetchmany(READS_AT_A_TIME):
            found = pool.map(digest_of, [row["s3_key"] for row in rows])
            for row, digest in zip(rows, found, strict=True):
                if isinstance(digest, Digest):
                    scratch.execute(MATCH_BYTES, {"number": row["number"], "key": digest.key})
                elif isinstance(digest, Corrupt):
                    scratch.execute(UNREADABLE, [str(digest), row["number"]])
    scratch.execute(
        MATCH_COUNTED.format(their_time="attachment.created", our_time="created", timeless=0)
    )
    scratch.execute(MATCH_COUNTED.format(their_time="''", our_time="''", timeless=1))


def settle(scratch: sqlite3.Connection) -> dict[Table, Planned]:
    """When every fault is known: choose covers and ids, and count."""
    scratch.execute(COVERS)
    scratch.execute(LOST_COVERS)
    for table in SCRATCH_TABLES.values():
        scratch.execute(TAKEN_IDS.format(table=table))
    return {table: _count(scratch, name) for table, name in SCRATCH_TABLES.items()}


def _count(scratch: sqlite3.Connection, table: str) -> Planned:
    found = scratch.execute(
        f"""
        SELECT count(*), count(target), count(fault),
            count(*) FILTER (WHERE fault IS NULL AND target IS NULL)
        FROM {table}
        """  # noqa: S608 - one of our own table names
    ).fetchone()
    return Planned(*found)
