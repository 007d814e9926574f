"""What keeps a collection from deleting bytes: age, references, locks and what it knows."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from attachments import references
from attachments.maintenance import cleanup, collect
from attachments.models import Attachment
from attachments.tests.factories import PDF, staged
from attachments.tests.legacy import (
    as_after_a_migration,
    blobs,
    make_row,
    on_disk,
    put,
    run,
    summary_of,
)
from attachments.tests.waiting import in_thread
from attachments.uploads import StagedUpload
from cas.digest import Digest
from cas.exit_status import ExitStatus
from cas.storage.base import BlobStore, Denied, StoreError, Unreachable
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

COLLECT: tuple[str, ...] = (
    "collect_garbage",
    "--yes-i-am-sure",
    "--max-delete-percent",
    "100",
    "--json",
)

DAY_SECONDS = 86400

Outcomes = Iterator[tuple[str, StoreError | None]]


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Buck converter")


@pytest.fixture
def put_blob(store: BlobStore, tmp_path: Path) -> Callable[[bytes], Digest]:
    def put_it(content: bytes) -> Digest:
        upload = staged(content, tmp_path / f"upload-{Digest.of(content)}")
        store.create(upload)
        return upload.digest

    return put_it


def make_old(store: Any, digest: Digest, days: float) -> None:
    then = time.time() - days * DAY_SECONDS
    os.utime(Path(store.location, digest.key), (then, then))


@on_disk
@pytest.mark.parametrize("young_first", [True, False])
def test_the_grace_period_counts_when_deleting(
    store: BlobStore, part: Part, put_blob: Callable[[bytes], Digest], young_first: bool
) -> None:
    """Not only in the count: there is old unreferenced to delete, before and behind the young."""
    kept = put_blob(b"kept")
    make_row(part, kept.key, 4)
    digests = sorted(put_blob(b"unreferenced %d" % number) for number in range(6))
    young, old = (digests[:3], digests[3:]) if young_first else (digests[3:], digests[:3])
    for digest in [*old, kept]:
        make_old(store, digest, days=3)
    for digest in young:
        make_old(store, digest, days=1)
    status, output = run(*COLLECT, "--grace", "2d")
    summary = summary_of(output)
    assert status == 0, output
    assert (summary["in_grace_period"], summary["collected"]) == (3, 3)
    assert blobs(store) == {kept, *young}


def unanswered(keys: Iterable[str]) -> Outcomes:
    return ((key, Unreachable("timed out", key=key)) for key in keys)


def test_a_delete_in_flight_is_remembered_by_the_next_collection(
    store: BlobStore,
    part: Part,
    put_blob: Callable[[bytes], Digest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store may still carry out what the first one asked for, whatever comes in between."""
    unreferenced = put_blob(PDF)
    with monkeypatch.context() as silent:
        silent.setattr(store, "remove_many", unanswered)
        assert run(*COLLECT, "--grace", "0")[0] == ExitStatus.UNAVAILABLE
    status, output = run(*COLLECT, "--grace", "0")
    assert (status, summary_of(output)["collected"]) == (0, 1), output
    # Nothing is left to be collected; this one only begins and ends.
    assert run(*COLLECT, "--grace", "0")[0] == 0
    kind = Attachment.Kind.PDF
    upload = StagedUpload(staged(PDF, tmp_path / "again"), "a.pdf", "application/pdf", kind)
    with pytest.raises(Unreachable):
        references.attach(part.pk, upload, "again")
    assert not Attachment.objects.exists()
    assert unreferenced not in blobs(store)


