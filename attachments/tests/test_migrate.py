"""migrate_to_cas, on both backends."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from attachments import references
from attachments.maintenance import migrate
from attachments.maintenance.migrate import Transfer
from attachments.maintenance.workers import Bandwidth, Pace
from attachments.models import Attachment
from attachments.tests.legacy import (
    assert_whole,
    blobs,
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
from cas.storage.base import BlobStore, Changed, Denied, Ingested, Unreachable
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

MIGRATE = ("migrate_to_cas", "--yes-i-am-sure")


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Buck converter")


@pytest.fixture
def ingest(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys the store was asked to ingest, in order."""
    asked: list[str] = []
    real = store.ingest

    def recorded(source: str, *arguments: Any, **options: Any) -> Ingested:
        asked.append(source)
        return real(source, *arguments, **options)

    monkeypatch.setattr(store, "ingest", recorded)
    return asked


def fail_at(
    monkeypatch: pytest.MonkeyPatch, store: BlobStore, key: str, *errors: Exception
) -> None:
    """Let the store raise these errors, one a call, when it is to ingest `key`."""
    left = list(errors)
    real = store.ingest

    def failing(source: str, *arguments: Any, **options: Any) -> Ingested:
        if source == key and left:
            raise left.pop(0)
        return real(source, *arguments, **options)

    monkeypatch.setattr(store, "ingest", failing)
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)


def test_rows_move_to_the_digest_of_their_bytes(store: BlobStore, part: Part) -> None:
    first = make_legacy(store, part, b"one")
    make_legacy(store, part, b"two")
    same = make_legacy(store, part, b"one")
    # One at a time: of two workers with the same bytes, both may come to store them.
    status, output = run(*MIGRATE, "--json", "--workers", "1")
    summary = summary_of(output)
    assert status == 0, output
    assert_whole(store)
    first.refresh_from_db()
    same.refresh_from_db()
    assert first.s3_key == same.s3_key == Digest.of(b"one").key
    assert blobs(store) == {Digest.of(b"one"), Digest.of(b"two")}
    assert (summary["planned"], summary["migrated"], summary["deduplicated"]) == (3, 2, 1)
    assert summary["remaining"] == 0


def test_old_objects_stay(store: BlobStore, part: Part) -> None:
    old = make_legacy(store, part, b"one").s3_key
    run(*MIGRATE)
    assert old is not None
    assert store.stat(old).size == 3


@on_disk
def test_a_second_run_finds_nothing_to_do(store: BlobStore, part: Part, ingest: list[str]) -> None:
    make_legacy(store, part, b"one")
    run(*MIGRATE)
    status, output = run(*MIGRATE, "--json")
    assert status == 0
    assert summary_of(output)["planned"] == 0
    assert len(ingest) == 1


def test_rows_that_share_a_key_are_transferred_once(
    store: BlobStore, part: Part, ingest: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "BLOCK_ROWS", 2)
    monkeypatch.setattr(migrate, "GROUP_ROWS", 2)
    row = make_legacy(store, part, b"shared")
    assert row.s3_key is not None
    for _ in range(6):
        make_row(part, row.s3_key, 6)
    status, output = run(*MIGRATE, "--json", "--workers", "4")
    summary = summary_of(output)
    assert status == 0
    assert ingest == [row.s3_key]
    assert (summary["migrated"], summary["deduplicated"]) == (1, 6)
    assert_whole(store)


def test_a_missing_object_fails_its_row_alone(
    store: BlobStore, part: Part, caplog: pytest.LogCaptureFixture
) -> None:
    lost = make_row(part, legacy_key(part), 3)
    make_legacy(store, part, b"one")
    status, output = run(*MIGRATE, "--json")
    summary = summary_of(output)
    before = lost.s3_key
    lost.refresh_from_db()
    assert status == ExitStatus.ITEMS_FAILED
    assert lost.s3_key == before
    assert (summary["migrated"], summary["failed"], summary["failures"]) == (1, 1, {"absent": 1})
    assert f"row {lost.pk} was not migrated: {lost.s3_key}: absent" in caplog.text
    assert summary["next"] == f"manage.py mend_row {lost.pk}"


