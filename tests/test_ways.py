"""The ways through the code stay as short as they are."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.server import ROOT

pytestmark = pytest.mark.sqlite


def test_no_way_crosses_more_files_than_it_may() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.ways"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
