"""What source rows remember and hold, and how it is let go of: the map, --forget and --retire."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from attachments import references
from attachments.locks import _lock_number, run_lock
from attachments.models import Attachment
from attachments.object_keys import KeyKind
from attachments.tests.legacy import on_disk, put, run, summary_of
from attachments.tests.test_database import elsewhere
from attachments.timestamps import create_with_times
from cas.digest import Digest
from cas.exit_status import ExitStatus
from cas.storage.base import BlobStore
from parts.legacy_import.source_rows import IMPORT, SourceRows
from parts.models import Part, SourceRow
from parts.tests.older import (
    Row,
    as_csv,
    collection,
    dump,
    older_file,
    older_link,
    older_part,
    put_blob,
)

pytestmark = pytest.mark.django_db(transaction=True)

STATE = SourceRow.State
REFUSED_KEY = "parts/3/attachments/00000000-0000-0000-0000-00000000000d.pdf"


def legacy(*options: str) -> tuple[int, dict[str, Any]]:
    status, output = run("import_legacy", "--yes-i-am-sure", "--json", *options)
    return status, summary_of(output)


def import_from(
    directory: Path, parts: Sequence[Row], files: Sequence[Row], *options: str
) -> tuple[int, dict[str, Any]]:
    tables = {"parts": parts, "part_attachments": files}
    return legacy("--dump", str(dump(directory / "dump", tables)), *options)


def one_refused(store: BlobStore, directory: Path) -> tuple[list[Row], list[Row]]:
    """A collection of which one file is refused: its row says another size."""
    parts, files = collection(store)
    files[3]["file_size"] = 99
    status, summary = import_from(directory, parts, files)
    assert (status, summary["failures"]) == (3, {"object_size": 1})
    return parts, files


def clean(settings: Any) -> None:
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    for command in ("migrate_to_cas", "cleanup_legacy_blobs"):
        status, output = run(command, "--yes-i-am-sure")
        assert status == 0, output


def legacy_keys(store: BlobStore) -> set[str]:
    return {stat.key for stat in store.scan("parts/")}


def states() -> dict[str, tuple[str, str]]:
    rows = SourceRow.objects.filter(source_table="part_attachments")
    return {row.source_id: (row.state, row.reason_code) for row in rows}


@on_disk
def test_every_row_is_recorded_with_what_became_of_it(store: BlobStore, tmp_path: Path) -> None:
    _parts, files = one_refused(store, tmp_path)
    accepted = {str(row["id"]): (STATE.ACCEPTED, "") for row in files}
    assert states() == {**accepted, "13": (STATE.REFUSED, "object_size")}
    row = SourceRow.objects.get(source_table="part_attachments", source_id="11")
    assert (row.source, row.object_key, row.object_size) == ("older", files[1]["s3_key"], 9)
    assert Attachment.objects.get(pk=row.our_id or 0).title == row.name == "File 11"
    part = SourceRow.objects.get(source_table="parts", source_id="1")
    assert Part.objects.get(pk=part.our_id or 0).key == part.name


@on_disk
def test_a_dry_run_records_nothing(store: BlobStore, tmp_path: Path) -> None:
    parts, files = collection(store)
    assert import_from(tmp_path, parts, files, "--dry-run")[0] == 0
    assert not SourceRow.objects.exists()


def test_a_refused_row_is_held_until_it_is_forgotten(
    store: BlobStore, tmp_path: Path, settings: Any
) -> None:
    parts, files = one_refused(store, tmp_path)
    there = legacy_keys(store)
    clean(settings)
    assert legacy_keys(store) == there
    assert legacy("--retire", "older")[0] == 0
    clean(settings)
    assert legacy_keys(store) == {REFUSED_KEY}

    for wrong, told in (
        ("part_attachments/11", "retired"),
        ("part_attachments/99", "no row"),
        ("nonsense", "no row"),
    ):
        status, summary = legacy("--forget", wrong)
        assert status == 4
        assert told in summary["reason"]
    name = ("--forget", "part_attachments/13")
    status, summary = legacy(*name, "--dry-run")
    assert (status, summary["rows_released"], summary["objects_released"]) == (0, 1, 1)
    clean(settings)
    assert legacy_keys(store) == {REFUSED_KEY}
    assert legacy(*name)[0] == 0
    clean(settings)
    assert legacy_keys(store) == set()

    status, summary = import_from(tmp_path, parts, files)
    assert (status, summary["part_attachments"]["forgotten"]) == (0, 1)


@on_disk
def test_rows_are_forgotten_by_their_reason(store: BlobStore, tmp_path: Path) -> None:
    one_refused(store, tmp_path)
    status, summary = legacy("--forget", "object_size")
    assert (status, summary["rows_released"], summary["bytes"]) == (0, 1, 99)
    row = SourceRow.objects.get(release_cause=SourceRow.Release.FORGOTTEN)
    assert row.source_id == "13"


@on_disk
def test_a_row_that_was_mended_comes_over(store: BlobStore, tmp_path: Path) -> None:
    parts, files = one_refused(store, tmp_path)
    files[3]["file_size"] = 5
    status, summary = import_from(tmp_path, parts, files)
    assert status == 0
    assert summary["part_attachments"]["imported"] == 1
    assert states()["13"] == (STATE.ACCEPTED, "")
    assert SourceRow.objects.get(object_key=REFUSED_KEY).released_at is None


@on_disk
def test_a_source_is_not_retired_while_it_has_rows_that_were_not_read(
    store: BlobStore, tmp_path: Path
) -> None:
    parts, files = collection(store)
    assert import_from(tmp_path, parts, files)[0] == 0
    status, summary = import_from(tmp_path, parts, [*files, older_link(20, 1)], "--retire", "older")
    assert status == 4
    assert "never read" in summary["reason"]
    SourceRow.objects.filter(source_id="11").update(state=STATE.UNTRIED)
    status, summary = legacy("--retire", "older")
    assert status == 4
    assert "part_attachments/11" in summary["reason"]
    status, summary = legacy("--retire", "other")
    assert status == 4
    assert "there is: older" in summary["reason"]
    assert not SourceRow.objects.exclude(released_at=None).exists()


@on_disk
def test_nobody_is_asked_and_so_nothing_is_retired(store: BlobStore, tmp_path: Path) -> None:
    parts, files = collection(store)
    assert import_from(tmp_path, parts, files)[0] == 0
    for options in (("--retire", "older"), ("--forget", "part_attachments/1")):
        status, output = run("import_legacy", *options)
        assert status == 4, output
    assert not SourceRow.objects.exclude(released_at=None).exists()


@on_disk
@pytest.mark.parametrize("options", [("--retire", "older"), ("--forget", "object_size")])
def test_nothing_is_let_go_of_during_an_import(
    store: BlobStore, tmp_path: Path, options: tuple[str, ...]
) -> None:
    one_refused(store, tmp_path)
    with run_lock(IMPORT):
        status, summary = elsewhere(lambda: legacy(*options))
    assert status == ExitStatus.LOCKED
    assert (summary["status"], summary["rows_released"]) == ("locked", 0)
    assert summary["next"].startswith("Wait until the other run has ended, then: ")
    assert not SourceRow.objects.exclude(released_at=None).exists()


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@on_disk
@pytest.mark.parametrize("options", [("--retire", "older"), ("--forget", "object_size")])
def test_what_is_declined_is_not_counted(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    one_refused(store, tmp_path)
    monkeypatch.setattr("sys.stdin", Terminal("no\n"))
    report = tmp_path / "report.jsonl"
    status, output = run("import_legacy", "--json", "--report", str(report), *options)
    summary = summary_of(output[output.index("go ahead: ") + len("go ahead: ") :])
    assert (status, summary["reason"]) == (4, "not confirmed; nothing was done")
    counts = {name: summary[name] for name in ("rows_released", "objects_released", "bytes")}
    assert set(counts.values()) == {0}
    assert report.read_text() == ""
    status, output = run("import_legacy", "--dry-run", *options)
    assert "rows to be released  " in output


@on_disk
def test_another_installation_under_a_name_in_use_is_refused(
    store: BlobStore, tmp_path: Path
) -> None:
    parts, files = collection(store)
    assert import_from(tmp_path, parts, files)[0] == 0
    others = (
        [older_part(1, key="ZZZZ")],
        [older_part(77, key="ZZZZ")],
    )
    for other in others:
        status, summary = import_from(tmp_path, other, [])
        assert status == 4
        assert "--source NAME" in summary["reason"]
    status, summary = import_from(tmp_path, others[0], [], "--source", "workshop")
    assert (status, summary["parts"]["imported"]) == (0, 1)
    assert SourceRow.objects.filter(source="workshop", source_id="1").exists()
    assert Part.objects.get(key="ZZZZ").pk != 1


@on_disk
def test_two_parts_with_one_key_are_never_one(store: BlobStore, tmp_path: Path) -> None:
    """Not even if they are described alike; only the time they were made tells."""
    parts, files = collection(store)
    alike = {"description": "Older part 1", "manufacturer_code": "CRCW1"}
    ours = Part.objects.create(key=parts[0]["key"], **alike)
    status, summary = import_from(tmp_path, parts, files)
    assert (status, summary["failures"]) == (3, {"conflict": 1, "no_part": 2})
    assert not ours.attachments.exists()


@on_disk
def test_what_was_deleted_here_stays_deleted(store: BlobStore, tmp_path: Path) -> None:
    parts, files = collection(store)
    assert import_from(tmp_path, parts, files)[0] == 0
    Part.objects.get(pk=1).delete()
    Attachment.objects.get(title="File 12").delete()
    put(store, "parts/1/attachments/new.pdf", b"new")
    new = older_file(30, 1, 3, s3_key="parts/1/attachments/new.pdf")
    status, summary = import_from(tmp_path, parts, [*files, new])
    assert status == 3
    assert (summary["parts"]["deleted_here"], summary["part_attachments"]["deleted_here"]) == (1, 3)
    assert summary["failures"] == {"no_part": 1}
    assert Attachment.objects.count() == 2


@on_disk
def test_an_id_of_a_row_that_was_deleted_is_not_given_to_another(
    store: BlobStore, tmp_path: Path
) -> None:
    """The map would take the other one for it."""
    assert import_from(tmp_path, [older_part(5)], [])[0] == 0
    Part.objects.get(pk=5).delete()
    status, _summary = import_from(tmp_path, [older_part(5, key="ZZZZ")], [], "--source", "other")
    assert status == 0
    assert Part.objects.get(key="ZZZZ").pk != 5


@on_disk
def test_rows_from_before_there_was_a_map_are_found(store: BlobStore, tmp_path: Path) -> None:
    parts, files = collection(store)
    assert import_from(tmp_path, parts, files)[0] == 0
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    SourceRow.objects.all().delete()
    before = list(Attachment.objects.order_by("pk").values())
    status, summary = import_from(tmp_path, parts, files)
    assert status == 0, summary
    assert summary["part_attachments"]["already_here"] == 5
    assert list(Attachment.objects.order_by("pk").values()) == before
    assert {row.our_id for row in SourceRow.objects.filter(source_table="parts")} == {1, 2, 3}

    SourceRow.objects.all().delete()
    Attachment.objects.get(title="File 10").delete()
    put(store, "parts/1/attachments/twin.pdf", b"datasheet")
    twin = older_file(40, 1, 9, s3_key="parts/1/attachments/twin.pdf")
    status, summary = import_from(tmp_path, parts, [*files, twin])
    assert (status, summary["failures"]) == (3, {"conflict": 2})


@on_disk
def test_rows_without_an_id_of_their_own_hold_their_objects(
    store: BlobStore, tmp_path: Path, settings: Any
) -> None:
    parts, files = collection(store)
    faults: list[Row] = [{"id": None}, {"id": 11}, {"part_id": None}]
    for number, changes in enumerate(faults, start=50):
        key = f"parts/9/attachments/{number}.pdf"
        put(store, key, b"lost")
        files.append(older_file(number, 1, 4, s3_key=key) | changes)
    assert import_from(tmp_path, parts, files)[0] == 3
    lost = {f"parts/9/attachments/{number}.pdf" for number in (50, 51, 52)}
    refused = SourceRow.objects.filter(state=STATE.REFUSED)
    assert set(refused.values_list("object_key", flat=True)) == lost
    clean(settings)
    assert lost <= legacy_keys(store)
    before = SourceRow.objects.count()
    assert import_from(tmp_path, parts, files)[0] == 3
    assert SourceRow.objects.count() == before


@pytest.mark.postgres
@on_disk
def test_the_digests_lock_is_held_while_rows_are_recorded_and_attached(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection that is deleting the blob finishes first, or sees the row."""
    digest = Digest.of(b"sheet")
    put_blob(store, b"sheet", b"sheet")
    other = connection.copy()
    free: list[bool] = []

    def look() -> None:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [_lock_number(digest)])
            free.append(cursor.fetchone()[0])
            if free[-1]:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_lock_number(digest)])

    record, create = SourceRows._record, create_with_times
    write = SourceRows._write

    def recorded(self: SourceRows, rows: Any, changed: Any) -> None:
        def written(*arguments: Any) -> None:
            write(*arguments)
            if rows[0]["source_table"] == "part_attachments":
                look()

        with monkeypatch.context() as patched:
            patched.setattr(SourceRows, "_write", written)
            record(self, rows, changed)

    def created(rows: Any) -> None:
        create(rows)
        look()

    monkeypatch.setattr(SourceRows, "_record", recorded)
    monkeypatch.setattr(references, "create_with_times", created)
    try:
        file = older_file(10, 1, 5, s3_key=digest.key)
        status, summary = import_from(tmp_path, [older_part(1)], [file])
        assert status == 0, summary
        assert free == [False, False]
        look()
        assert free[-1]
    finally:
        other.close()


