"""Writes what the plan has left to do: a part with its tags, files and cover, or nothing of it.

Each portion fits one transaction. Before a row on a blob is written its blob is read, since no
migration will do so. Rows are created in bulk, which sends no signals: the cover is the one that
the older installation chose, not the first image that arrives.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from django.db import DataError, Error, IntegrityError, connection, transaction
from django.db.models import F

from attachments import references, verifications
from attachments.maintenance.retry import Retry, listed
from attachments.maintenance.runner import CancelToken
from attachments.models import LEGACY_PREFIX, Attachment, Verification
from attachments.references import head_of
from attachments.timestamps import create_with_times
from cas.content_types import stored_type
from cas.digest import CAS_PREFIX, Digest
from cas.storage.base import Absent, BlobStat, BlobStore, Corrupt, StoreError
from parts.legacy_import.map import AttachmentRecord, PartRecord, file_name, model_of
from parts.legacy_import.read import TABLES
from parts.legacy_import.source_rows import Result, SourceRows
from parts.models import Part, Tag, Type

PARTS_AT_A_TIME: Final = 200
ATTACHMENTS_AT_A_TIME: Final = 250
"""Each blob among them takes a slot of PostgreSQL's shared lock table until the commit."""

PARTS: Final = """
SELECT number, map_id, id, key, own_id, record, target FROM part
WHERE fault IS NULL AND outcome IS NULL OR outcome = 'already_here' AND EXISTS (
    SELECT 1 FROM attachment WHERE attachment.part = part.id
        AND attachment.fault IS NULL AND attachment.outcome IS NULL)
ORDER BY number
"""

# The cover first: it must be in the transaction that creates the part, and a part may have more
# files than one transaction takes.
ATTACHMENTS: Final = """
SELECT number, map_id, own_id, record, size, is_cover FROM attachment
WHERE part = ? AND fault IS NULL AND outcome IS NULL
ORDER BY is_cover DESC, number
"""


@dataclass(slots=True)
class PlannedPart:
    """A part to create, or, with a `target`, one that is here and gets more files.

    Only one to create has a `record`. `refused` once it turned out that it cannot be created.
    """

    number: int
    map_id: str
    source_id: str
    key: str
    record: PartRecord | None
    own_id: int | None
    target: int | None
    refused: bool = False


@dataclass(slots=True)
class PlannedAttachment:
    """A file or a link to attach. `fault` once it turned out that its blob is not what it says."""

    number: int
    map_id: str
    part_key: str
    record: AttachmentRecord
    own_id: int | None
    is_cover: bool
    fault: StoreError | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """Some of a part's files, and the part itself unless it is here already."""

    part: PlannedPart
    attachments: list[PlannedAttachment]


def loads(scratch: sqlite3.Connection) -> Iterator[list[Load]]:
    """The portions. Each must have been written before the next is taken."""
    portion: list[Load] = []
    size = 0
    for row in scratch.execute(PARTS):
        part = PlannedPart(
            row["number"],
            row["map_id"],
            row["id"],
            row["key"],
            PartRecord(**_record(row["record"])) if row["target"] is None else None,
            row["own_id"],
            row["target"],
        )
        pieces = _pieces(scratch, part)
        first = next(pieces, [])
        portion.append(Load(part, first))
        size += len(first)
        if len(portion) >= PARTS_AT_A_TIME or size >= ATTACHMENTS_AT_A_TIME:
            yield portion
            portion, size = [], 0
            # By now the part is here, or refused, and what is left of its files can follow.
            for piece in pieces:
                yield [Load(part, piece)]
    if portion:
        yield portion


