"""How far the move has come. Every figure is counted in the table, so any machine can tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from django.db.models import Count, Max, Q, Sum

from attachments.locks import LEGACY_LAYOUT, runs_holding
from attachments.maintenance.listing import Entry, survey, wrong_store
from attachments.maintenance.report import RunSummary
from attachments.maintenance.retry import by_id
from attachments.maintenance.runner import CancelToken, Output, Run, maintenance_run
from attachments.models import LEGACY_PREFIX, Attachment
from attachments.object_keys import KeyKind
from attachments.references import key_columns
from cas.digest import CAS_KEY, CAS_PREFIX, is_cas_key
from cas.exit_status import ExitStatus
from cas.storage import attachment_store
from cas.storage.base import BlobStore

FAULTS: Final = {"missing": "absent", "wrong_size": "size_mismatch"}
"""What the summary counts, and what reports and `mend_row` call the fault of a row."""

IN_CAS: Final = Q(s3_key__regex=CAS_KEY)
# The prefix alone is not enough: SQLite's LIKE takes PARTS/ for parts/.
LEGACY: Final = Q(s3_key__regex=rf"\A{LEGACY_PREFIX}")


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """Rows by state, and bytes as the rows record them.

    `malformed` rows have a key of neither form; a migration reports them as failed.
    `blob_bytes` counts a shared blob once. `holds` are rows that keep an object from being
    deleted, by why they do. `runs` is how many migrations hold the lock at this moment, None where
    the database cannot tell.
    """

    links: int
    migrated: int
    legacy: int
    malformed: int
    migrated_bytes: int
    unmigrated_bytes: int
    blobs: int
    blob_bytes: int
    holds: dict[str, int]
    runs: int | None

    @property
    def unmigrated(self) -> int:
        return self.legacy + self.malformed

    @property
    def dedup_ratio(self) -> float:
        """Bytes that rows point at for each byte that is stored; 1.0 where nothing is shared."""
        return self.migrated_bytes / self.blob_bytes if self.blob_bytes else 1.0

    def figures(self) -> dict[str, Any]:
        figures = asdict(self)
        # Before the last two, as people read it.
        last = {name: figures.pop(name) for name in ("holds", "runs")}
        return {**figures, "dedup_ratio": round(self.dedup_ratio, 3), **last}


@dataclass
class StatusSummary(RunSummary):
    """How the rows stand and, if objects were checked, which are missing or of another size than
    their rows say. `damaged_blobs` are those of them that are in the new layout, `to_mend` is the
    first row that only a person can mend.
    """

    rows: MigrationStatus | None = None
    checked: int = 0
    damaged_blobs: int = 0
    referenced: int = 0
    to_mend: int | None = None

    @property
    def items(self) -> int:
        return self.checked

    def judge(self) -> None:
        if self.failures and self.aborted is None:
            self.status = ExitStatus.DAMAGE_FOUND

    def counts(self) -> dict[str, Any]:
        objects = {"checked": self.checked, **{fault: self.failures[fault] for fault in FAULTS}}
        return {**(self.rows.figures() if self.rows else {}), **(objects if self.checked else {})}


def migration_status() -> MigrationStatus:
    rows = Attachment.objects.order_by()
    counted = rows.aggregate(
        links=Count("pk", filter=Q(s3_key__isnull=True)),
        files=Count("pk", filter=Q(s3_key__isnull=False)),
        migrated=Count("pk", filter=IN_CAS),
        legacy=Count("pk", filter=LEGACY),
        bytes=Sum("file_size"),
        migrated_bytes=Sum("file_size", filter=IN_CAS),
    )
    blobs = (
        rows.filter(IN_CAS)
        .values("s3_key")
        .annotate(size=Max("file_size"))
        .aggregate(count=Count("s3_key"), bytes=Sum("size"))
    )
    migrated_bytes = counted["migrated_bytes"] or 0
    return MigrationStatus(
        links=counted["links"],
        migrated=counted["migrated"],
        legacy=counted["legacy"],
        malformed=counted["files"] - counted["migrated"] - counted["legacy"],
        migrated_bytes=migrated_bytes,
        unmigrated_bytes=(counted["bytes"] or 0) - migrated_bytes,
        blobs=blobs["count"],
        blob_bytes=blobs["bytes"] or 0,
        holds=_holds(),
        runs=runs_holding(LEGACY_LAYOUT),
    )


def _holds() -> dict[str, int]:
    """How many rows hold an object, by their reasons in words: `SOURCE refused no_part`."""
    counted: dict[str, int] = {}
    for column in key_columns(KeyKind.HOLD):
        reasons = column.field.reasons
        rows = column.rows().order_by(*reasons).values_list(*reasons).annotate(Count("pk"))
        for *words, count in rows:
            counted[" ".join(filter(None, words)) or str(column.model._meta.verbose_name)] = count
    return counted


def check_status(output: Output, *, objects: bool, right_store: bool = False) -> StatusSummary:
    """Count the rows and, with `objects`, compare every reference with what the store lists.

    `right_store` names what is missing even where the store has none of the objects. Raises
    RunAborted if there can be no report.
    """
    summary = StatusSummary()
    with maintenance_run(summary, output) as run:
        summary.rows = run.query(migration_status)
        if objects:
            _check_objects(attachment_store(), summary, run, right_store=right_store)
        unmigrated = Attachment.objects.unmigrated().order_by("pk")
        if summary.rows.malformed and not summary.rows.legacy and summary.to_mend is None:
            summary.to_mend = run.query(unmigrated.values_list("pk", flat=True).first)
    return summary


def _check_objects(
    store: BlobStore, summary: StatusSummary, run: Run, *, right_store: bool
) -> None:
    for entry in run.watch("checked", _both_layouts(store, run.cancel)):
        summary.checked += 1
        if entry.key.startswith(CAS_PREFIX) and not is_cas_key(entry.key):
            # A row with such a key is among those of `_unknown_keys`.
            continue
        summary.referenced += entry.referenced
        if not (entry.missing or entry.wrong_size):
            continue
        fault = "missing" if entry.missing else "wrong_size"
        summary.damaged_blobs += entry.key.startswith(CAS_PREFIX)
        summary.fail(fault, f"{fault.replace('_', ' ')}: {entry.key}, row {entry.row}")
        if not entry.key.startswith(CAS_PREFIX):
            summary.to_mend = summary.to_mend or entry.row
        run.report.write({"key": entry.key, "fault": FAULTS[fault], "row": entry.row})
    missing = summary.failures["missing"]
    if missing and missing == summary.referenced and not right_store:
        # All of them, and so nothing is said of each.
        summary.failures.clear()
        key = summary.samples[0].partition(": ")[2].partition(",")[0]
        summary.samples.clear()
        raise wrong_store(store, missing, key)
    for row, key in _unknown_keys(run):
        summary.fail("unknown_key", f"unknown key: {key}, row {row}")
        summary.to_mend = summary.to_mend or row
        run.report.write({"key": key, "fault": "unknown_key", "row": row})


def _unknown_keys(run: Run) -> Iterator[tuple[Any, ...]]:
    """Rows with a key of neither layout, which no listing below a prefix shows all of."""
    rows = Attachment.objects.exclude(s3_key=None).exclude(IN_CAS | LEGACY).order_by("pk")
    return by_id(rows.values_list("pk", "s3_key"), run.cancel)


def _both_layouts(store: BlobStore, cancel: CancelToken) -> Iterator[Entry]:
    yield from survey(store, CAS_PREFIX, cancel)
    yield from survey(store, LEGACY_PREFIX, cancel)
