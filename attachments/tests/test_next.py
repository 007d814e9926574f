"""What each command says to do next, for every way in which it can end.

What was just refused is never repeated as it was, and following the lines never leads in a circle.
"""

from __future__ import annotations

import errno
import shlex
from pathlib import Path
from typing import Any

import pytest

from attachments.maintenance.cleanup import CleanupSummary
from attachments.maintenance.collect import CollectPlan, CollectSummary
from attachments.maintenance.mend import Mend, MendSummary
from attachments.maintenance.migrate import MigrationSummary
from attachments.maintenance.report import RunSummary
from attachments.maintenance.retry import Retry
from attachments.maintenance.runner import CancelToken
from attachments.maintenance.status import MigrationStatus, StatusSummary
from attachments.maintenance.verify import Verdict, Verified, VerifySummary
from attachments.tests.legacy import run
from attachments.tests.test_command import command_called, parsed
from cas.digest import Digest
from cas.exit_status import ExitStatus, RunAborted
from cas.storage.base import StoreError
from cas.storage.base import store_error as disk_error
from cas.storage.s3.client import bucket_missing
from parts.legacy_import.run import ImportSummary

S = ExitStatus
GIVEN = {
    "migrate_to_cas": ("--workers 8", MigrationSummary),
    "migration_status": ("", StatusSummary),
    "verify_cas": ("--workers 8", VerifySummary),
    "cleanup_legacy_blobs": ("--workers 8", CleanupSummary),
    "collect_garbage": ("--grace 30d", CollectSummary),
    "mend_row": ("7", MendSummary),
}
OVER = {S.REFUSED, S.UNAVAILABLE, S.LOCKED}


def next_line(name: str, given: str, summary: RunSummary) -> str | None:
    options = parsed(["manage.py", name, *shlex.split(given)])
    return command_called(name).next_line(summary, options)


def rows(**counts: int) -> MigrationStatus:
    every: dict[str, Any] = dict.fromkeys(MigrationStatus.__slots__, 0)
    return MigrationStatus(**every | counts)


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("status", sorted(OVER))
def test_after_a_refusal_something_is_to_be_done_first(name: str, status: ExitStatus) -> None:
    given, kind = GIVEN[name]
    for aborted in (None, RunAborted(status, "why", first="Set the clocks right")):
        line = next_line(name, given, kind(status=status, reason="why", aborted=aborted))
        first, then, command = str(line).partition(", then: ")
        assert first
        assert then
        assert command == f"manage.py {name} {given}".strip()


@pytest.mark.parametrize(
    "error",
    [
        disk_error(OSError(errno.EROFS, "Read-only file system"), "k"),
        disk_error(OSError(errno.ENOSPC, "No space left on device"), "k"),
        bucket_missing("b"),
    ],
)
def test_the_cure_that_an_error_names_is_the_one_told(error: StoreError) -> None:
    with pytest.raises(RunAborted) as end:
        Retry(CancelToken()).failed(error)
    assert end.value.first == error.cure
    assert error.cure in str(end.value)
    assert "credentials" not in str(end.value)


def test_a_report_that_cannot_be_opened_is_not_repeated(tmp_path: Path) -> None:
    refused = tmp_path / "none" / "report"
    status, output = run("migration_status", "--report", str(refused))
    assert status == S.REFUSED
    assert "then: manage.py migration_status --report FILE" in output


@pytest.mark.parametrize("name", GIVEN)
def test_another_command_is_told_as_it_is(name: str) -> None:
    given, kind = GIVEN[name]
    aborted = RunAborted(S.UNAVAILABLE, "a table is missing", command="manage.py migrate")
    summary = kind(status=aborted.exit_status, reason=str(aborted), aborted=aborted)
    assert next_line(name, given, summary) == "manage.py migrate"


def damaged(**options: Any) -> VerifySummary:
    digest = Digest.of(b"x")
    found = {digest: Verified(digest, Verdict.CORRUPT)}
    return VerifySummary(status=S.DAMAGE_FOUND, damaged=found, **options)


