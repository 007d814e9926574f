"""import_legacy: an older installation's rows become rows here, once, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection
from psycopg import sql

from attachments import references
from attachments.locks import run_lock
from attachments.models import Attachment
from attachments.tests.legacy import assert_whole, blobs, on_disk, put, run, summary_of
from cas.digest import Digest
from cas.storage.base import BlobStore
from parts.models import Part, SourceRow, Tag
from parts.tests.older import (
    CREATED,
    Row,
    as_csv,
    as_lines,
    collection,
    dump,
    older_file,
    older_link,
    older_part,
)

pytestmark = pytest.mark.django_db(transaction=True)

Write = Callable[[Path, Sequence[Row]], Path]


def import_from(
    directory: Path,
    parts: Sequence[Row],
    files: Sequence[Row],
    *options: str,
    write: Write = as_lines,
    **tables: Sequence[Row],
) -> tuple[int, dict[str, Any]]:
    """The command's exit status and summary."""
    dumped = dump(directory / "dump", {"parts": parts, "part_attachments": files, **tables}, write)
    return import_legacy("--dump", str(dumped), *options)


def import_legacy(*options: str) -> tuple[int, dict[str, Any]]:
    status, output = run("import_legacy", "--yes-i-am-sure", "--json", *options)
    return status, summary_of(output)


def tally(imported: int = 0, already_here: int = 0, failed: int = 0, **others: int) -> Any:
    counts = {
        "imported": imported,
        "already_here": already_here,
        "deleted_here": 0,
        "forgotten": 0,
        "left_out": 0,
        "failed": failed,
        "remaining": 0,
        **others,
    }
    return {"read": sum(counts.values()), **counts}


def assert_imported(parts: Sequence[Row], files: Sequence[Row]) -> None:
    """Every row is here with all it had."""
    for row in parts:
        part = Part.objects.get(key=row["key"])
        for column in ("description", "manufacturer", "manufacturer_code", "pin_count"):
            assert getattr(part, column) == row[column]
        assert part.type is not None
        assert part.type.name == row["type"]
        assert {tag.name for tag in part.tags.all()} == set(row["tags"])
        assert part.created_at.isoformat() == CREATED
        assert part.updated_at.isoformat() == CREATED
    assert Attachment.objects.count() == len(files)
    for row in files:
        found = Attachment.objects.get(title=row["title"])
        for column in ("attachment_type", "s3_key", "url", "content_type", "file_size"):
            assert getattr(found, column) == row[column]
        assert found.part.description == f"Older part {row['part_id']}"
        assert found.created_at.isoformat() == CREATED
    cover = Part.objects.get(description="Older part 1").cover_attachment
    assert cover is not None
    assert cover.title == "File 10"


@on_disk
@pytest.mark.parametrize("write", [as_lines, as_csv])
def test_every_kind_of_dump(store: BlobStore, tmp_path: Path, write: Write) -> None:
    parts, files = collection(store)
    status, summary = import_from(tmp_path, parts, files, write=write)
    assert status == 0, summary
    assert summary["parts"] == tally(imported=3)
    assert summary["part_attachments"] == tally(imported=5)
    assert summary["bytes"] == 28
    assert summary["next"] == "manage.py migrate_to_cas --dry-run"
    assert_imported(parts, files)
    assert Part.objects.get(key=parts[1]["key"]).search_text


def test_then_migrated_and_imported_again(store: BlobStore, tmp_path: Path) -> None:
    """A row that has moved since is known by what nobody can edit."""
    parts, files = collection(store)
    assert import_from(tmp_path, parts, files)[0] == 0
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    assert_whole(store)
    assert blobs(store) == {Digest.of(data) for data in (b"photo", b"datasheet", b"notes")}
    before = list(Attachment.objects.order_by("pk").values())
    status, summary = import_from(tmp_path, parts, files)
    assert status == 0, summary
    assert summary["parts"] == tally(already_here=3)
    assert summary["part_attachments"] == tally(already_here=5)
    assert list(Attachment.objects.order_by("pk").values()) == before


