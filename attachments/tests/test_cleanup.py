"""cleanup_legacy_blobs, on both backends."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from attachments.maintenance import cleanup as module
from attachments.maintenance.runner import CancelToken
from attachments.models import Attachment
from attachments.tests.legacy import (
    assert_whole,
    legacy_key,
    make_legacy,
    make_row,
    on_disk,
    put,
    run,
    summary_of,
    terminate_others,
)
from cas.digest import Digest
from cas.exit_status import ExitStatus
from cas.storage.base import Absent, BlobStore, Corrupt, StoreError, Unreachable
from parts.models import Part, SourceRow
from parts.tests.older import put_blob

pytestmark = pytest.mark.django_db(transaction=True)

CLEANUP = ("cleanup_legacy_blobs", "--yes-i-am-sure")


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Buck converter")


@pytest.fixture
def migrated(store: BlobStore, part: Part, settings: Any) -> list[str]:
    """A migrated collection of three rows and two contents; its old keys."""
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    keys = [make_legacy(store, part, content).s3_key or "" for content in (b"a", b"bb", b"a")]
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    return sorted(keys)


def keys_of(store: BlobStore) -> set[str]:
    return {stat.key for stat in store.scan("")}


def test_every_old_object_goes_and_no_blob(store: BlobStore, migrated: list[str]) -> None:
    status, output = run(*CLEANUP, "--json")
    summary = summary_of(output)
    assert status == 0, output
    assert (summary["deleted"], summary["deleted_bytes"]) == (3, 4)
    assert keys_of(store) == {Digest.of(b"a").key, Digest.of(b"bb").key}
    assert_whole(store)


@on_disk
def test_it_needs_the_setting(store: BlobStore, migrated: list[str], settings: Any) -> None:
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = False
    status, output = run(*CLEANUP)
    assert status == ExitStatus.REFUSED
    assert "CAS_MIGRATION_DELETE_OLD_OBJECTS=true" in output
    assert set(migrated) <= keys_of(store)


@on_disk
def test_it_asks_first(store: BlobStore, migrated: list[str]) -> None:
    assert run("cleanup_legacy_blobs")[0] == ExitStatus.REFUSED
    assert set(migrated) <= keys_of(store)


def test_a_dry_run_names_what_would_go(
    store: BlobStore, migrated: list[str], tmp_path: Path
) -> None:
    before = keys_of(store)
    report = tmp_path / "report.jsonl"
    status, output = run("cleanup_legacy_blobs", "--dry-run", "--json", "--report", str(report))
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert status == 0
    assert summary_of(output)["deleted"] == 3
    assert [line["key"] for line in lines] == migrated
    assert {line["outcome"] for line in lines} == {"would_delete"}
    assert keys_of(store) == before


@on_disk
@pytest.mark.parametrize("key", [None, "elsewhere/photo.jpg", "cas/not-a-digest"])
def test_one_unmigrated_row_refuses_it(
    store: BlobStore, part: Part, migrated: list[str], key: str | None
) -> None:
    row = make_row(part, key or legacy_key(part), 1)
    before = keys_of(store)
    status, output = run(*CLEANUP)
    assert status == ExitStatus.REFUSED
    assert f"row {row.pk} ({row.s3_key})" in output
    assert "migrate_to_cas" in output
    assert keys_of(store) == before


def test_a_missing_referenced_object_refuses_it(store: BlobStore, migrated: list[str]) -> None:
    lost = Digest.of(b"bb").key
    store.remove(lost)
    status, output = run(*CLEANUP)
    assert status == ExitStatus.DAMAGE_FOUND
    assert f"{lost} is missing" in output
    assert set(migrated) <= keys_of(store)


@on_disk
def test_a_referenced_object_of_the_wrong_size_refuses_it(
    store: BlobStore, migrated: list[str]
) -> None:
    Attachment.objects.filter(s3_key=Digest.of(b"bb").key).update(file_size=7)
    status, output = run(*CLEANUP)
    assert status == ExitStatus.DAMAGE_FOUND
    assert "has 2 bytes" in output
    assert set(migrated) <= keys_of(store)


@on_disk
def test_verify_content_hashes_before_anything_is_deleted(
    store: BlobStore, migrated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.digest_of

    def flipped(key: str, on_bytes: Any = None) -> Any:
        digest, stat = real(key, on_bytes)
        return (Digest.of(b"damage") if key == Digest.of(b"bb").key else digest), stat

    monkeypatch.setattr(store, "digest_of", flipped)
    status, output = run(*CLEANUP, "--verify-content")
    assert status == ExitStatus.DAMAGE_FOUND
    assert Digest.of(b"bb").key in output
    assert set(migrated) <= keys_of(store)


@on_disk
@pytest.mark.parametrize("error", [Absent, Corrupt])
def test_verify_content_takes_what_is_missing_or_cut_short_for_damage(
    store: BlobStore,
    migrated: list[str],
    monkeypatch: pytest.MonkeyPatch,
    error: type[StoreError],
) -> None:
    """It was there in the listing, and is not when it is read."""
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)
    broken = Digest.of(b"bb").key
    real = store.digest_of

    def failing(key: str, on_bytes: Any = None) -> Any:
        if key == broken:
            raise error("not what was promised", key=key)
        return real(key, on_bytes)

    monkeypatch.setattr(store, "digest_of", failing)
    status, output = run(*CLEANUP, "--verify-content", "--json")
    summary = summary_of(output)
    assert status == ExitStatus.DAMAGE_FOUND
    assert f"the bytes of {broken} do not hash to it" in summary["reason"]
    assert (summary["deleted"], summary["next"]) == (0, "manage.py verify_cas --repair")


@on_disk
def test_verify_content_reads_again_what_did_not_answer(
    store: BlobStore, migrated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)
    real = store.digest_of
    errors: list[StoreError] = [Unreachable("503"), Unreachable("503")]

    def failing(key: str, on_bytes: Any = None) -> Any:
        if errors:
            raise errors.pop()
        return real(key, on_bytes)

    monkeypatch.setattr(store, "digest_of", failing)
    status, output = run(*CLEANUP, "--verify-content", "--json")
    assert (status, summary_of(output)["deleted"]) == (0, 3)


@on_disk
def test_verify_content_has_so_many_workers(
    store: BlobStore, migrated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2)
    real = store.digest_of

    def at_once(key: str, on_bytes: Any = None) -> Any:
        together.wait(30)
        return real(key, on_bytes)

    monkeypatch.setattr(store, "digest_of", at_once)
    assert run(*CLEANUP, "--verify-content", "--workers", "2")[0] == 0


@on_disk
def test_a_reference_that_appears_meanwhile_keeps_its_object(
    store: BlobStore, part: Part, migrated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look before each batch is what this holds; the first check has passed already."""
    monkeypatch.setattr(module, "BATCH", 1)
    real = store.remove_many

    def and_then_a_row(keys: Iterable[str]) -> Iterator[tuple[str, StoreError | None]]:
        yield from real(keys)
        make_row(part, migrated[1], 1)

    monkeypatch.setattr(store, "remove_many", and_then_a_row)
    status, output = run(*CLEANUP)
    assert status == ExitStatus.REFUSED
    assert f"has come to reference {migrated[1]}" in output
    assert set(migrated) & keys_of(store) == set(migrated[1:])


