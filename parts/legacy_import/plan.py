"""Decides what becomes of every row, before anything is changed.

Each step is a statement over the whole scratch database. What is here already is known by the map
of ids that earlier imports recorded. Only for rows that came before there was a map, a part is
known by its key and the time it was made, and its attachments by theirs: nobody can edit these.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

from cas.exit_status import ExitStatus, RunAborted
from parts.legacy_import.read import TABLES
from parts.legacy_import.sources import Shape

# Whose an attachment is, where parts and kits own sets of them. A set may have several owners:
# the first gets the row itself, the others one each, as if it had been copied to them.
OWNERS: Final = """
UPDATE attachment SET part = (
    SELECT id FROM part WHERE part.set_id = attachment.set_id ORDER BY number LIMIT 1)
"""
SET_COVERS: Final = """
UPDATE part SET cover = (SELECT cover FROM attachment_set WHERE id = part.set_id)
"""
FURTHER_OWNERS: Final = """
INSERT INTO attachment (
    number, id, map_id, part, set_id, kind, name, s3_key, url, size, created, has_picture,
    record, fault, reason)
SELECT
    (SELECT max(number) FROM attachment) + row_number() OVER (ORDER BY attachment.number, part.id),
    attachment.id, attachment.id || '@' || part.id, part.id, attachment.set_id, kind, name, s3_key,
    url, size, attachment.created, has_picture, attachment.record, attachment.fault,
    attachment.reason
FROM attachment JOIN part ON part.set_id = attachment.set_id AND part.id <> attachment.part
WHERE attachment.map_id IS NULL AND attachment.id IS NOT NULL
    AND (attachment.fault IS NULL OR attachment.fault <> 'duplicate')
"""

REPEATED: Final = """
UPDATE {table} SET fault = 'duplicate',
    reason = '{column} ' || {table}.{column} || ' is that of row ' || twin.first || ' too'
FROM (
    SELECT number, min(number) OVER (PARTITION BY {column}) AS first
    FROM {table} WHERE {column} IS NOT NULL AND {among}
) AS twin
WHERE twin.number = {table}.number AND twin.first < {table}.number
"""

# A row whose id does not name it alone is known by its content as well.
MAP_IDS: Final = """
UPDATE {table} SET map_id = CASE
    WHEN id IS NOT NULL AND (fault IS NULL OR fault <> 'duplicate') THEN id
    ELSE coalesce(id, '') || '#' || short_hash(coalesce({content}, record, reason, '')) END
WHERE map_id IS NULL
"""

# A row that has come to name another object than the one it was recorded with is one of its own:
# both objects are held, each by itself, as the first may be the only copy of what the row showed.
# Not so if it names the object of ours now, which was migrated as theirs was.
OTHER_OBJECTS: Final = """
UPDATE attachment SET map_id = map_id || '#' || short_hash(coalesce(attachment.s3_key, '')),
    former = known.our_id
FROM known
WHERE known.kind = 'attachment' AND known.id = attachment.map_id
    AND (known.our_id IS NOT NULL OR known.released <> '' OR known.s3_key IS NOT NULL)
    AND held_key(attachment.s3_key) IS NOT known.s3_key
    AND NOT EXISTS (
        SELECT 1 FROM attachment_here AS ours
        WHERE ours.id = known.our_id AND ours.s3_key = attachment.s3_key)
"""

# One that has come back to an object with which it was refused, after it came over with another.
FORMER: Final = """
UPDATE attachment SET former = known.our_id
FROM known
WHERE known.kind = 'attachment' AND known.our_id IS NOT NULL
    AND known.id > attachment.map_id || '#' AND known.id < attachment.map_id || '$'
"""

KNOWN: Final = """
UPDATE {table} SET
    target = known.our_id,
    outcome = CASE
        WHEN known.released = 'forgotten' THEN 'forgotten'
        WHEN EXISTS (SELECT 1 FROM {table}_here WHERE id = known.our_id) THEN 'already_here'
        ELSE 'deleted_here' END
FROM known
WHERE known.kind = '{table}' AND known.id = {table}.map_id
    AND (known.our_id IS NOT NULL OR known.released = 'forgotten')
"""

PARTS_BEFORE_THE_MAP: Final = """
UPDATE part SET target = part_here.id, outcome = 'already_here'
FROM part_here
WHERE part_here.key = part.key AND part_here.created = part.created
    AND part.fault IS NULL AND part.outcome IS NULL
"""

# Keys are drawn by chance: two collections can have given one key to two different parts, and
# the files of one must not end up with the other.
STRANGERS: Final = """
UPDATE part SET fault = 'conflict',
    reason = 'here the key ' || part.key || ' is that of another part: '
        || substr(part_here.description, 1, 200)
