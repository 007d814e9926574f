"""migration_status and the check that speaks of unmigrated rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks

from attachments import checks
from attachments.locks import LEGACY_LAYOUT, run_lock
from attachments.maintenance.status import migration_status
from attachments.models import Attachment
from attachments.tests.legacy import legacy_key, make_legacy, make_row, on_disk, run
from cas.digest import Digest
from cas.exit_status import ExitStatus
from cas.storage.base import BlobStore
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Buck converter")


def status_of(*arguments: str) -> tuple[int, dict[str, Any]]:
    status, output = run("migration_status", "--json", *arguments)
    return status, json.loads(output)["summary"]


@on_disk
def test_rows_by_state(store: BlobStore, part: Part) -> None:
    for content in (b"aaaa", b"aaaa", b"bb"):
        make_legacy(store, part, content)
    run("migrate_to_cas", "--yes-i-am-sure")
    make_legacy(store, part, b"ccc")
    make_row(part, "PARTS/x", 1)
    make_row(part, "cas/short", 1)
    Attachment.objects.create(part=part, attachment_type="url", url="https://example.org/x")
    status, figures = status_of()
    assert status == 0
    ran = ("seconds", "items_per_second", "bytes_per_second", "reason", "dry_run", "failures")
    assert {name: value for name, value in figures.items() if name not in ran} == {
        "status": "done",
        "links": 1,
        "migrated": 3,
        "legacy": 1,
        "malformed": 2,
        "migrated_bytes": 10,
        "unmigrated_bytes": 5,
        "blobs": 2,
        "blob_bytes": 6,
        "dedup_ratio": 1.667,
        "holds": {},
        "runs": figures["runs"],
        "samples": [],
        "next": "manage.py migrate_to_cas --dry-run",
    }


@on_disk
def test_what_a_repair_cannot_bring_back_is_not_sent_there(store: BlobStore, part: Part) -> None:
    """A missing object of the older layout: only a person can say what is to become of the row."""
    make_legacy(store, part, b"there")
    row = make_row(part, legacy_key(part), 1)
    status, figures = status_of("--check-objects")
    assert status == ExitStatus.DAMAGE_FOUND
    assert figures["next"] == f"manage.py mend_row {row.pk}"


@on_disk
def test_rows_with_a_key_of_neither_layout_are_listed(
    store: BlobStore, part: Part, tmp_path: Path
) -> None:
    make_legacy(store, part, b"there")
    odd = [make_row(part, key, 1) for key in ("uploads/a.pdf", "cas/nothex", "PARTS/a.pdf")]
    report = tmp_path / "report.jsonl"
    status, figures = status_of("--check-objects", "--report", str(report))
    assert (status, figures["failures"]) == (ExitStatus.DAMAGE_FOUND, {"unknown_key": 3})
    assert [json.loads(line) for line in report.read_text().splitlines()] == [
        {"key": row.s3_key, "fault": "unknown_key", "row": row.pk} for row in odd
    ]
    assert figures["next"] == f"manage.py mend_row {odd[0].pk}"


@on_disk
def test_an_empty_table(store: BlobStore) -> None:
    assert status_of()[1]["dedup_ratio"] == 1.0


def test_objects_are_checked_on_request(store: BlobStore, part: Part, tmp_path: Path) -> None:
    row = make_legacy(store, part, b"aaaa")
    run("migrate_to_cas", "--yes-i-am-sure")
    assert status_of("--check-objects")[0] == 0
    lost = make_row(part, legacy_key(part), 1)
    wrong = make_row(part, Digest.of(b"aaaa").key, 9)
    report = tmp_path / "report.jsonl"
    status, figures = status_of("--check-objects", "--report", str(report))
    assert status == ExitStatus.DAMAGE_FOUND
    assert [json.loads(line) for line in report.read_text().splitlines()] == [
        {"key": wrong.s3_key, "fault": "size_mismatch", "row": row.pk},
        {"key": lost.s3_key, "fault": "absent", "row": lost.pk},
    ]
    assert (figures["missing"], figures["wrong_size"]) == (1, 1)
    assert figures["samples"] == [
        f"wrong size: {wrong.s3_key}, row {row.pk}",
        f"missing: {lost.s3_key}, row {lost.pk}",
    ]
    assert figures["next"] == "manage.py verify_cas --repair"


@on_disk
@pytest.mark.postgres
def test_running_migrations_are_seen_in_the_database(store: BlobStore) -> None:
    assert migration_status().runs == 0
    with run_lock(LEGACY_LAYOUT, shared=True):
        assert migration_status().runs == 1
    with run_lock(LEGACY_LAYOUT):
        assert migration_status().runs == 0


def test_a_system_check_speaks_of_unmigrated_rows(disk_store: BlobStore, part: Part) -> None:
    def warned() -> bool:
        return "attachments.W001" in [m.id for m in run_checks(databases=["default"])]

    assert not warned()
    assert not checks.rows_are_unmigrated()
    make_legacy(disk_store, part, b"aaaa")
    assert warned()
    assert checks.rows_are_unmigrated()
    assert not [m for m in run_checks() if m.id == "attachments.W001"]
