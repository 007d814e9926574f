"""`python -m tests.settings_page`: writes the tables of docs/reference/settings.md anew."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from cas.conf import Setting
from inventory.settings import SECTIONS

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "reference" / "settings.md"
HEAD: Final = "| variable | default | value | what it does |\n|---|---|---|---|\n"


def row(setting: Setting) -> str:
    default = setting.shown
    if not default:
        plain = setting.default
        shown = str(plain).lower() if isinstance(plain, bool) else str(plain)
        default = f"`{shown}`" if plain or isinstance(plain, bool) else "nothing"
    return f"| `{setting.name}` | {default} | {setting.kind.expected} | {setting.meaning} |\n"


def rendered(page: str) -> str:
    """The page with every section's table made of the settings."""
    for title, settings in SECTIONS.items():
        table = HEAD + "".join(row(setting) for setting in settings)
        start = page.index(f"\n## {title}\n")
        old = re.compile(r"^\|.*\n(?:\|.*\n)*", re.MULTILINE).search(page, start)
        if old is None:
            raise ValueError(f"the section {title} has no table")
        page = page[: old.start()] + table + page[old.end() :]
    return page


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
