"""The database goes away and comes back under a migration that is going on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.collection import contents
from tests.installation import Installation
from tests.postgres import cluster

pytestmark = pytest.mark.postgres

ROWS = 400
DURABLE = "-csynchronous_commit%3Don"
"""The tests' clusters are set not to wait for their log, and would lose commits in a crash."""


def test_a_migration_outlives_a_restart(tmp_path: Path) -> None:
    """Every session is ended at once and nobody answers for a second, as in a fail-over."""
    with cluster() as database:
        url = f"{database.url}?options={DURABLE}"
        installation = Installation(tmp_path, {"DATABASE_URL": url, "CAS_S3_BUCKET": ""})
        installation.check("migrate", "--verbosity", "0")
        installation.fill(ROWS)
        report = tmp_path / "report.jsonl"
        process = installation.migration(report)
        deadline = time.monotonic() + 120
        while not report.exists() or report.read_bytes().count(b"\n") < 20:
            assert process.poll() is None, process.output
            assert time.monotonic() < deadline
            time.sleep(0.01)
        database.restart(down_seconds=1.0)
        assert process.wait() == 0, process.output
        # It was still at work when the database went away, and noticed.
        assert "the database does not answer (try 1)" in process.output
        assert installation.inspect()["whole"] == ROWS
        assert installation.inspect()["distinct"] == contents(ROWS)
