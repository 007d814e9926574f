"""What a machine does to a run: read-only file systems, missing tables, the wrong store."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from attachments.models import Attachment, Verification
from attachments.tests.legacy import (
    damage,
    legacy_key,
    make_legacy,
    make_row,
    on_disk,
    put,
    run,
    summary_of,
)
from cas.digest import Digest
from cas.exit_status import ExitStatus
from cas.storage.base import BlobStat, BlobStore
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

COMMANDS = {
    "migrate_to_cas": ("--yes-i-am-sure",),
    "migration_status": ("--check-objects",),
    "verify_cas": (),
    "cleanup_legacy_blobs": ("--yes-i-am-sure",),
    "collect_garbage": ("--yes-i-am-sure", "--grace", "0"),
}


@pytest.fixture(autouse=True)
def _allowed(settings: Any) -> None:
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Buck converter")


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """The directory mounted over itself, for reading only."""
    mounted = subprocess.run(
        ["mount", "--bind", str(directory), str(directory)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting needs rights that this user does not have")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(directory)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("what", ["store", "report", "staging"])
@pytest.mark.parametrize("name", ["migrate_to_cas", "cleanup_legacy_blobs", "collect_garbage"])
def test_a_read_only_file_system_ends_a_run_with_a_summary(
    request: pytest.FixtureRequest, part: Part, tmp_path: Path, name: str, what: str
) -> None:
    store = request.getfixturevalue("s3_store" if what == "staging" else "disk_store")
    make_legacy(store, part, b"one")
    if name != "migrate_to_cas":
        assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    put(store, legacy_key(part), b"left over")
    (tmp_path / "reports").mkdir()
    report = tmp_path / "reports" / "report.jsonl"
    directory = {
        "store": Path(getattr(store, "location", "")),
        "report": report.parent,
        "staging": store.staging_dir,
    }[what]
    given = ["--report", str(report)] if what == "report" else []
    with read_only(directory):
        status, output = run(name, *COMMANDS[name], "--json", *given)
    summary = summary_of(output)
    if what == "report":
        assert status == ExitStatus.REFUSED
        assert "Read-only file system" in summary["reason"]
    elif what == "store" or name != "cleanup_legacy_blobs":
        # A cleanup on S3 stages nothing.
        assert status == ExitStatus.UNAVAILABLE, output
        assert "Read-only file system" in summary["reason"]
        assert ", then: " in summary["next"]
    assert run(name, *COMMANDS[name])[0] == 0


@pytest.mark.sqlite
@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
def test_a_lock_file_that_cannot_be_made_ends_a_run(
    disk_store: BlobStore, part: Part, tmp_path: Path
) -> None:
    """SQLite's lock of a run is a file beside the database."""
    (tmp_path / "db").mkdir()
    before = connection.settings_dict["NAME"]
    with read_only(tmp_path / "db"):
        connection.settings_dict["NAME"] = str(tmp_path / "db" / "inventory.sqlite3")
        try:
            status, output = run("migrate_to_cas", "--yes-i-am-sure", "--json")
        finally:
            connection.settings_dict["NAME"] = before
    assert status == ExitStatus.UNAVAILABLE, output
    assert "Read-only file system" in summary_of(output)["reason"]


@contextmanager
def without_table(table: str) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO put_away")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE put_away RENAME TO {table}")


@on_disk
@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_table_says_migrate(store: BlobStore, part: Part, name: str) -> None:
    make_legacy(store, part, b"one")
    with without_table("part_attachments"):
        status, output = run(name, *COMMANDS[name], "--json", "--patience", "60s")
    summary = summary_of(output)
    assert status == ExitStatus.UNAVAILABLE
    assert "Run manage.py migrate" in summary["reason"]
    assert summary["next"] == "manage.py migrate"


@on_disk
def test_the_api_says_so_too(store: BlobStore, part: Part) -> None:
    with without_table("part_attachments"):
        response = Client().get(f"/api/parts/{part.key}/attachments")
    assert response.status_code == 503, response.content
    assert response.json()["error"]["code"] == "database_not_migrated"
    assert "manage.py migrate" in response.json()["error"]["message"]
    assert response["Retry-After"]


@on_disk
@pytest.mark.parametrize("name", COMMANDS)
def test_the_wrong_store_is_asked_about(store: BlobStore, part: Part, name: str) -> None:
    """It has objects, even below the same prefixes, but none that a row names."""
    put(store, legacy_key(part), b"somebody else's")
    for number in range(3):
        key = Digest.of(b"%d" % number).key
        make_row(part, legacy_key(part) if name == "migrate_to_cas" else key, 1)
    status, output = run(name, *COMMANDS[name], "--json")
    summary = summary_of(output)
    assert status == ExitStatus.REFUSED, output
    assert "none of the 3 objects" in summary["reason"]
    assert "Is it the right bucket or directory?" in summary["reason"]
    assert summary["samples"] == []
    assert summary["next"].startswith("Make sure that CAS_S3_BUCKET")
    # What is named next does not ask again.
    assert "--right-store" in summary["next"]
    *_, again = summary["next"].partition("manage.py ")
    status, output = run(*again.split(), *(["--yes-i-am-sure"] if "migrate" in again else []))
    assert status in (ExitStatus.DAMAGE_FOUND, ExitStatus.ITEMS_FAILED), output
    assert [stat.key for stat in store.scan("parts/")]


