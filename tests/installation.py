"""A whole installation of its own, worked on only by real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from tests.s3 import ROOT


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
