"""The reference and the code name the same commands, settings, codes, checks and metrics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand
from prometheus_client import REGISTRY

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
OUR_APPS = {"cas", "attachments", "parts", "accounts"}
# Bases of families of errors; only what derives from them is ever answered.
NEVER_ANSWERED = {"denied", "size_mismatch", "upload_refused", "unrenderable"}

pytestmark = pytest.mark.sqlite


def page(name: str) -> str:
    return (REFERENCE / name).read_text()


def source(*rooms: str) -> str:
    return "\n".join(
        path.read_text()
        for room in rooms
        for path in sorted((ROOT / room).rglob("*.py"))
        if not {"tests", "forms.py"} & set(path.relative_to(ROOT).parts)
    )


def test_commands_and_their_options() -> None:
    ours = {name for name, app in get_commands().items() if app in OUR_APPS}
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", page("commands.md"), re.M | re.S))
    assert set(sections) == ours
    generic = {action.dest for action in BaseCommand().create_parser("", "")._actions}
    for name, section in sections.items():
        parser = load_command_class(get_commands()[name], name).create_parser("manage.py", name)
        options = {
            option
            for action in parser._actions
            if action.dest not in generic
            for option in action.option_strings
        }
        assert set(re.findall(r"`(--[a-z-]+)", section)) == options, name


def test_exit_statuses() -> None:
    from cas.exit_status import ExitStatus

    for name in ("reference/commands.md", "howto/migrate.md"):
        told = re.findall(r"^\| (\d) \|", (ROOT / "docs" / name).read_text(), re.M)
        assert [int(number) for number in told] == sorted(ExitStatus), name


def test_settings() -> None:
    from inventory.settings import SECTIONS

    told = re.findall(r"^\| `([A-Z0-9_]+)` \|", page("settings.md"), re.M)
    assert told == [setting.name for section in SECTIONS.values() for setting in section]


def test_error_codes() -> None:
    text = source("cas", "attachments", "parts", "accounts", "inventory")
    answered = (
        r'(?:[ (]\d{3},\s*|_response\(\s*[\w.]+,\s*|\bcode=|\b(?:default_)?code = )"([a-z_]+)"'
    )
    ours = set(re.findall(answered, text)) - NEVER_ANSWERED
    table = page("http.md").rpartition("| code |")[2]
    told = {
        code
        for cell in re.findall(r"^\| (`.+?) \| \d", table, re.M)
        for code in re.findall("`([a-z_]+)`", cell)
    }
    assert told == ours


def test_checks() -> None:
    text = source("cas", "attachments", "parts", "accounts", "inventory")
    ids = set(re.findall(r'"([a-z]+\.[EWI]\d{3})"', text))
    told: set[str] = set()
    for row in re.findall(r"^\| (`.+?) \|", page("checks.md"), re.M):
        named = re.findall(r"`([a-z]+\.[EWI])(\d{3})`", row)
        first, last = named[0], named[-1]
        told |= {f"{first[0]}{number:03}" for number in range(int(first[1]), int(last[1]) + 1)}
    assert told == ids


def test_metrics() -> None:
    import cas.metrics  # noqa: F401
    from attachments.maintenance import cleanup, collect, migrate, verify  # noqa: F401

    ours = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in REGISTRY.collect()
        if family.name.startswith(("cas_", "inventory_"))
    }
    assert set(re.findall(r"^\| `(\w+)` \|", page("metrics.md"), re.M)) == ours


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_what_the_pages_name_exists() -> None:
    """Files by their path or the end of it, links with their headings, and whole packages."""
    ours = ("inventory", "accounts", "parts", "attachments", "cas", "tests", "benchmarks", "deploy")
    files = [str(path.relative_to(ROOT)) for room in ours for path in (ROOT / room).rglob("*.*")]
    for path in PAGES:
        text = path.read_text()
        for name in re.findall(r"`([\w./-]+\.(?:py|sh|ini|toml|conf))`", text):
            known = (ROOT / name).exists() or any(f"/{file}".endswith(f"/{name}") for file in files)
            assert known, f"{path.name} names {name}"
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            target, _, heading = link.partition("#")
            found = (path.parent / target).resolve() if target else path
            assert found.exists(), f"{path.name} links to {link}"
            if heading:
                headings = re.findall(r"^#+ (.*)$", found.read_text(), re.M)
                slugs = {
                    re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings
                }
                assert heading in slugs, f"{path.name} links to {link}"