def moved(
    store: BlobStore, row: Row, content: bytes, key: str = "parts/1/attachments/new.pdf"
) -> Row:
    """The row with another object, as the older installation has it after a replacement."""
    put(store, key, content)
    return {**row, "s3_key": key, "file_size": len(content)}


def test_another_object_of_an_imported_row_is_told_and_held(
    store: BlobStore, tmp_path: Path, settings: Any
) -> None:
    """It never came over: to let go of it with the accepted rows would lose it."""
    parts, files = collection(store)
    assert import_from(tmp_path, parts, files)[0] == 0
    clean(settings)
    files[1] = moved(store, files[1], b"another datasheet")
    for _ in range(2):
        status, summary = import_from(tmp_path, parts, files)
        assert (status, summary["failures"]) == (3, {"changed": 1})
        assert summary["part_attachments"]["already_here"] == 4
        assert summary["balances"]
    row = SourceRow.objects.get(reason_code="changed")
    assert (row.object_key, row.our_id) == (files[1]["s3_key"], None)
    assert row.source_id.startswith("11#")
    kept = SourceRow.objects.get(source_table="part_attachments", source_id="11")
    assert (kept.state, kept.our_id) == (STATE.ACCEPTED, 11)
    assert legacy("--retire", "older")[0] == 0
    clean(settings)
    assert legacy_keys(store) == {files[1]["s3_key"]}
    # Once it was retired, too, what it names by now is not let go of unseen.
    files[0] = moved(store, files[0], b"2nd photo", "parts/1/attachments/new.png")
    assert import_from(tmp_path, parts, files)[1]["failures"] == {"changed": 2}
    clean(settings)
    assert legacy_keys(store) == {files[0]["s3_key"], files[1]["s3_key"]}
    assert legacy("--forget", f"part_attachments/{row.source_id}")[0] == 0
    clean(settings)
    assert legacy_keys(store) == {files[0]["s3_key"]}


