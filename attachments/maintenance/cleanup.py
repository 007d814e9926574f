"""Deletes the older layout's objects once nothing needs them any more."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any, Final

from django.conf import settings
from django.utils import timezone
from prometheus_client import Counter as Metric

from attachments import references, verifications
from attachments.locks import LEGACY_LAYOUT, LockLost, require_lock, run_lock
from attachments.maintenance.collect import Deletion, deletions, kept_versions, would_delete
from attachments.maintenance.listing import LOST, Entry, survey, wrong_store
from attachments.maintenance.report import SAMPLES, RunSummary
from attachments.maintenance.retry import Retry, listed, query
from attachments.maintenance.runner import CancelToken, Output, Run, limited, maintenance_run
from attachments.maintenance.workers import Pace, Pool
from attachments.models import LEGACY_PREFIX, Attachment, Verification
from attachments.object_keys import KeyKind
from cas.digest import CAS_PREFIX, Digest
from cas.exit_status import ExitStatus, RunAborted
from cas.storage import attachment_store
from cas.storage.base import Absent, BlobStat, BlobStore, Corrupt

logger = logging.getLogger(__name__)

LEGACY_KEY: Final = re.compile(
    re.escape(LEGACY_PREFIX)
    + r"[0-9A-Za-z-]+/attachments/"
    + r"[0-9a-fA-F]{8}(?:-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}(?:\.[^/\x00-\x1f\x7f]{1,255})?\Z"
)
"""What the older application named its objects: `parts/{part_id}/attachments/{uuid}.{ext}`.