@on_disk
@pytest.mark.parametrize("command", ["collect_garbage", "cleanup_legacy_blobs"])
def test_a_failed_deletion_is_in_the_report(
    store: BlobStore,
    put_blob: Callable[[bytes], Digest],
    tmp_path: Path,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    stays, goes = "parts/1/attachments/", "parts/2/attachments/"
    if command == "collect_garbage":
        stays, goes = (put_blob(content).key for content in (b"stays", b"goes"))
        arguments = (*COLLECT[1:], "--grace", "0")
    else:
        stays += f"{Digest.of(b'stays').hex[:32]}.pdf"
        goes += f"{Digest.of(b'goes').hex[:32]}.pdf"
        put(store, stays, b"stays")
        put(store, goes, b"goes")
        as_after_a_migration()
        arguments = ("--yes-i-am-sure", "--json")
    real = store.remove_many

    def failing(keys: Iterable[str]) -> Outcomes:
        for key in keys:
            if key == stays:
                yield key, Unreachable("InternalError", key=key)
            else:
                yield from real([key])

    monkeypatch.setattr(store, "remove_many", failing)
    report = tmp_path / "report.jsonl"
    status, output = run(command, *arguments, "--report", str(report))
    lines = {(line := json.loads(text))["key"]: line for text in report.read_text().splitlines()}
    assert status == ExitStatus.ITEMS_FAILED, output
    assert lines[stays]["outcome"] == "failed"
    assert "InternalError" in lines[stays]["error"]
    assert (lines[goes]["outcome"], lines[goes]["bytes"]) == ("deleted", 4)
    assert [stat.key for stat in store.scan("")] == [stays]


@on_disk
def test_no_more_is_deleted_than_was_planned(
    store: BlobStore,
    part: Part,
    put_blob: Callable[[bytes], Digest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What has become unreferenced since has not been part of the share that was allowed."""
    digests = sorted(put_blob(b"content %d" % number) for number in range(6))
    for digest in digests[1:]:
        make_row(part, digest.key, 9)
    real = store.scan
    listings: list[str] = []

    def rows_go_after_the_plan(prefix: str, *, after: str = "") -> Any:
        listings.append(prefix)
        if listings.count("cas/") == 2:
            Attachment.objects.exclude(s3_key=digests[-1].key).delete()
        return real(prefix, after=after)

    monkeypatch.setattr(store, "scan", rows_go_after_the_plan)
    status, output = run(*COLLECT, "--grace", "0")
    assert (status, summary_of(output)["unreferenced"]) == (0, 1), output
    assert summary_of(output)["collected"] == 1
    assert len(blobs(store)) == 5


@pytest.mark.parametrize(("minutes", "left"), [(50, True), (70, False)])
def test_abandoned_files_go_after_an_hour(disk_store: BlobStore, minutes: int, left: bool) -> None:
    """Whatever the grace period of blobs is: nobody refers to a staged file."""
    path = disk_store.staging_dir / "upload-abandoned"
    path.write_bytes(b"left behind")
    then = time.time() - 60 * minutes
    os.utime(path, (then, then))
    assert run(*COLLECT, "--grace", "5d")[0] == 0
    assert path.exists() == left


@on_disk
@pytest.mark.parametrize("command", ["collect_garbage", "cleanup_legacy_blobs"])
def test_a_signal_ends_it_before_the_next_batch(
    store: BlobStore,
    put_blob: Callable[[bytes], Digest],
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    """What has been sent is answered and counted, and nothing else is sent."""
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    monkeypatch.setattr(collect, "BATCH", 2)
    monkeypatch.setattr(cleanup, "BATCH", 2)
    if command == "collect_garbage":
        for number in range(5):
            put_blob(b"unreferenced %d" % number)
        arguments = (*COLLECT[1:], "--grace", "0")
    else:
        for number in range(5):
            put(store, f"parts/1/attachments/{uuid.UUID(int=number)}.pdf", b"old")
        as_after_a_migration()
        arguments = ("--yes-i-am-sure", "--json")
    real = store.remove_many
    sent: list[int] = []

    def and_a_signal(keys: Iterable[str]) -> Outcomes:
        # Once: a second one would end the process that runs the tests.
        if not sent:
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return real(keys)

    monkeypatch.setattr(store, "remove_many", and_a_signal)
    status, output = run(command, *arguments)
    assert status == ExitStatus.INTERRUPTED, output
    summary = summary_of(output)
    assert summary.get("collected", summary.get("deleted")) == 2
    assert len(list(store.scan(""))) == 3


@on_disk
def test_only_one_collection_at_a_time(
    store: BlobStore, put_blob: Callable[[bytes], Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_blob(PDF)
    real = store.remove_many
    statuses: list[int] = []

    def while_another_begins(keys: Iterable[str]) -> Outcomes:
        with ThreadPoolExecutor(1) as pool:
            statuses.append(in_thread(pool, lambda: run(*COLLECT, "--grace", "0")[0]).result())
        return real(keys)

    monkeypatch.setattr(store, "remove_many", while_another_begins)
    assert run(*COLLECT, "--grace", "0")[0] == 0
    assert statuses == [ExitStatus.LOCKED]


def test_a_dry_run_writes_nothing_to_the_store(
    store: BlobStore,
    part: Part,
    put_blob: Callable[[bytes], Digest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is for whoever may only read, too."""
    make_row(part, put_blob(b"kept").key, 4)
    put_blob(PDF)

    def denied(*_: Any) -> Any:
        raise Denied("read only")

    for change in ("create", "ingest", "copy", "remove", "remove_many"):
        monkeypatch.setattr(store, change, denied)
    status, output = run("collect_garbage", "--dry-run", "--grace", "0", "--json")
    assert (status, summary_of(output)["collected"]) == (0, 1), output