@on_disk
@pytest.mark.parametrize("key", ["elsewhere/photo.jpg", "cas/not-a-digest", "CAS/" + "0" * 64])
def test_a_key_of_neither_form_is_a_failed_row(store: BlobStore, part: Part, key: str) -> None:
    row = make_row(part, key, 3)
    status, output = run(*MIGRATE, "--json")
    row.refresh_from_db()
    assert status == ExitStatus.ITEMS_FAILED
    assert summary_of(output)["failures"] == {"unknown_key": 1}
    assert row.s3_key == key


@on_disk
def test_a_row_that_disagrees_about_the_size_is_left(store: BlobStore, part: Part) -> None:
    row = make_legacy(store, part, b"four")
    assert row.s3_key is not None
    wrong = make_row(part, row.s3_key, 5)
    status, output = run(*MIGRATE, "--workers", "1", "--json")
    summary = summary_of(output)
    wrong.refresh_from_db()
    assert status == ExitStatus.ITEMS_FAILED
    assert wrong.s3_key == row.s3_key
    assert (summary["migrated"], summary["failures"]) == (1, {"size_mismatch": 1})


def test_a_dry_run_foretells_the_run_and_changes_nothing(store: BlobStore, part: Part) -> None:
    for content in (b"one", b"two", b"one", b"three"):
        make_legacy(store, part, content)
    make_row(part, legacy_key(part), 3)
    before = list(Attachment.objects.values_list("pk", "s3_key", "updated_at"))
    dry_run, output = run("migrate_to_cas", "--dry-run", "--json", "--workers", "1")
    assert list(Attachment.objects.values_list("pk", "s3_key", "updated_at")) == before
    assert blobs(store) == set()
    # One worker: of two that copy the same bytes at once, either may be the first.
    foretold = summary_of(output)
    done, output = run(*MIGRATE, "--json", "--workers", "1")
    happened = summary_of(output)
    counts = ("planned", "migrated", "deduplicated", "failed", "remaining", "failures", "bytes")
    assert dry_run == done == ExitStatus.ITEMS_FAILED
    assert {name: foretold[name] for name in counts} == {name: happened[name] for name in counts}