FROM part_here
WHERE part_here.key = part.key AND part.fault IS NULL AND part.outcome IS NULL
"""

COVERS_HERE: Final = """
UPDATE part SET cover_here = part_here.cover FROM part_here WHERE part_here.id = part.target
"""

OF_KITS: Final = """
UPDATE attachment SET outcome = 'left_out', fault = 'kit',
    reason = 'it belongs to kit ' || kit.id || ', and kits are not imported'
FROM kit
WHERE kit.set_id = attachment.set_id AND attachment.part IS NULL AND attachment.outcome IS NULL
"""

WITHOUT_PART: Final = """
UPDATE attachment SET fault = 'no_part', reason = coalesce(
    (SELECT 'its part, row ' || part.number || CASE outcome
        WHEN 'deleted_here' THEN ', was imported and is not here any more'
        WHEN 'forgotten' THEN ', was forgotten' ELSE ', is refused' END
     FROM part WHERE part.id = attachment.part),
    'there is no part with the id ' || attachment.part,
    'no part has the attachment set ' || attachment.set_id)
WHERE fault IS NULL AND outcome IS NULL
    AND NOT EXISTS (
        SELECT 1 FROM part WHERE part.id = attachment.part AND CASE
            WHEN part.outcome IS NULL THEN part.fault IS NULL
            ELSE part.outcome = 'already_here' END)
"""

# Rows of one part that were made at the same moment are the same if there are as many of them on
# both sides.
TWINS: Final = """
WITH theirs AS (
    SELECT attachment.number, part.target AS part, attachment.kind, attachment.created,
        row_number() OVER (
            PARTITION BY part.target, attachment.kind, attachment.created
            ORDER BY attachment.number) AS n,
        count(*) OVER (PARTITION BY part.target, attachment.kind, attachment.created) AS total
    FROM attachment JOIN part ON part.id = attachment.part AND part.outcome = 'already_here'
    WHERE attachment.fault IS NULL AND attachment.outcome IS NULL
), ours AS (
    SELECT id, part, kind, created,
        row_number() OVER (PARTITION BY part, kind, created ORDER BY id) AS n,
        count(*) OVER (PARTITION BY part, kind, created) AS total
    FROM attachment_here
    WHERE id NOT IN (SELECT our_id FROM known WHERE kind = 'attachment' AND our_id IS NOT NULL)
)
"""
ATTACHMENTS_BEFORE_THE_MAP: Final = f"""
{TWINS}
UPDATE attachment SET target = ours.id, outcome = 'already_here'
FROM theirs JOIN ours USING (part, kind, created, n, total)
WHERE theirs.number = attachment.number
"""  # noqa: S608 - our own constant
# Where ours was migrated since, its bytes tell whether it was this object
# (`write.check_same_bytes`).
OTHER_THAN_OURS: Final = """
UPDATE attachment SET fault = 'changed', target = NULL, outcome = NULL,
    reason = 'it is attachment ' || ours.id || ' here, with another object'
FROM attachment_here AS ours
WHERE ours.id = attachment.target AND attachment.outcome = 'already_here'
    AND attachment.s3_key IS NOT NULL AND attachment.s3_key IS NOT ours.s3_key
    AND (ours.s3_key IS NULL OR ours.s3_key NOT GLOB 'cas/*' OR attachment.s3_key GLOB 'cas/*')
    AND NOT EXISTS (
        SELECT 1 FROM known WHERE kind = 'attachment' AND id = map_id AND our_id = target)
"""
CHANGED: Final = """
UPDATE attachment SET fault = 'changed',
    reason = 'it was imported as attachment ' || former || ', with another object'
WHERE former IS NOT NULL AND fault IS NULL AND outcome IS NULL
"""
UNCONFIRMED: Final = f"""
{TWINS}
UPDATE attachment SET fault = 'conflict',
    reason = 'it may be attachment ' || ours.id || ' here, which was made at the same moment'
FROM theirs JOIN ours USING (part, kind, created)
WHERE theirs.number = attachment.number
"""  # noqa: S608 - our own constant

COVERS: Final = """
UPDATE attachment SET is_cover = 1
FROM part
WHERE part.cover = attachment.id AND part.id = attachment.part
    AND part.cover_here IS NULL AND attachment.has_picture
    AND attachment.fault IS NULL AND attachment.outcome IS NULL
"""

LOST_COVERS: Final = """
UPDATE part SET lost_cover = coalesce((
    SELECT CASE
        WHEN attachment.fault IS NOT NULL THEN 'it is not imported'
        WHEN attachment.kind = 'pdf' THEN 'a PDF has no picture here'
        WHEN attachment.kind = 'url' THEN 'the link has no picture'
        ELSE 'it has no picture here' END
    FROM attachment WHERE attachment.id = part.cover AND attachment.part = part.id),
    'it is no attachment of the part')
