"""The whole move, as an operator makes it: real processes, killed at the worst moments."""

from __future__ import annotations

import json
import secrets
import signal
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cas.exit_status import ExitStatus
from tests.collection import contents
from tests.installation import Installation, Running

ROWS = 800
FEWER = 600
MANY = 1200
KILLS = {"disk": (50, 1200), "s3": (20, 400)}
"""How often to kill a migration, and of how many rows: on S3 each start of one takes seconds."""

WATCHING_SECONDS = 120


def lines_in(report: Path) -> int:
    return report.read_bytes().count(b"\n") if report.exists() else 0


def kill_after(process: Running, report: Path, lines: int) -> None:
    """kill -9 as soon as the report has so many lines; the process must not have ended before."""
    deadline = time.monotonic() + WATCHING_SECONDS
    while lines_in(report) < lines and time.monotonic() < deadline:
        assert process.poll() is None, process.output
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert lines_in(report) >= lines, process.output


def summary(output: str) -> dict[str, Any]:
    records = [json.loads(line) for line in output.splitlines() if line.startswith('{"summary"')]
    found: dict[str, Any] = records[-1]["summary"]
    return found


def assert_moved(installation: Installation, rows: int) -> None:
    distinct = contents(rows)
    assert installation.inspect() == {
        "rows": rows,
        "whole": rows,
        "distinct": distinct,
        "blobs": distinct,
        "legacy": 0,
        "objects": distinct,
    }


@pytest.mark.sqlite
def test_killed_twice_resumed_and_cleaned_up(installation: Installation, tmp_path: Path) -> None:
    installation.fill(ROWS)
    report = tmp_path / "report.jsonl"
    kill_after(installation.migration(report), report, ROWS // 4)
    refused, output = installation.manage("cleanup_legacy_blobs", "--yes-i-am-sure")
    assert refused == ExitStatus.REFUSED, output
    kill_after(installation.migration(report), report, ROWS // 2)

    # What the report says was done is done; the rest is planned, row for row.
    whole = installation.inspect()["whole"]
    assert lines_in(report) <= whole < ROWS
    output = installation.check("migrate_to_cas", "--yes-i-am-sure", "--json")
    last = summary(output)
    assert last["planned"] == ROWS - whole
    assert last["remaining"] == last["failed"] == 0
    installation.check("cleanup_legacy_blobs", "--yes-i-am-sure", "--verify-content")
    assert_moved(installation, ROWS)


def test_killed_at_many_random_moments(installation: Installation, tmp_path: Path) -> None:
    kills, rows = KILLS["s3" if installation.environment["CAS_S3_BUCKET"] else "disk"]
    installation.fill(rows)
    report = tmp_path / "report.jsonl"
    seed = secrets.randbelow(10**6)
    process = installation.start("-m", "tests.killing", str(kills), str(seed), str(report))
    assert process.wait() == 0, process.output
    killed = json.loads(process.output.splitlines()[-1])["killed"]
    assert killed == kills, f"seed {seed}: the work ended before"
    # Killed or not, what the report says was done is done, and every row has its bytes.
    found = installation.inspect()
    assert 0 < lines_in(report) <= found["whole"] < rows, f"seed {seed}"
    last = summary(installation.check("migrate_to_cas", "--yes-i-am-sure", "--json"))
    assert last["planned"] == rows - found["whole"], f"seed {seed}"
    assert last["remaining"] == last["failed"] == 0, f"seed {seed}"
    installation.check("cleanup_legacy_blobs", "--yes-i-am-sure", "--verify-content")
    installation.check("collect_garbage", "--yes-i-am-sure", "--grace", "0s")
    assert_moved(installation, rows)


@pytest.mark.sqlite
def test_a_signal_lets_what_is_in_flight_finish(installation: Installation, tmp_path: Path) -> None:
    installation.fill(FEWER)
    report = tmp_path / "report.jsonl"
    process = installation.migration(report)
    deadline = time.monotonic() + WATCHING_SECONDS
    while not lines_in(report) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == ExitStatus.INTERRUPTED, process.output
    ended = summary(process.output)
    assert ended["remaining"] == FEWER - lines_in(report)
    assert ended["balances"]


def start_together(installation: Installation, reports: list[Path]) -> list[Running]:
    """Migrations none of which can begin before all of them are waiting for the table."""
    with psycopg.connect(installation.environment["DATABASE_URL"]) as connection:
        connection.execute("LOCK TABLE part_attachments IN ACCESS EXCLUSIVE MODE")
        processes = [installation.migration(report) for report in reports]
        deadline = time.monotonic() + WATCHING_SECONDS
        while time.monotonic() < deadline:
            waiting = connection.execute(
                "SELECT count(DISTINCT pid) FROM pg_locks"
                " WHERE NOT granted AND relation = 'part_attachments'::regclass"
            ).fetchone()
            if waiting == (len(reports),):
                return processes
            time.sleep(0.01)
    raise AssertionError([process.output for process in processes])


def kill_the_first_to_report(
    processes: list[Running], reports: list[Path], lines: int
) -> tuple[Running, ...]:
    """kill -9 whichever has reported so many rows first. Returns the others."""
    deadline = time.monotonic() + WATCHING_SECONDS
    while time.monotonic() < deadline:
        for process, report in zip(processes, reports, strict=True):
            if lines_in(report) >= lines:
                kill_after(process, report, lines)
                return tuple(other for other in processes if other is not process)
        time.sleep(0.005)
    raise AssertionError([process.output for process in processes])


@pytest.mark.postgres
def test_processes_share_the_work(installation: Installation, tmp_path: Path) -> None:
    """Three migrate at once, one is killed among them; each object is transferred once."""
    installation.fill(MANY)
    reports = [tmp_path / f"report-{number}.jsonl" for number in range(3)]
    processes = start_together(installation, reports)
    survivors = kill_the_first_to_report(processes, reports, 50)
    assert [process.wait() for process in survivors] == [0, 0], survivors[0].output
    summaries = [summary(process.output) for process in survivors]
    assert all(lines_in(report) for report in reports)
    assert all(s["balances"] and s["remaining"] == s["failed"] == 0 for s in summaries)
    records = [json.loads(line) for report in reports for line in report.read_text().splitlines()]
    # Without claims they would read the same objects and find each other's rows already done.
    assert {record["outcome"] for record in records} == {"migrated", "deduplicated"}
    moved = [record["id"] for record in records]
    assert len(moved) == len(set(moved))
    installation.check("cleanup_legacy_blobs", "--yes-i-am-sure", "--verify-content")
    assert_moved(installation, MANY)