@on_disk
def test_another_object_of_a_row_that_was_deleted_here_is_held(
    store: BlobStore, tmp_path: Path, settings: Any
) -> None:
    parts, files = collection(store)
    assert import_from(tmp_path, parts, files)[0] == 0
    Attachment.objects.get(pk=11).delete()
    files[1] = moved(store, files[1], b"another datasheet")
    status, summary = import_from(tmp_path, parts, files)
    assert (status, summary["failures"]) == (3, {"changed": 1})
    assert not Attachment.objects.filter(title="File 11").exists()
    assert legacy("--retire", "older")[0] == 0
    clean(settings)
    assert files[1]["s3_key"] in legacy_keys(store)


@on_disk
def test_another_object_of_a_forgotten_row_is_tried_and_held(
    store: BlobStore, tmp_path: Path, settings: Any
) -> None:
    parts, files = one_refused(store, tmp_path)
    assert legacy("--forget", "part_attachments/13")[0] == 0
    files[3] = moved(store, files[3], b"mended")
    status, summary = import_from(tmp_path, parts, files)
    assert (status, summary["part_attachments"]["imported"]) == (0, 1)
    held = references.named([files[3]["s3_key"]], KeyKind.HOLD)
    assert held == {files[3]["s3_key"]}


@on_disk
def test_an_installation_that_was_migrated_itself_is_known(
    store: BlobStore, tmp_path: Path
) -> None:
    """Its rows name blobs by now. Whether they are the same shows when ours are migrated."""
    parts, files = collection(store)
    assert import_from(tmp_path, parts, files)[0] == 0
    contents = {10: b"photo", 11: b"datasheet", 12: b"datasheet", 13: b"notes"}
    for row in files[:4]:
        put_blob(store, contents[row["id"]], contents[row["id"]])
        row["s3_key"] = Digest.of(contents[row["id"]]).key
    assert import_from(tmp_path, parts, files)[1]["failures"] == {"changed": 4}
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    status, summary = import_from(tmp_path, parts, files)
    assert status == 0, summary
    assert summary["part_attachments"]["already_here"] == 5
    assert Attachment.objects.count() == 5
    resolved = SourceRow.objects.filter(release_cause=SourceRow.Release.RESOLVED)
    assert resolved.filter(reason_code="changed").count() == 4
    assert not SourceRow.objects.filter(state=STATE.REFUSED, released_at=None).exists()