@on_disk
def test_a_second_import_adds_what_has_come_since(store: BlobStore, tmp_path: Path) -> None:
    parts, files = collection(store)
    assert import_from(tmp_path, parts[:2], files[:2])[0] == 0
    status, summary = import_from(tmp_path, parts, files)
    assert status == 0, summary
    assert summary["parts"] == tally(imported=1, already_here=2)
    assert summary["part_attachments"] == tally(imported=3, already_here=2)
    assert_imported(parts, files)


@on_disk
def test_a_dry_run_foretells_and_writes_nothing(store: BlobStore, tmp_path: Path) -> None:
    parts, files = collection(store)
    status, summary = import_from(tmp_path, parts, files, "--dry-run")
    assert status == 0, summary
    assert summary["part_attachments"] == tally(imported=5)
    assert "--dry-run" not in summary["next"]
    assert not Part.objects.exists()
    assert not Tag.objects.exists()


BAD_FILES = {
    "size": {"file_size": 4},
    "no object": {"s3_key": "parts/1/attachments/99999999-9999-9999-9999-999999999999.pdf"},
    "no blob": {"s3_key": f"cas/{'0' * 64}"},
    "foreign key": {"s3_key": "secrets/passwords.txt"},
    "climbing key": {"s3_key": "parts/../../etc/passwd"},
    "negative size": {"file_size": -9},
    "no such type": {"attachment_type": "exe"},
    "no such part": {"part_id": 77},
    "no media type": {"content_type": "text/html\r\nX: y"},
    "a NUL": {"title": "nul\0"},
    "time": {"created_at": "yesterday"},
    "script": {"attachment_type": "url", "s3_key": None, "url": "javascript:alert(1)"},
}


@on_disk
@pytest.mark.parametrize("fault", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_left_out_and_reported(
    store: BlobStore, tmp_path: Path, fault: dict[str, Any]
) -> None:
    parts, files = collection(store)
    bad = {**older_file(20, 1, 9), "s3_key": files[1]["s3_key"], **fault}
    report = tmp_path / "report"
    status, summary = import_from(tmp_path, parts, [*files, bad], "--report", str(report))
    assert status == 3
    assert summary["part_attachments"] == tally(imported=5, failed=1)
    assert summary["balances"]
    assert_imported(parts, files)
    (line,) = [
        record
        for record in map(json.loads, report.read_text().splitlines())
        if record["outcome"] == "failed"
    ]
    assert (line["table"], line["row"], line["id"]) == ("part_attachments", 6, "20")
    assert line["error"]


BAD_PARTS = {
    "no description": {"description": ""},
    "lower case": {"key": "abcd"},
    "no pins": {"pin_count": 0},
    "a key twice": {"key": older_part(1)["key"]},
    "an id twice": {"id": 1},
}


@on_disk
@pytest.mark.parametrize("fault", BAD_PARTS.values(), ids=BAD_PARTS.keys())
def test_a_bad_part_is_left_out_with_its_files(
    store: BlobStore, tmp_path: Path, fault: dict[str, Any]
) -> None:
    parts, files = collection(store)
    bad, its_file = older_part(4, **fault), older_file(21, 4, 9, s3_key=files[1]["s3_key"])
    status, summary = import_from(tmp_path, [*parts, bad], [*files, its_file])
    assert status == 3
    assert summary["parts"] == tally(imported=3, failed=1)
    assert summary["part_attachments"] == tally(imported=5, failed=1)
    assert_imported(parts, files)


@on_disk
def test_another_part_with_the_same_key_keeps_its_files_to_itself(
    store: BlobStore, tmp_path: Path
) -> None:
    parts, files = collection(store)
    ours = Part.objects.create(key=parts[0]["key"], description="Something else")
    status, summary = import_from(tmp_path, parts, files)
    assert status == 3
    assert summary["failures"] == {"conflict": 1, "no_part": 2}
    assert not ours.attachments.exists()


@on_disk
def test_ids_are_kept_where_they_are_free(store: BlobStore, tmp_path: Path) -> None:
    parts, files = collection(store)
    ours = Attachment.objects.create(
        pk=11,
        part=Part.objects.create(description="Ours"),
        attachment_type="url",
        url="https://a.b",
    )
    assert import_from(tmp_path, parts, files)[0] == 0
    ours.refresh_from_db()
    assert ours.url == "https://a.b"
    assert Attachment.objects.get(title="File 10").pk == 10
    assert Attachment.objects.get(title="File 11").pk != 11
    # What is made next must not run into an id that was kept.
    Attachment.objects.create(part=ours.part, attachment_type="url", url="https://a.c")
    Part.objects.create(description="Next")


@on_disk
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[{}]", "jq -c"),
        ("\xff\xfe", "not UTF-8"),
        ('{"id": 1, "key": "ABCD"}', "column parts.description"),
        ("id,key\n1,ABCD\n", "column parts.description"),
        ("id,key,description,id\n", "names a column twice"),
        ('id,key,description\n1,ABCD,"cut o', "line 2"),
    ],
)
def test_a_dump_that_cannot_be_read_imports_nothing(
    store: BlobStore, tmp_path: Path, content: str, told: str
) -> None:
    _parts, files = collection(store)
    directory = dump(tmp_path, {"part_attachments": files})
    (directory / "parts.json").write_bytes(content.encode("latin-1"))
    status, output = run("import_legacy", "--dump", str(directory), "--yes-i-am-sure")
    assert status == 4, output
    assert told in output
    assert not Part.objects.exists()
    assert not SourceRow.objects.exists()