WHERE cover IS NOT NULL AND cover_here IS NULL
    AND CASE WHEN outcome IS NULL THEN fault IS NULL ELSE outcome = 'already_here' END
    AND NOT EXISTS (
        SELECT 1 FROM attachment
        WHERE attachment.id = part.cover AND attachment.part = part.id AND has_picture
            AND (attachment.fault IS NULL OR attachment.outcome IS NOT NULL))
"""

TAKEN_IDS: Final = """
UPDATE {table} SET own_id = NULL
WHERE EXISTS (SELECT 1 FROM {table}_here WHERE id = own_id)
    OR EXISTS (SELECT 1 FROM given_id WHERE kind = '{table}' AND id = own_id)
"""

# An id that was imported, with another key now, is another part: no part ever changes its key.
OTHER_PART: Final = """
SELECT known.id, known.name, part.key
FROM known JOIN part ON part.map_id = known.id
WHERE known.kind = 'part' AND known.our_id IS NOT NULL AND known.name <> part.key
LIMIT 1
"""
NONE_KNOWN: Final = """
SELECT EXISTS (SELECT 1 FROM part)
    AND EXISTS (SELECT 1 FROM known WHERE kind = 'part' AND our_id IS NOT NULL)
    AND NOT EXISTS (
        SELECT 1 FROM part JOIN known ON known.kind = 'part' AND known.id = part.map_id
        WHERE known.our_id IS NOT NULL)
"""


@dataclass(frozen=True, slots=True)
class Planned:
    """How many of a table's rows were read, and what is to become of them."""

    read: int
    already_here: int
    deleted_here: int
    forgotten: int
    left_out: int
    failed: int
    to_import: int


def identify(scratch: sqlite3.Connection, shape: Shape) -> None:
    """Give every row the id by which it is known from one import to the next."""
    for table in TABLES:
        scratch.execute(REPEATED.format(table=table, column="id", among="map_id IS NULL"))
    if shape.has_sets:
        scratch.execute(OWNERS)
        scratch.execute(SET_COVERS)
        scratch.execute(FURTHER_OWNERS)
    for table, content in (("part", "key"), ("attachment", "s3_key, url")):
        scratch.execute(MAP_IDS.format(table=table, content=content))
    scratch.execute(OTHER_OBJECTS)
    scratch.execute(FORMER)
    scratch.execute(REPEATED.format(table="part", column="key", among="fault IS NULL"))


def check_same_source(scratch: sqlite3.Connection, source: str) -> None:
    """Raises RunAborted if another installation was imported under this name."""
    advice = "Give this one a name of its own: --source NAME"
    if found := scratch.execute(OTHER_PART).fetchone():
        raise RunAborted(
            ExitStatus.REFUSED,
            f"another installation was imported as '{source}': there, the part with the id "
            f"{found[0]} has the key {found[1]}, here {found[2]}. {advice}",
        )
    if scratch.execute(NONE_KNOWN).fetchone()[0]:
        raise RunAborted(
            ExitStatus.REFUSED,
            f"another installation was imported as '{source}': of the parts that came from it, "
            f"this one has none. {advice}",
        )


def match(scratch: sqlite3.Connection) -> None:
    """Find what is here already, and refuse what contradicts other rows."""
    for table in TABLES:
        scratch.execute(KNOWN.format(table=table))
    scratch.execute(PARTS_BEFORE_THE_MAP)
    scratch.execute(STRANGERS)
    scratch.execute(COVERS_HERE)
    scratch.execute(OF_KITS)
    scratch.execute(WITHOUT_PART)
    scratch.execute(CHANGED)
    scratch.execute(ATTACHMENTS_BEFORE_THE_MAP)
    scratch.execute(OTHER_THAN_OURS)
    scratch.execute(UNCONFIRMED)


def settle(scratch: sqlite3.Connection) -> dict[str, Planned]:
    """When every fault is known: choose covers and ids, and count."""
    scratch.execute(COVERS)
    scratch.execute(LOST_COVERS)
    for table in TABLES:
        scratch.execute(TAKEN_IDS.format(table=table))
    return {table: _count(scratch, table) for table in TABLES}


def _count(scratch: sqlite3.Connection, table: str) -> Planned:
    found = scratch.execute(
        f"""
        SELECT count(*),
            count(*) FILTER (WHERE outcome = 'already_here'),
            count(*) FILTER (WHERE outcome = 'deleted_here'),
            count(*) FILTER (WHERE outcome = 'forgotten'),
            count(*) FILTER (WHERE outcome = 'left_out'),
            count(*) FILTER (WHERE outcome IS NULL AND fault IS NOT NULL),
            count(*) FILTER (WHERE outcome IS NULL AND fault IS NULL)
        FROM {table}
        """  # noqa: S608 - one of our own table names
    ).fetchone()
    return Planned(*found)