@on_disk
def test_an_object_that_changes_is_read_again(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_legacy(store, part, b"one")
    assert row.s3_key is not None
    fail_at(monkeypatch, store, row.s3_key, Changed("overwritten", key=row.s3_key))
    status, output = run(*MIGRATE, "--json")
    assert status == 0
    assert summary_of(output)["retries"] == 1


@on_disk
def test_a_store_that_recovers_is_waited_for(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_legacy(store, part, b"one")
    assert row.s3_key is not None
    fail_at(monkeypatch, store, row.s3_key, *[Unreachable("503", key=row.s3_key)] * 4)
    status, _output = run(*MIGRATE)
    assert status == 0
    assert_whole(store)


@on_disk
def test_one_object_that_never_answers_is_a_failed_row(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_legacy(store, part, b"one")
    make_legacy(store, part, b"two")
    assert row.s3_key is not None
    fail_at(monkeypatch, store, row.s3_key, *[Unreachable("503", key=row.s3_key)] * 50)
    status, output = run(*MIGRATE, "--json")
    assert status == ExitStatus.ITEMS_FAILED
    assert summary_of(output)["failures"] == {"unreachable": 1}


@on_disk
def test_refused_credentials_stop_the_run_and_mark_no_row(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(20):
        make_legacy(store, part, b"%d" % number)

    def denied(source: str, *arguments: Any, **options: Any) -> Ingested:
        raise Denied("expired token", key=source)

    monkeypatch.setattr(store, "ingest", denied)
    status, output = run(*MIGRATE, "--json", "--workers", "4")
    summary = summary_of(output)
    assert status == ExitStatus.UNAVAILABLE
    assert (summary["failed"], summary["remaining"]) == (0, 20)
    assert "expired token" in summary["reason"]
    assert "was not migrated" not in caplog.text


def test_a_blob_collected_before_its_row_moved_is_stored_again(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_legacy(store, part, b"one")
    real = references.repoint
    calls = []

    def overtaken(*arguments: Any) -> bool:
        calls.append(arguments)
        if len(calls) == 1:
            # A collection can only come between where the connection that held the digest went.
            connection.close()
            with references.collecting(store, [Digest.of(b"one")]) as lock:
                list(lock.remove_many([Digest.of(b"one").key]))
        return real(*arguments)

    monkeypatch.setattr(references, "repoint", overtaken)
    status, _output = run(*MIGRATE)
    assert status == 0
    assert_whole(store)


@pytest.mark.postgres
def test_no_collection_comes_between_a_blob_and_its_row(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is pointed at the blob without another look, so nobody may have removed it."""
    make_legacy(store, part, b"one")
    offered: list[set[Digest]] = []
    real = references.repoint

    def collect() -> None:
        with references.collecting(store, [Digest.of(b"one")]) as lock:
            offered.append(set(lock.removable))
            list(lock.remove_many([digest.key for digest in lock.removable]))
        connection.close()

    def meanwhile(*arguments: Any) -> bool:
        collector = threading.Thread(target=collect)
        collector.start()
        collector.join()
        return real(*arguments)

    monkeypatch.setattr(references, "repoint", meanwhile)
    status, _output = run(*MIGRATE)
    assert (status, offered) == (0, [set()])
    assert_whole(store)
    # It is let go of when the row has moved: another session can have it.
    Attachment.objects.all().delete()
    with references.collecting(store, [Digest.of(b"one")]) as lock:
        assert lock.removable


@on_disk
def test_a_row_changed_meanwhile_is_not_overwritten(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_legacy(store, part, b"one")
    other = legacy_key(part)
    put(store, other, b"two")
    real = references.repoint

    def overtaken(*arguments: Any) -> bool:
        Attachment.objects.filter(pk=row.pk, s3_key=row.s3_key).update(s3_key=other)
        return real(*arguments)

    monkeypatch.setattr(references, "repoint", overtaken)
    status, output = run(*MIGRATE, "--json")
    row.refresh_from_db()
    assert row.s3_key == other
    assert status == ExitStatus.ITEMS_FAILED
    summary = summary_of(output)
    assert (summary["failures"], summary["balances"]) == ({"changed": 1}, True)
    assert run(*MIGRATE)[0] == 0


@on_disk
def test_limit_stops_and_says_how_to_resume(store: BlobStore, part: Part) -> None:
    for number in range(5):
        make_legacy(store, part, b"%d" % number)
    status, output = run(*MIGRATE, "--limit", "2", "--json")
    summary = summary_of(output)
    assert status == ExitStatus.LIMIT_REACHED
    assert (summary["migrated"], summary["remaining"]) == (2, 3)
    assert summary["next"] == "manage.py migrate_to_cas --json"
    assert run(*MIGRATE)[0] == 0


@on_disk
def test_id_range_is_all_that_is_touched(store: BlobStore, part: Part) -> None:
    made = [make_legacy(store, part, b"%d" % number) for number in range(5)]
    status, _output = run(*MIGRATE, "--id-range", f"{made[1].pk}-{made[2].pk}")
    migrated = set(Attachment.objects.migrated().values_list("pk", flat=True))
    assert status == 0
    assert migrated == {made[1].pk, made[2].pk}


@on_disk
def test_max_failures_stops_the_run(store: BlobStore, part: Part) -> None:
    for _ in range(30):
        make_row(part, legacy_key(part), 3)
    make_legacy(store, part, b"one")
    status, output = run(*MIGRATE, "--max-failures", "2", "--workers", "1", "--json")
    summary = summary_of(output)
    assert status == ExitStatus.ITEMS_FAILED
    # What was in flight when the second one failed is finished, and nothing else is begun.
    assert summary["failed"] - 2 in range(Pace(1).in_flight + 1)
    assert summary["remaining"] == 31 - summary["failed"]


@on_disk
def test_max_duration_stops_the_run(store: BlobStore, part: Part) -> None:
    make_legacy(store, part, b"one")
    status, output = run(*MIGRATE, "--max-duration", "0", "--json")
    assert status == ExitStatus.LIMIT_REACHED
    assert summary_of(output)["remaining"] == 1


@on_disk
def test_the_report_has_one_line_a_row(store: BlobStore, part: Part, tmp_path: Path) -> None:
    row = make_legacy(store, part, b"one")
    lost = make_row(part, legacy_key(part), 3)
    report = tmp_path / "report.jsonl"
    run(*MIGRATE, "--report", str(report))
    lines = {record["id"]: record for record in map(json.loads, report.read_text().splitlines())}
    digest = Digest.of(b"one")
    assert lines[row.pk] == {
        "id": row.pk,
        "old_key": row.s3_key,
        "new_key": digest.key,
        "digest": str(digest),
        "bytes": 3,
        "outcome": "migrated",
        "dry_run": False,
        "attempts": 1,
        "error_class": None,
        "error": None,
    }
    assert (lines[lost.pk]["outcome"], lines[lost.pk]["error_class"]) == ("failed", "absent")


@on_disk
def test_each_migrated_row_is_logged(
    store: BlobStore, part: Part, caplog: pytest.LogCaptureFixture
) -> None:
    row = make_legacy(store, part, b"one")
    with caplog.at_level(logging.INFO):
        run(*MIGRATE)
    digest = Digest.of(b"one")
    assert f"migrated row {row.pk}: {row.s3_key} -> {digest.key}, digest {digest}" in caplog.text


@on_disk
def test_it_asks_first_and_without_a_terminal_refuses(store: BlobStore, part: Part) -> None:
    row = make_legacy(store, part, b"one")
    status, output = run("migrate_to_cas")
    assert status == ExitStatus.REFUSED
    assert "--yes-i-am-sure" in output
    assert Attachment.objects.get(pk=row.pk).s3_key == row.s3_key


@on_disk
def test_uploads_that_bypass_the_digest_are_refused_first(
    store: BlobStore, part: Part, settings: Any
) -> None:
    make_legacy(store, part, b"one")
    settings.FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]
    status, output = run(*MIGRATE)
    assert status == ExitStatus.REFUSED
    assert "FILE_UPLOAD_HANDLERS" in output


def test_the_write_check_leaves_nothing_behind(store: BlobStore) -> None:
    assert run(*MIGRATE)[0] == 0
    assert list(store.scan("")) == []
    assert list(store.staging_dir.iterdir()) == []


@on_disk
@pytest.mark.parametrize("reached", [True, False])
def test_rows_added_meanwhile_are_counted_as_such(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch, reached: bool
) -> None:
    """A copy of a row that is still on its old key, as somebody makes it in the admin."""
    made = [make_legacy(store, part, b"%d" % number) for number in range(3)]
    real = store.ingest
    copied: list[Attachment] = []

    def meanwhile(source: str, *arguments: Any, **options: Any) -> Ingested:
        if not copied and source != made[2].s3_key:
            copied.append(references.copy(made[2].pk, part.pk))
        return real(source, *arguments, **options)

    monkeypatch.setattr(store, "ingest", meanwhile)
    # In small blocks the copy is still ahead when it comes, in one block it is not seen.
    monkeypatch.setattr(migrate, "BLOCK_ROWS", 1 if reached else 10**6)
    status, output = run(*MIGRATE, "--json", "--workers", "1")
    summary = summary_of(output)
    assert (summary["planned"], summary["added"]) == (3, 1)
    assert summary["balances"]
    assert (status, summary["remaining"]) == ((0, 0) if reached else (ExitStatus.ITEMS_FAILED, 1))
    assert reached or "1 were added meanwhile" in summary["reason"]
    assert run(*MIGRATE)[0] == 0
    assert_whole(store)


@on_disk
def test_rows_that_others_moved_are_told_apart(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [make_legacy(store, part, b"%d" % number) for number in range(3)]
    monkeypatch.setattr(migrate, "BLOCK_ROWS", 1)
    real = store.ingest

    def meanwhile(source: str, *arguments: Any, **options: Any) -> Ingested:
        Attachment.objects.filter(pk=made[2].pk).delete()
        return real(source, *arguments, **options)

    monkeypatch.setattr(store, "ingest", meanwhile)
    status, output = run(*MIGRATE, "--json", "--workers", "1")
    summary = summary_of(output)
    assert (status, summary["migrated"]) == (0, 2)
    assert (summary["already_done"], summary["by_others"]) == (1, 1)


@on_disk
def test_a_row_counted_twice_is_not_hidden(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_legacy(store, part, b"one")
    real = Transfer.results

    def twice(transfer: Transfer, group: Any) -> Any:
        for result in real(transfer, group):
            yield from (result, result)

    monkeypatch.setattr(Transfer, "results", twice)
    status, output = run(*MIGRATE, "--json")
    summary = summary_of(output)
    assert status == ExitStatus.ITEMS_FAILED
    assert not summary["balances"]
    assert "do not balance by 1" in summary["reason"]


@on_disk
def test_the_summary_has_samples(store: BlobStore, part: Part) -> None:
    lost = make_row(part, legacy_key(part), 3)
    make_legacy(store, part, b"one")
    summary = summary_of(run(*MIGRATE, "--json")[1])
    (sample,) = summary["samples"]
    assert sample.startswith(f"row {lost.pk}, {lost.s3_key}: absent: ")


@on_disk
def test_bytes_are_held_to_the_bandwidth(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[int] = []
    monkeypatch.setattr(Bandwidth, "spend", lambda _self, count: spent.append(count))
    make_legacy(store, part, b"three")
    assert run(*MIGRATE, "--bandwidth", "1M")[0] == 0
    assert sum(spent) == 5


@on_disk
@pytest.mark.parametrize("broken", ["scan", "read", "create"])
def test_a_store_that_fails_the_check_is_found_before_the_first_row(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch, ingest: list[str], broken: str
) -> None:
    """Its listing, its reading, its writing: each is tried while no row can be to blame."""
    make_legacy(store, part, b"one")

    def denied(*_arguments: Any, **_options: Any) -> Any:
        raise Denied("AccessDenied")

    monkeypatch.setattr(store, broken, denied)
    status, output = run(*MIGRATE, "--json")
    summary = summary_of(output)
    assert status == ExitStatus.UNAVAILABLE
    assert "the store denies access" in summary["reason"]
    assert (summary["planned"], ingest) == (0, [])


@on_disk
def test_a_store_that_does_not_keep_what_is_written_is_found(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch, ingest: list[str]
) -> None:
    make_legacy(store, part, b"one")
    real = store.digest_of

    def altered(key: str, on_bytes: Any = None) -> Any:
        return Digest.of(b"something else"), real(key, on_bytes)[1]

    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(store, "digest_of", altered)
    status, output = run(*MIGRATE, "--json")
    assert status == ExitStatus.UNAVAILABLE
    assert "did not keep what was written" in summary_of(output)["reason"]
    assert ingest == []


@on_disk
@pytest.mark.postgres
@pytest.mark.parametrize("when", ["before", "midway"])
def test_a_right_that_is_missing_in_the_database_is_one_error(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Not a failure of every row."""
    for number in range(5):
        make_legacy(store, part, b"%d" % number)
    if when == "midway":
        monkeypatch.setattr(migrate, "_try_to_write", lambda: None)
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE insufficient_privilege USING MESSAGE = 'permission denied'; END$$"
        )
        cursor.execute(
            f"CREATE TRIGGER refuse BEFORE UPDATE ON {Attachment._meta.db_table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
        )
    try:
        status, output = run(*MIGRATE, "--json")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION refuse() CASCADE")
    summary = summary_of(output)
    assert status == ExitStatus.UNAVAILABLE
    assert "permission denied" in summary["reason"]
    assert summary["failed"] == 0
    assert summary["remaining"] == (5 if when == "midway" else 0)
