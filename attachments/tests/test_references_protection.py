"""What keeps a row from pointing at bytes that go: locks of digests and rows, and looking again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.db.models.signals import post_save

from attachments import references
from attachments.locks import SharedLock
from attachments.models import Attachment
from attachments.tests.factories import PDF, file_fields, staged, stored_row
from attachments.tests.legacy import assert_whole, make_legacy, on_disk, run
from attachments.tests.waiting import in_thread, wait_for_lock_or_end
from cas.digest import Digest
from cas.storage.base import Absent, BlobStore, Corrupt, Unreachable
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

DIGEST = Digest.of(PDF)


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Fuse")


@pytest.fixture
def unreferenced(store: BlobStore, tmp_path: Path) -> Digest:
    store.create(staged(PDF, tmp_path / "unreferenced"))
    return DIGEST


def imported(part: Part, content: bytes = PDF, **fields: Any) -> Attachment:
    """A row as an import makes it, not saved yet."""
    return Attachment(part=part, **file_fields(content) | fields)


@on_disk
@pytest.mark.postgres
def test_an_imported_row_waits_for_a_collection_of_its_blob(
    store: BlobStore, part: Part, unreferenced: Digest
) -> None:
    """It would find the blob there, be saved, and lose it."""
    with ThreadPoolExecutor(1) as pool:
        with references.collecting(store, [unreferenced]) as lock:
            assert lock.removable == {unreferenced}
            importing = in_thread(pool, references.attach_imported, [imported(part)])
            wait_for_lock_or_end(importing)
            assert list(lock.remove_many([unreferenced.key])) == [(unreferenced.key, None)]
        refused = importing.result(timeout=30)
    assert [type(fault) for fault in refused.values()] == [Absent]
    assert not Attachment.objects.exists()


@on_disk
def test_no_row_is_imported_while_a_delete_of_its_blob_may_be_on_its_way(
    store: BlobStore, part: Part, unreferenced: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost_answer(store, unreferenced, monkeypatch)
    with pytest.raises(Unreachable):
        references.attach_imported([imported(part, b"other"), imported(part)])
    assert not Attachment.objects.exists()


def lost_answer(store: BlobStore, digest: Digest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection asks for the blob's deletion and hears nothing."""
    with monkeypatch.context() as silent:
        silent.setattr(
            store, "remove_many", lambda keys: [(key, Unreachable("?", key=key)) for key in keys]
        )
        with references.collecting(store, [digest]) as lock:
            list(lock.remove_many([digest.key]))


def test_only_rows_on_whole_blobs_are_imported(
    store: BlobStore, part: Part, unreferenced: Digest
) -> None:
    """The others are named by their position, and what is wrong with each."""
    rows = [
        imported(part, b"lost", title="lost"),
        imported(part, title="good"),
        imported(part, file_size=len(PDF) + 1, title="wrong size"),
        imported(part, s3_key="parts/1/attachments/x.png", title="older"),
    ]
    refused = references.attach_imported(rows)
    assert {position: type(fault) for position, fault in refused.items()} == {0: Absent, 2: Corrupt}
    titles = Attachment.objects.order_by("title").values_list("title", flat=True)
    assert list(titles) == ["good", "older"]


def test_a_copy_is_of_the_row_that_was_asked_for(
    store: BlobStore, part: Part, tmp_path: Path
) -> None:
    contents = (b"one", b"two", b"three")
    rows = [stored_row(part, content, tmp_path / content.decode()) for content in contents]
    copied = references.copy(rows[1].pk, part.pk)
    assert (copied.s3_key, copied.file_size) == (rows[1].s3_key, 3)


@contextmanager
def before_its_commit(act: Callable[[], None]) -> Iterator[None]:
    """Act once, when the next attachment is in its table and its transaction still open."""
    done: list[bool] = []

    def act_once(**_: Any) -> None:
        if not done:
            done.append(True)
            act()

    post_save.connect(act_once, sender=Attachment, weak=False)
    try:
        yield
    finally:
        post_save.disconnect(act_once, sender=Attachment)
    assert done


