"""The merged survey of store and rows."""

from __future__ import annotations

import pytest
from django.db import connection

from attachments.maintenance import listing as module
from attachments.maintenance.listing import survey
from attachments.maintenance.runner import CancelToken
from attachments.references import key_columns
from attachments.tests.legacy import make_row, on_disk, put
from cas.digest import CAS_PREFIX, Digest
from cas.exit_status import ExitStatus, RunAborted
from cas.storage.base import BlobStore, Unreachable
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Buck converter")


def test_every_key_of_either_side_comes_once_in_order(store: BlobStore, part: Part) -> None:
    put(store, "parts/a", b"1")
    put(store, "parts/b", b"22")
    put(store, "parts/d", b"4444")
    for key, size in (("parts/b", 2), ("parts/b", 2), ("parts/c", 3), ("parts/d", 5)):
        make_row(part, key, size)
    found = [
        (e.key, e.rows, e.missing, e.wrong_size) for e in survey(store, "parts/", CancelToken())
    ]
    assert found == [
        ("parts/a", 0, False, False),
        ("parts/b", 2, False, False),
        ("parts/c", 1, True, False),
        ("parts/d", 1, False, True),
    ]


def test_rows_are_ordered_as_stores_list_keys(store: BlobStore, part: Part) -> None:
    """A database that sorts by language would put these in another order than their bytes."""
    keys = ["parts/-z", "parts/B", "parts/Z", "parts/_", "parts/a", "parts/ä", "parts/𝄞"]
    for key in reversed(keys):
        put(store, key, b"1")
        make_row(part, key, 1)
    found = list(survey(store, "parts/", CancelToken()))
    assert [entry.key for entry in found] == keys
    assert not [entry for entry in found if entry.missing or entry.unreferenced]


@on_disk
def test_the_first_row_that_disagrees_is_named(store: BlobStore, part: Part) -> None:
    put(store, "parts/a", b"1")
    make_row(part, "parts/a", 1)
    wrong = make_row(part, "parts/a", 9)
    (entry,) = survey(store, "parts/", CancelToken())
    assert entry.size_conflict is not None
    assert (entry.size_conflict.row, entry.size_conflict.size) == (wrong.pk, 9)


@on_disk
def test_other_prefixes_are_left_out(store: BlobStore, part: Part) -> None:
    put(store, "partsX/a", b"1")
    make_row(part, "PARTS/a", 1)
    assert list(survey(store, "parts/", CancelToken())) == []


@on_disk
def test_a_listing_that_fails_is_no_survey(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "parts/a", b"1")
    real = store.scan

    def cut_short(prefix: str, *, after: str = ""):
        yield from real(prefix, after=after)
        raise Unreachable("the second page never came")

    monkeypatch.setattr(store, "scan", cut_short)
    with pytest.raises(RunAborted, match="second page"):
        list(survey(store, "parts/", CancelToken()))


@on_disk
def test_a_listing_out_of_order_is_no_survey(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "parts/a", b"1")
    put(store, "parts/b", b"1")
    listed = list(store.scan("parts/"))
    monkeypatch.setattr(store, "scan", lambda prefix, *, after="": iter(reversed(listed)))
    with pytest.raises(RunAborted) as halted:
        list(survey(store, "parts/", CancelToken()))
    assert halted.value.exit_status is ExitStatus.UNAVAILABLE


@on_disk
def test_what_came_after_the_listing_is_looked_at_again(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload between listing and rows is neither missing nor of the wrong size."""
    for key, content in (("parts/a", b"1"), ("parts/b", b"old"), ("parts/c", b"1")):
        put(store, key, content)
    before = [stat for stat in store.scan("parts/") if stat.key != "parts/a"]
    put(store, "parts/b", b"longer")
    store.remove("parts/c")
    for key, size in (("parts/a", 1), ("parts/b", 6), ("parts/c", 1), ("parts/d", 1)):
        make_row(part, key, size)
    monkeypatch.setattr(store, "scan", lambda prefix, *, after="": iter(before))
    found = [(e.key, e.missing, e.wrong_size) for e in survey(store, "parts/", CancelToken())]
    assert found == [
        ("parts/a", False, False),
        ("parts/b", False, False),
        # Looked at only where something seemed wrong; who deletes it would look under a lock.
        ("parts/c", False, False),
        ("parts/d", True, False),
    ]


@on_disk
def test_a_row_deleted_meanwhile_misses_nothing(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_row(part, "parts/a", 1)
    claim = module.Reference("parts/a", row.pk, 1)
    row.delete()
    monkeypatch.setattr(module, "references_below", lambda prefix, stop: iter([claim]))
    assert list(survey(store, "parts/", CancelToken())) == []


@on_disk
def test_many_rows_are_fetched_in_portions(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 2)
    for number in range(7):
        make_row(part, f"parts/{number}", 1)
    assert len(list(survey(store, "parts/", CancelToken()))) == 7


@pytest.mark.postgres
def test_every_key_column_compares_bytes() -> None:
    """The walk along a column's index must meet keys in the order in which stores list them."""
    with connection.cursor() as cursor:
        for column in key_columns():
            cursor.execute(
                "SELECT collation_name FROM information_schema.columns"
                " WHERE table_name = %s AND column_name = %s",
                [column.model._meta.db_table, column.name],
            )
            assert cursor.fetchall() == [("C",)], column


@pytest.mark.parametrize("portion", [1, 3])
def test_a_survey_that_is_given_up_leaves_nothing_open(
    disk_store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    """Whenever it is cleaned up: a cursor that is closed during another statement would hang."""
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", portion)
    for number in range(4):
        make_row(part, Digest.of(b"%d" % number).key, 1)
    entries = survey(disk_store, CAS_PREFIX, CancelToken(0))
    next(entries)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT count(*) FROM pg_cursors WHERE name <> ''")
            assert cursor.fetchone() == (0,)
    assert len(list(entries)) == 3