The extension is whatever followed the last dot of a file's name, with spaces and all.
"""


DELETED_OBJECTS = Metric(
    "inventory_legacy_objects_deleted_total", "Legacy objects a cleanup dealt with.", ["outcome"]
)
DELETED_BYTES = Metric("inventory_legacy_bytes_deleted_total", "Bytes of deleted legacy objects.")

BATCH: Final = 500
"""Objects whose references are looked up, and which are then deleted, at a time."""


@dataclass(frozen=True, slots=True)
class CleanupOptions:
    """`min_age` is how old an object must be, in seconds; `max_delete` how many objects at most.

    `delete_unnamed` includes what no row of an imported source ever named, `delete_versions` old
    versions in a bucket that keeps them.
    """

    dry_run: bool = False
    min_age: float = 0
    max_delete: int | None = None
    verify_content: bool = False
    delete_unnamed: bool = False
    workers: int = 4
    delete_versions: bool = False


@dataclass
class CleanupSummary(RunSummary):
    """What was found below the older prefix, and what became of it.

    `held` objects are named by rows of an older installation that were not released. `unknown`
    ones do not look like the older layout's or, once rows of a source were recorded, were never
    named by one: that installation may have added them since.
    """

    old_versions: str = ""
    WOULD_BE = {"deleted": "would_be_deleted", "deleted_bytes": "bytes_to_be_deleted"}

    deleted: int = 0
    held: int = 0
    too_young: int = 0
    unknown: int = 0

    @property
    def items(self) -> int:
        return self.deleted + self.failures.total()

    def counts(self) -> dict[str, Any]:
        return {
            "deleted": self.deleted,
            "deleted_bytes": self.bytes,
            "old_versions": self.old_versions,
            "held": self.held,
            "too_young": self.too_young,
            "unknown_left_alone": self.unknown,
        }


def cleanup(options: CleanupOptions, output: Output) -> CleanupSummary:
    """Delete, or with `dry_run` only say what would be. Raises RunAborted without a report."""
    store = attachment_store()
    summary = CleanupSummary(dry_run=options.dry_run)
    with maintenance_run(summary, output) as run:
        if not (options.dry_run or settings.CAS_MIGRATION_DELETE_OLD_OBJECTS):
            raise RunAborted(
                ExitStatus.REFUSED,
                "set CAS_MIGRATION_DELETE_OLD_OBJECTS=true to allow a cleanup",
                first="Set CAS_MIGRATION_DELETE_OLD_OBJECTS=true",
            )
        tries = Retry(run.cancel)
        while True:
            deleted = summary.deleted
            try:
                with run_lock(LEGACY_LAYOUT, retry=run.query):
                    _check_and_delete(store, options, summary, run)
                break
            except LockLost as lost:
                # Another run may have changed things since: everything is checked again.
                if summary.deleted > deleted:
                    tries.succeeded()
                tries.failed(lost)
    return summary


def _check_and_delete(
    store: BlobStore, options: CleanupOptions, summary: CleanupSummary, run: Run
) -> None:
    check_complete(store, run)
    _check_whose(store, options, run)
    verify_content(store, run, workers=options.workers, everything=options.verify_content)
    summary.too_young = summary.unknown = summary.held = 0
    _delete(store, options, summary, run)


def check_complete(store: BlobStore, run: Run) -> None:
    """Raises RunAborted unless every row is migrated and every object that rows reference is whole.

    One listing of `cas/` against one ordered pass over the rows; sizes are compared, contents
    are not.
    """
    _check_all_migrated(run.cancel)
    found = 0
    damaged: list[Entry] = []
    for entry in run.watch("checked", survey(store, CAS_PREFIX, run.cancel)):
        if entry.missing or entry.wrong_size:
            damaged.append(entry)
        found += entry.referenced and not entry.missing
        # Whether it is the right store shows at the first object that is there.
        if len(damaged) > SAMPLES and found:
            break
    if damaged and not found:
        raise wrong_store(store, len(damaged), damaged[0].key, command=LOST)
    if damaged:
        more = ", and more" if len(damaged) > SAMPLES else ""
        raise RunAborted(
            ExitStatus.DAMAGE_FOUND,
            "; ".join(_damage(entry) for entry in damaged[:SAMPLES])
            + f"{more}. Nothing was deleted; run verify_cas --repair while the old objects are "
            "still there",
        )


def _check_all_migrated(cancel: CancelToken) -> None:
    rows = Attachment.objects.unmigrated().order_by("pk").values_list("pk", "s3_key")
    left: list[tuple[int, str]] = query(partial(list, rows[: SAMPLES + 1]), cancel)
    if left:
        named = ", ".join(f"row {pk} ({key})" for pk, key in left[:SAMPLES])
        more = ", and more" if len(left) > SAMPLES else ""
        raise RunAborted(
            ExitStatus.REFUSED,
            f"not every row is migrated: {named}{more}. Nothing more was deleted; run "
            "migrate_to_cas first",
            command="manage.py migrate_to_cas --dry-run",
        )


def _check_whose(store: BlobStore, options: CleanupOptions, run: Run) -> None:
    """Raises RunAborted unless this database tells whose the older objects are.

    It does if rows of an older installation were imported, or rows of its own were migrated.
    Otherwise it may be another installation's, or that one's rows are still to be imported.
    """
    for known in (references.sources_recorded, references.rows_migrated):
        if query(known, run.cancel):
            return
    first = next(listed(store, LEGACY_PREFIX, run.cancel), None)
    if first is None:
        return
    used = query(partial(references.any_named, KeyKind.REFERENCE), run.cancel)
    if not (used and options.delete_unnamed):
        raise RunAborted(
            ExitStatus.REFUSED,
            f"no row of an older installation was ever imported or migrated here, and so nothing "
            f"tells whose {first.key} is, and what else is below {LEGACY_PREFIX}. Nothing was "
            "deleted; check that this is the right database, and import the older installation "
            + ("first" if used else "first, since no row here has an object"),
            first="Look at what the database has of the older installation",
            command="manage.py migration_status",
        )


def _damage(entry: Entry) -> str:
    if entry.stat is None:
        return f"{entry.key} is missing, which row {entry.row} references"
    named = entry.size_conflict
    said = f"row {named.row} says {named.size}" if named else "its row says nothing"
    return f"{entry.key} has {entry.stat.size} bytes, {said}"


def _delete(store: BlobStore, options: CleanupOptions, summary: CleanupSummary, run: Run) -> None:
    deletable = _deletable(store, options, summary, run)
    plan = limited(deletable, options.max_delete, run.cancel, "objects")

    def delete(batch: Sequence[BlobStat]) -> Iterator[Deletion]:
        _check_unreferenced(batch, run.cancel)
        held = _held(batch, run.cancel)
        summary.held += len(held)
        free = [stat for stat in batch if stat.key not in held]
        if options.dry_run:
            return would_delete(free)
        query(partial(require_lock, LEGACY_LAYOUT), run.cancel)
        keys = [stat.key for stat in free]
        versions = {"versions": True} if options.delete_versions else {}
        return store.remove_many(keys, **versions)

    summary.old_versions = kept_versions(store, run, deleted=options.delete_versions)
    run.progress.begin("would be deleted" if options.dry_run else "deleted")
    metrics = (DELETED_OBJECTS, DELETED_BYTES)
    for _ in deletions(plan, BATCH, delete, summary, run, metrics):
        summary.deleted += 1


def _deletable(
    store: BlobStore, options: CleanupOptions, summary: CleanupSummary, run: Run
) -> Iterator[BlobStat]:
    """The legacy objects that are old enough and not held. What is not known is listed instead."""
    newest = timezone.now() - timedelta(seconds=options.min_age)
    recorded = query(references.sources_recorded, run.cancel)
    stats = _watched(outside_cas(store, run.cancel), run)
    while portion := list(islice(stats, BATCH)):
        keys = [stat.key for stat in portion]
        named = query(partial(references.ever_named, keys), run.cancel) if recorded else set()
        held = _held(portion, run.cancel)
        for stat in portion:
            if stat.key in held:
                _leave(stat, "held", "a row of an older installation names it", run)
                summary.held += 1
            elif why := _unknown_because(
                stat.key, named, unnamed=options.delete_unnamed or not recorded
            ):
                _leave(stat, "unknown", why, run)
                summary.unknown += 1
            elif stat.modified > newest:
                summary.too_young += 1
            else:
                yield stat


def _watched(stats: Iterator[BlobStat], run: Run) -> Iterator[BlobStat]:
    """Skipped objects may be many, and so a signal must end the walk over them."""
    for stat in stats:
        run.progress.show_if_due()
        run.cancel.check()
        yield stat


def _unknown_because(key: str, named: set[str], *, unnamed: bool) -> str:
    """Why an object is not known to be the older layout's; "" if it is.

    `named` is what recorded rows named, `unnamed` whether others may be left over too.
    """
    if key in named and key.startswith(LEGACY_PREFIX):
        return ""
    if not LEGACY_KEY.match(key):
        return "not a known legacy key"
    return "" if unnamed else "no row of an imported source ever named it"


def _leave(stat: BlobStat, outcome: str, why: str, run: Run) -> None:
    level = logging.INFO if outcome == "held" else logging.WARNING
    logger.log(level, "%s, left alone: %s (%d bytes)", why, stat.key, stat.size)
    run.report.write({"key": stat.key, "bytes": stat.size, "outcome": outcome, "why": why})


def _held(batch: Sequence[BlobStat], cancel: CancelToken) -> set[str]:
    keys = [stat.key for stat in batch]
    return query(partial(references.named, keys, KeyKind.HOLD), cancel)


def outside_cas(store: BlobStore, cancel: CancelToken) -> Iterator[BlobStat]:
    """Every object that is not below `cas/`, without listing what is."""
    for stat in listed(store, "", cancel):
        if stat.key >= CAS_PREFIX:
            break
        yield stat
    # "0" is the byte after "/": every key below `cas/` sorts before it.
    for stat in listed(store, "", cancel, after=CAS_PREFIX[:-1] + "0"):
        if not stat.key.startswith(CAS_PREFIX):
            yield stat


def _check_unreferenced(batch: Sequence[BlobStat], cancel: CancelToken) -> None:
    """Look for references right before deleting. Raises RunAborted if the rows have changed."""
    keys = [stat.key for stat in batch]
    for column in references.key_columns(KeyKind.REFERENCE):
        rows = column.rows().filter(**{f"{column.name}__in": keys}).order_by("pk")
        found = query(rows.values_list("pk", column.name).first, cancel)
        if found:
            raise RunAborted(
                ExitStatus.REFUSED,
                f"row {found[0]} has come to reference {found[1]} meanwhile. Its object and the "
                "rest were not deleted; run migrate_to_cas first",
                command="manage.py migrate_to_cas --dry-run",
            )


def verify_content(store: BlobStore, run: Run, *, workers: int, everything: bool) -> None:
    """Hash the referenced objects that were not verified since they were last written, or all.

    What is found intact is recorded. Raises RunAborted at the first object whose bytes
    are not what its key says, StoreError.
    """
    pace = Pace(workers)

    def hashed(key: str) -> Iterator[BlobStat]:
        try:
            # Retried, so that one missing answer does not end hours of reading.
            digest, stat = Retry(run.cancel, store, pace).call(partial(store.digest_of, key))
        except (Absent, Corrupt) as error:
            raise _damaged(key) from error
        if digest.key != key:
            raise _damaged(key)
        yield stat

    entries = (e for e in survey(store, CAS_PREFIX, run.cancel) if e.referenced)
    keys = (entry.key for entry in entries) if everything else _unverified(entries, run)
    intact: list[BlobStat] = []
    run.progress.begin("hashed")
    for stat in Pool[str, BlobStat](hashed, pace=pace, cancel=run.cancel).results(keys):
        if stat is not None:
            intact.append(stat)
            if len(intact) >= BATCH:
                run.query(partial(verifications.record, intact))
                intact.clear()
            run.progress.step(stat.size)
        run.progress.show_if_due()
    run.query(partial(verifications.record, intact))
    run.cancel.check()


def _damaged(key: str) -> RunAborted:
    return RunAborted(
        ExitStatus.DAMAGE_FOUND,
        f"the bytes of {key} do not hash to it. Nothing was deleted; run verify_cas --repair while "
        "the old objects are still there",
    )


def _unverified(entries: Iterator[Entry], run: Run) -> Iterator[str]:
    """The keys of those that nobody has hashed since they were written."""
    while portion := list(islice(entries, BATCH)):
        digests = [Digest.from_key(entry.key).hex for entry in portion]
        rows = Verification.objects.filter(digest__in=digests)
        found: list[Verification] = run.query(partial(list, rows))
        verified = {row.digest: row for row in found}
        for entry in portion:
            row = verified.get(Digest.from_key(entry.key).hex)
            if row is None or entry.stat is None or not _is_of(row, entry.stat):
                yield entry.key


def _is_of(row: Verification, stat: BlobStat) -> bool:
    """Whether it was this version that was verified."""
    return bool(stat.etag) and row.etag == stat.etag and row.verified_at >= stat.modified
