"""Whatever happens to the commands that delete, nothing that is referenced goes."""

from __future__ import annotations

import os
import random
import signal
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections
from django.db.models import F
from django.utils import timezone

from attachments import verifications
from attachments.locks import LONGEST_REQUEST
from attachments.maintenance import cleanup, collect
from attachments.models import Attachment, PendingDeletion
from attachments.tests.factories import staged
from attachments.tests.legacy import (
    assert_whole,
    blobs,
    damage,
    make_legacy,
    make_row,
    on_disk,
    run,
    summary_of,
    terminate_others,
)
from cas.digest import Digest
from cas.exit_status import ExitStatus
from cas.storage.base import BlobStore, Denied, StoreError, Unreachable
from parts.models import Part
from tests.s3 import S3Server

pytestmark = pytest.mark.django_db(transaction=True)

on_s3 = pytest.mark.parametrize("store", ["s3"], indirect=True)

CLEANUP = ("cleanup_legacy_blobs", "--yes-i-am-sure", "--json")
COLLECT = ("collect_garbage", "--yes-i-am-sure", "--grace", "0", "--max-delete-percent", "99")
REPAIR = ("verify_cas", "--repair", "--yes-i-am-sure", "--read-all", "--json")

PAGE = 1000
"""Keys of a page of S3's listing."""

KILLS = 5


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Buck converter")


def keys(store: BlobStore) -> set[str]:
    return {stat.key for stat in store.scan("")}


@on_disk
@pytest.mark.parametrize("error", [Denied, Unreachable])
def test_a_store_that_deletes_nothing_is_one_error(
    store: BlobStore,
    part: Part,
    monkeypatch: pytest.MonkeyPatch,
    error: type[StoreError],
) -> None:
    monkeypatch.setattr(cleanup, "BATCH", 2)
    for number in range(5):
        make_legacy(store, part, b"%d" % number)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    before = keys(store)
    calls: list[list[str]] = []

    def refused(batch: Iterable[str]) -> Iterator[tuple[str, StoreError | None]]:
        calls.append(list(batch))
        yield from ((key, error("no", key=key)) for key in calls[-1])

    monkeypatch.setattr(store, "remove_many", refused)
    assert run(*CLEANUP)[0] == ExitStatus.UNAVAILABLE
    assert [len(batch) for batch in calls] == [2] * len(calls)
    assert (len(calls) == 1) == (error is Denied)
    assert keys(store) == before


