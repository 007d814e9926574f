"""import_legacy from each shape of source, and what stays until the source is retired."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.core.management.base import CommandError
from django.test import Client

from attachments import verifications
from attachments.models import Attachment
from attachments.tests.factories import picture
from attachments.tests.legacy import on_disk, put, run, summary_of
from cas.digest import Digest
from cas.storage.base import BlobStore
from parts.models import Part, SourceRow
from parts.tags import names_in_order
from parts.tests.older import (
    CREATED,
    SVG,
    Older,
    Tables,
    as_csv,
    as_lines,
    create,
    database,
    dump,
    in_sets,
    older_file,
    older_part,
    on_blobs,
    on_parts,
)

pytestmark = pytest.mark.django_db(transaction=True)

Make = Callable[[BlobStore], Older]
Give = Callable[[Older], list[str]]

SHAPES = [on_parts, on_blobs, in_sets]


def command(*arguments: str) -> tuple[int, dict[str, Any]]:
    status, output = run(*arguments, "--json")
    return status, summary_of(output)


def import_from(*arguments: str) -> tuple[int, dict[str, Any]]:
    return command("import_legacy", "--yes-i-am-sure", *arguments)


@pytest.fixture(params=["lines", "csv", pytest.param("url", marks=pytest.mark.postgres)])
def give(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Give]:
    """Makes an older installation readable; the options that name it."""
    if request.param != "url":
        write = as_lines if request.param == "lines" else as_csv
        yield lambda older: ["--dump", str(dump(tmp_path / "dump", older.tables, write))]
        return
    with database() as (url, session):

        def created(older: Older) -> list[str]:
            create(session, older.tables)
            return ["--database", url]

        yield created


@pytest.fixture
def dumped(tmp_path: Path) -> Give:
    """As `give`, only by dump."""
    return lambda older: ["--dump", str(dump(tmp_path / "dump", older.tables))]


def listed(store: BlobStore) -> set[str]:
    return {stat.key for stat in store.scan("")}


def imported(older: Older) -> dict[str, Attachment]:
    """The attachments that came over, by their id there."""
    rows = SourceRow.objects.filter(source_table=older.attachments, our_id__isnull=False)
    found = Attachment.objects.in_bulk(list(rows.values_list("our_id", flat=True)))
    return {row.source_id: found[row.our_id or 0] for row in rows}


def assert_whole(store: BlobStore, older: Older) -> None:
    """Every attachment is here byte for byte, but those that were refused."""
    found = imported(older)
    links = {str(r["id"]) for r in older.tables[older.attachments] if not r["s3_key"]}
    assert set(found) - links == {str(number) for number in older.contents}
    for number, content in older.contents.items():
        with store.read(found[str(number)].s3_key or "") as stream:
            assert stream.read() == content
    refused = SourceRow.objects.filter(state=SourceRow.State.REFUSED)
    refused = refused.filter(source_table=older.attachments)
    left = older.refused | older.kits
    assert set(refused.values_list("source_id", flat=True)) == {str(number) for number in left}


def migrate_and_clean(settings: Any) -> None:
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    for arguments in (
        ("migrate_to_cas", "--yes-i-am-sure"),
        ("cleanup_legacy_blobs", "--yes-i-am-sure", "--verify-content"),
        ("collect_garbage", "--yes-i-am-sure", "--grace", "0s", "--max-delete-percent", "100"),
    ):
        status, output = run(*arguments)
        assert status == 0, output


@pytest.mark.parametrize("make", SHAPES)
def test_a_shape_comes_over_and_nothing_of_the_source_is_lost(
    store: BlobStore, give: Give, make: Make, settings: Any
) -> None:
    older = make(store)
    given = give(older)
    there = listed(store) & older.keys
    status, summary = import_from(*given)
    assert status == 3, summary
    assert summary["balances"]
    assert_whole(store, older)

    migrate_and_clean(settings)
    assert_whole(store, older)
    assert there <= listed(store)

    before = list(Attachment.objects.order_by("pk").values())
    Attachment.objects.filter(title="File 3").update(title="Edited here")
    status, summary = import_from(*given)
    assert summary[older.attachments]["imported"] == 0
    assert summary[older.attachments]["already_here"] == 7
    assert Attachment.objects.filter(title="Edited here").exists()
    assert Attachment.objects.count() == len(before)

    accepted = {
        row["s3_key"]
        for row in older.tables[older.attachments]
        if row["s3_key"] and row["id"] in older.contents and row["s3_key"].startswith("parts/")
    }
    status, foretold = command("import_legacy", "--retire", "older", "--dry-run")
    assert status == 0, foretold
    before_retirement = listed(store)
    status, summary = import_from("--retire", "older", *given)
    assert status == 0, summary
    assert summary["objects_released"] == foretold["objects_released"] == len(accepted)
    assert summary["bytes"] == foretold["bytes"]
    assert listed(store) == before_retirement
    migrate_and_clean(settings)
    assert before_retirement - listed(store) == accepted
    assert_whole(store, older)


@on_disk
@pytest.mark.parametrize("make", SHAPES)
def test_what_comes_over_is_as_it_was(
    store: BlobStore, dumped: Give, make: Make, client: Client
) -> None:
    older = make(store)
    assert import_from(*dumped(older))[0] == 3
    status, output = run("migrate_to_cas", "--yes-i-am-sure")
    assert status == 0, output
    rows = {row.title: row for row in imported(older).values()}
    assert (rows["File 1"].content_type, rows["File 1"].filename) == ("image/jpeg", "front.jpg")
    assert rows["File 2"].content_type == "image/png"
    assert rows["File 3"].content_type == "application/pdf"
    assert rows["File 3"].filename == "BZX84 C3.pdf"
    assert rows["File 3"].url == "https://example.org/data/BZX84%20C3.pdf?x=1"
    assert rows["File 4"].filename == "File 4.pdf"
    assert rows["File 5"].filename == "logo.svg"
    assert {row.updated_at.isoformat() for row in rows.values()} == {CREATED}
    assert {part.updated_at.isoformat() for part in Part.objects.all()} == {CREATED}

    first, second, third = Part.objects.order_by("key")
    assert first.cover_attachment == rows["File 1"]
    assert second.cover_attachment is None
    assert third.cover_attachment == rows["File 6"]
    shown = client.get(f"/api/parts/{first.key}").json()
    assert shown["tags"] == ["zener", "3 V", "smd", "y" * 150]
    assert client.get(f"/api/parts/{third.key}").json()["tags"] == ["3 V", "zener"]
    assert shown["product_page"] == "see catalogue, p. 5"
    assert client.get("/api/parts?search=zener").json()["count"] == 2
    patched = client.patch(
        f"/api/parts/{first.key}", {"manufacturer": "Nexperia"}, content_type="application/json"
    )
    assert patched.status_code == 200, patched.json()

    files = client.get(f"/api/parts/{third.key}/attachments").json()
    drawing, page = (next(f for f in files if f["title"] == f"File {n}") for n in (5, 6))
    assert drawing["thumbnail_url"] is None
    with closing(client.get(drawing["view_url"])) as answer:
        assert answer["Content-Disposition"].startswith("attachment")
        assert b"".join(answer.streaming_content) == SVG  # type: ignore[attr-defined]
    assert page["url"] == "https://example.org/shop"
    with closing(client.get(page["thumbnail_url"])) as answer:
        assert answer.status_code == 200


@on_disk
def test_what_is_left_out_is_named(store: BlobStore, dumped: Give) -> None:
    older = in_sets(store)
    for arguments in (["--dry-run"], []):
        _status, summary = import_from(*dumped(older), *arguments)
        assert summary["left_out"] == {
            "kits": 1,
            "part_sellers (further sellers of a part)": 1,
            "parts.quantity": 4,
            "pick_lists": 1,
            "sellers (no part has them)": 1,
            "sellers.website": 1,
        }
        assert summary["covers"] == {"QQAC": ["a PDF has no picture here"]}
        assert summary["attachments"]["left_out"] == 1
    part = Part.objects.get(description__startswith="xx")
    assert (part.seller, part.seller_link) == ("Mouser", "ask for Mr. Schmidt")


@on_disk
def test_a_set_of_two_parts_comes_over_to_both(store: BlobStore, dumped: Give) -> None:
    older = in_sets(store)
    older.tables["parts"][1]["attachment_set_id"] = 51
    for _ in range(2):
        import_from(*dumped(older))
        first, second = Part.objects.filter(key__in=["QQAB", "QQAC"]).order_by("key")
        titles = set(first.attachments.values_list("title", flat=True))
        assert titles == {"File 1", "File 2"}
        assert set(second.attachments.values_list("title", flat=True)) == titles
        assert Attachment.objects.count() == 7
    assert second.cover_attachment is not None
    assert second.cover_attachment.part == second


@on_disk
@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({"attachments": None}, "it has no table attachments"),
        ({"attachment_sets": None}, "no table attachment_sets"),
        ({"parts": None}, "it has no table parts"),
        ({"attachment_sets": [{"id": None, "cover_attachment_id": 1}]}, "id is empty"),
        ({"attachments": [{"id": 1, "s3_key": "x"}]}, "column attachments.attachment_set_id"),
        ({"part_attachments": [{"id": 1, "part_id": 1}]}, "column part_attachments.s3_key"),
    ],
)
def test_what_is_none_of_the_shapes_is_told_what_it_lacks(
    store: BlobStore, dumped: Give, changes: dict[str, Any], lacking: str
) -> None:
    older = in_sets(store)
    older.tables.update(changes)
    if "part_attachments" in changes:
        del older.tables["attachments"]
    older.tables = {name: rows for name, rows in older.tables.items() if rows is not None}
    status, summary = import_from(*dumped(older))
    assert status == 4
    assert lacking in summary["reason"]
    assert not SourceRow.objects.exists()


@on_disk
def test_blobs_are_held_from_a_collection_as_soon_as_they_are_read(
    store: BlobStore, dumped: Give, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between recording and writing: nothing is here yet, and nothing is deleted."""
    older = on_blobs(store)

    class Killed(BaseException):
        pass

    def crash(*_: Any) -> Any:
        raise Killed

    given = dumped(older)
    with monkeypatch.context() as patched:
        patched.setattr("parts.legacy_import.run._plan", crash)
        with pytest.raises(Killed):
            import_from(*given)
    assert not Part.objects.exists()
    there = listed(store)
    status, output = run(
        "collect_garbage", "--yes-i-am-sure", "--grace", "0s", "--max-delete-percent", "100"
    )
    assert status == 0, output
    assert listed(store) == there
    status, summary = command("import_legacy", "--retire", "older", "--dry-run")
    assert status == 4
    assert "never tried" in summary["reason"]
    assert import_from(*given)[0] == 3
    assert_whole(store, older)