@on_disk
def test_rows_that_others_migrate_meanwhile_are_no_sign_of_the_wrong_store(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run has moved the rows that were read, and a cleanup has deleted their objects."""
    made = [make_legacy(store, part, b"%d" % number) for number in range(3)]
    left = {row.s3_key: row.pk for row in made}
    real = store.stat

    def moved_meanwhile(key: str) -> BlobStat:
        if row := left.pop(key, None):
            digest = store.ingest(key).digest
            Attachment.objects.filter(pk=row).update(s3_key=digest.key)
            store.remove(key)
        return real(key)

    monkeypatch.setattr(store, "stat", moved_meanwhile)
    status, output = run("migrate_to_cas", "--yes-i-am-sure", "--json")
    assert status == ExitStatus.DONE, output


@on_disk
def test_a_store_that_has_other_rows_blobs_is_not_the_wrong_one(
    store: BlobStore, part: Part
) -> None:
    """All that is left to migrate is lost, which its rows say one by one."""
    make_legacy(store, part, b"one")
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    lost = make_row(part, legacy_key(part), 1)
    status, output = run("migrate_to_cas", "--yes-i-am-sure", "--json")
    assert status == ExitStatus.ITEMS_FAILED, output
    assert summary_of(output)["failures"] == {"absent": 1}
    assert f"row {lost.pk}, " in summary_of(output)["samples"][0]


def refuse(row: Attachment) -> str:
    """Have the database refuse any change of this row, by a trigger. Gives how to take it back."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN RAISE EXCEPTION ''this row is kept as it is''; END'"
            )
            cursor.execute(
                "CREATE TRIGGER refused BEFORE UPDATE ON part_attachments FOR EACH ROW"
                f" WHEN (OLD.id = {row.pk}) EXECUTE FUNCTION refuse()"
            )
            return "DROP FUNCTION refuse CASCADE"
        cursor.execute(
            f"CREATE TRIGGER refused BEFORE UPDATE ON part_attachments WHEN OLD.id = {row.pk}"
            " BEGIN SELECT RAISE(ABORT, 'this row is kept as it is'); END"
        )
        return "DROP TRIGGER refused"


@on_disk
def test_a_row_that_the_database_refuses_fails_alone(
    store: BlobStore, part: Part, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    made = [make_legacy(store, part, b"%d" % number) for number in range(5)]
    take_back = refuse(made[2])
    report = tmp_path / "report.jsonl"
    try:
        status, output = run(
            "migrate_to_cas", "--yes-i-am-sure", "--json", "--report", str(report),
            "--patience", "60s",
        )  # fmt: skip
    finally:
        with connection.cursor() as cursor:
            cursor.execute(take_back)
    summary = summary_of(output)
    assert status == ExitStatus.ITEMS_FAILED, output
    assert (summary["migrated"], summary["failures"]) == (4, {"database_refused": 1})
    assert "this row is kept as it is" in summary["samples"][0]
    assert f"row {made[2].pk} was not migrated" in caplog.text
    assert f'"id": {made[2].pk}' in report.read_text()
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0


def test_a_cleanup_reads_what_was_not_verified_since_it_was_written(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in (b"one", b"two"):
        make_legacy(store, part, content)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    one, two = Digest.of(b"one"), Digest.of(b"two")
    assert run("verify_cas")[0] == 0
    read: list[str] = []
    real = store.digest_of

    def noted(key: str, on_bytes: Any = None) -> Any:
        read.append(key)
        return real(key, on_bytes)

    monkeypatch.setattr(store, "digest_of", noted)
    assert run("cleanup_legacy_blobs", "--dry-run")[0] == 0
    assert read == []
    damage(store, two.key, b"TWO")
    assert run("cleanup_legacy_blobs", "--dry-run")[0] == ExitStatus.DAMAGE_FOUND
    # It was written since, in the same size.
    assert read == [two.key]
    damage(store, two.key, b"two")
    read.clear()
    assert run("cleanup_legacy_blobs", "--dry-run", "--verify-content")[0] == 0
    assert sorted(read) == sorted([one.key, two.key])
    Verification.objects.all().delete()
    damage(store, one.key, b"ONE")
    status, output = run("cleanup_legacy_blobs", "--yes-i-am-sure", "--json")
    assert status == ExitStatus.DAMAGE_FOUND
    assert summary_of(output)["deleted"] == 0
    assert len(list(store.scan("parts/"))) == 2


@on_disk
def test_a_dry_run_says_would_be(store: BlobStore, part: Part) -> None:
    make_legacy(store, part, b"one")
    _, output = run("migrate_to_cas", "--dry-run")
    assert "would be migrated  1" in output
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    _, output = run("cleanup_legacy_blobs", "--dry-run")
    assert "would be deleted  1" in output
    assert "bytes to be deleted  3 B (3 bytes)" in output
    assert "\n           deleted" not in output
    Attachment.objects.all().delete()
    _, output = run("collect_garbage", "--dry-run", "--grace", "0", "--max-delete-percent", "100")
    assert "would be collected  1" in output