def test_unknown_keys_are_listed_and_left_alone(
    store: BlobStore, migrated: list[str], tmp_path: Path
) -> None:
    strangers = {
        "backup.tar",
        "parts/readme.txt",
        "parts/1/attachments/notes.pdf",
        "parts/1/attachments/deep/00000000-0000-0000-0000-000000000000.pdf",
        "thumbnails/a.jpg",
    }
    for key in strangers:
        put(store, key, b"keep")
    report = tmp_path / "report.jsonl"
    status, output = run(*CLEANUP, "--json", "--report", str(report))
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert status == 0
    assert summary_of(output)["unknown_left_alone"] == len(strangers)
    assert {line["key"] for line in lines if line["outcome"] == "unknown"} == strangers
    assert strangers <= keys_of(store)


@on_disk
def test_unreferenced_objects_of_the_known_pattern_go_too(
    store: BlobStore, part: Part, migrated: list[str]
) -> None:
    unreferenced = legacy_key(part, "jpg")
    put(store, unreferenced, b"no rows")
    assert run(*CLEANUP)[0] == 0
    assert unreferenced not in keys_of(store)


def test_objects_of_which_no_row_tells_are_left_alone(
    store: BlobStore, part: Part, settings: Any
) -> None:
    """The older installation is not imported yet, or this is another one's database."""
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    key = legacy_key(part)
    put(store, key, b"the only copy")
    for options in ((), ("--dry-run",), ("--delete-unnamed",)):
        status, output = run(*CLEANUP, *options)
        assert status == ExitStatus.REFUSED, output
        assert f"whose {key} is" in output
        assert "import" in output
    # A part that was made here with a photo does not tell either.
    blob = Digest.of(b"new").key
    put_blob(store, b"new", b"new")
    make_row(part, blob, 3)
    assert run(*CLEANUP)[0] == ExitStatus.REFUSED
    assert keys_of(store) == {key, blob}
    assert run(*CLEANUP, "--delete-unnamed")[0] == 0
    assert keys_of(store) == {blob}


