"""RESULTS.md, rendered from the figures of every group's latest run."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measurement import Table

HERE = Path(__file__).resolve().parent
FIGURES = HERE / "figures"
LIBRARIES = ("Django", "granian", "boto3", "pyvips", "pillow", "whitenoise", "moto")

HEAD = """# Results

Written by `make bench`; do not edit. Each table was measured in one run, its contenders in turns,
the median of the rounds counts. A ratio is to the rival's figure, above 1 where ours is better.
"""


def keep(group: str, tables: list[Table]) -> None:
    """Keep a group's figures and write RESULTS.md anew."""
    FIGURES.mkdir(exist_ok=True)
    kept = {"machine": machine(), "tables": [table.plain() for table in tables]}
    (FIGURES / f"{group}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    found = {path.stem: json.loads(path.read_text()) for path in sorted(FIGURES.glob("*.json"))}
    (HERE / "RESULTS.md").write_text(HEAD + "".join(map(_group, found, found.values())))


def machine() -> str:
    """What a reader needs to judge the figures; nothing that names the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False)
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"{platform.system()}, Python {platform.python_version()}, {libraries}, "
        f"nginx {nginx.stderr.strip().rpartition('/')[2]}"
    )


def _group(name: str, kept: dict[str, Any]) -> str:
    tables = "".join(_table(Table.from_plain(plain)) for plain in kept["tables"])
    return f"\n## {name.capitalize()}\n\n{kept['machine']}\n{tables}"


def _table(table: Table) -> str:
    lines = [f"\n### {table.title}\n"]
    if table.command:
        lines.append(f"`{table.command}`\n")
    lines += [f"| | | ratio to {table.rival} | target | |", "|---|---|---|---|---|"]
    for row in table.rows:
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        target = f"{row.target:g}" if row.target is not None else ""
        lines.append(f"| {row.contender} | {row.figure} | {ratio} | {target} | {row.verdict} |")
    if table.note:
        lines.append(f"\n{table.note}")
    return "\n".join(lines) + "\n"
