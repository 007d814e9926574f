"""The table of source rows: what was read from where, what became of it, and what it holds.

`retire` and `forget` release what rows hold, so that a cleanup may delete those objects.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.db import transaction
from django.db.models import Count as CountOf
from django.db.models import Exists, Max, OuterRef, Q, QuerySet, Sum
from django.utils import timezone

from attachments.locks import lock_shared, run_lock
from attachments.maintenance.report import RunSummary, human_bytes
from attachments.maintenance.retry import by_id
from attachments.maintenance.runner import Output, Run, maintenance_run
from attachments.references import key_columns
from cas.digest import Digest, is_cas_key
from cas.exit_status import ExitStatus, RunAborted
from parts.legacy_import import plan
from parts.legacy_import.read import TABLES, Reader, read_rows_here, scratch
from parts.legacy_import.sources import Opening, Shape, Table
from parts.models import SourceRow

IMPORT: Final = "import"
"""The lock of an import. Two at once would each find that the other's rows are not here yet."""

BATCH: Final = 250
"""Rows in a transaction: each blob among them takes a slot of PostgreSQL's shared lock table."""

IDENTITY: Final = ("source", "source_table", "source_id")

# What is known with the same object already need not be written again.
UNRECORDED: Final = """
SELECT {table}.map_id, {name} AS name, {key} AS s3_key, {size} AS size
FROM {table} LEFT JOIN known ON known.kind = '{table}' AND known.id = {table}.map_id
WHERE known.id IS NULL OR known.name IS NOT {name} OR known.s3_key IS NOT {key}
    OR known.size IS NOT {size}
GROUP BY {table}.map_id ORDER BY {table}.number
"""

COLUMNS: Final = {
    "part": {"name": "coalesce(part.key, '')", "key": "NULL", "size": "NULL"},
    "attachment": {
        "name": "coalesce(attachment.name, '')",
        "key": "held_key(attachment.s3_key)",
        # A size that the source does not know was taken from the object.
        "size": "coalesce(attachment.size, known.size)",
    },
}
"""What is recorded of a row, by the scratch table that it is in."""

REFUSED: Final = """
SELECT map_id, target, {size} AS size, fault, reason FROM {table}
WHERE CASE WHEN outcome IS NULL THEN fault IS NOT NULL
    ELSE outcome = 'left_out' OR (outcome = 'already_here' AND NOT EXISTS (
        SELECT 1 FROM known WHERE kind = '{table}' AND id = map_id AND our_id = target)) END
GROUP BY map_id
"""

# Rows that were refused for another object (`plan.OTHER_OBJECTS`), which has turned out to be ours.
RESOLVED: Final = """
SELECT refused.id FROM attachment JOIN known AS refused
    ON refused.kind = 'attachment'
    AND refused.id = map_id || '#' || short_hash(coalesce(attachment.s3_key, ''))
WHERE attachment.outcome = 'already_here' AND refused.state = 'refused' AND refused.released = ''
"""

LONGEST_NAME: Final = 255

OTHER_COLUMN: Final = "other_column"
"""The reason for which an object is held that a column names which is not imported."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a source row: the row `our_id` here, or refused with a `code`.

    `size` is that of its object, in bytes.
    """

    table: str
    map_id: str
    our_id: int | None
    size: int | None = None
    code: str = ""
    reason: str = ""


