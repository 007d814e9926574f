"""Lets go of what source rows hold: all that a retired source had accepted, or rows by name."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Count as CountOf
from django.db.models import Exists, Max, OuterRef, Q, QuerySet, Sum
from django.utils import timezone

from attachments.locks import run_lock
from attachments.maintenance.report import RunSummary, human_bytes
from attachments.maintenance.runner import Output, Run, maintenance_run
from attachments.references import key_columns
from cas.exit_status import ExitStatus, RunAborted
from parts.legacy_import import plan
from parts.legacy_import.here import read_rows_here
from parts.legacy_import.reading import Reader
from parts.legacy_import.run import IMPORT
from parts.legacy_import.scratch import TABLES, scratch
from parts.legacy_import.sources import Opening, Table
from parts.models import SourceRow

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
    """What is asked for. Without a `confirm` nobody is asked.

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
        if named := [_name(row) for row in untried[: NAMED + 1]]:
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
    read_rows_here(database, release.source, reader.shape)
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
        for row in rows.iterator():
            verb = "would forget" if release.dry_run else "forgets"
            logger.info("%s %s (%s): %s", verb, _name(row), row.object_key, row.reason)
            run.report.write({"row": _name(row), "key": row.object_key, "error": row.reason})
    if not release.dry_run:
        rows.update(released_at=timezone.now(), release_cause=cause)
    summary.rows, summary.objects, summary.bytes = count, found["objects"], size


def _name(row: SourceRow) -> str:
    return f"{row.source_table}/{row.source_id}"


def _listed(names: list[str]) -> str:
    more = ", and more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
