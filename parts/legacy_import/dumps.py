"""Dumps of the older tables: a JSON array, JSON lines, or CSV with a header."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from parts.legacy_import.sources import Source, Table, unreadable
from parts.legacy_import.values import BadRow

PORTION: Final = 64 * 1024
"""Characters read at a time."""

LARGEST_RECORD: Final = 1024 * 1024
"""Characters of one row; none of the older tables comes near it."""

NULLS: Final = ("", "\\N")
"""How CSV writes NULL; `\\N` is what `COPY` writes unless told otherwise."""


class Dumps:
    """Files by the table they hold; what is in one decides how it is read, not its name."""

    def __init__(self, paths: Mapping[Table, Path]) -> None:
        self._paths = paths

    def has(self, table: Table) -> bool:
        return table in self._paths

    def rows(self, table: Table) -> Iterator[Mapping[str, Any] | BadRow]:
        path = self._paths[table]
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield from _records(file, path.name)
        except OSError as error:
            raise unreadable(path.name, error.strerror or str(error)) from error
        except UnicodeDecodeError as error:
            raise unreadable(path.name, "it is not UTF-8") from error


@contextmanager
def opened(paths: Mapping[Table, Path]) -> Iterator[Source]:
    """The source that these files are. Raises Halt if one cannot be opened."""
    for path in paths.values():
        try:
            path.open("rb").close()
        except OSError as error:
            raise unreadable(path.name, error.strerror or str(error)) from error
    yield Dumps(paths)


def _records(file: TextIO, name: str) -> Iterator[Mapping[str, Any] | BadRow]:
    start = _first_character(file)
    if start == "[":
        yield from _array(file, name)
    elif start == "{":
        yield from _lines(file)
    elif start:
        yield from _table(file, name)


def _first_character(file: TextIO) -> str:
    """The first that is not a space; the file is at its beginning again afterwards."""
    while portion := file.read(PORTION):
        if found := portion.lstrip():
            break
    else:
        found = ""
    file.seek(0)
    return found[:1]


def _lines(file: TextIO) -> Iterator[Mapping[str, Any] | BadRow]:
    """One object a line. A line that is none is one bad row: the next begins where it ends."""
    while line := file.readline(LARGEST_RECORD):
        if not line.endswith("\n") and len(line) == LARGEST_RECORD:
            _skip_line(file)
            yield BadRow("malformed", f"the line is longer than {LARGEST_RECORD} characters")
        elif line.strip():
            yield _parsed(line)


def _skip_line(file: TextIO) -> None:
    while (rest := file.readline(LARGEST_RECORD)) and not rest.endswith("\n"):
        pass


def _parsed(line: str) -> Mapping[str, Any] | BadRow:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return BadRow("malformed", "the line is not JSON")
    if not isinstance(record, dict):
        return BadRow("malformed", "the line is not a JSON object")
    return record


def _array(file: TextIO, name: str) -> Iterator[Mapping[str, Any] | BadRow]:
    """The objects of one array, without ever holding more than one and a portion."""
    decoder = json.JSONDecoder()
    buffer = _Buffer(file)
    buffer.take("[")
    if buffer.take("]"):
        buffer.expect_end(name)
        return
    while True:
        yield _object(buffer, decoder, name)
        if buffer.take("]"):
            buffer.expect_end(name)
            return
        if not buffer.take(","):
            raise unreadable(name, "the array ends early, or is not one of objects")


def _object(buffer: _Buffer, decoder: json.JSONDecoder, name: str) -> Mapping[str, Any]:
    if not buffer.starts_with("{"):
        raise unreadable(name, "the array ends early, or is not one of objects")
    while True:
        try:
            record, end = decoder.raw_decode(buffer.text)
        except json.JSONDecodeError as error:
            # Either it is malformed, or its end has not been read yet.
            if len(buffer.text) > LARGEST_RECORD or not buffer.read_more():
                raise unreadable(name, f"it is not JSON ({error.msg})") from None
        except (ValueError, RecursionError):
            raise unreadable(name, "it has a value that is too large") from None
        else:
            buffer.drop(end)
            found: Mapping[str, Any] = record
            return found


class _Buffer:
    """What has been read of a file and not been used yet."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.text = ""

    def read_more(self) -> bool:
        portion = self._file.read(PORTION)
        self.text += portion
        return bool(portion)

    def drop(self, length: int) -> None:
        self.text = self.text[length:]

    def starts_with(self, character: str) -> bool:
        self.text = self.text.lstrip()
        while not self.text and self.read_more():
            self.text = self.text.lstrip()
        return self.text.startswith(character)

    def take(self, character: str) -> bool:
        if not self.starts_with(character):
            return False
        self.drop(1)
        return True

    def expect_end(self, name: str) -> None:
        self.starts_with("")
        if self.text:
            raise unreadable(name, "something follows the array")


def _table(file: TextIO, name: str) -> Iterator[Mapping[str, Any] | BadRow]:
    reader = csv.reader(file, strict=True)
    try:
        header = [column.strip() for column in next(reader)]
        if len(set(header)) < len(header):
            raise unreadable(name, "its header names a column twice")
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                yield BadRow(
                    "malformed",
                    f"line {reader.line_num} has {len(fields)} fields, the header {len(header)}",
                )
                continue
            values = (None if field in NULLS else field for field in fields)
            yield dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise unreadable(name, f"line {reader.line_num}: {error}") from error
