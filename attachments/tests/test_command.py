"""What every maintenance command tells when it ends, however that is."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class
from django.core.management.base import OutputWrapper
from django.db import (
    InternalError,
    OperationalError,
    ProgrammingError,
    connection,
    connections,
)

from attachments.locks import LEGACY_LAYOUT, run_lock
from attachments.maintenance.command import MaintenanceCommand
from attachments.maintenance.report import RunSummary
from attachments.maintenance.runner import Output, maintenance_run
from attachments.tests.legacy import make_legacy, make_row, on_disk, run, summary_of
from cas.digest import Digest
from cas.exit_status import ExitStatus, RunAborted
from cas.storage.base import BlobStore, Denied, StoreFull
from parts.models import Part

ALL_OPTIONS = {
    "migrate_to_cas": (
        "--workers 8 --id-range 100-200 --limit 7 --max-failures 3 --bandwidth 1500K "
        "--max-duration 8h --right-store --dry-run --json --report 'a report.jsonl'"
    ),
    "cleanup_legacy_blobs": (
        "--min-age 30d --max-delete 5 --verify-content --workers 2 --dry-run --json --report r"
    ),
    "verify_cas": (
        "--workers 2 --bandwidth 20M --max-duration 90s --older-than 36h --read-all --repair "
        "--right-store --json --report r"
    ),
    "collect_garbage": "--grace 0s --max-delete-percent 0 --dry-run --json --report r",
    "migration_status": "--check-objects --right-store --json --report r",
    "mend_row": "17 --point-at parts/1/a --dry-run --json --report r --patience 90s",
    "import_legacy": "--dump d --source older2 --without sellers --dry-run --json --report r",
}

NOTHING_GIVEN = dict.fromkeys(ALL_OPTIONS, "") | {"mend_row": "17"}


def command_called(name: str) -> MaintenanceCommand:
    command = load_command_class(get_commands()[name], name)
    assert isinstance(command, MaintenanceCommand)
    return command


def parsed(words: list[str]) -> dict[str, Any]:
    command = command_called(words[1])
    return vars(command.create_parser("manage.py", words[1]).parse_args(words[2:]))


@pytest.mark.parametrize(("name", "given"), [*ALL_OPTIONS.items(), *NOTHING_GIVEN.items()])
def test_a_command_is_repeated_with_all_its_options(name: str, given: str) -> None:
    options = parsed(["manage.py", name, *shlex.split(given), "--yes-i-am-sure"][:-1])
    again = shlex.split(command_called(name).again(options))
    assert again[:2] == ["manage.py", name]
    assert parsed(again) == options
    every = {word for word in shlex.split(given) if word.startswith("--")}
    assert {word for word in again if word.startswith("--")} == every


def test_what_is_pasted_asks_again() -> None:
    options = parsed(["manage.py", "cleanup_legacy_blobs", "--yes-i-am-sure"])
    assert command_called("cleanup_legacy_blobs").again(options) == (
        "manage.py cleanup_legacy_blobs"
    )


def after(name: str, given: str, summary: RunSummary) -> str | None:
    words = ["manage.py", name, *shlex.split(given)]
    return command_called(name).next_command(summary, parsed(words))


def test_a_dry_run_of_a_cleanup_is_made_with_the_same_limits() -> None:
    from attachments.maintenance.cleanup import CleanupSummary

    given = "--min-age 30d --max-delete 5 --verify-content --report r"
    for status in (ExitStatus.DONE, ExitStatus.LIMIT_REACHED):
        dry_run = CleanupSummary(dry_run=True, status=status, deleted=1)
        assert after("cleanup_legacy_blobs", f"--dry-run {given}", dry_run) == (
            "CAS_MIGRATION_DELETE_OLD_OBJECTS=true manage.py cleanup_legacy_blobs --report r "
            "--min-age 30d --max-delete 5 --verify-content"
        )
    limited = CleanupSummary(status=ExitStatus.LIMIT_REACHED)
    assert "--max-delete 5" in str(after("cleanup_legacy_blobs", given, limited))


def test_a_migration_goes_on_with_everything_but_its_limit() -> None:
    from attachments.maintenance.migrate import MigrationSummary

    given = "--bandwidth 20M --max-duration 8h --max-failures 3 --limit 100"
    ended = MigrationSummary(status=ExitStatus.LIMIT_REACHED)
    assert after("migrate_to_cas", given, ended) == (
        "manage.py migrate_to_cas --bandwidth 20M --max-duration 8h --max-failures 3"
    )
    dry_run = MigrationSummary(dry_run=True, status=ExitStatus.LIMIT_REACHED)
    assert after("migrate_to_cas", f"{given} --dry-run", dry_run) == (
        "manage.py migrate_to_cas --dry-run --bandwidth 20M --max-failures 3"
    )


def test_rates_are_those_of_the_whole_run() -> None:
    from attachments.maintenance.migrate import MigrationSummary, RowOutcome

    summary = MigrationSummary(bytes=10, seconds=2.0)
    summary.outcomes[RowOutcome.MIGRATED] = 5
    figures = summary.figures()
    assert (figures["items_per_second"], figures["bytes_per_second"]) == (2.5, 5)


def interrupted() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def raising(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


ENDS = {
    "halt": (raising(RunAborted(ExitStatus.REFUSED, "a check refuses")), ExitStatus.REFUSED),
    "store": (raising(Denied("expired")), ExitStatus.UNAVAILABLE),
    "full": (raising(StoreFull("no room")), ExitStatus.UNAVAILABLE),
    "database": (raising(OperationalError("gone")), ExitStatus.UNAVAILABLE),
    "idle": (raising(InternalError("idle-in-transaction timeout")), ExitStatus.UNAVAILABLE),
    "right": (raising(ProgrammingError("permission denied")), ExitStatus.UNAVAILABLE),
    "signal": (interrupted, ExitStatus.INTERRUPTED),
}


@pytest.mark.parametrize("name", ENDS)
def test_every_end_is_in_the_summary(name: str) -> None:
    act, status = ENDS[name]
    summary = RunSummary()
    with maintenance_run(summary, Output(OutputWrapper(StringIO()))) as started:
        act()
        started.cancel.sleep(60)
    assert summary.status is status
    assert summary.reason


def test_the_first_reason_is_the_one_told() -> None:
    summary = RunSummary()
    fails = raising(Denied("second"))
    with maintenance_run(summary, Output(OutputWrapper(StringIO()))) as started:
        started.cancel.request(ExitStatus.LIMIT_REACHED, "first")
        fails()
    assert (summary.status, summary.reason) == (ExitStatus.LIMIT_REACHED, "first")


def test_failures_are_not_hidden_by_a_limit() -> None:
    summary = RunSummary()
    with maintenance_run(summary, Output(OutputWrapper(StringIO()))) as started:
        for number in range(9):
            summary.fail("absent", f"row {number}")
        started.cancel.request(ExitStatus.LIMIT_REACHED, "enough")
    assert summary.status is ExitStatus.ITEMS_FAILED
    assert summary.figures()["failures"] == {"absent": 9}
    assert summary.figures()["samples"] == [f"row {number}" for number in range(5)]


@pytest.fixture
def part(db: None) -> Part:
    return Part.objects.create(description="Buck converter")


COMMANDS = {
    "migrate_to_cas": ("--yes-i-am-sure",),
    "cleanup_legacy_blobs": ("--yes-i-am-sure",),
    "verify_cas": (),
    "collect_garbage": ("--yes-i-am-sure",),
    "migration_status": ("--check-objects",),
}


@on_disk
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_store_that_denies_ends_each_command_in_the_same_way(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, settings: Any, name: str
) -> None:
    def denied(prefix: str, *, after: str = "") -> Any:
        raise Denied("AccessDenied")

    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    monkeypatch.setattr(store, "scan", denied)
    status, output = run(name, *COMMANDS[name], "--json")
    summary = summary_of(output)
    assert status == ExitStatus.UNAVAILABLE
    assert "AccessDenied" in summary["reason"]
    assert f"rights they need, then: manage.py {name} --json" in summary["next"]
    status, output = run(name, *COMMANDS[name])
    assert status == ExitStatus.UNAVAILABLE
    assert "reason  " in output
    assert f", then: manage.py {name}" in output


@on_disk
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["/nonexistent/report", "/dev/full"])
def test_a_report_that_cannot_be_written_ends_a_run(
    store: BlobStore, part: Part, path: str
) -> None:
    for content in (b"one", b"two"):
        make_legacy(store, part, content)
    status, output = run("migrate_to_cas", "--yes-i-am-sure", "--json", "--report", path)
    summary = summary_of(output)
    opened = Path(path).exists()
    assert status == (ExitStatus.UNAVAILABLE if opened else ExitStatus.REFUSED)
    assert summary["reason"].startswith("the report cannot be")
    assert summary["next"] == (
        "Have --report name a file that can be written, then: "
        f"manage.py migrate_to_cas --json --report {path if opened else 'FILE'}"
    )


@on_disk
@pytest.mark.django_db(transaction=True)
def test_a_refusal_before_the_run_is_a_summary_too(store: BlobStore) -> None:
    for name in ("migrate_to_cas", "cleanup_legacy_blobs", "collect_garbage"):
        status, output = run(name, "--json")
        summary = summary_of(output)
        assert (status, summary["status"]) == (ExitStatus.REFUSED, "refused")
        assert "--yes-i-am-sure" in summary["reason"]
        assert summary["next"] == (
            f"Be at a terminal or give --yes-i-am-sure, then: manage.py {name} --json"
        )


class Keyboard(StringIO):
    def isatty(self) -> bool:
        return True


class Interrupted(Keyboard):
    def readline(self, *_arguments: Any) -> str:  # type: ignore[override]
        raise KeyboardInterrupt


@on_disk
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("answers", "status"),
    [
        (Keyboard("yes\n"), ExitStatus.DONE),
        (Keyboard("no\n"), ExitStatus.REFUSED),
        (Keyboard(""), ExitStatus.REFUSED),
        (Interrupted(), ExitStatus.INTERRUPTED),
    ],
    ids=["yes", "no", "end", "interrupted"],
)
def test_a_person_is_asked(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, answers: StringIO, status: ExitStatus
) -> None:
    monkeypatch.setattr("sys.stdin", answers)
    found, output = run("migrate_to_cas")
    assert found == status
    assert "0 rows will be moved to content-addressed keys. Type 'yes'" in output


@on_disk
@pytest.mark.django_db(transaction=True)
def test_damage_is_a_summary_too(store: BlobStore, part: Part) -> None:
    make_legacy(store, part, b"there")
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    make_row(part, Digest.of(b"lost").key, 4)
    status, output = run("collect_garbage", "--yes-i-am-sure", "--json")
    summary = summary_of(output)
    assert (status, summary["status"]) == (ExitStatus.DAMAGE_FOUND, "damage_found")
    assert summary["next"] == "manage.py verify_cas --repair"


@on_disk
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("name", "shared"),
    [("migrate_to_cas", False), ("cleanup_legacy_blobs", True), ("cleanup_legacy_blobs", False)],
)
def test_a_migration_and_a_cleanup_keep_each_other_away(
    store: BlobStore, part: Part, settings: Any, tmp_path: Path, name: str, shared: bool
) -> None:
    """On SQLite by a file beside the database, which one in memory does not have."""
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    before = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        connection.settings_dict = {**connection.settings_dict, "NAME": str(tmp_path / "db")}
    outcome: list[tuple[int, str]] = []

    def elsewhere() -> None:
        outcome.append(run(name, "--yes-i-am-sure", "--json"))
        connections.close_all()

    try:
        with run_lock(LEGACY_LAYOUT, shared=shared):
            if connection.vendor == "sqlite":
                outcome.append(run(name, "--yes-i-am-sure", "--json"))
            else:
                thread = threading.Thread(target=elsewhere)
                thread.start()
                thread.join(30)
    finally:
        connection.settings_dict = {**connection.settings_dict, "NAME": before}
    ((status, output),) = outcome
    assert status == ExitStatus.LOCKED
    assert summary_of(output)["next"] == (
        f"Wait until the other run has ended, then: manage.py {name} --json"
    )


def test_a_reader_that_has_enough_ends_a_command_quietly(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "manage.py", "verify_cas"],
        env={**os.environ, "INVENTORY_DATA_DIR": str(tmp_path)},
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=120,
    )  # fmt: skip
    os.close(writing)
    assert "BrokenPipeError" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode in (1, 5)
