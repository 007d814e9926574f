"""collect_garbage: what goes, what stays, and what stops it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections
from django.utils import timezone

from attachments import locks, references
from attachments.locks import LOCK_SPACE, run_lock
from attachments.maintenance import collect
from attachments.models import Attachment, PendingDeletion
from attachments.tests.factories import staged
from attachments.tests.legacy import (
    blobs,
    make_row,
    on_disk,
    put,
    run,
    summary_of,
    terminate_others,
)
from attachments.uploads import StagedUpload
from cas.digest import Digest
from cas.exit_status import ExitStatus
from cas.storage.base import BlobStore, Denied, StoreError, Unreachable
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

COLLECT = ("collect_garbage", "--yes-i-am-sure", "--grace", "0", "--json")
ALL = (*COLLECT, "--max-delete-percent", "100")
"""For stores in which nothing is referenced."""


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Buck converter")


def put_blob(store: BlobStore, content: bytes, path: Path) -> Digest:
    upload = staged(content, path / f"upload-{Digest.of(content)}")
    store.create(upload)
    return upload.digest


@pytest.fixture
def kept(store: BlobStore, part: Part, tmp_path: Path) -> Digest:
    digest = put_blob(store, b"kept", tmp_path)
    make_row(part, digest.key, 4)
    return digest


@pytest.fixture
def unreferenced(store: BlobStore, tmp_path: Path) -> Digest:
    return put_blob(store, b"no rows", tmp_path)


def test_only_what_no_row_references_goes(
    store: BlobStore, kept: Digest, unreferenced: Digest
) -> None:
    status, output = run(*COLLECT)
    summary = summary_of(output)
    assert status == 0, output
    assert blobs(store) == {kept}
    assert (summary["blobs"], summary["collected"], summary["collected_bytes"]) == (2, 1, 7)


@on_disk
def test_a_dry_run_deletes_nothing(
    store: BlobStore,
    kept: Digest,
    unreferenced: Digest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(references, "collecting")
    report = tmp_path / "report.jsonl"
    status, output = run(
        "collect_garbage", "--dry-run", "--grace", "0", "--json", "--report", str(report)
    )
    assert status == 0
    assert blobs(store) == {kept, unreferenced}
    assert summary_of(output)["collected"] == 1
    assert json.loads(report.read_text()) == {
        "key": unreferenced.key,
        "bytes": 7,
        "outcome": "would_delete",
    }


def test_a_dry_run_says_what_to_type_next(
    store: BlobStore, kept: Digest, unreferenced: Digest
) -> None:
    _, output = run("collect_garbage", "--dry-run", "--grace", "0s", "--max-delete-percent", "50")
    command = "manage.py collect_garbage --grace 0s --max-delete-percent 50"
    assert output.rstrip().endswith(f"Next: {command}")
    assert run(*command.split()[1:], "--yes-i-am-sure")[0] == 0
    assert blobs(store) == {kept}


def test_the_grace_period_protects(store: BlobStore, kept: Digest, unreferenced: Digest) -> None:
    status, output = run("collect_garbage", "--yes-i-am-sure", "--json")
    assert status == 0
    assert summary_of(output)["in_grace_period"] == 1
    assert blobs(store) == {kept, unreferenced}


@on_disk
def test_the_grace_period_protects_young_ones_among_old_ones(
    store: Any, kept: Digest, tmp_path: Path
) -> None:
    """As many go as are old, and they are those: the young come first in the listing."""
    contents = sorted((b"unreferenced %d" % number for number in range(6)), key=Digest.of)
    young, old = contents[:3], contents[3:]
    for content in contents:
        put_blob(store, content, tmp_path)
    hours_ago = time.time() - 2 * 3600
    for content in old:
        os.utime(Path(store.location, Digest.of(content).key), (hours_ago, hours_ago))
    status, output = run("collect_garbage", "--yes-i-am-sure", "--grace", "1h", "--json")
    assert status == 0, output
    assert summary_of(output)["collected"] == 3
    assert blobs(store) == {kept, *map(Digest.of, young)}


@on_disk
def test_a_deletion_in_flight_is_still_on_record_after_the_next_collection(
    store: BlobStore, kept: Digest, unreferenced: Digest
) -> None:
    """What a collection that was killed has sent may be carried out later."""
    in_flight, over = Digest.of(b"in flight"), Digest.of(b"over")
    now = timezone.now()
    for digest, since in ((in_flight, now), (over, now - locks.LONGEST_REQUEST * 2)):
        PendingDeletion.objects.create(digest=digest.hex, since=since)
    assert run(*COLLECT)[0] == 0
    assert [row.digest for row in PendingDeletion.objects.all()] == [in_flight.hex]


@on_disk
def test_it_asks_first(store: BlobStore, unreferenced: Digest) -> None:
    assert run("collect_garbage", "--grace", "0")[0] == ExitStatus.REFUSED
    assert blobs(store) == {unreferenced}


@on_disk
def test_a_missing_referenced_blob_stops_it(
    store: BlobStore, part: Part, kept: Digest, unreferenced: Digest
) -> None:
    make_row(part, Digest.of(b"lost").key, 4)
    status, output = run(*COLLECT)
    assert status == ExitStatus.DAMAGE_FOUND
    assert Digest.of(b"lost").key in output
    assert blobs(store) == {kept, unreferenced}


@on_disk
def test_a_listing_that_ends_early_stops_it(
    store: BlobStore, kept: Digest, unreferenced: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.scan

    def cut_short(prefix: str, *, after: str = ""):
        yield from list(real(prefix, after=after))[:-1]
        raise Unreachable("the second page never came")

    monkeypatch.setattr(store, "scan", cut_short)
    status, _output = run(*COLLECT)
    monkeypatch.undo()
    assert status == ExitStatus.UNAVAILABLE
    assert blobs(store) == {kept, unreferenced}


@pytest.mark.parametrize("hours", [-1, 1])
def test_clocks_apart_stop_it(
    store: BlobStore, unreferenced: Digest, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    elsewhen = timezone.now() + timedelta(hours=hours)
    monkeypatch.setattr(collect, "database_now", lambda: elsewhen)
    status, output = run(*COLLECT)
    assert status == ExitStatus.REFUSED
    assert "clocks" in output
    assert blobs(store) == {unreferenced}


@on_disk
def test_an_abnormal_share_is_refused(
    store: BlobStore, kept: Digest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "FEW", 2)
    for content in (b"1", b"2", b"3"):
        put_blob(store, content, tmp_path)
    status, output = run(*COLLECT)
    assert status == ExitStatus.REFUSED
    assert "3 of 4 blobs" in output
    assert len(blobs(store)) == 4
    assert run(*COLLECT, "--max-delete-percent", "75")[0] == 0
    assert blobs(store) == {kept}


@on_disk
def test_a_few_may_go_unless_the_operator_says_otherwise(
    store: BlobStore, kept: Digest, unreferenced: Digest
) -> None:
    for percent in ("0", "49"):
        status, output = run(*COLLECT, "--max-delete-percent", percent)
        assert status == ExitStatus.REFUSED
        assert f"the {percent} % allowed" in output
    assert blobs(store) == {kept, unreferenced}
    assert run(*COLLECT)[0] == 0
    assert blobs(store) == {kept}


@on_disk
def test_the_last_blob_goes_only_when_all_may(store: BlobStore, unreferenced: Digest) -> None:
    """A database without rows is more often the wrong one than one whose parts are all gone."""
    for options in ((), ("--max-delete-percent", "99")):
        status, output = run(*COLLECT, *options)
        assert status == ExitStatus.REFUSED
        assert "the right database" in output
    assert blobs(store) == {unreferenced}
    assert run(*ALL)[0] == 0
    assert blobs(store) == set()


@on_disk
def test_a_blob_dated_in_the_future_stays_and_stops_nothing(
    store: Any,
    kept: Digest,
    unreferenced: Digest,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd = put_blob(store, b"odd", tmp_path)
    in_a_year = time.time() + 365 * 86400
    os.utime(Path(store.location, odd.key), (in_a_year, in_a_year))
    status, output = run(*COLLECT)
    assert status == 0, output
    assert summary_of(output)["in_grace_period"] == 1
    assert blobs(store) == {kept, odd}
    assert f"{odd.key} is dated in the future" in caplog.text


def test_strange_keys_are_left_alone(store: BlobStore, disk_store: BlobStore) -> None:
    """Another program may have put something below `cas/`; it is not ours to delete."""
    other = Path(disk_store.location) / "cas" / "README"  # type: ignore[attr-defined]
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_text("not a blob")
    status, output = run(*COLLECT)
    assert status == 0
    assert summary_of(output)["other_keys_left_alone"] == 1
    assert other.exists()


@on_disk
def test_the_older_layout_is_none_of_its_business(store: BlobStore, unreferenced: Digest) -> None:
    put(store, "parts/1/attachments/x.pdf", b"legacy")
    run(*ALL)
    assert [stat.key for stat in store.scan("")] == ["parts/1/attachments/x.pdf"]


@on_disk
def test_a_failed_delete_is_counted_and_the_rest_goes(
    store: BlobStore, unreferenced: Digest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)
    other = put_blob(store, b"more unreferenced", tmp_path)
    real = store.remove_many

    def failing(keys: Iterable[str]) -> Iterator[tuple[str, StoreError | None]]:
        for key in keys:
            if key == unreferenced.key:
                yield key, Unreachable("InternalError", key=key)
            else:
                yield from real([key])

    monkeypatch.setattr(store, "remove_many", failing)
    status, output = run(*ALL)
    assert status == ExitStatus.ITEMS_FAILED
    assert summary_of(output)["failures"] == {"unreachable": 1}
    assert blobs(store) == {unreferenced}
    assert other not in blobs(store)


@on_disk
@pytest.mark.parametrize("error", [Denied, Unreachable])
def test_a_store_that_deletes_nothing_is_one_error(
    store: BlobStore,
    kept: Digest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[StoreError],
) -> None:
    monkeypatch.setattr(collect, "BATCH", 2)
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)
    for content in (b"1", b"2", b"3"):
        put_blob(store, content, tmp_path)
    calls: list[list[str]] = []

    def refused(keys: Iterable[str]) -> Iterator[tuple[str, StoreError | None]]:
        calls.append(list(keys))
        yield from ((key, error("no", key=key)) for key in calls[-1])

    monkeypatch.setattr(store, "remove_many", refused)
    status, output = run(*COLLECT)
    assert status == ExitStatus.UNAVAILABLE, output
    assert [len(keys) for keys in calls] == [2] * len(calls)
    assert (len(calls) == 1) == (error is Denied)
    assert len(blobs(store)) == 4


@on_disk
def test_a_store_that_asks_for_time_gets_it(
    store: BlobStore, kept: Digest, unreferenced: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)
    real = store.remove_many
    refusals = iter([Unreachable("SlowDown")] * 2)

    def slow(keys: Iterable[str]) -> Iterator[tuple[str, StoreError | None]]:
        refusal = next(refusals, None)
        return ((key, refusal) for key in keys) if refusal else real(keys)

    monkeypatch.setattr(store, "remove_many", slow)
    status, output = run(*COLLECT)
    assert status == 0, output
    assert summary_of(output)["collected"] == 1
    assert blobs(store) == {kept}


def test_what_crashed_uploads_left_goes_when_no_upload_can_be_that_old(
    disk_store: BlobStore,
) -> None:
    """Without a grace period too: uploads are going on meanwhile."""
    old, unused, in_use, young = (
        disk_store.staging_dir / f"upload-{name}" for name in ("old", "unused", "in-use", "young")
    )
    for path, hours in ((old, 50), (unused, 2), (in_use, 2), (young, 0)):
        path.write_bytes(b"left behind")
        then = time.time() - hours * 3600
        os.utime(path, (then, then))
    with in_use.open("ab"):
        status, output = run("collect_garbage", "--yes-i-am-sure", "--grace", "0s", "--json")
    assert status == 0
    assert summary_of(output)["abandoned_uploads"] == 2
    assert sorted(disk_store.staging_dir.iterdir()) == sorted([in_use, young])


def test_an_upload_onto_a_blob_being_collected_survives(
    store: BlobStore,
    part: Part,
    unreferenced: Digest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes when the references have been looked at and the blob is about to go.

    Without the lock it would find the blob there, rely on it, and lose it.
    """
    begun = threading.Event()
    failures: list[BaseException] = []
    real = store.remove_many

    def upload() -> None:
        try:
            begun.set()
            bytes_again = staged(b"no rows", tmp_path / "again")
            references.attach(
                part.pk,
                StagedUpload(bytes_again, "a.pdf", "application/pdf", Attachment.Kind.PDF),
                "again",
            )
        except BaseException as error:  # noqa: BLE001 - asserted on by the test
            failures.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=upload)

    def while_an_upload_comes(keys: Iterable[str]) -> Iterator[tuple[str, StoreError | None]]:
        thread.start()
        begun.wait(30)
        # Long enough for an upload that nothing holds back to be over.
        thread.join(0.5)
        yield from real(keys)

    monkeypatch.setattr(store, "remove_many", while_an_upload_comes)
    status, _output = run(*ALL)
    thread.join(30)
    assert status == 0
    assert failures == []
    row = Attachment.objects.get(title="again")
    assert store.digest_of(row.s3_key or "")[0] == unreferenced


