"""Outages of store and database: how long a run waits, what it shows, and how it goes on."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management.base import OutputWrapper
from django.db import DataError, IntegrityError, InternalError, OperationalError, connection

from attachments.maintenance import collect, migrate, pacing
from attachments.maintenance import run as run_module
from attachments.maintenance.database import (
    LEGACY_LAYOUT,
    _holds,
    is_outage,
    lasting_fault,
    run_lock,
)
from attachments.maintenance.frame import Output, running
from attachments.maintenance.retry import Tries, listed, query
from attachments.maintenance.run import ExitStatus, Halt, Stop, Stopped
from attachments.maintenance.summary import RunSummary
from attachments.models import Attachment
from attachments.tests.factories import staged
from attachments.tests.legacy import blobs, make_legacy, on_disk, run, summary_of
from cas.digest import Digest
from cas.storage.base import BlobStat, BlobStore, Denied, Unreachable
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

COMMANDS = {
    "migrate_to_cas": ("--yes-i-am-sure",),
    "migration_status": ("--check-objects",),
    "verify_cas": ("--repair", "--yes-i-am-sure", "--read-all"),
    "cleanup_legacy_blobs": ("--yes-i-am-sure", "--verify-content"),
    "collect_garbage": ("--yes-i-am-sure", "--grace", "0"),
}
METHODS = ("scan", "stat", "read", "create", "digest_of", "ingest", "copy", "remove")
LONG = ("--patience", "60s", "--json")
"""Longer than any outage here: what ends a run is not the waiting."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    monkeypatch.setattr(pacing, "FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.setattr(pacing, "LONGEST_WAIT_SECONDS", 0.02)
    monkeypatch.setattr(run_module, "SHOWN_AFTER_SECONDS", 0.0)
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Buck converter")


@pytest.fixture
def prepared(part: Part, tmp_path: Any) -> Callable[[BlobStore, str], None]:
    """What the command finds to do: rows, old objects, blobs, and one that nobody references."""

    def prepare(store: BlobStore, name: str) -> None:
        for number in range(6):
            make_legacy(store, part, b"content %d" % number)
        store.create(staged(b"unreferenced", tmp_path / "staged"))
        if name != "migrate_to_cas":
            assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0

    return prepare


def is_stored(store: BlobStore, content: bytes) -> bool:
    return Digest.of(content) in blobs(store)


