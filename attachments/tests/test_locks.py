"""The digest's lock when its owner dies with a delete on its way."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.models import F
from django.utils import timezone

from attachments import locks, references
from attachments.locks import SharedLock, exclusive_lock, lock_shared, run_lock
from attachments.maintenance.runner import CancelToken
from attachments.models import Attachment, PendingDeletion
from attachments.tests.factories import PDF, legacy_row, staged
from attachments.tests.legacy import (
    blobs,
    on_disk,
    run,
    session_of,
    terminate_others,
    wait_until,
    wait_until_ended,
)
from attachments.uploads import StagedUpload
from cas.digest import Digest
from cas.exit_status import ExitStatus, RunAborted
from cas.storage.base import BlobStore, StoreError, Unreachable
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

DIGEST = Digest.of(PDF)
COLLECT = ("collect_garbage", "--yes-i-am-sure", "--grace", "0", "--max-delete-percent", "100")

Outcomes = Iterator[tuple[str, StoreError | None]]


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Fuse")


@pytest.fixture
def unreferenced(store: BlobStore, tmp_path: Path) -> Digest:
    store.create(staged(PDF, tmp_path / "unreferenced"))
    return DIGEST


def upload(part: Part, path: Path) -> Attachment:
    content = staged(PDF, path / f"upload-{time.monotonic_ns()}")
    kind = Attachment.Kind.PDF
    return references.attach(
        part.pk, StagedUpload(content, "a.pdf", "application/pdf", kind), "again"
    )


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's value or error, from a thread and so a database session of its own."""

    def work() -> Any:
        try:
            return function(*arguments)
        except StoreError as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=20)


def age_pending_deletions() -> None:
    PendingDeletion.objects.update(since=F("since") - locks.LONGEST_REQUEST - timedelta(seconds=1))


@on_disk
@pytest.mark.postgres
@pytest.mark.parametrize("setting", ["idle_in_transaction_session_timeout", "idle_session_timeout"])
def test_a_session_that_waits_for_its_deletes_is_not_ended(
    store: BlobStore,
    unreferenced: Digest,
    part: Part,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
) -> None:
    real = store.remove_many
    with ThreadPoolExecutor(1) as pool:
        uploading: list[Any] = []

        def slow(keys: Iterable[str]) -> Outcomes:
            # By now the server would have ended this one too.
            wait_until_ended(idler)
            uploading.append(pool.submit(elsewhere, upload, part, tmp_path))
            wait_until(somebody_waits)
            yield from real(keys)

        monkeypatch.setattr(store, "remove_many", slow)
        with connection.cursor() as cursor:
            cursor.execute(f"SET {setting} = '200ms'")
        other = connections.create_connection("default")
        idler = session_of(other)
        with other.cursor() as cursor:
            cursor.execute(
                f"BEGIN; SET {setting} = '200ms'" + ("" if "in_tr" in setting else "; COMMIT")
            )
        try:
            assert run(*COLLECT)[0] == 0
        finally:
            connection.close()
            other.close()
        row = uploading[0].result()
    assert store.digest_of(row.s3_key)[0] == DIGEST