class SourceRows:
    """The rows of one source, by the scratch tables that they were read into."""

    def __init__(self, source: str, shape: Shape) -> None:
        self._source = source
        self._tables = {"part": Table.PARTS, "attachment": shape.attachments}

    def record(self, scratch: sqlite3.Connection) -> Iterator[int]:
        """Record all rows that were read, before anything else is written; yields how many.

        From then on what they name is held. Each batch is committed by itself. The digests' locks
        make a collection that is deleting one of them finish first, or see the row. Raises
        Unreachable, and the database's errors.
        """
        for name, table in self._tables.items():
            query = UNRECORDED.format(table=name, **COLUMNS[name])
            unrecorded = scratch.execute(query)
            while rows := unrecorded.fetchmany(BATCH):
                self._record(
                    [
                        {
                            "source_table": table,
                            "source_id": row["map_id"],
                            "name": row["name"][:LONGEST_NAME],
                            "object_key": row["s3_key"],
                            "object_size": row["size"],
                        }
                        for row in rows
                    ],
                    ("name", "object_key", "object_size"),
                )
                yield len(rows)
        others = scratch.execute("SELECT * FROM other_key ORDER BY source_table, name")
        while rows := others.fetchmany(BATCH):
            self._record(
                [
                    {
                        "source_table": row["source_table"],
                        "source_id": row["name"],
                        "object_key": row["s3_key"],
                        "state": SourceRow.State.REFUSED,
                        "reason_code": OTHER_COLUMN,
                        "reason": f"the column {row['source_column']} is not imported",
                    }
                    for row in rows
                ],
                ("reason",),
            )
            yield len(rows)

    def _record(self, rows: list[dict[str, Any]], changed: tuple[str, ...]) -> None:
        keys = {row["object_key"] for row in rows if is_cas_key(row["object_key"] or "")}
        with transaction.atomic():
            lock_shared([Digest.from_key(key) for key in sorted(keys)])
            self._write(rows, changed)

    def settle_decided(self, scratch: sqlite3.Connection) -> None:
        """Note what the plan alone decided: refusals, rows found without a map, resolved ones."""
        for name in self._tables:
            size = "NULL" if name == "part" else "size"
            found = scratch.execute(REFUSED.format(table=name, size=size))
            while rows := found.fetchmany(BATCH):
                self.settle(
                    [
                        Result(name, row["map_id"], None, row["size"], row["fault"], row["reason"])
                        if row["target"] is None
                        else Result(name, row["map_id"], row["target"], row["size"])
                        for row in rows
                    ]
                )
        resolved = scratch.execute(RESOLVED)
        while rows := resolved.fetchmany(BATCH):
            SourceRow.objects.filter(
                source=self._source,
                source_table=self._tables["attachment"],
                source_id__in=[row["id"] for row in rows],
            ).update(released_at=timezone.now(), release_cause=SourceRow.Release.RESOLVED)

    def settle(self, results: Iterable[Result]) -> None:
        """Note what became of rows; in the transaction that made it so."""
        now = timezone.now()
        State = SourceRow.State
        self._write(
            (
                {
                    "source_table": self._tables[result.table],
                    "source_id": result.map_id,
                    "our_id": result.our_id,
                    "object_size": result.size,
                    "state": State.REFUSED if result.code else State.ACCEPTED,
                    "reason_code": result.code,
                    "reason": result.reason,
                    "tried_at": now,
                }
                for result in results
            ),
            ("our_id", "object_size", "state", "reason_code", "reason", "tried_at"),
        )

    def _write(self, rows: Iterable[dict[str, Any]], changed: tuple[str, ...]) -> None:
        SourceRow.objects.bulk_create(
            [SourceRow(source=self._source, **row) for row in rows],
            update_conflicts=True,
            unique_fields=IDENTITY,
            update_fields=changed,
        )


logger = logging.getLogger(__name__)

NAMED: Final = 5
"""Rows that a refusal names one by one."""

UNKNOWN: Final = """
SELECT map_id FROM {table}
WHERE NOT EXISTS (SELECT 1 FROM known WHERE kind = '{table}' AND id = {table}.map_id)
LIMIT 1
"""

UNREADABLE: Final = """
SELECT map_id FROM {table}
WHERE fault = 'malformed' AND NOT EXISTS (
    SELECT 1 FROM known
    WHERE kind = '{table}' AND id = {table}.map_id AND released = 'forgotten')
LIMIT 1
"""

Confirm = Callable[[str], None]
"""Asks a person; raises RunAborted unless they agree."""


@dataclass
class ReleaseSummary(RunSummary):
    """`rows` let go; of the objects they named, `objects` with `bytes` nothing else names."""

    source: str = ""
    rows: int = 0
    objects: int = 0

    WOULD_BE = {
        "rows_released": "rows_to_be_released",
        "objects_released": "objects_to_be_released",
        "bytes": "bytes_to_be_released",
    }

    def counts(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "rows_released": self.rows,
            "objects_released": self.objects,
            "bytes": self.bytes,
        }


@dataclass(frozen=True, slots=True)
class Release:
    """What to release. Without a `confirm` no person has to agree.

    `without` names tables of names that are left out although rows refer to them.
    """

    source: str
    dry_run: bool = False
    confirm: Confirm | None = None
    without: frozenset[Table] = frozenset()


def retire(release: Release, opening: Opening | None, output: Output) -> ReleaseSummary:
    """Let go of the objects that the accepted rows of a source named: it is switched off.

    Refuses while rows of it were never tried, or, given the source, never read. Raises RunAborted
    if there can be no report.
    """
    summary = ReleaseSummary(dry_run=release.dry_run, source=release.source)
    # No import may be reading or writing rows of the source meanwhile.
    with maintenance_run(summary, output) as run, run_lock(IMPORT, retry=run.query):
        rows = _rows_of(release.source)
        untried = rows.filter(state=SourceRow.State.UNTRIED, released_at=None)
        if named := [f"{row.source_table}/{row.source_id}" for row in untried[: NAMED + 1]]:
            raise RunAborted(
                ExitStatus.REFUSED,
                f"{untried.count()} rows of '{release.source}' were read and never tried: "
                f"{_listed(named)}. Import it again, or forget them by name",
            )
        if opening is not None:
            with scratch() as database:
                _check_all_read(database, release, opening, run)
        accepted = rows.filter(state=SourceRow.State.ACCEPTED, released_at=None)
        _let_go(accepted, SourceRow.Release.RETIRED, release, summary, run)
    return summary


