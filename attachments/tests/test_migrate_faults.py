"""A migration against a store and a database that fail in all the ways they do.

Whatever happens, a row is either where it was, with its old object, or at the digest of its
bytes; and when the fault is over, running it again finishes the work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections

from attachments import locks, references
from attachments.models import Attachment
from attachments.tests.legacy import (
    assert_whole,
    damage,
    make_legacy,
    on_disk,
    run,
    session_of,
    summary_of,
    terminate_others,
    wait_until_ended,
)
from cas.digest import Digest, is_cas_key
from cas.exit_status import ExitStatus
from cas.storage.base import BlobStore, Corrupt
from parts.models import Part
from tests.s3 import S3Server

pytestmark = pytest.mark.django_db(transaction=True)

MIGRATE = ("migrate_to_cas", "--yes-i-am-sure", "--json", "--workers", "3")
ROWS = 12

DONE = ExitStatus.DONE
FAILED = ExitStatus.ITEMS_FAILED
UNAVAILABLE = ExitStatus.UNAVAILABLE


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.005)


@pytest.fixture
def rows() -> Callable[[BlobStore], list[Attachment]]:
    def make(store: BlobStore) -> list[Attachment]:
        part = Part.objects.create(description="Buck converter")
        # The store's capabilities are probed at its first use; the faults are not meant for that.
        assert run(*MIGRATE)[0] == 0
        return [make_legacy(store, part, b"content %02d" % (n % 9)) for n in range(ROWS)]

    return make


def assert_nothing_lost(store: BlobStore) -> None:
    for key, size in Attachment.objects.values_list("s3_key", "file_size"):
        digest, stat = store.digest_of(key or "")
        assert stat.size == size
        assert digest.key == key or not is_cas_key(key or "")


def always(status: int, code: str = "InternalError", skip: int = 2) -> dict[str, Any]:
    return {"status": status, "code": code, "times": -1, "skip": skip}


def times(count: int, **options: Any) -> dict[str, Any]:
    """So often, past the reading of one object before the first row."""
    return {"key_contains": "attachments/", "skip": 1, "times": count, **options}


STORE_FAULTS = {
    "500": (DONE, "GetObject", "error", times(3, status=500)),
    "slow-down": (DONE, "GetObject", "error", times(5, status=503, code="SlowDown")),
    "cut-body": (DONE, "GetObject", "close_mid_body", times(2, bytes=4)),
    "short-body": (DONE, "GetObject", "short_body", times(2, bytes=4)),
    "altered-body": (None, "GetObject", "alter_body", times(2)),
    "no-answer": (DONE, "CopyObject", "act_then_close", {"times": 2}),
    "error-in-200": (DONE, "CopyObject", "error_in_200", {"times": 2}),
    "before-the-first-row": (DONE, "*", "error", {"status": 503, "times": 3}),
    "one-always-500": (FAILED, "GetObject", "error", {**always(500, skip=0), "one": True}),
    "store-gone": (UNAVAILABLE, "*", "error", always(503, skip=10)),
    "denied": (UNAVAILABLE, "CopyObject", "error", always(403, "AccessDenied")),
    "expired": (UNAVAILABLE, "GetObject", "error", always(400, "ExpiredToken")),
}


@pytest.mark.sqlite
@pytest.mark.parametrize("name", STORE_FAULTS)
def test_store_faults(
    s3_store: BlobStore,
    s3_server: S3Server,
    rows: Callable[[BlobStore], list[Attachment]],
    name: str,
) -> None:
    expected, operation, action, given = STORE_FAULTS[name]
    made = rows(s3_store)
    options = dict(given)
    if options.pop("one", False):
        # Not the first of the listing, which is read before the first row.
        options["key_contains"] = sorted(row.s3_key or "" for row in made)[4]
    s3_server.fault(operation, action, **options)
    status, output = run(*MIGRATE)
    summary = summary_of(output)
    s3_server.reset()
    if expected is not None:
        assert status == expected, output
    if expected is UNAVAILABLE:
        # The rows are not to blame.
        assert summary["failed"] == 0
        assert summary["remaining"] > 0
    assert summary["balances"]
    assert (status == DONE) == (summary["migrated"] + summary["deduplicated"] == ROWS)
    assert_nothing_lost(s3_store)
    assert run(*MIGRATE)[0] == DONE
    assert_whole(s3_store)


@pytest.mark.sqlite
def test_a_source_overwritten_between_hash_and_copy(
    s3_store: BlobStore, s3_server: S3Server, rows: Callable[[BlobStore], list[Attachment]]
) -> None:
    made = rows(s3_store)
    s3_server.fault("CopyObject", "overwrite_first", key=made[0].s3_key, body="CONTENT 00")
    status, output = run(*MIGRATE, "--workers", "1")
    assert (status, summary_of(output)["retries"]) == (DONE, 1), output
    assert_whole(s3_store)


@on_disk
def test_one_damaged_object_does_not_stop_the_others(
    store: BlobStore, rows: Callable[[BlobStore], list[Attachment]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one listed is what the check before the first row tries to read."""
    damaged = min(row.s3_key or "" for row in rows(store))
    real = store.read

    def read(key: str, *arguments: Any) -> Any:
        if key == damaged:
            raise Corrupt("its file ends early", key=key)
        return real(key, *arguments)

    monkeypatch.setattr(store, "read", read)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == ExitStatus.DONE