@on_disk
def test_a_store_that_asks_for_time_gets_it(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_legacy(store, part, b"one")
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    real = store.remove_many
    refusals = iter([Unreachable("SlowDown")] * 2)

    def slow(batch: Iterable[str]) -> Iterator[tuple[str, StoreError | None]]:
        refusal = next(refusals, None)
        return ((key, refusal) for key in batch) if refusal else real(batch)

    monkeypatch.setattr(store, "remove_many", slow)
    status, output = run(*CLEANUP)
    assert (status, summary_of(output)["deleted"]) == (0, 1), output


@pytest.fixture
def many(store: BlobStore, s3_server: S3Server, part: Part, s3_bucket: str) -> set[str]:
    """A page and more of blobs, the last of them referenced, and as many old objects."""
    digests = sorted(Digest.of(b"%d" % number) for number in range(PAGE + 20))
    old = [f"parts/1/attachments/{uuid.uuid4()}.pdf" for _ in range(PAGE + 20)]
    for digest in digests[-15:]:
        make_row(part, digest.key, 1)
    Attachment.objects.update(migrated_at=timezone.now())
    s3_server.fill(s3_bucket, [*old, *(digest.key for digest in digests)])
    # The bytes are not what the keys say; a cleanup reads only what it takes for not verified yet.
    verifications.record([store.stat(digest.key) for digest in digests[-15:]])
    # The store's capabilities are probed at its first use; the faults are not meant for that.
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    return {*old, *(digest.key for digest in digests)}


@on_s3
@pytest.mark.parametrize("command", [COLLECT, CLEANUP, REPAIR])
@pytest.mark.parametrize("fault", ["error", "no_token"])
def test_a_listing_that_fails_after_a_page_deletes_nothing(
    store: BlobStore,
    s3_server: S3Server,
    many: set[str],
    command: tuple[str, ...],
    fault: str,
) -> None:
    s3_server.fault(
        "ListObjectsV2", fault, key_contains="cas/", skip=int(fault == "error"), times=-1
    )
    status, output = run(*command)
    s3_server.reset()
    assert status == ExitStatus.UNAVAILABLE, output
    assert keys(store) == many


@on_s3
@pytest.mark.parametrize(
    ("command", "pages"),
    # A survey is two pages. A cleanup makes a second one of what is to be verified, and also
    # looks for what sorts before `cas/`.
    [(COLLECT, 3), (CLEANUP, 6)],
)
def test_a_listing_that_fails_while_it_deletes(
    store: BlobStore, s3_server: S3Server, many: set[str], command: tuple[str, ...], pages: int
) -> None:
    s3_server.fault("ListObjectsV2", "error", skip=pages, times=-1)
    status, output = run(*command)
    s3_server.reset()
    assert status == ExitStatus.UNAVAILABLE, output
    referenced = set(Attachment.objects.values_list("s3_key", flat=True))
    assert referenced <= keys(store) < many
    assert run(*command)[0] == 0
    assert referenced <= keys(store)


@on_disk
@pytest.mark.postgres
def test_a_cleanup_whose_connection_is_cut_while_it_deletes(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock fell, so it checks everything again before it deletes more."""
    monkeypatch.setattr(cleanup, "BATCH", 2)
    for number in range(6):
        make_legacy(store, part, b"%d" % number)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    real = store.remove_many

    def cut(batch: Iterable[str]) -> Iterator[tuple[str, StoreError | None]]:
        terminate_others()
        yield from real(batch)

    checks: list[Any] = []
    check = cleanup.check_complete

    def counted(*arguments: Any) -> Any:
        checks.append(arguments)
        return check(*arguments)

    monkeypatch.setattr(cleanup, "check_complete", counted)
    monkeypatch.setattr(store, "remove_many", cut)
    status, output = run(*CLEANUP)
    connection.close()
    monkeypatch.undo()
    assert status == 0, output
    assert summary_of(output)["deleted"] == 6
    # Before each batch of the three; after the last one there is nothing left to check for.
    assert len(checks) == 3
    assert not list(store.scan("parts/"))
    assert_whole(store)


def lines_in(report: Path) -> int:
    return report.read_bytes().count(b"\n") if report.exists() else 0


def killed(report: Path, lines: int, *command: str) -> None:
    """kill -9 the command, in a process of its own, once it has reported so many more lines."""
    before = lines_in(report)
    connections.close_all()
    child = os.fork()
    if child == 0:
        os._exit(run(*command, "--report", str(report))[0])
    while lines_in(report) < before + lines:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before"
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    while connection.vendor == "postgresql" and other_sessions():
        time.sleep(0.001)


def other_sessions() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        number: int = cursor.fetchone()[0]
        return number


def wait_out() -> None:
    """The time for which a delete of a killed run may still be carried out."""
    PendingDeletion.objects.update(since=F("since") - LONGEST_REQUEST)


@on_disk
def test_collections_killed_again_and_again(
    store: BlobStore, part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "BATCH", 7)
    contents = [b"content %d" % number for number in range(120)]
    for content in contents:
        store.create(staged(content, tmp_path / "staged"))
    kept = {Digest.of(content) for content in contents[:20]}
    for content in contents[:20]:
        make_row(part, Digest.of(content).key, len(content))
    report = tmp_path / "report.jsonl"
    for _ in range(KILLS):
        killed(report, random.randint(1, 12), *COLLECT)  # noqa: S311
        assert kept < blobs(store)
    assert run(*COLLECT)[0] == 0
    assert blobs(store) == kept
    wait_out()
    assert run(*COLLECT)[0] == 0
    assert not PendingDeletion.objects.exists()


@on_disk
def test_cleanups_killed_again_and_again(
    store: BlobStore, part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "BATCH", 7)
    for number in range(120):
        make_legacy(store, part, b"content %d" % number)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    report = tmp_path / "report.jsonl"
    for _ in range(KILLS):
        killed(report, random.randint(1, 12), *CLEANUP)  # noqa: S311
        assert len(blobs(store)) == 120
    assert run(*CLEANUP)[0] == 0
    assert list(store.scan("parts/")) == []
    assert_whole(store)


@on_disk
def test_repairs_killed_again_and_again(store: BlobStore, part: Part, tmp_path: Path) -> None:
    contents = [b"content %02d" % number for number in range(24)]
    for content in contents:
        make_legacy(store, part, content)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    corrupt = [content.upper() for content in contents]
    for content, spoiled in zip(contents, corrupt, strict=True):
        damage(store, Digest.of(content).key, spoiled)
    report = tmp_path / "report.jsonl"
    for _ in range(KILLS):
        # Each run first reports a verdict for each blob.
        killed(report, len(contents) + random.randint(0, 5), *REPAIR)  # noqa: S311
        old = {store.digest_of(stat.key)[0] for stat in store.scan("parts/")}
        assert old == {Digest.of(content) for content in contents}
        wait_out()
    assert run(*REPAIR)[0] == 0
    assert_whole(store)
    aside = {store.digest_of(stat.key)[0] for stat in store.scan("quarantine/")}
    assert aside == {Digest.of(content) for content in corrupt}