@on_disk
def test_another_object_of_a_row_from_before_there_was_a_map_is_told(
    store: BlobStore, tmp_path: Path
) -> None:
    parts, files = collection(store)
    assert import_from(tmp_path, parts, files)[0] == 0
    SourceRow.objects.all().delete()
    files[1] = moved(store, files[1], b"another datasheet")
    status, summary = import_from(tmp_path, parts, files)
    assert (status, summary["failures"]) == (3, {"changed": 1})
    assert states()["11"] == (STATE.REFUSED, "changed")


def test_a_row_of_the_same_moment_with_other_bytes_is_not_taken_for_ours(
    store: BlobStore, tmp_path: Path, settings: Any
) -> None:
    """Two installations have parts of one key, and attachments made at one moment."""
    parts, files = collection(store)
    assert import_from(tmp_path, parts, files)[0] == 0
    assert legacy("--retire", "older")[0] == 0
    clean(settings)
    theirs = [moved(store, files[1], b"of the other", "parts/7/attachments/a.pdf"), files[2]]
    put(store, files[2]["s3_key"], b"datasheet")
    status, summary = import_from(tmp_path, parts, theirs, "--source", "other")
    assert (status, summary["failures"]) == (3, {"changed": 1})
    assert summary["part_attachments"]["already_here"] == 1
    assert legacy("--retire", "other")[0] == 0
    clean(settings)
    assert legacy_keys(store) == {"parts/7/attachments/a.pdf"}