@on_disk
def test_wrong_bytes_at_a_digest_are_refused(store: BlobStore, dumped: Give) -> None:
    older = on_blobs(store)
    _status, summary = import_from(*dumped(older))
    assert summary["failures"] == {"invalid": 1, "no_part": 1, "corrupt": 1}
    key = next(r["s3_key"] for r in older.tables["part_attachments"] if r["id"] == 9)
    assert not Attachment.objects.filter(s3_key=key).exists()
    assert Digest.from_key(key)


def test_what_an_import_has_read_need_not_be_read_again(store: BlobStore, dumped: Give) -> None:
    older = on_blobs(store)
    assert import_from(*dumped(older))[0] == 3
    blobs = [store.stat(row.s3_key) for row in imported(older).values() if row.s3_key]
    assert len(blobs) == 6
    assert all(verifications.holds(blob) for blob in blobs)


@on_disk
def test_lost_covers_are_counted_and_some_named(store: BlobStore, dumped: Give) -> None:
    parts = [older_part(number, cover_attachment_id=99) for number in range(1, 26)]
    tables: Tables = {"parts": parts, "part_attachments": [older_file(1, 1, 0, s3_key=None)]}
    summary = import_from(*dumped(Older(tables, {}, set())))[1]
    assert (summary["lost_covers"], len(summary["covers"])) == (25, 20)


