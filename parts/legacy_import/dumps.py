"""A directory of dumps, one file for each older table: JSON lines, or CSV with a header."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO

from attachments.maintenance.run import ExitStatus, Halt
from parts.legacy_import.sources import Source, unreadable
from parts.legacy_import.values import BadRow

SUFFIXES: Final = (".csv", ".json", ".jsonl", ".ndjson")
"""Of the files that are read; what is in one decides how it is read, not its suffix."""

ROWS_LOOKED_AT: Final = 1000
"""Rows of JSON lines that are read to see which columns there are."""

LONGEST_LINE: Final = 16 * 1024 * 1024
"""Characters of one row; none of the older tables comes near it."""

NULLS: Final = ("", "\\N")
"""How CSV writes NULL; `\\N` is what `COPY` writes unless told otherwise."""


class Dumps:
    """The files of a directory by the tables they hold: `parts.csv` holds `parts`."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths

    def tables(self) -> list[str]:
        return sorted(self._paths)

    def columns(self, table: str) -> frozenset[str] | None:
        path = self._paths.get(table)
        if path is None:
            return None
        with _text(path) as file:
            kind = _kind(file, path)
            if kind == "csv":
                return frozenset(_header(csv.reader(file, strict=True), path.name))
            # Some programs leave out what is NULL.
            rows = islice(_lines(file), ROWS_LOOKED_AT)
            return frozenset().union(*(row for row in rows if not isinstance(row, BadRow)))

    def count(self, table: str) -> int:
        return sum(1 for _ in self.rows(table))

    def rows(self, table: str) -> Iterator[Mapping[str, Any] | BadRow]:
        path = self._paths[table]
        with _text(path) as file:
            kind = _kind(file, path)
            if kind == "csv":
                yield from _table(file, path.name)
            elif kind == "lines":
                yield from _lines(file)


@contextmanager
def opened(directory: Path) -> Iterator[Source]:
    """The source that a directory of dumps is. Raises Halt."""
    paths: dict[str, Path] = {}
    try:
        for path in sorted(directory.iterdir()):
            if path.suffix.lower() not in SUFFIXES or not path.is_file():
                continue
            if other := paths.get(path.stem):
                raise Halt(
                    ExitStatus.REFUSED,
                    f"{other.name} and {path.name} are both dumps of {path.stem}: remove one",
                )
            paths[path.stem] = path
    except OSError as error:
        raise unreadable(str(directory), error.strerror or str(error)) from error
    yield Dumps(paths)


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    """The file as text, errors translated. Raises Halt."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise unreadable(path.name, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise unreadable(path.name, "it is not UTF-8") from error


def _kind(file: TextIO, path: Path) -> str:
    """`lines`, `csv`, or "" for a file without content. Raises Halt for a JSON array."""
    first = ""
    while not first and (portion := file.read(64 * 1024)):
        first = portion.lstrip()[:1]
    file.seek(0)
    if first == "[":
        array, lines = shlex.quote(str(path)), shlex.quote(str(path.with_suffix(".jsonl")))
        if array == lines:
            lines = shlex.quote(str(path.with_suffix(".ndjson")))
        raise unreadable(
            path.name,
            "it is a JSON array, which cannot be read row by row. Make JSON lines of it: "
            f"jq -c '.[]' {array} > {lines} && rm {array}",
        )
    return {"": "", "{": "lines"}.get(first, "csv")


def _lines(file: TextIO) -> Iterator[Mapping[str, Any] | BadRow]:
    """One object a line. A line that is none is one bad row: the next begins where it ends."""
    while line := file.readline(LONGEST_LINE):
        if not line.endswith("\n") and len(line) == LONGEST_LINE:
            _skip_line(file)
            reason = f"the line is longer than {LONGEST_LINE} characters"
            yield BadRow("malformed", reason, line)
        elif line.strip():
            yield _parsed(line)


def _skip_line(file: TextIO) -> None:
    while (rest := file.readline(LONGEST_LINE)) and not rest.endswith("\n"):
        pass


def _parsed(line: str) -> Mapping[str, Any] | BadRow:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return BadRow("malformed", "the line is not JSON", line)
    if not isinstance(record, dict):
        return BadRow("malformed", "the line is not a JSON object", line)
    return record


def _header(reader: Any, name: str) -> list[str]:
    try:
        header = [column.strip() for column in next(reader)]
    except csv.Error as error:
        raise unreadable(name, f"line {reader.line_num}: {error}") from error
    if len(set(header)) < len(header):
        raise unreadable(name, "its header names a column twice")
    return header


def _table(file: TextIO, name: str) -> Iterator[Mapping[str, Any] | BadRow]:
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(file, strict=True)
    header = _header(reader, name)
    try:
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                yield BadRow(
                    "malformed",
                    f"line {reader.line_num} has {len(fields)} fields, the header {len(header)}",
                    "\n".join(fields),
                )
                continue
            values = (None if field in NULLS else field for field in fields)
            yield dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise unreadable(name, f"line {reader.line_num}: {error}") from error