@on_disk
def test_what_has_no_key_is_left_alone(store: Any, migrated: list[str], tmp_path: Path) -> None:
    directory = Path(store.location, "parts", "1", "attachments")
    odd = Path(os.fsdecode(os.fsencode(directory) + b"/\xff.pdf"))
    directory.mkdir(parents=True, exist_ok=True)
    odd.write_bytes(b"keep")
    held = directory / "00000000-0000-0000-0000-000000000001.pdf"
    held.write_bytes(b"held under its own name")
    SourceRow.objects.create(
        source="older",
        source_table="part_attachments",
        source_id="1",
        object_key=str(held.relative_to(store.location)),
    )
    Path(store.location, "parts", "2").symlink_to(Path(store.location, "parts", "1"))
    status, output = run(*CLEANUP, "--delete-unnamed")
    assert status == 0, output
    assert odd.exists()
    assert held.exists()


@on_disk
def test_nothing_to_clean_up_is_no_fault(store: BlobStore, settings: Any) -> None:
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    assert run(*CLEANUP)[0] == 0


@on_disk
def test_a_failed_delete_is_a_warning_and_the_rest_goes(
    store: BlobStore,
    migrated: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = store.remove_many

    def failing(keys: Iterable[str]) -> Iterator[tuple[str, StoreError | None]]:
        for key in keys:
            if key == migrated[0]:
                yield key, Unreachable("InternalError", key=key)
            else:
                yield from real([key])

    monkeypatch.setattr(store, "remove_many", failing)
    status, output = run(*CLEANUP, "--json")
    summary = summary_of(output)
    assert status == ExitStatus.ITEMS_FAILED
    assert (summary["deleted"], summary["failures"]) == (2, {"unreachable": 1})
    assert f"{migrated[0]} could not be deleted" in caplog.text
    assert keys_of(store) & set(migrated) == {migrated[0]}


@on_disk
def test_each_deleted_object_is_logged_and_reported(
    store: BlobStore, migrated: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = tmp_path / "report.jsonl"
    with caplog.at_level(logging.INFO):
        run(*CLEANUP, "--report", str(report))
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert [(line["key"], line["outcome"]) for line in lines] == [
        (key, "deleted") for key in migrated
    ]
    assert sum(line["bytes"] for line in lines) == 4
    assert all(f"deleted {key}" in caplog.text for key in migrated)


def test_min_age_leaves_young_objects(store: BlobStore, migrated: list[str]) -> None:
    status, output = run(*CLEANUP, "--min-age", "1h", "--json")
    assert status == 0
    assert summary_of(output)["too_young"] == 3
    assert set(migrated) <= keys_of(store)


@on_disk
def test_max_delete_stops_and_a_second_run_goes_on(store: BlobStore, migrated: list[str]) -> None:
    status, output = run(*CLEANUP, "--max-delete", "2", "--json")
    assert status == ExitStatus.LIMIT_REACHED
    assert summary_of(output)["deleted"] == 2
    assert run(*CLEANUP)[0] == 0
    assert not set(migrated) & keys_of(store)


@on_disk
def test_a_limit_that_is_just_enough_is_not_reached(store: BlobStore, migrated: list[str]) -> None:
    assert run(*CLEANUP, "--max-delete", "3")[0] == 0
    assert not set(migrated) & keys_of(store)


@on_disk
def test_what_was_deleted_before_a_listing_failed_is_told(
    store: BlobStore, migrated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 1)
    real = module.outside_cas

    def cut_short(store: BlobStore, stop: CancelToken) -> Any:
        yield from list(real(store, stop))[:2]
        raise Unreachable("the second page never came")

    monkeypatch.setattr(module, "outside_cas", cut_short)
    status, output = run(*CLEANUP, "--json")
    summary = summary_of(output)
    assert status == ExitStatus.UNAVAILABLE
    assert (summary["status"], summary["deleted"]) == ("unavailable", 2)
    assert "second page" in summary["reason"]
    assert summary["next"].endswith(", then: manage.py cleanup_legacy_blobs --json")


@on_disk
@pytest.mark.parametrize("where", ["survey", "outside_cas"])
def test_a_signal_ends_the_looking_too(
    store: BlobStore, migrated: list[str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Not only the deleting: at a million objects, looking is what takes the time."""
    put(store, "backup.tar", b"unknown")
    seen = 0
    real = getattr(module, where)

    def then_a_signal(*arguments: Any) -> Any:
        nonlocal seen
        for found in real(*arguments):
            if not seen:
                os.kill(os.getpid(), signal.SIGTERM)
            seen += 1
            yield found

    monkeypatch.setattr(module, where, then_a_signal)
    status, output = run(*CLEANUP, "--json")
    assert (status, summary_of(output)["deleted"]) == (ExitStatus.INTERRUPTED, 0)
    assert seen == 1
    assert set(migrated) <= keys_of(store)


@on_disk
def test_a_listing_that_ends_in_an_error_deletes_nothing(
    store: BlobStore, migrated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.scan

    def cut_short(prefix: str, *, after: str = ""):
        yield from islice(real(prefix, after=after), 1)
        raise Unreachable("the second page never came")

    monkeypatch.setattr(store, "scan", cut_short)
    status, _output = run(*CLEANUP)
    monkeypatch.undo()
    assert status == ExitStatus.UNAVAILABLE
    assert set(migrated) <= keys_of(store)


@pytest.mark.postgres
@on_disk
def test_a_lock_lost_with_its_connection_deletes_nothing_more(
    store: BlobStore, migrated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run may have begun when this one is connected again.

    Everything is checked anew then; here that is of no use, as it is cut each time.
    """
    real = module._check_unreferenced

    def cut(*arguments: Any) -> None:
        real(*arguments)
        terminate_others()

    monkeypatch.setattr(module, "_check_unreferenced", cut)
    status, output = run(*CLEANUP)
    connection.close()
    assert status == ExitStatus.UNAVAILABLE, output
    assert "the lock 'legacy-layout' with it" in output
    assert all(store.stat(key) for key in migrated)