def test_a_refused_row_that_names_another_object_holds_both(
    store: BlobStore, tmp_path: Path, settings: Any
) -> None:
    parts, files = one_refused(store, tmp_path)
    for key in (None, "parts/3/attachments/mended.pdf", "p" * 2000, REFUSED_KEY):
        files[3]["s3_key"] = key
        if key and key.startswith("parts/3/attachments/m"):
            files[3] = moved(store, files[3], b"mended", key)
        import_from(tmp_path, parts, files)
        assert references.named([REFUSED_KEY], KeyKind.HOLD) == {REFUSED_KEY}
    # What came over with another object does not come over again.
    assert Attachment.objects.filter(title="File 13").count() == 1
    assert states()["13"] == (STATE.REFUSED, "changed")
    assert legacy("--retire", "older")[0] == 0
    clean(settings)
    assert legacy_keys(store) == {REFUSED_KEY}
    assert legacy("--forget", "part_attachments/13")[0] == 0
    clean(settings)
    assert legacy_keys(store) == set()


@on_disk
def test_an_accepted_row_without_an_object_now_holds_the_one_it_had(
    store: BlobStore, tmp_path: Path
) -> None:
    parts, files = collection(store)
    assert import_from(tmp_path, parts, files)[0] == 0
    key, files[1]["s3_key"] = files[1]["s3_key"], None
    assert import_from(tmp_path, parts, files)[0] == 3
    assert references.named([key], KeyKind.HOLD) == {key}