@on_disk
@pytest.mark.postgres
def test_an_upload_is_refused_while_a_delete_of_a_dead_session_is_in_flight(
    store: BlobStore,
    unreferenced: Digest,
    part: Part,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would find the blob there, rely on it, and lose it."""
    real = store.remove_many
    uploaded: list[Any] = []

    def cut_meanwhile(keys: Iterable[str]) -> Outcomes:
        terminate_others()
        uploaded.append(elsewhere(upload, part, tmp_path))
        yield from real(keys)

    monkeypatch.setattr(store, "remove_many", cut_meanwhile)
    # It goes on with another session, which knows nothing of what the first one had sent.
    assert run(*COLLECT)[0] == ExitStatus.DONE
    connection.close()
    assert isinstance(uploaded[0], Unreachable), uploaded
    assert not Attachment.objects.exists()
    # For as long as a request can take, and no longer.
    with pytest.raises(Unreachable):
        upload(part, tmp_path)
    age_pending_deletions()
    row = upload(part, tmp_path)
    assert store.digest_of(row.s3_key or "")[0] == DIGEST


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_a_collector_killed_with_a_delete_in_flight(
    store: BlobStore,
    s3_server: Any,
    unreferenced: Digest,
    part: Part,
    tmp_path: Path,
) -> None:
    """The store carries the delete out when the process that asked for it is no more."""
    s3_server.fault("DeleteObjects", "wait_then_act", seconds=2)
    connections.close_all()
    child = os.fork()
    if child == 0:
        os._exit(run(*COLLECT)[0])
    wait_until(lambda: s3_server.counts().get("DeleteObjects"))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with pytest.raises(Unreachable):
        upload(part, tmp_path)
    wait_until(lambda: not blobs(store))
    age_pending_deletions()
    row = upload(part, tmp_path)
    assert store.digest_of(row.s3_key or "")[0] == DIGEST
    assert run(*COLLECT)[0] == 0
    assert not PendingDeletion.objects.exists()
    assert blobs(store) == {DIGEST}


@on_disk
def test_a_delete_that_was_not_answered_may_still_come(
    store: BlobStore,
    unreferenced: Digest,
    part: Part,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = staged(b"answered", tmp_path / "other").digest

    def unanswered(keys: Iterable[str]) -> Outcomes:
        for key in keys:
            yield key, Unreachable("timed out", key=key) if key == unreferenced.key else None

    monkeypatch.setattr(store, "remove_many", unanswered)
    with exclusive_lock(store, [unreferenced, other]) as lock:
        outcomes = dict(lock.remove_many([unreferenced.key, other.key]))
        with pytest.raises(ValueError, match="once"):
            list(lock.remove_many([unreferenced.key]))
    assert outcomes[other.key] is None
    assert PendingDeletion.objects.get().digest == unreferenced.hex
    with pytest.raises(Unreachable):
        upload(part, tmp_path)
    with pytest.raises(Unreachable), transaction.atomic():
        lock_shared([other, unreferenced])
    # A second request that is answered says nothing about the first.
    monkeypatch.undo()
    with exclusive_lock(store, [unreferenced]) as lock:
        assert dict(lock.remove_many([unreferenced.key])) == {unreferenced.key: None}
    with pytest.raises(Unreachable):
        upload(part, tmp_path)


@on_disk
def test_what_was_not_sent_is_not_pending_for_longer(
    store: BlobStore, unreferenced: Digest, part: Part, tmp_path: Path
) -> None:
    with exclusive_lock(store, [unreferenced]):
        pass
    assert upload(part, tmp_path).s3_key == unreferenced.key


@on_disk
def test_only_what_the_lock_was_obtained_for_is_deleted(
    store: BlobStore, unreferenced: Digest
) -> None:
    with exclusive_lock(store, []) as lock, pytest.raises(ValueError, match="lock"):
        list(lock.remove_many([unreferenced.key]))
    assert blobs(store) == {unreferenced}


@on_disk
def test_a_migration_waits_for_a_delete_in_flight(
    store: BlobStore, part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And then moves the row: it tries again, as it does when a store does not answer."""
    row = legacy_row(part, PDF, tmp_path / "old")
    PendingDeletion.objects.create(digest=DIGEST.hex, since=timezone.now())
    waits: list[float] = []

    def wait(_: CancelToken, seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            age_pending_deletions()

    monkeypatch.setattr(CancelToken, "sleep", wait)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    row.refresh_from_db()
    assert row.s3_key == DIGEST.key
    assert len(waits) == 2


@pytest.mark.postgres
def test_a_shared_lock_is_not_held_on_a_digest_pending_deletion(disk_store: BlobStore) -> None:
    PendingDeletion.objects.create(digest=DIGEST.hex, since=timezone.now())
    hold = SharedLock()
    with pytest.raises(Unreachable):
        hold.take(DIGEST)
    assert not hold.is_held(DIGEST)
    with exclusive_lock(disk_store, [DIGEST]) as lock:
        assert lock.removable


@on_disk
def test_what_is_stored_for_a_check_is_not_collected(
    store: BlobStore, unreferenced: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preflight stores a blob, reads it back and deletes it, while collections go on."""
    statuses: list[int] = []
    real = store.digest_of

    def collect() -> None:
        statuses.append(run(*COLLECT)[0])
        connections.close_all()

    collector = threading.Thread(target=collect)

    def after_a_collection(key: str, on_bytes: Any = None) -> Any:
        # Once; a collection makes the same check itself.
        if collector.ident is None:
            collector.start()
            # On SQLite it waits for the check to end.
            collector.join(1)
        return real(key, on_bytes)

    monkeypatch.setattr(store, "digest_of", after_a_collection)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    collector.join()
    assert statuses == [0]
    assert blobs(store) == set()


def somebody_waits() -> bool:
    """For the lock of a digest."""
    other = connections.create_connection("default")
    with other.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        waiting = bool(cursor.fetchone()[0])
    other.close()
    return waiting


@pytest.mark.sqlite
def test_a_run_lock_is_of_the_database_whatever_path_leads_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, link = tmp_path / "data" / "db.sqlite3", tmp_path / "link"
    database.parent.mkdir()
    link.symlink_to(database.parent)
    monkeypatch.setitem(connection.settings_dict, "NAME", str(database))
    with run_lock("collect"):
        monkeypatch.setitem(connection.settings_dict, "NAME", str(link / database.name))
        with pytest.raises(RunAborted, match="holds the lock"), run_lock("collect"):
            pass