@on_disk
def test_a_blob_in_use_is_left_out(
    store: BlobStore, part: Part, unreferenced: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is committed between the plan and the lock."""
    real = references.collecting

    def after_a_commit(store: BlobStore, digests: set[Digest]) -> Any:
        make_row(part, unreferenced.key, 7)
        return real(store, digests)

    monkeypatch.setattr(references, "collecting", after_a_commit)
    status, output = run(*ALL)
    assert status == 0
    assert summary_of(output)["in_use"] == 1
    assert blobs(store) == {unreferenced}


@on_disk
@pytest.mark.postgres
def test_a_lock_lost_with_its_connection_deletes_nothing(
    store: BlobStore, kept: Digest, unreferenced: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = locks._try_exclusive

    def then_cut(digests: set[Digest]) -> set[Digest]:
        held = real(digests)
        terminate_others()
        return held

    monkeypatch.setattr(locks, "_try_exclusive", then_cut)
    status, _output = run(*COLLECT)
    connection.close()
    assert status == ExitStatus.UNAVAILABLE
    assert blobs(store) == {kept, unreferenced}


@on_disk
@pytest.mark.postgres
@pytest.mark.parametrize("taken", [False, True])
def test_a_run_that_lost_its_lock_takes_it_again_or_ends(
    store: BlobStore,
    kept: Digest,
    unreferenced: Digest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    taken: bool,
) -> None:
    """Another one may have begun when this one is connected again."""
    other = connections.create_connection("default")
    monkeypatch.setattr(collect, "BATCH", 1)
    put_blob(store, b"more unreferenced", tmp_path)
    real = store.remove_many

    def and_close(keys: Iterable[str]) -> Iterator[tuple[str, StoreError | None]]:
        yield from real(keys)
        connection.close()
        if taken:
            with other.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_advisory_lock(%s, %s)", [LOCK_SPACE, locks._number("collect")]
                )

    monkeypatch.setattr(store, "remove_many", and_close)
    status, output = run(*COLLECT)
    other.close()
    assert status == (ExitStatus.LOCKED if taken else 0), output
    assert len(blobs(store)) == (2 if taken else 1)


@on_disk
@pytest.mark.postgres
def test_two_collections_exclude_each_other(store: BlobStore, unreferenced: Digest) -> None:
    outcome: list[int] = []

    def second() -> None:
        outcome.append(run(*COLLECT)[0])
        connections.close_all()

    with run_lock("collect"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(30)
    assert outcome == [ExitStatus.LOCKED]
    assert blobs(store) == {unreferenced}
