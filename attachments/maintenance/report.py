"""The record of a run that a machine can read: one JSON object a line, written as it happens."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from attachments.maintenance.passwords import without_passwords
from attachments.maintenance.run import ExitStatus, Halt

WRITABLE: Final = "Have --report name a file that can be written"


class Report:
    """Appends to a file, so that a resumed run continues the record; None writes nowhere.

    Each line is flushed: a run that is killed leaves every finished item on record. A file that
    cannot be opened or written ends the run by a Halt: nobody asks for a record to do without it.
    """

    def __init__(self, path: Path | None) -> None:
        try:
            self._file = path.open("a", encoding="utf-8") if path else None
        except OSError as error:
            raise Halt(
                ExitStatus.REFUSED,
                f"the report cannot be opened: {error}",
                first=WRITABLE,
                changed={"report": "FILE"},
            ) from error

    def write(self, record: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(without_passwords(json.dumps(record)) + "\n")
            self._file.flush()
        except OSError as error:
            raise Halt(
                ExitStatus.UNAVAILABLE, f"the report cannot be written: {error}", first=WRITABLE
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            # Every line was flushed, or has ended the run; what is left then cannot be written.
            with contextlib.suppress(OSError):
                self._file.close()