def test_wrong_bytes_at_the_target_are_not_relied_on(
    store: BlobStore, rows: Callable[[BlobStore], list[Attachment]]
) -> None:
    made = rows(store)
    target = Digest.of(b"content 00").key
    if hasattr(store, "location") and not hasattr(store, "bucket"):
        Path(store.location, "cas").mkdir(exist_ok=True)
    damage(store, target, b"half")
    assert run(*MIGRATE)[0] == DONE
    assert_whole(store)
    assert len(made) == ROWS


@pytest.mark.postgres
@on_disk
def test_database_connections_cut_midway(
    store: BlobStore,
    rows: Callable[[BlobStore], list[Attachment]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows(store)
    real = references.repoint
    calls = []
    once = threading.Lock()

    def cut(*arguments: Any) -> bool:
        calls.append(arguments)
        if len(calls) == 4 and once.acquire(blocking=False):
            terminate_others()
        return real(*arguments)

    monkeypatch.setattr(references, "repoint", cut)
    status, output = run(*MIGRATE)
    connection.close()
    assert status == DONE, output
    assert summary_of(output)["balances"]
    assert_whole(store)


@pytest.mark.postgres
@on_disk
def test_a_commit_whose_answer_was_lost_is_not_a_failure(
    store: BlobStore,
    rows: Callable[[BlobStore], list[Attachment]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows(store)
    real = references.repoint
    lost: list[Any] = []

    def unanswered(*arguments: Any) -> bool:
        moved = real(*arguments)
        if not lost:
            lost.append(arguments)
            terminate_others()
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        return moved

    monkeypatch.setattr(references, "repoint", unanswered)
    status, output = run(*MIGRATE)
    connection.close()
    assert status == DONE, output
    assert summary_of(output)["balances"]
    assert_whole(store)


@pytest.mark.postgres
@on_disk
def test_no_transaction_is_open_during_a_transfer(
    store: BlobStore,
    rows: Callable[[BlobStore], list[Attachment]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server with a short idle_in_transaction_session_timeout would end the session."""
    rows(store)
    real = store.ingest
    states: set[str] = set()

    def watched(source: str, *arguments: Any, **options: Any) -> Any:
        other = connections.create_connection("default")
        with other.cursor() as cursor:
            cursor.execute(
                "SELECT state FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND datname = current_database() AND state LIKE 'idle in%%'"
                " AND clock_timestamp() - state_change > interval '0.2 s'"
            )
            states.update(row[0] for row in cursor.fetchall())
        other.close()
        return real(source, *arguments, **options)

    monkeypatch.setattr(store, "ingest", watched)
    assert run(*MIGRATE)[0] == DONE
    assert states == set()


@pytest.mark.postgres
@on_disk
def test_a_session_ended_for_idling_in_a_transaction_is_begun_anew(
    store: BlobStore,
    rows: Callable[[BlobStore], list[Attachment]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row's transaction stalls on the store for longer than the server allows.

    There is one only where the digest was not held all the time.
    """
    rows(store)
    monkeypatch.setattr(locks.SharedLock, "is_held", lambda *_: False)
    real, stalled = store.stat, threading.Lock()

    def slow(key: str) -> Any:
        if connection.in_atomic_block and stalled.acquire(blocking=False):
            with connection.cursor() as cursor:
                cursor.execute("SET idle_in_transaction_session_timeout = '20ms'")
            wait_until_ended(session_of(connection))
        return real(key)

    monkeypatch.setattr(store, "stat", slow)
    status, output = run(*MIGRATE)
    assert stalled.locked()
    assert status == DONE, output
    assert summary_of(output)["balances"]
    assert_whole(store)
