"""The whole move, as an operator makes it: real processes, killed at the worst moments."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attachments.maintenance.run import ExitStatus
from tests.collection import contents
from tests.s3 import ROOT, S3Server

ROWS = 2000
FEWER = 600
KILLS = 50
WATCHING_SECONDS = 120


class Running(subprocess.Popen[bytes]):
    """A process whose output goes to a file: a pipe nobody reads would stop it when full."""

    def __init__(self, command: list[str], directory: Path, environment: dict[str, str]) -> None:
        self._output = directory / f"output-{uuid.uuid4().hex}"
        with self._output.open("wb") as output:
            super().__init__(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def output(self) -> str:
        return self._output.read_text()


class Installation:
    """A database and a store of their own, worked on only by processes of their own."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory = directory
        self.environment = {
            **os.environ,
            "INVENTORY_DATA_DIR": str(directory),
            "SECRET_KEY": "only-for-tests-" + 8 * "0123456789",
            **environment,
        }

    def start(self, *arguments: str) -> Running:
        return Running([sys.executable, *arguments], self.directory, self.environment)

    def manage(self, *arguments: str) -> tuple[int, str]:
        process = self.start("manage.py", *arguments)
        return process.wait(), process.output

    def check(self, *arguments: str) -> str:
        status, output = self.manage(*arguments)
        assert status == 0, output
        return output

    def collection(self, *arguments: str) -> str:
        process = self.start("-m", "tests.collection", *arguments)
        assert process.wait() == 0, process.output
        return process.output

    def inspect(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.collection("inspect").splitlines()[-1])
        return found

    def fill(self, rows: int) -> None:
        self.collection("make", str(rows))

    def migration(self, report: Path) -> Running:
        return self.start(
            "manage.py", "migrate_to_cas", "--yes-i-am-sure", "--json", "--report", str(report)
        )


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


@pytest.fixture
def database() -> Iterator[dict[str, str]]:
    """Environment for a database of its own on the server the tests run on, if they do."""
    url = os.environ.get("DATABASE_URL")
    if not url:
        yield {}
        return
    import psycopg

    name = f"move_{uuid.uuid4().hex}"
    base, _, query = url.partition("?")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        yield {"DATABASE_URL": base.rpartition("/")[0] + f"/{name}" + (query and f"?{query}")}
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=["disk", "s3"])
def installation(
    request: pytest.FixtureRequest, tmp_path: Path, database: dict[str, str]
) -> Installation:
    environment = {"CAS_MIGRATION_DELETE_OLD_OBJECTS": "true", **database}
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        environment |= server.environment(request.getfixturevalue("s3_bucket"))
    else:
        environment |= {"CAS_S3_BUCKET": ""}
    made = Installation(tmp_path, environment)
    made.check("migrate", "--verbosity", "0")
    return made


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

    output = installation.check("migrate_to_cas", "--yes-i-am-sure", "--json")
    last = summary(output)
    assert 0 < last["planned"] < ROWS - ROWS // 2 + 100
    assert last["remaining"] == last["failed"] == 0
    installation.check("cleanup_legacy_blobs", "--yes-i-am-sure", "--verify-content")
    assert_moved(installation, ROWS)


def test_killed_at_fifty_random_moments(installation: Installation, tmp_path: Path) -> None:
    installation.fill(FEWER)
    report = tmp_path / "report.jsonl"
    seed = secrets.randbelow(10**6)
    process = installation.start("-m", "tests.killing", str(KILLS), str(seed), str(report))
    assert process.wait() == 0, process.output
    killed = json.loads(process.output.splitlines()[-1])["killed"]
    assert killed == KILLS, f"seed {seed}: the work ended before"
    # Killed or not, what the report says was done is done, and every row has its bytes.
    found = installation.inspect()
    assert 0 < found["whole"] < FEWER, f"seed {seed}"
    last = summary(installation.check("migrate_to_cas", "--yes-i-am-sure", "--json"))
    assert last["remaining"] == last["failed"] == 0, f"seed {seed}"
    installation.check("cleanup_legacy_blobs", "--yes-i-am-sure", "--verify-content")
    installation.check("collect_garbage", "--yes-i-am-sure", "--grace", "0s")
    assert_moved(installation, FEWER)


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


@pytest.mark.postgres
def test_processes_share_the_work(installation: Installation, tmp_path: Path) -> None:
    """Two migrate at once, a third is killed among them; each object is transferred once."""
    installation.fill(FEWER)
    reports = [tmp_path / f"report-{number}.jsonl" for number in range(3)]
    processes = [installation.migration(report) for report in reports]
    kill_after(processes[0], reports[0], 50)
    survivors = processes[1:]
    assert [process.wait() for process in survivors] == [0, 0], survivors[0].output
    summaries = [summary(process.output) for process in survivors]
    assert all(lines_in(report) for report in reports[1:])
    assert all(s["balances"] and s["remaining"] == s["failed"] == 0 for s in summaries)
    moved = [
        record["id"]
        for report in reports
        for record in map(json.loads, report.read_text().splitlines())
        if record["outcome"] in ("migrated", "deduplicated")
    ]
    assert len(moved) == len(set(moved))
    installation.check("cleanup_legacy_blobs", "--yes-i-am-sure", "--verify-content")
    assert_moved(installation, FEWER)