def failed(code: str, **options: Any) -> MigrationSummary:
    summary = MigrationSummary(status=S.ITEMS_FAILED, **options)
    summary.fail(code, "row 3")
    return summary


STATUS = "manage.py migration_status"
VERIFY, COLLECT = "manage.py verify_cas", "manage.py collect_garbage"
MEND = "manage.py mend_row"
MIGRATE, CLEANUP = "manage.py migrate_to_cas", "manage.py cleanup_legacy_blobs"

ENDS: list[tuple[str, str, RunSummary, str | None]] = [
    ("migration_status", "", StatusSummary(rows=rows(legacy=5)), f"{MIGRATE} --dry-run"),
    ("migration_status", "", StatusSummary(rows=rows(malformed=1), to_mend=4), f"{MEND} 4"),
    ("migration_status", "", StatusSummary(rows=rows(migrated=1)), f"{STATUS} --check-objects"),
    ("migration_status", "--check-objects", StatusSummary(rows=rows(migrated=1)), VERIFY),
    (
        "migration_status", "--check-objects",
        StatusSummary(rows=rows(legacy=5), status=S.DAMAGE_FOUND, to_mend=4), f"{MEND} 4",
    ),
    (
        "migration_status", "--check-objects",
        StatusSummary(rows=rows(), status=S.DAMAGE_FOUND, damaged_blobs=1), f"{VERIFY} --repair",
    ),
    (
        "migration_status", "--check-objects", StatusSummary(rows=rows(), status=S.INTERRUPTED),
        f"{STATUS} --check-objects",
    ),
    ("migrate_to_cas", "--dry-run", MigrationSummary(dry_run=True), MIGRATE),
    ("migrate_to_cas", "", MigrationSummary(), VERIFY),
    ("migrate_to_cas", "--limit 5", MigrationSummary(status=S.LIMIT_REACHED), MIGRATE),
    ("migrate_to_cas", "--limit 5", MigrationSummary(status=S.INTERRUPTED), MIGRATE),
    (
        "migrate_to_cas", "--dry-run --limit 5",
        MigrationSummary(dry_run=True, status=S.LIMIT_REACHED), f"{MIGRATE} --dry-run",
    ),
    ("migrate_to_cas", "", failed("absent", to_mend=3), "manage.py mend_row 3"),
    ("migrate_to_cas", "--dry-run", failed("absent", to_mend=3, dry_run=True), f"{MEND} 3"),
    ("migrate_to_cas", "", failed("unreachable"), MIGRATE),
    (
        "migrate_to_cas", "", failed("database_refused"),
        f"Put right what the samples say, then: {MIGRATE}",
    ),
    # Rows that others added meanwhile.
    ("migrate_to_cas", "", MigrationSummary(status=S.ITEMS_FAILED), MIGRATE),
    ("verify_cas", "", VerifySummary(), None),
    ("verify_cas", "", VerifySummary(next_step=f"{CLEANUP} --dry-run"), f"{CLEANUP} --dry-run"),
    ("verify_cas", "", VerifySummary(next_step=f"{MIGRATE} --dry-run"), f"{MIGRATE} --dry-run"),
    ("verify_cas", "", damaged(to_mend=5), f"{VERIFY} --repair"),
    ("verify_cas", "--repair", damaged(to_mend=5), "manage.py mend_row 5"),
    ("verify_cas", "--repair", damaged(), f"{COLLECT} --dry-run"),
    ("verify_cas", "--repair", damaged(reason="too much damage"), f"{VERIFY} --repair"),
    ("verify_cas", "", VerifySummary(status=S.LIMIT_REACHED), f"{VERIFY} --older-than 1d"),
    ("verify_cas", "", VerifySummary(status=S.INTERRUPTED), f"{VERIFY} --older-than 1d"),
    ("verify_cas", "", VerifySummary(status=S.ITEMS_FAILED), f"{VERIFY} --older-than 1d"),
    (
        "cleanup_legacy_blobs", "--dry-run", CleanupSummary(dry_run=True, deleted=2),
        f"CAS_MIGRATION_DELETE_OLD_OBJECTS=true {CLEANUP}",
    ),
    ("cleanup_legacy_blobs", "--dry-run", CleanupSummary(dry_run=True), f"{COLLECT} --dry-run"),
    ("cleanup_legacy_blobs", "", CleanupSummary(deleted=2), f"{COLLECT} --dry-run"),
    ("cleanup_legacy_blobs", "", CleanupSummary(status=S.DAMAGE_FOUND), f"{VERIFY} --repair"),
    ("cleanup_legacy_blobs", "", CleanupSummary(status=S.ITEMS_FAILED), CLEANUP),
    ("cleanup_legacy_blobs", "", CleanupSummary(status=S.LIMIT_REACHED), CLEANUP),
    ("cleanup_legacy_blobs", "", CleanupSummary(status=S.INTERRUPTED), CLEANUP),
    (
        "collect_garbage", "--dry-run",
        CollectSummary(dry_run=True, plan=CollectPlan(unreferenced=1)), COLLECT,
    ),
    ("collect_garbage", "--dry-run", CollectSummary(dry_run=True), None),
    ("collect_garbage", "", CollectSummary(plan=CollectPlan(unreferenced=1), collected=1), None),
    ("collect_garbage", "", CollectSummary(status=S.DAMAGE_FOUND), f"{VERIFY} --repair"),
    ("collect_garbage", "", CollectSummary(status=S.ITEMS_FAILED), COLLECT),
    ("collect_garbage", "", CollectSummary(status=S.INTERRUPTED), COLLECT),
    ("mend_row", "7", MendSummary(), STATUS),
    ("mend_row", "7", MendSummary(fault="size_mismatch"), "manage.py mend_row 7 --accept-size"),
    ("mend_row", "7", MendSummary(fault="absent"), f"{MEND} 7 --replace-with FILE"),
    ("mend_row", "7", MendSummary(fault="unknown_key"), f"{MEND} 7 --point-at KEY"),
    (
        "mend_row", "7", MendSummary(fault="corrupt", key=Digest.of(b"x").key),
        f"{VERIFY} --repair; if it restores nothing: {MEND} 7 --replace-with FILE",
    ),
    (
        "import_legacy", "--dump d --dry-run", ImportSummary(status=S.ITEMS_FAILED, dry_run=True),
        "Mend the rows in the report, or import the others (docs/howto/adopt.md), then: "
        "manage.py import_legacy --dump d",
    ),
    (
        "import_legacy", "--dump d", ImportSummary(status=S.ITEMS_FAILED),
        "Mend or forget the rows in the report (docs/howto/adopt.md), then: "
        f"{MIGRATE} --dry-run",
    ),
    (
        "mend_row", "7 --delete-row --dry-run",
        MendSummary(dry_run=True, fault="absent", mend=Mend.DELETE), f"{MEND} 7 --delete-row",
    ),
    ("mend_row", "7 --delete-row", MendSummary(mended=True), f"{STATUS} --check-objects"),
    ("mend_row", "7 --delete-row", MendSummary(status=S.INTERRUPTED), f"{MEND} 7 --delete-row"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "summary", "expected"), ENDS)
def test_each_end_has_its_next(
    name: str, given: str, summary: RunSummary, expected: str | None
) -> None:
    assert next_line(name, given, summary) == expected


def test_sound_collections_are_led_to_an_end() -> None:
    """From a move that is over, each line followed."""
    seen: list[str] = []
    line: str | None = STATUS
    sound: dict[str, RunSummary] = {
        "migration_status": StatusSummary(rows=rows(migrated=1)),
        "verify_cas": VerifySummary(),
        "cleanup_legacy_blobs": CleanupSummary(deleted=1),
        "collect_garbage": CollectSummary(dry_run=True),
    }
    for first in (STATUS, f"{CLEANUP} --dry-run"):
        line, seen = first, []
        while line is not None:
            assert line not in seen
            seen.append(line)
            _, name, *given = shlex.split(line)
            line = next_line(name, shlex.join(given), sound[name])