@on_disk
@pytest.mark.postgres
def test_a_copy_keeps_its_source_from_being_migrated_and_cleaned_up(
    store: BlobStore, part: Part, settings: Any
) -> None:
    """The copy still names the old key, and nobody sees it before its commit."""
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    source = make_legacy(store, part, PDF)
    works: list[Future[Any]] = []

    def migrate_and_clean_up() -> None:
        run("migrate_to_cas", "--yes-i-am-sure")
        run("cleanup_legacy_blobs", "--yes-i-am-sure")

    with ThreadPoolExecutor(1) as pool:

        def meanwhile() -> None:
            works.append(in_thread(pool, migrate_and_clean_up))
            wait_for_lock_or_end(works[0])

        with before_its_commit(meanwhile):
            copied = references.copy(source.pk, part.pk)
        works[0].result(timeout=30)
    copied.refresh_from_db()
    assert store.stat(copied.s3_key or "").size == len(PDF)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    assert_whole(store)
    assert run("cleanup_legacy_blobs", "--yes-i-am-sure")[0] == 0
    assert_whole(store)


@on_disk
@pytest.mark.postgres
def test_a_copy_keeps_its_sources_blob_from_being_collected(
    store: BlobStore, part: Part, tmp_path: Path
) -> None:
    """Its source is deleted, and a collection comes, before the copy is committed."""
    source = stored_row(part, PDF, tmp_path / "staged")
    works: list[Future[Any]] = []

    def delete_and_collect() -> None:
        Attachment.objects.filter(pk=source.pk).delete()
        run("collect_garbage", "--yes-i-am-sure", "--grace", "0", "--max-delete-percent", "100")

    with ThreadPoolExecutor(1) as pool:

        def meanwhile() -> None:
            works.append(in_thread(pool, delete_and_collect))
            wait_for_lock_or_end(works[0])

        with before_its_commit(meanwhile):
            references.copy(source.pk, part.pk)
        works[0].result(timeout=30)
    assert Attachment.objects.count() == 1
    assert_whole(store)


@on_disk
def test_a_row_moves_to_a_blob_only_while_no_delete_is_on_its_way(
    store: BlobStore, part: Part, unreferenced: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the migration's own hold was lost meanwhile, its row takes the lock by itself."""
    row = make_legacy(store, part, PDF)
    old_key = row.s3_key or ""
    lost_answer(store, unreferenced, monkeypatch)
    with pytest.raises(Unreachable):
        references.repoint(row.pk, old_key, unreferenced, len(PDF), SharedLock())
    row.refresh_from_db()
    assert row.s3_key == old_key


@on_disk
@pytest.mark.postgres
def test_a_row_that_moves_waits_for_a_collection_of_its_blob(
    store: BlobStore, part: Part, unreferenced: Digest
) -> None:
    row = make_legacy(store, part, PDF)
    old_key = row.s3_key or ""
    with ThreadPoolExecutor(1) as pool:
        with references.collecting(store, [unreferenced]) as lock:
            moving = in_thread(
                pool, references.repoint, row.pk, old_key, unreferenced, len(PDF), SharedLock()
            )
            wait_for_lock_or_end(moving)
            assert list(lock.remove_many([unreferenced.key])) == [(unreferenced.key, None)]
        with pytest.raises(Absent):
            moving.result(timeout=30)
    row.refresh_from_db()
    assert row.s3_key == old_key


@on_disk
@pytest.mark.postgres
def test_the_lock_of_an_imported_row_stands_until_its_row_is_committed(
    store: BlobStore, part: Part, unreferenced: Digest
) -> None:
    """A collection that comes before the commit sees no row, and so must get no lock."""
    outcomes: list[set[Digest]] = []

    def collect() -> None:
        with references.collecting(store, [unreferenced]) as lock:
            outcomes.append(set(lock.removable))
            list(lock.remove_many([digest.key for digest in lock.removable]))

    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        assert references.attach_imported([imported(part)]) == {}
        in_thread(pool, collect).result(timeout=30)
    assert outcomes == [set()]
    assert_whole(store)