@on_disk
def test_an_installation_that_has_moved_to_sets_since_is_known(
    store: BlobStore, tmp_path: Path
) -> None:
    """Its attachments are in another table, with other ids: the time they were made tells."""
    before = on_parts(store)
    assert import_from("--dump", str(dump(tmp_path / "before", before.tables)))[0] == 3
    since = in_sets(store)
    source = ("--dump", str(dump(tmp_path / "since", since.tables)))
    status, summary = import_from(*source)
    # One of them is on a blob by now, and ours is not yet.
    assert (status, summary["failures"]["changed"]) == (3, 1)
    assert command("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    status, summary = import_from(*source)
    assert status == 3
    assert summary["parts"]["already_here"] == 3
    assert summary["attachments"]["already_here"] == Attachment.objects.count() == 7
    assert {row.title for row in imported(since).values()} == {f"File {n}" for n in range(1, 8)}


@on_disk
def test_json_lines_may_leave_out_what_is_null(store: BlobStore, tmp_path: Path) -> None:
    older = on_parts(store)
    files = older.tables["part_attachments"]
    files.sort(key=lambda row: row["s3_key"] is not None)
    for name, rows in older.tables.items():
        bare = [{column: row[column] for column in row if row[column] is not None} for row in rows]
        older.tables[name] = bare
    assert import_from("--dump", str(dump(tmp_path / "dump", older.tables)))[0] == 3
    assert len(imported(older)) == 7


@pytest.mark.postgres
@on_disk
def test_a_database_with_types_of_its_own_and_tables_that_may_not_be_read(
    store: BlobStore,
) -> None:
    older = on_parts(store)
    with database() as (url, session):
        create(session, older.tables)
        session.execute(
            """
            CREATE TYPE kind AS ENUM ('url', 'image', 'pdf');
            ALTER TABLE part_attachments ALTER attachment_type TYPE kind
                USING attachment_type::kind;
            ALTER TABLE parts ALTER tags TYPE jsonb USING to_jsonb(tags);
            ALTER TABLE parts ALTER id TYPE numeric;
            ALTER TABLE parts ADD box inet DEFAULT '10.0.0.1', ADD label bytea;
            CREATE TABLE secrets (id int);
            CREATE VIEW all_parts AS SELECT * FROM parts;
            DROP ROLE IF EXISTS older_reader;
            CREATE ROLE older_reader LOGIN;
            GRANT SELECT ON parts, part_attachments, boxes TO older_reader;
            """
        )
        try:
            reader = url.replace("//inventory@", "//older_reader@")
            status, summary = import_from("--database", reader)
        finally:
            session.execute("DROP OWNED BY older_reader; DROP ROLE older_reader")
    assert status == 3, summary
    assert summary["left_out"] == {"boxes": 2, "parts.box": 4, "secrets (may not be read)": 1}
    assert_whole(store, older)
    assert names_in_order(Part.objects.get(key="QQAD").tags) == ["3 V", "zener"]


@on_disk
def test_tags_from_tables_of_their_own_keep_their_order(store: BlobStore, tmp_path: Path) -> None:
    part = older_part(1)
    del part["tags"]
    tables: Tables = {
        "parts": [part],
        "part_attachments": [],
        "tags": [{"id": n, "name": name} for n, name in enumerate(["a", "b", "c", "d"])],
        "part_tags": [{"id": n, "part_id": 1, "tag_id": tag} for n, tag in enumerate([2, 0, 3])],
    }
    status, summary = import_from("--dump", str(dump(tmp_path / "dump", tables)))
    assert status == 0, summary
    assert names_in_order(Part.objects.get().tags) == ["c", "a", "d"]
    assert summary["left_out"] == {"tags (no part has them)": 1}


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--dump", "x", "--database", "postgresql:///x"),
        ("--forget", "parts/1", "--dump", "x"),
        ("--forget", "parts/1", "--retire", "x"),
        ("--retire", "x", "--source", "y"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        run("import_legacy", "--yes-i-am-sure", *options)


@on_disk
def test_an_image_whose_row_says_another_type_stays_the_cover(
    store: BlobStore, tmp_path: Path
) -> None:
    file = older_file(1, 1, len(picture("red")), "image", content_type="application/pdf")
    put(store, file["s3_key"], picture("red"))
    tables = {"parts": [older_part(1, cover_attachment_id=1)], "part_attachments": [file]}
    assert import_from("--dump", str(dump(tmp_path / "dump", tables)))[0] == 0
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    cover = Part.objects.get().cover_attachment
    assert cover is not None
    assert cover.content_type == "image/png"