@on_disk
def test_an_object_is_held_however_its_key_is_written(store: BlobStore, tmp_path: Path) -> None:
    parts, files = collection(store)
    blobs = [Digest.of(bytes([number])) for number in range(5)]
    written = [
        f"/{blobs[0].key}",
        f"s3://bucket/{blobs[1].key}",
        blobs[2].key.upper(),
        f"https://store.example/bucket/CAS/{blobs[3].hex}?versionId=1",
        "s3://bucket/parts/9/attachments/our plan, v2.pdf",
    ]
    files += [older_file(60 + at, 1, 1, s3_key=key) for at, key in enumerate(written)]
    status, summary = import_from(tmp_path, parts, files)
    assert (status, summary["failures"]) == (3, {"unknown_key": 5})
    keys = {blob.key for blob in blobs[:4]} | {"parts/9/attachments/our plan, v2.pdf"}
    assert references.named(keys, KeyKind.HOLD) == keys


def test_objects_of_columns_that_are_not_imported_are_held(
    store: BlobStore, tmp_path: Path, settings: Any
) -> None:
    parts, files = collection(store)
    preview, page = Digest.of(b"preview"), "parts/1/attachments/page.png"
    put_blob(store, b"preview", b"preview")
    put(store, page, b"page")
    files[0]["preview_key"] = preview.key
    parts[0]["pages"] = [page, "no key", 7]
    for _ in range(2):
        status, summary = import_from(tmp_path, parts, files)
        assert status == 0
    assert summary["left_out"] == {"part_attachments.preview_key": 1, "parts.pages": 1}
    assert legacy("--retire", "older")[0] == 0
    clean(settings)
    grace = ("--grace", "0s", "--max-delete-percent", "100")
    assert run("collect_garbage", "--yes-i-am-sure", *grace)[0] == 0
    assert legacy_keys(store) == {page}
    assert store.stat(preview.key)
    status, summary = legacy("--forget", "other_column")
    assert (status, summary["rows_released"]) == (0, 2)
    clean(settings)
    assert legacy_keys(store) == set()


@on_disk
def test_a_repeated_attachment_of_a_set_of_two_parts_is_refused_once(
    store: BlobStore, tmp_path: Path
) -> None:
    files = [older_file(1, 0, 0, "url", url="https://example.org", s3_key=None) for _ in range(2)]
    for row in files:
        row["attachment_set_id"] = 5
        del row["part_id"]
    tables = {
        "parts": [older_part(number, attachment_set_id=5) for number in (1, 2)],
        "attachments": files,
        "attachment_sets": [{"id": 5, "cover_attachment_id": None}],
    }
    dumped = ("--dump", str(dump(tmp_path / "dump", tables)))
    for _ in range(2):
        status, summary = legacy(*dumped)
        assert (status, summary["failures"]) == (3, {"duplicate": 1})
        assert Attachment.objects.count() == 2
    assert legacy("--retire", "older", *dumped)[0] == 0


@on_disk
def test_a_source_without_rows_is_not_done(store: BlobStore, tmp_path: Path) -> None:
    status, summary = import_from(tmp_path, [], [])
    assert (status, "the right one" in summary["reason"]) == (4, True)


