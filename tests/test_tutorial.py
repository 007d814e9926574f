"""Every line of the tutorial, typed by a shell against a running server."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.s3 import ROOT
from tests.server import Server

pytestmark = pytest.mark.sqlite

TUTORIAL = ROOT / "docs" / "tutorial.md"
ADDRESS = "http://127.0.0.1:8000"
MARK = "---- end of command ----"


def typed() -> Iterator[tuple[str, str]]:
    """Each command of the tutorial with the output it promises."""
    for block in re.findall(r"```console\n(.*?)```", TUTORIAL.read_text(), re.DOTALL):
        for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, promised = entry.partition("\n")
            yield command, promised


def test_every_command_prints_what_the_tutorial_says(tmp_path: Path) -> None:
    data, home = tmp_path / "data", tmp_path / "home"
    data.mkdir()
    home.mkdir()
    environment = {**os.environ, "INVENTORY_DATA_DIR": str(data)}
    for command in (["migrate", "-v0"], ["load_sample", "--megapixels", "0.02"]):
        subprocess.run(
            [sys.executable, "manage.py", *command], cwd=ROOT, env=environment, check=True
        )
    with Server(data, INVENTORY_WORKERS="1") as server:
        check_steps(server, home)


def check_steps(server: Server, home: Path) -> None:
    steps = list(typed())
    assert len(steps) > 30
    script = "".join(f"{command}\necho '{MARK}'\n" for command, _ in steps)
    shell = subprocess.run(
        ["bash"],
        input=script.replace(ADDRESS, server.url),
        capture_output=True,
        text=True,
        cwd=home,
        check=False,
    )
    printed = shell.stdout.split(f"{MARK}\n")
    checker = doctest.OutputChecker()
    for (command, promised), output in zip(steps, printed, strict=False):
        # An API answer ends without a line break; the text after it starts on its own line.
        shown = output if not output or output.endswith("\n") else f"{output}\n"
        assert checker.check_output(promised, shown, doctest.ELLIPSIS), (
            f"$ {command}\n{shown}\nwhere the tutorial has\n{promised}{shell.stderr}"
        )
    assert len(printed) == len(steps) + 1
    assert not shell.stderr