@on_disk
def test_killed_between_two_portions_and_taken_up_again(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [older_part(number) for number in range(1, 8)]
    files = [older_file(100 + number, number, 3) for number in range(1, 8)]
    for row in files:
        put(store, row["s3_key"], b"abc")
    monkeypatch.setattr("parts.legacy_import.write.PARTS_AT_A_TIME", 2)
    attach, calls = references.attach_imported, iter(range(2))

    class Killed(BaseException):
        pass

    def dies(rows: Sequence[Attachment]) -> Any:
        if next(calls, None) is None:
            raise Killed
        return attach(rows)

    monkeypatch.setattr("parts.legacy_import.write.references.attach_imported", dies)
    with pytest.raises(Killed):
        import_from(tmp_path, parts, files)
    # Each portion is there with its files, or not at all.
    assert Part.objects.count() == Attachment.objects.count() == 4
    monkeypatch.setattr("parts.legacy_import.write.references.attach_imported", attach)
    status, summary = import_from(tmp_path, parts, files)
    assert status == 0, summary
    assert summary["parts"] == tally(imported=3, already_here=4)
    assert Attachment.objects.count() == 7


@on_disk
def test_a_part_with_more_files_than_fit_one_transaction(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parts.legacy_import.write.ATTACHMENTS_AT_A_TIME", 2)
    files = [older_link(number, 1) for number in range(1, 8)]
    assert import_from(tmp_path, [older_part(1)], files, "--dry-run")[1]["parts"] == tally(1)
    status, summary = import_from(tmp_path, [older_part(1)], files)
    assert status == 0, summary
    assert summary["part_attachments"] == tally(imported=7)
    assert [row.title for row in Attachment.objects.order_by("pk")] == [r["title"] for r in files]


@on_disk
def test_names_from_tables_of_their_own(store: BlobStore, tmp_path: Path) -> None:
    parts = [older_part(1, type=None, type_id=5)]
    status, summary = import_from(tmp_path, parts, [])
    assert status == 4
    assert "--without types" in summary["reason"]
    types = [{"id": 5, "name": "Fuse"}, {"id": 6, "name": "Relay"}]
    status, summary = import_from(tmp_path, parts, [], types=types)
    assert status == 0
    assert summary["left_out"] == {"types (no part has them)": 1}
    kind = Part.objects.get().type
    assert kind is not None
    assert kind.name == "Fuse"


@pytest.mark.postgres
@on_disk
def test_only_one_import_at_a_time(store: BlobStore, tmp_path: Path) -> None:
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            import zlib

            from attachments.locks import LOCK_SPACE

            number = zlib.crc32(b"import") & 0x7FFFFFFF
            cursor.execute("SELECT pg_advisory_lock(%s, %s)", [LOCK_SPACE, number])
        assert import_from_status(tmp_path) == 8
    finally:
        other.close()


def import_from_status(directory: Path) -> int:
    return import_from(directory, [older_part(1)], [])[0]


@pytest.fixture
def older_database(request: pytest.FixtureRequest) -> Iterator[tuple[str, psycopg.Connection[Any]]]:
    """A schema with the older tables, and the URL that leads to it."""
    settings = connection.get_connection_params()
    arguments = {name: settings[name] for name in ("host", "port", "user") if settings.get(name)}
    name = connection.settings_dict["NAME"]
    with psycopg.connect(dbname=name, autocommit=True, **arguments) as session:
        session.execute("CREATE SCHEMA older")
        try:
            host, port = arguments.get("host", ""), arguments.get("port", "")
            yield (
                f"postgresql:///{name}?host={host}&port={port}&user={arguments['user']}"
                "&options=-csearch_path%3Dolder",
                session,
            )
        finally:
            session.execute("DROP SCHEMA older CASCADE")


@pytest.mark.postgres
@on_disk
def test_from_the_older_database(
    store: BlobStore, tmp_path: Path, older_database: tuple[str, psycopg.Connection[Any]]
) -> None:
    url, session = older_database
    parts, files = collection(store)
    session.execute(
        """
        CREATE TABLE older.parts (
            id serial PRIMARY KEY, key varchar(10), description text, manufacturer text,
            manufacturer_code text, type text, tags text[], pin_count int,
            cover_attachment_id int, created_at timestamp, updated_at timestamptz
        );
        CREATE TABLE older.part_attachments (
            id serial PRIMARY KEY, part_id int, attachment_type varchar(20), title text,
            s3_key varchar(500), url text, filename text, content_type text, file_size int,
            created_at timestamp, updated_at timestamptz
        );
        """
    )
    for table, rows in (("parts", parts), ("part_attachments", files)):
        columns = sql.SQL(", ").join(map(sql.Identifier, rows[0]))
        marks = sql.SQL(", ").join(sql.Placeholder() * len(rows[0]))
        statement = sql.SQL("INSERT INTO older.{} ({}) VALUES ({})").format(
            sql.Identifier(table), columns, marks
        )
        for row in rows:
            session.execute(statement, list(row.values()))
    for expected in (tally(imported=5), tally(already_here=5)):
        status, output = run("import_legacy", "--database", url, "--yes-i-am-sure", "--json")
        assert status == 0, output
        assert summary_of(output)["part_attachments"] == expected
    assert_imported(parts, files)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:topsecret@127.0.0.1:1/none",
        "postgresql://me:top/secret@127.0.0.1:1/none",
        "postgresql://me:a@topsecret@127.0.0.1:1/none",
        "postgresql://127.0.0.1:1/none?password=topsecret",
        "postgresql://127.0.0.1:1/none?connect_timeout=1&passw%6Frd=topsecret",
        "postgresql://127.0.0.1:port/none?password=topsecret",
    ],
)
@on_disk
def test_a_password_is_not_repeated(store: BlobStore, tmp_path: Path, url: str) -> None:
    report = tmp_path / "report.jsonl"
    options = ("--yes-i-am-sure", "--report", str(report))
    status, output = run("import_legacy", "--database", url, *options)
    assert status in (4, 5)
    for told in (output, report.read_text()):
        assert "secret" not in told


@pytest.mark.sqlite
@on_disk
def test_cleanups_are_kept_away(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[str] = []

    def recorded(name: str, **options: Any) -> AbstractContextManager[None]:
        held.append(name)
        return run_lock(name, **options)

    monkeypatch.setattr("parts.legacy_import.run.run_lock", recorded)
    assert import_from_status(tmp_path) == 0
    assert held == ["import", "legacy-layout"]
