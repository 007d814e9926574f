"""Rows that a migration must leave as they are, though they share their object with others."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DataError, connection

from attachments import references
from attachments.models import Attachment
from attachments.tests.legacy import (
    assert_whole,
    legacy_key,
    make_legacy,
    make_row,
    on_disk,
    run,
    summary_of,
)
from cas.digest import Digest
from cas.exit_status import ExitStatus
from cas.storage.base import BlobStore
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

MIGRATE = ("migrate_to_cas", "--right-store", "--yes-i-am-sure", "--json")


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Buck converter")


def state(row: Attachment) -> tuple[str | None, int | None]:
    row.refresh_from_db()
    return row.s3_key, row.file_size


@on_disk
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_row_that_disagrees_about_the_size_is_not_moved_with_the_others(
    store: BlobStore, part: Part, position: int
) -> None:
    """Its size is not overwritten either: which of the two is wrong is for a person to say."""
    first = make_legacy(store, part, b"four")
    key = first.s3_key or ""
    right = [first, make_row(part, key, 4), make_row(part, key, 4)]
    wrong = right.pop(position)
    Attachment.objects.filter(pk=wrong.pk).update(file_size=99)
    status, output = run(*MIGRATE)
    assert status == ExitStatus.ITEMS_FAILED
    assert summary_of(output)["failures"] == {"size_mismatch": 1}
    assert state(wrong) == (key, 99)
    assert {state(row) for row in right} == {(Digest.of(b"four").key, 4)}
    assert store.digest_of(key)[0] == Digest.of(b"four")


@on_disk
def test_rows_outside_the_range_stay_though_they_share_the_object(
    store: BlobStore, part: Part
) -> None:
    first = make_legacy(store, part, b"four")
    key = first.s3_key or ""
    rows = [first, *(make_row(part, key, 4) for _ in range(4))]
    assert run(*MIGRATE, "--id-range", f"{rows[1].pk}-{rows[2].pk}")[0] == 0
    new = Digest.of(b"four").key
    assert [state(row)[0] for row in rows] == [key, new, new, key, key]
    assert run(*MIGRATE)[0] == 0
    assert_whole(store)


@on_disk
@pytest.mark.parametrize("rows", [1, 3])
def test_an_object_that_is_gone_fails_each_of_its_rows(
    store: BlobStore, part: Part, rows: int
) -> None:
    key = legacy_key(part)
    made = [make_row(part, key, 4) for _ in range(rows)]
    status, output = run(*MIGRATE)
    assert status == ExitStatus.ITEMS_FAILED
    assert summary_of(output)["failures"] == {"absent": rows}
    assert {state(row) for row in made} == {(key, 4)}


@on_disk
def test_a_dry_run_writes_to_no_table(store: BlobStore, part: Part) -> None:
    make_legacy(store, part, b"four")
    statements: list[str] = []

    def note(execute, sql, params, many, context):
        statements.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        assert run("migrate_to_cas", "--dry-run", "--json")[0] == 0
    assert statements
    assert not [sql for sql in statements if sql.startswith(("UPDATE", "INSERT", "DELETE"))]


@on_disk
def test_one_row_that_cannot_be_moved_ends_nothing(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody foresaw is that row's, with its id; the others are moved."""
    rows = [make_legacy(store, part, content) for content in (b"one", b"two", b"three")]
    real = references.repoint

    def refused(row: int, *arguments: Any) -> bool:
        if row == rows[1].pk:
            raise DataError("value out of range")
        return real(row, *arguments)

    monkeypatch.setattr(references, "repoint", refused)
    status, output = run(*MIGRATE)
    assert status == ExitStatus.ITEMS_FAILED
    assert f"row {rows[1].pk}" in output
    assert state(rows[1])[0] == rows[1].s3_key
    assert [state(row)[0] for row in (rows[0], rows[2])] == [
        Digest.of(b"one").key, Digest.of(b"three").key,
    ]  # fmt: skip