@on_disk
@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('{"id": 60, "s3_key": "parts/1/attachments/Bob\'s plan.pdf", ', "Bob's plan.pdf"),
        ('{"id": 60, "s3_key": "parts/1/attachments/\\u00dcber.pdf", ', "Über.pdf"),
        ('{"id": 60, "s3_key": "parts\\/1\\/attachments\\/a.pdf", ', "a.pdf"),
        ('{"id": 60, "s3_key": "parts/1/attachments/a, b.pdf", ', "a, b.pdf"),
        ("{'id': 60, 's3_key': 'parts/1/attachments/say \"x\".pdf', ", 'say "x".pdf'),
    ],
)
def test_a_line_that_cannot_be_read_holds_keys_of_any_spelling(
    store: BlobStore, tmp_path: Path, line: str, key: str
) -> None:
    parts, files = collection(store)
    directory = dump(tmp_path / "dump", {"parts": parts, "part_attachments": files})
    with (directory / "part_attachments.jsonl").open("a") as file:
        file.write(line + "\n")
    assert legacy("--dump", str(directory))[0] == 3
    key = f"parts/1/attachments/{key}"
    assert references.named([key], KeyKind.HOLD) == {key}


def test_a_line_that_cannot_be_read_holds_the_objects_it_names(
    store: BlobStore, tmp_path: Path, settings: Any
) -> None:
    parts, files = collection(store)
    digest = Digest.of(b"sheet")
    put_blob(store, b"sheet", b"sheet")
    put(store, "parts/9/attachments/our plan.pdf", b"plan")
    there = {stat.key for stat in store.scan("")}
    directory = dump(tmp_path / "dump", {"parts": parts, "part_attachments": files})
    with (directory / "part_attachments.jsonl").open("a") as file:
        file.write(f'{{"id": 60, "part_id": 1, "s3_key": "{digest.key}", "title": "cut \n')
        file.write('{"id": 61, "part_id": 1, "s3_key": "parts/9/attachments/our plan.pdf", \n')
    status, summary = legacy("--dump", str(directory))
    assert (status, summary["failures"]) == (3, {"malformed": 2})
    held = summary_of(run("migration_status", "--json")[1])["holds"]
    assert held["older refused malformed"] == 2
    assert legacy("--retire", "older")[0] == 0
    clean(settings)
    grace = ("--grace", "0s", "--max-delete-percent", "100")
    assert run("collect_garbage", "--yes-i-am-sure", *grace)[0] == 0
    left = {stat.key for stat in store.scan("")}
    assert {digest.key, "parts/9/attachments/our plan.pdf"} <= left & there


@on_disk
def test_a_table_with_too_few_fields_in_a_line_holds_what_it_names(
    store: BlobStore, tmp_path: Path
) -> None:
    parts, files = collection(store)
    directory = dump(tmp_path / "dump", {"parts": parts, "part_attachments": files}, as_csv)
    key = Digest.of(b"sheet").key
    with (directory / "part_attachments.csv").open("a") as file:
        file.write(f"60,1,pdf,Sheet,{key}\r\n")
    status, summary = legacy("--dump", str(directory))
    assert (status, summary["failures"]) == (3, {"malformed": 1})
    assert references.named([key], KeyKind.HOLD) == {key}


@on_disk
def test_lines_that_cannot_be_read_keep_a_source_from_retirement(
    store: BlobStore, tmp_path: Path
) -> None:
    parts, files = collection(store)
    directory = dump(tmp_path / "dump", {"parts": parts, "part_attachments": files})
    with (directory / "part_attachments.jsonl").open("a") as file:
        file.write('{"id": 60, \n{"id": 61, \n')
    report = tmp_path / "report.jsonl"
    dumped = ("--dump", str(directory))
    assert legacy(*dumped, "--report", str(report))[0] == 3
    records = [json.loads(line) for line in report.read_text().splitlines()]
    names = [one["forget_as"] for one in records if one["error_class"] == "malformed"]
    assert len(set(names)) == 2

    for name in names:
        status, summary = legacy("--retire", "older", *dumped)
        assert status == 4
        assert "cannot be read" in summary["reason"]
        assert name in summary["reason"]
        assert legacy("--forget", name)[0] == 0
    assert legacy("--retire", "older", *dumped)[0] == 0