def _pieces(scratch: sqlite3.Connection, part: PlannedPart) -> Iterator[list[PlannedAttachment]]:
    cursor = scratch.execute(ATTACHMENTS, [part.source_id])
    while rows := cursor.fetchmany(ATTACHMENTS_AT_A_TIME):
        piece = [
            PlannedAttachment(
                row["number"],
                row["map_id"],
                part.key,
                AttachmentRecord(**{**_record(row["record"]), "size": row["size"]}),
                row["own_id"],
                bool(row["is_cover"]),
            )
            for row in rows
        ]
        # In the source's order, so that rows which get new ids keep their order.
        yield sorted(piece, key=lambda planned: planned.number)


def _record(written: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(written)
    for name in ("created", "updated"):
        if values[name] is not None:
            values[name] = datetime.fromisoformat(values[name])
    return values


READS_AT_A_TIME: Final = 16
"""Blobs that are read at a time."""

# Compared as bytes, which is how stores list and how SQLite sorts unless told otherwise.
NAMED: Final = """
SELECT number, s3_key, size FROM attachment
WHERE fault IS NULL AND outcome IS NULL AND s3_key >= ? AND s3_key < ?
ORDER BY s3_key
"""

FOUND: Final = "INSERT INTO object_found VALUES (?, ?, ?, ?)"

APPLY: Final = """
UPDATE attachment SET
    size = object_found.size, fault = object_found.fault, reason = object_found.reason
FROM object_found WHERE object_found.number = attachment.number
"""


class Proven(NamedTuple):
    """A blob that hashes to its key, and what its bytes begin with."""

    blob: BlobStat
    head: bytes


def check_objects(scratch: sqlite3.Connection, store: BlobStore, cancel: CancelToken) -> None:
    """Refuse the rows to import whose object is missing or of another size.

    A row that does not know its object's size gets it. Only the part of the listing that rows
    name is read. Raises StoreError if it cannot be completed, Cancelled.
    """
    scratch.execute(
        "CREATE TEMP TABLE object_found ("
        "number INTEGER PRIMARY KEY, size INTEGER, fault TEXT, reason TEXT)"
    )
    for prefix in (CAS_PREFIX, LEGACY_PREFIX):
        # The first string behind all that start with the prefix: its last character, one further.
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        # Not changed in place: a statement must not change the rows that another is reading.
        scratch.executemany(FOUND, _compared(scratch.execute(NAMED, [prefix, end]), store, cancel))
    scratch.execute(APPLY)


def _compared(
    rows: Iterator[sqlite3.Row], store: BlobStore, cancel: CancelToken
) -> Iterator[tuple[int, int | None, str | None, str | None]]:
    """What is to be changed in the rows: a size, or a fault and its reason."""
    listing: Iterator[BlobStat] | None = None
    stat: BlobStat | None = None
    for number, key, size in rows:
        cancel.check()
        if listing is None:
            listing = _from(store, key, cancel)
            stat = next(listing, None)
        while stat is not None and stat.key < key:
            stat = next(listing, None)
        if stat is None or stat.key != key:
            yield number, size, "object_missing", f"there is no object at {key}"
        elif size is None:
            yield number, stat.size, None, None
        elif stat.size != size:
            reason = f"{key} has {stat.size} bytes, the row says {size}"
            yield number, size, "object_size", reason


def _from(store: BlobStore, key: str, cancel: CancelToken) -> Iterator[BlobStat]:
    """The listing from `key` on, and its neighbours below."""
    prefix = CAS_PREFIX if key.startswith(CAS_PREFIX) else LEGACY_PREFIX
    # A store lists behind a key; anything shorter than ours comes before it.
    after = key[:-1]
    return listed(store, prefix, cancel, after=after if after.startswith(prefix) else "")


# Rows found here by their times alone, whose object ours may have been before it was migrated.
SAME_BYTES: Final = """
SELECT attachment.number, attachment.s3_key, ours.id, ours.s3_key AS blob
FROM attachment JOIN attachment_here AS ours ON ours.id = attachment.target
WHERE attachment.outcome = 'already_here' AND attachment.s3_key IS NOT ours.s3_key
    AND attachment.s3_key IS NOT NULL AND ours.s3_key GLOB 'cas/*'
    AND NOT EXISTS (
        SELECT 1 FROM known WHERE kind = 'attachment' AND id = map_id AND our_id = target)
ORDER BY attachment.number
"""
OTHER_BYTES: Final = """
UPDATE attachment SET fault = 'changed', target = NULL, outcome = NULL,
    reason = 'it is attachment ' || ? || ' here, with other bytes'
WHERE number = ?
"""


def check_same_bytes(scratch: sqlite3.Connection, store: BlobStore, cancel: CancelToken) -> None:
    """Refuse the rows that were taken for rows here by their times, but have other bytes.

    Two installations can have made one at the same moment, in parts of the same key. An object that
    is not there any more can tell nothing, nor be lost. Raises RunAborted, Cancelled.
    """
    others = []
    for number, key, ours, blob in scratch.execute(SAME_BYTES):
        cancel.check()
        try:
            digest, _stat = Retry(cancel, store).call(partial(store.digest_of, key))
        except Absent:
            continue
        if digest.key != blob:
            others.append((ours, number))
    scratch.executemany(OTHER_BYTES, others)


def prove_blobs(store: BlobStore, portion: Sequence[Load], cancel: CancelToken) -> None:
    """Before rows on blobs are attached: what the store has there must be proven.

    A planned attachment whose blob is not what it says gets the fault; the others get the type
    that their bytes have. Raises StoreError where the store cannot tell, Cancelled.
    """
    planned = [each for load in portion for each in load.attachments]
    on_blobs = [each for each in planned if (each.record.s3_key or "").startswith(CAS_PREFIX)]
    digests = sorted({Digest.from_key(each.record.s3_key or "") for each in on_blobs})
    rows = Verification.objects.filter(digest__in=[digest.hex for digest in digests])
    verified = {Digest(row.digest): row for row in rows}
    prove = partial(_waited, store, verified, cancel)
    with ThreadPoolExecutor(READS_AT_A_TIME) as reads:
        proofs = dict(zip(digests, reads.map(prove, digests), strict=True))
    verifications.record([proof.blob for proof in proofs.values() if isinstance(proof, Proven)])
    for each in on_blobs:
        proof = proofs[Digest.from_key(each.record.s3_key or "")]
        if isinstance(proof, StoreError):
            each.fault = proof
            continue
        told = stored_type(each.record.content_type or "", proof.head)
        filename = each.record.filename
        if filename is not None:
            filename = file_name(filename, told, "")
        each.record = replace(each.record, content_type=told, filename=filename)


def _waited(
    store: BlobStore, verified: Mapping[Digest, Verification], cancel: CancelToken, digest: Digest
) -> Proven | Absent | Corrupt:
    """The proof, or why there is none; waits for a store that is away.

    Raises RunAborted, Cancelled.
    """
    cancel.check()
    try:
        return Retry(cancel, store).call(partial(_proof, store, verified.get(digest), digest))
    except (Absent, Corrupt) as fault:
        return fault


def _proof(store: BlobStore, verified: Verification | None, digest: Digest) -> Proven:
    """By a checksum that the store holds, by an earlier reading of this version, else by reading.

    Raises StoreError.
    """
    blob = store.stat(digest.key)
    found: Digest | None = blob.sha256
    if found is None and not (verified and _is_of(verified, blob)):
        found, blob = store.digest_of(digest.key)
    if found not in (None, digest):
        raise Corrupt(f"its bytes hash to {found}", key=digest.key)
    return Proven(blob, head_of(store, digest, blob.size))


def _is_of(verified: Verification, blob: BlobStat) -> bool:
    same = bool(blob.etag) and verified.etag == blob.etag
    return same and verified.verified_at >= blob.modified


# SQLite's own sequences follow every id that is inserted; PostgreSQL's have to be told.
ADVANCE: Final = """
SELECT setval(sequence, %s) FROM pg_get_serial_sequence(%s, 'id') AS sequence
WHERE coalesce(pg_sequence_last_value(sequence::regclass), 0) < %s
"""


def reserve_ids(scratch: sqlite3.Connection) -> None:
    """Move the sequences behind the ids that will be kept, before the first is used.

    Afterwards would be too late: whoever uploads meanwhile draws from them.
    """
    if connection.vendor != "postgresql":
        return
    for name, model in (("part", Part), ("attachment", Attachment)):
        largest = scratch.execute(
            f"SELECT max(own_id) FROM {name} WHERE fault IS NULL AND outcome IS NULL"  # noqa: S608
        ).fetchone()[0]
        if largest is not None:
            with connection.cursor() as cursor:
                cursor.execute(ADVANCE, [largest, model._meta.db_table, largest])


REFUSALS: Final = (IntegrityError, DataError)

PART, ATTACHMENT = TABLES

Named = TypeVar("Named", Type, Tag)
Targets = Mapping[int, int]
"""The ids of parts that a transaction created, by their row's number in the source."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one row: it is the row `new_id` now, or has a `fault`. `size` in bytes.

    `table` is the scratch table it was planned in.
    """

    table: str
    planned: PlannedPart | PlannedAttachment
    new_id: int | None = None
    fault: str = ""
    reason: str = ""

    @property
    def size(self) -> int:
        if self.fault or isinstance(self.planned, PlannedPart):
            return 0
        return self.planned.record.size or 0

    @property
    def result(self) -> Result:
        size = None if isinstance(self.planned, PlannedPart) else self.planned.record.size
        return Result(self.table, self.planned.map_id, self.new_id, size, self.fault, self.reason)


class Writer:
    """Writes rows, and in the same transaction what became of them in the table of source rows."""

    def __init__(self, source_rows: SourceRows) -> None:
        self._source_rows = source_rows

    def write(self, portion: list[Load]) -> list[Written]:
        """Write a portion: together if that goes, else each of its parts alone.

        Every row was judged before, so the database refuses one only because of what others wrote
        since, or for what nobody thought of; that row is then refused and the rest written.
        Raises StoreError.
        """
        try:
            return self._committed(partial(_write_together, portion))
        except REFUSALS:
            return [
                each for load in portion for each in self._committed(partial(_write_alone, load))
            ]

    def _committed(self, write: Callable[[], list[Written]]) -> list[Written]:
        with transaction.atomic():
            written = write()
            self._source_rows.settle(each.result for each in written)
        for each in written:
            if isinstance(each.planned, PlannedPart) and each.new_id is not None:
                each.planned.target = each.new_id
        return written


def would_be_written(portion: list[Load]) -> list[Written]:
    """What `Writer.write` would create, if the database refuses nothing."""
    found = []
    for load in portion:
        if load.part.target is None:
            found.append(Written(PART, load.part))
            # More portions may follow with files of the same part, which counts once.
            load.part.target = 0
        found += [Written(ATTACHMENT, each) for each in load.attachments]
    return found


def _write_together(portion: list[Load]) -> list[Written]:
    if portion[0].part.refused:
        # The rest of the files of a part that an earlier portion could not create.
        return [_without_part(each) for load in portion for each in load.attachments]
    targets = _create_parts(load.part for load in portion)
    files = [(load.part, each) for load in portion for each in load.attachments]
    return _created(portion, targets) + _attach(files, targets)


def _write_alone(load: Load) -> list[Written]:
    part = load.part
    if part.own_id and Part.objects.filter(pk=part.own_id).exists():
        part.own_id = None
    try:
        with transaction.atomic():
            targets = _create_parts([part])
            written = [_attach_alone(part, each, targets) for each in load.attachments]
    except REFUSALS as error:
        if part.target is not None:
            return [Written(ATTACHMENT, each, None, *_said(error)) for each in load.attachments]
        part.refused = True
        files = [_without_part(each) for each in load.attachments]
        return [Written(PART, part, None, *_said(error)), *files]
    return _created([load], targets) + written


def _attach_alone(part: PlannedPart, planned: PlannedAttachment, targets: Targets) -> Written:
    if planned.own_id and Attachment.objects.filter(pk=planned.own_id).exists():
        planned.own_id = None
    try:
        with transaction.atomic():
            return _attach([(part, planned)], targets)[0]
    except REFUSALS as error:
        return Written(ATTACHMENT, planned, None, *_said(error))


def _created(portion: list[Load], targets: Targets) -> list[Written]:
    """The parts that the transaction created."""
    return [
        Written(PART, load.part, targets[load.part.number])
        for load in portion
        if load.part.number in targets
    ]


def _create_parts(parts: Iterable[PlannedPart]) -> dict[int, int]:
    """Create those that are not here yet, with their types and tags."""
    new = [(part, part.record) for part in parts if part.target is None and part.record]
    types = _named(Type, {record.type_name for _part, record in new} - {""})
    tags = _named(Tag, {name for _part, record in new for name in record.tags})
    rows = [
        Part(
            pk=part.own_id,
            key=record.key,
            type=types.get(Type.folded_name(record.type_name)),
            **_times(record),
            **record.fields,
        )
        for part, record in new
    ]
    create_with_times(rows)
    tagged = Part.tags.through
    tagged._default_manager.bulk_create(
        tagged(part_id=row.pk, tag_id=tags[Tag.folded_name(name)].pk)
        for (_part, record), row in zip(new, rows, strict=True)
        for name in record.tags
    )
    return {part.number: row.pk for (part, _record), row in zip(new, rows, strict=True)}


def _times(record: PartRecord) -> dict[str, Any]:
    """None where the source does not know, for `create_with_times`."""
    return {"created_at": record.created, "updated_at": record.updated}


def _named(model: type[Named], names: set[str]) -> dict[str, Named]:
    """The rows with these names, however they are written there, made where they are new."""
    written: dict[str, str] = {}
    for name in sorted(names):
        written.setdefault(model.folded_name(name), name)
    found = {row.folded: row for row in model._default_manager.filter(folded__in=written)}
    if missing := sorted(written.keys() - found.keys()):
        # Somebody else may make one of them at this moment.
        model._default_manager.bulk_create(
            [model(name=written[folded]) for folded in missing], ignore_conflicts=True
        )
        found |= {row.folded: row for row in model._default_manager.filter(folded__in=missing)}
    return found


def _attach(files: list[tuple[PlannedPart, PlannedAttachment]], targets: Targets) -> list[Written]:
    """Create the files' rows, and make those covers that are to be."""
    written = [
        Written(ATTACHMENT, planned, None, planned.fault.code, str(planned.fault))
        for _part, planned in files
        if planned.fault
    ]
    sound = [(part, planned) for part, planned in files if not planned.fault]
    rows = []
    for part, planned in sound:
        row = model_of(planned.record)
        row.pk = planned.own_id
        row.part_id = targets.get(part.number, part.target or 0)
        rows.append(row)
    refused = references.attach_imported(rows)
    for position, ((_part, planned), row) in enumerate(zip(sound, rows, strict=True)):
        if fault := refused.get(position):
            written.append(Written(ATTACHMENT, planned, None, fault.code, str(fault)))
            continue
        if planned.is_cover and row.has_picture:
            part_without = Part.objects.filter(pk=row.part_id, cover_attachment=None)
            part_without.update(cover_attachment=row.pk, version=F("version") + 1)
        written.append(Written(ATTACHMENT, planned, row.pk))
    return written


def _without_part(planned: PlannedAttachment) -> Written:
    return Written(ATTACHMENT, planned, None, "no_part", "its part could not be created")


def _said(error: Error) -> tuple[str, str]:
    """A fault's code and reason, on one line."""
    return "database", " ".join(str(error).split())