def take_away(store: Any, monkeypatch: pytest.MonkeyPatch, after: int, calls: int) -> None:
    """Have so many calls of the store fail in a row, once `after` others were answered."""
    made = itertools.count()

    def unless_away(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if after <= next(made) < after + calls:
                raise Unreachable("503 Service Unavailable")
            return real(*arguments, **options)

        return call

    for name in METHODS:
        monkeypatch.setattr(store, name, unless_away(getattr(store, name)))


@pytest.mark.parametrize("after", [0, 1, 3, 5, 8])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_store_that_comes_back_ends_no_run(
    disk_store: BlobStore,
    prepared: Callable[[BlobStore, str], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    after: int,
) -> None:
    """More failures in a row than an object has tries, at different points of the run."""
    prepared(disk_store, name)
    take_away(disk_store, monkeypatch, after, 60)
    status, output = run(name, *COMMANDS[name], *LONG)
    assert status == 0, output
    monkeypatch.undo()
    assert not Attachment.objects.unmigrated().exists()
    if name == "collect_garbage":
        assert not is_stored(disk_store, b"unreferenced")
    if name == "cleanup_legacy_blobs":
        assert summary_of(output)["deleted"] == 6


@contextmanager
def database_away(until: threading.Event) -> Iterator[None]:
    """Nobody can connect to the tests' database, and who was is cut off, until told otherwise."""
    settings = connection.settings_dict
    name = settings["NAME"]
    admin = psycopg.connect(
        dbname="postgres", host=settings["HOST"], port=settings["PORT"], user=settings["USER"],
        password=settings["PASSWORD"] or None, autocommit=True,
    )  # fmt: skip

    def allow(allowed: bool) -> None:
        admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS {allowed}')

    def later() -> None:
        until.wait(30)
        allow(True)

    allow(False)
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
    )
    thread = threading.Thread(target=later)
    thread.start()
    try:
        yield
    finally:
        until.set()
        thread.join(30)
        admin.close()


@pytest.mark.postgres
@on_disk
@pytest.mark.parametrize("point", ["scan", "remove_many", "digest_of"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_database_that_comes_back_ends_no_run(
    store: BlobStore,
    prepared: Callable[[BlobStore, str], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    point: str,
) -> None:
    prepared(store, name)
    back = threading.Event()
    failures = 0
    real, wait_for = getattr(store, point), Tries._wait_for
    cut: list[Any] = []

    def counted(tries: Tries, what: str, error: Exception) -> None:
        nonlocal failures
        failures += what == "the database"
        if failures >= 5:
            back.set()
        wait_for(tries, what, error)

    def away(*arguments: Any, **options: Any) -> Any:
        if not cut:
            cut.append(database_away(back))
            cut[0].__enter__()
        return real(*arguments, **options)

    monkeypatch.setattr(Tries, "_wait_for", counted)
    monkeypatch.setattr(store, point, away)
    try:
        status, output = run(name, *COMMANDS[name], *LONG)
    finally:
        for started in cut:
            started.__exit__(None, None, None)
        connection.close()
    monkeypatch.undo()
    assert status == 0, output
    assert not Attachment.objects.unmigrated().exists()
    if name == "cleanup_legacy_blobs":
        assert not list(store.scan("parts/"))
    if name == "collect_garbage":
        assert not is_stored(store, b"unreferenced")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_store_that_stays_away_is_shown_and_ends_the_run(
    disk_store: BlobStore,
    prepared: Callable[[BlobStore, str], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    prepared(disk_store, name)
    take_away(disk_store, monkeypatch, 2, 10**9)
    status, output = run(name, *COMMANDS[name], "--json", "--patience", "1s")
    assert status == ExitStatus.UNAVAILABLE, output
    summary = summary_of(output)
    assert "was waited for 1 s" in summary["reason"]
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    waiting = [line["progress"]["waiting"] for line in lines if "progress" in line]
    assert "the store does not answer, waiting, 1 s left" in waiting


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_crashes_left_is_waited_for_and_counted_once(
    disk_store: BlobStore, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    """The last thing that a collection asks of a store."""
    left = ["one", "two", "three"]
    away = False

    def remove_abandoned(_older_than: Any, *, dry_run: bool) -> Iterator[str]:
        nonlocal away
        for number, description in enumerate(list(left)):
            if number == 2 and not away:
                away = True
                take_away(disk_store, monkeypatch, 0, 60)
                raise Unreachable("503 Service Unavailable")
            next(disk_store.scan("parts/"), None)
            if not dry_run:
                left.remove(description)
            yield description

    monkeypatch.setattr(disk_store, "remove_abandoned", remove_abandoned)
    options = ("--dry-run",) if dry_run else COMMANDS["collect_garbage"]
    status, output = run("collect_garbage", *options, *LONG)
    assert status == 0, output
    found = summary_of(output)
    assert found["abandoned_uploads"] == 3


def test_a_listing_goes_on_behind_its_last_key(
    disk_store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = sorted(make_legacy(disk_store, part, b"%d" % n).s3_key or "" for n in range(9))
    real = disk_store.scan
    asked: list[str] = []

    def cut(prefix: str, *, after: str = "") -> Iterator[BlobStat]:
        asked.append(after)
        for number, stat in enumerate(real(prefix, after=after)):
            if number == 3:
                raise Unreachable("the next page never came")
            yield stat

    monkeypatch.setattr(disk_store, "scan", cut)
    assert [stat.key for stat in listed(disk_store, "parts/", Stop(60))] == keys
    assert asked == ["", keys[2], keys[5]]


def test_an_outage_is_seen_on_the_live_line() -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    output = Terminal()
    answers: list[Exception | int] = [Unreachable("503"), Unreachable("503"), 7]

    def operation() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    summary = RunSummary()
    with running(summary, Output(OutputWrapper(output), patience=200)) as started:
        assert Tries(started.stop).of(operation) == 7
        assert started.stop.outage is None
    assert "the store does not answer, waiting, 3 min 20 s left, " in output.getvalue()
    assert summary.status is ExitStatus.DONE


def test_no_patience_ends_at_the_first_failure() -> None:
    def away() -> None:
        raise OperationalError("server closed the connection unexpectedly")

    with pytest.raises(Halt, match="the database cannot be used") as halted:
        query(away, Stop(0))
    assert halted.value.status is ExitStatus.UNAVAILABLE


def test_a_run_that_is_told_to_end_waits_no_more() -> None:
    stop = Stop(600)

    def away() -> None:
        stop.request(ExitStatus.INTERRUPTED, "SIGTERM")
        raise Unreachable("503")

    with pytest.raises(Stopped):
        Tries(stop).of(away)
    assert stop.outages == {}


def test_what_waiting_does_not_cure_is_not_waited_for() -> None:
    def denied() -> None:
        raise Denied("AccessDenied")

    with pytest.raises(Halt, match="denies access"):
        Tries(Stop(600)).of(denied)


def caused(error: type[Exception], cause: Exception) -> Exception:
    raised = error("said so")
    raised.__cause__ = cause
    return raised


@pytest.mark.parametrize(
    ("error", "outage", "lasting"),
    [
        (OperationalError("connection refused"), True, False),
        (caused(OperationalError, psycopg.errors.AdminShutdown()), True, False),
        (caused(InternalError, psycopg.errors.IdleInTransactionSessionTimeout()), True, False),
        (caused(InternalError, psycopg.errors.ReadOnlySqlTransaction()), True, False),
        (caused(OperationalError, psycopg.errors.DiskFull()), True, True),
        (caused(OperationalError, psycopg.errors.InvalidPassword()), False, True),
        (caused(OperationalError, psycopg.errors.ProgramLimitExceeded()), False, False),
        # A trigger's own words about a row.
        (caused(InternalError, psycopg.errors.RaiseException()), False, False),
        (caused(DataError, psycopg.errors.StringDataRightTruncation()), False, False),
        (caused(IntegrityError, psycopg.errors.CheckViolation()), False, False),
    ],
)
def test_what_of_the_database_passes(error: Exception, outage: bool, lasting: bool) -> None:
    assert is_outage(error) is outage
    assert bool(lasting_fault(error)) is lasting


@pytest.mark.postgres
def test_a_run_outlives_the_age_of_connections(
    disk_store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django closes a connection older than CONN_MAX_AGE, and a run's locks would go with it."""
    make_legacy(disk_store, part, b"content")
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 0)
    connection.close()
    real = migrate.MigrationSummary.count_left
    held: list[bool] = []

    def count_left(summary: Any, ids: Any) -> None:
        held.append(_holds(LEGACY_LAYOUT, shared=True))
        real(summary, ids)

    monkeypatch.setattr(migrate.MigrationSummary, "count_left", count_left)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    assert held == [True]
    with run_lock(collect.RUN):
        connection.close_if_unusable_or_obsolete()
        assert _holds(collect.RUN, shared=False)
