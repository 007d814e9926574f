"""The object by which a run tries whether blobs can be stored: always the same one."""

from __future__ import annotations

from typing import Any

import pytest

from attachments.maintenance.collect import check_clocks
from attachments.references import TEST_OBJECT, stored_test_object
from attachments.tests.legacy import blobs, make_legacy, run, summary_of
from cas.exit_status import ExitStatus
from cas.storage.base import BlobStore, Denied, Versioning
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

MIGRATE = ("migrate_to_cas", "--yes-i-am-sure", "--json")
COLLECT = ("collect_garbage", "--yes-i-am-sure", "--json", "--grace", "0d")


@pytest.fixture
def part(db: object) -> Part:
    return Part.objects.create(description="Relay")


@pytest.fixture
def undeletable(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    def refuse(key: str) -> None:
        raise Denied("no right to delete", key=key)

    monkeypatch.setattr(store, "remove", refuse)
    return store


def test_it_is_gone_afterwards(store: BlobStore) -> None:
    with stored_test_object(store) as stored:
        assert blobs(store) == {stored} == {TEST_OBJECT}
    assert blobs(store) == set()


def test_where_it_may_not_be_deleted_one_is_left_for_ever(
    undeletable: BlobStore, part: Part
) -> None:
    for content in (b"one", b"two", b"three"):
        make_legacy(undeletable, part, content)
        status, output = run(*MIGRATE)
        assert status == ExitStatus.DONE, output
    assert len(blobs(undeletable)) == 4
    assert TEST_OBJECT in blobs(undeletable)


def test_what_is_left_is_not_collected(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_legacy(store, part, b"one")
    assert run(*MIGRATE)[0] == ExitStatus.DONE
    with monkeypatch.context() as patch:
        patch.setattr(store, "remove", lambda key: None)
        with stored_test_object(store):
            pass
    assert TEST_OBJECT in blobs(store)
    status, output = run("verify_cas", "--json")
    assert (status, summary_of(output)["unreferenced"]) == (ExitStatus.DONE, 0)
    status, output = run("collect_garbage", "--dry-run", "--json")
    assert (status, summary_of(output)["unreferenced"]) == (ExitStatus.DONE, 0)
    assert summary_of(output)["in_grace_period"] == 0


def test_where_versions_are_kept_it_is_left(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "versioning", lambda: Versioning.KEPT)
    for _ in range(2):
        with stored_test_object(store):
            pass
    assert blobs(store) == {TEST_OBJECT}


def test_clocks_are_compared_by_one_that_was_written_just_now(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that an earlier run left would tell an earlier time."""
    removed: list[str] = []
    remove = store.remove

    def note(key: str) -> None:
        removed.append(key)
        remove(key)

    monkeypatch.setattr(store, "remove", note)
    with stored_test_object(store, fresh=True):
        assert removed == [TEST_OBJECT.key]
    check_clocks(store)


def test_a_store_that_lets_nothing_be_deleted_is_found_before_a_collection(
    undeletable: BlobStore,
) -> None:
    status, output = run(*COLLECT)
    assert status == ExitStatus.UNAVAILABLE
    assert "no right to delete" in summary_of(output)["reason"]


@pytest.mark.parametrize(("reads", "command"), [("digest_of", MIGRATE), ("stat", COLLECT)])
def test_another_run_may_take_it_away_meanwhile(
    store: BlobStore,
    part: Part,
    monkeypatch: pytest.MonkeyPatch,
    reads: str,
    command: tuple[str, ...],
) -> None:
    make_legacy(store, part, b"one")
    real, stat = getattr(store, reads), store.stat
    taken: list[str] = []

    def gone_once(key: str, *arguments: Any) -> Any:
        if not taken and key == TEST_OBJECT.key and stat(key):
            taken.append(key)
            store.remove(key)
        return real(key, *arguments)

    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(store, reads, gone_once)
    assert run(*command)[0] == ExitStatus.DONE
    assert taken == [TEST_OBJECT.key]
