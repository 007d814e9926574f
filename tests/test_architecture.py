"""The plan of the rooms: who may import whom, and what nothing is called."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("inventory", "accounts", "parts", "attachments", "cas")
VAGUE = {"utils", "util", "helpers", "helper", "services", "service", "common", "misc"}

pytestmark = pytest.mark.sqlite


def modules(*rooms: str) -> Iterator[Path]:
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            if not {"tests", "migrations"} & set(path.relative_to(ROOT).parts):
                yield path


def imported(path: Path) -> set[str]:
    """Dotted names that a module imports, at its top or anywhere else."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_imports_point_one_way() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout


def test_cas_has_no_models_and_never_touches_the_database() -> None:
    for path in modules("cas"):
        for name in imported(path):
            assert not f"{name}.".startswith(("django.db.", "django.contrib.")), (path, name)
    assert not (ROOT / "cas" / "migrations").exists()
    assert not (ROOT / "cas" / "models.py").exists()


def test_no_model_is_looked_up_by_a_string() -> None:
    for path in modules(*ROOMS):
        source = path.read_text()
        assert "get_model(" not in source, path
        assert "related_model" not in source, path


def test_modules_have_names_that_say_something() -> None:
    for path in modules(*ROOMS):
        names = {*path.relative_to(ROOT).with_suffix("").parts}
        assert not names & VAGUE, path


def test_there_is_a_test_module_for_each_room() -> None:
    for room in ROOMS:
        assert list((ROOT / room / "tests").glob("test_*.py")), room
