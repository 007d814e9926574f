"""Locks of whole runs: who excludes whom, and what becomes of them with their connection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, connections

from attachments import locks
from attachments.locks import (
    LEGACY_LAYOUT,
    SharedLock,
    claim_block,
    exclusive_lock,
    release_block,
    require_lock,
    run_lock,
)
from attachments.maintenance.retry import query
from attachments.maintenance.runner import CancelToken
from attachments.tests.legacy import run, terminate_others
from cas.digest import Digest
from cas.exit_status import ExitStatus, RunAborted
from cas.storage.base import BlobStore

pytestmark = pytest.mark.django_db(transaction=True)

MIGRATE = ("migrate_to_cas", "--yes-i-am-sure")
CLEANUP = ("cleanup_legacy_blobs", "--yes-i-am-sure")


def elsewhere(work: Callable[[], Any]) -> Any:
    """What the work gives in a thread, and so a database session, of its own."""
    given: list[Any] = []

    def working() -> None:
        try:
            given.append(work())
        except RunAborted as aborted:
            given.append(aborted.exit_status)
        finally:
            connections.close_all()

    thread = threading.Thread(target=working)
    thread.start()
    thread.join(20)
    return given[0]


def test_a_migration_waits_for_a_cleanup_to_end(disk_store: BlobStore) -> None:
    with run_lock(LEGACY_LAYOUT):
        assert elsewhere(lambda: run(*MIGRATE)[0]) == ExitStatus.LOCKED
    assert run(*MIGRATE)[0] == 0


def test_a_cleanup_waits_for_all_migrations_to_end(disk_store: BlobStore, settings: Any) -> None:
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    with run_lock(LEGACY_LAYOUT, shared=True):
        assert elsewhere(lambda: run(*CLEANUP)[0]) == ExitStatus.LOCKED
    assert run(*CLEANUP)[0] == 0


def idle_timeout() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW idle_session_timeout")
        shown: str = cursor.fetchone()[0]
        return shown


@pytest.mark.postgres
def test_a_session_that_holds_a_lock_may_idle(disk_store: BlobStore) -> None:
    digest = Digest.of(b"held")

    def limit() -> None:
        connection.close()
        with connection.cursor() as cursor:
            cursor.execute("SET idle_session_timeout = '10min'")
        assert idle_timeout() == "10min"

    limit()
    with run_lock("idle"):
        assert idle_timeout() == "0"
    limit()
    with exclusive_lock(disk_store, [digest]):
        assert idle_timeout() == "0"
    limit()
    hold = SharedLock()
    hold.take(digest)
    assert idle_timeout() == "0"
    hold.release()


class Cut:
    """An operation whose connection is lost at the first try."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.meanwhile = meanwhile
        self.tries = 0

    def __call__(self) -> int:
        self.tries += 1
        if self.tries == 1:
            terminate_others()
            self.meanwhile()
            connection.ensure_connection()
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        return self.tries


@pytest.fixture
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)


@pytest.mark.postgres
@pytest.mark.usefixtures("_no_long_waits")
def test_shared_locks_and_claims_outlive_their_connection() -> None:
    def others() -> tuple[ExitStatus, bool]:
        return elsewhere(exclusive), elsewhere(lambda: claim_block(7))

    def exclusive() -> ExitStatus:
        with run_lock(LEGACY_LAYOUT):
            return ExitStatus.DONE

    with run_lock(LEGACY_LAYOUT, shared=True):
        assert claim_block(7)
        assert query(Cut(), CancelToken()) == 2
        assert others() == (ExitStatus.LOCKED, False)
        release_block(7)
    assert others() == (ExitStatus.DONE, True)


@pytest.mark.postgres
@pytest.mark.usefixtures("_no_long_waits")
def test_a_run_ends_when_another_took_its_lock_meanwhile() -> None:
    entered, leave = threading.Event(), threading.Event()

    def cleanup() -> None:
        with run_lock(LEGACY_LAYOUT):
            entered.set()
            leave.wait(20)
        connections.close_all()

    other = threading.Thread(target=cleanup)

    def begin() -> None:
        other.start()
        assert entered.wait(20)

    with run_lock(LEGACY_LAYOUT, shared=True), pytest.raises(RunAborted) as halted:
        query(Cut(meanwhile=begin), CancelToken())
    leave.set()
    other.join()
    assert halted.value.exit_status is ExitStatus.LOCKED


@pytest.mark.postgres
@pytest.mark.usefixtures("_no_long_waits")
def test_a_lock_held_alone_is_not_taken_again() -> None:
    """Others may have begun and ended meanwhile; what was checked before need not hold now."""
    with run_lock(LEGACY_LAYOUT):
        require_lock(LEGACY_LAYOUT)
        query(Cut(), CancelToken())
        with pytest.raises(RunAborted) as halted:
            require_lock(LEGACY_LAYOUT)
    assert halted.value.exit_status is ExitStatus.UNAVAILABLE


@pytest.mark.postgres
@pytest.mark.parametrize("sessions", [[1, 1, 1], [1, 2, 3]])
def test_a_pooler_that_lends_sessions_is_refused(
    disk_store: BlobStore, monkeypatch: pytest.MonkeyPatch, sessions: list[int]
) -> None:
    """The second connection's session is the first one's, or that one gets another."""
    answers = iter(sessions)
    monkeypatch.setattr(locks, "_session_of", lambda through: next(answers))
    status, output = run(*MIGRATE)
    assert status == ExitStatus.REFUSED
    assert "pool by session" in output