def forget(release: Release, names: Sequence[str], output: Output) -> ReleaseSummary:
    """Let go of the objects of rows that were not imported, each by its name.

    A name is `TABLE/ID`, or the reason for which rows were refused. Raises RunAborted if there can
    be no report.
    """
    summary = ReleaseSummary(dry_run=release.dry_run, source=release.source)
    # As for `retire`.
    with maintenance_run(summary, output) as run, run_lock(IMPORT, retry=run.query):
        chosen = [_chosen(_rows_of(release.source), name).values_list("pk") for name in names]
        condition = Q()
        for keys in chosen:
            condition |= Q(pk__in=keys)
        rows = _rows_of(release.source).filter(condition, released_at=None)
        _let_go(rows, SourceRow.Release.FORGOTTEN, release, summary, run)
    return summary


def _rows_of(source: str) -> QuerySet[SourceRow]:
    rows = SourceRow.objects.filter(source=source).order_by("pk")
    if not rows.exists():
        there = SourceRow.objects.order_by("source").values_list("source", flat=True).distinct()
        names = ", ".join(there) or "none"
        raise RunAborted(
            ExitStatus.REFUSED, f"nothing was read from a source '{source}'; there is: {names}"
        )
    return rows


def _chosen(rows: QuerySet[SourceRow], name: str) -> QuerySet[SourceRow]:
    """The rows that a name means. Raises RunAborted if there is none, or one that is imported."""
    table, slash, row_id = name.partition("/")
    if slash:
        found = rows.filter(source_table=table, source_id=row_id)
    else:
        found = rows.filter(state=SourceRow.State.REFUSED, reason_code=name)
    if not found.exists():
        raise RunAborted(ExitStatus.REFUSED, f"there is no row {name}, nor a reason of that name")
    if found.filter(state=SourceRow.State.ACCEPTED).exists():
        raise RunAborted(
            ExitStatus.REFUSED,
            f"{name} was imported: what it holds is let go of when its source is retired",
        )
    return found


def _check_all_read(
    database: sqlite3.Connection, release: Release, opening: Opening, run: Run
) -> None:
    """Raises RunAborted if the source has rows that no import has read, or could."""
    with opening as source:
        reader = Reader(database, source, release.without, run)
        reader.read()
    read_rows_here(database, release.source, reader.shape, run.cancel)
    plan.identify(database, reader.shape)
    plan.check_same_source(database, release.source)
    for table in TABLES:
        if found := database.execute(UNKNOWN.format(table=table)).fetchone():
            raise RunAborted(
                ExitStatus.REFUSED,
                f"the source has rows that were never read, among them the {table} "
                f"{found['map_id']}. Import it again first",
            )
        if found := database.execute(UNREADABLE.format(table=table)).fetchone():
            its = Table.PARTS if table == "part" else reader.shape.attachments
            raise RunAborted(
                ExitStatus.REFUSED,
                f"the source has lines that cannot be read, among them {its}/{found['map_id']}",
                first="Mend such lines and import the source again, or forget them by name",
            )


def _let_go(
    rows: QuerySet[SourceRow],
    cause: SourceRow.Release,
    release: Release,
    summary: ReleaseSummary,
    run: Run,
) -> None:
    count = rows.count()
    only_theirs = rows.filter(object_key__isnull=False)
    for column in key_columns():
        others = column.rows().filter(**{column.name: OuterRef("object_key")})
        if column.model is SourceRow:
            others = others.exclude(pk__in=rows.values("pk"))
        only_theirs = only_theirs.exclude(Exists(others))
    objects = only_theirs.order_by().values("object_key").annotate(size=Max("object_size"))
    found = objects.aggregate(objects=CountOf("object_key"), bytes=Sum("size"))
    size = found["bytes"] or 0
    if release.confirm is not None and not release.dry_run:
        release.confirm(
            f"{count} rows of '{release.source}' will be let go of; a cleanup may then "
            f"delete {found['objects']} objects, {human_bytes(size)}."
        )
    if cause is SourceRow.Release.FORGOTTEN:
        verb = "would forget" if release.dry_run else "forgets"
        named = rows.values_list("pk", "source_table", "source_id", "object_key", "reason")
        for _pk, table, row_id, key, reason in by_id(named, run.cancel):
            logger.info("%s %s/%s (%s): %s", verb, table, row_id, key, reason)
            run.report.write({"row": f"{table}/{row_id}", "key": key, "error": reason})
    if not release.dry_run:
        rows.update(released_at=timezone.now(), release_cause=cause)
    summary.rows, summary.objects, summary.bytes = count, found["objects"], size


def _listed(names: list[str]) -> str:
    more = ", and more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
