"""`/metrics` for Prometheus, the same whichever worker process answers.

Every process keeps its counts in files of one shared directory, and an answer adds them up. That
directory has to be named before prometheus_client is first imported, so this module imports it
late.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import logging
import os
import re
import struct
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

logger = logging.getLogger(__name__)

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"

KEPT: Final = 0
"""In place of a process's number: counts of those that have ended. No process of ours has it."""

ADDED_UP: Final = frozenset({"counter", "histogram", "summary"})

FORWARDED: Final = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via")
"""Headers of a proxy, whose address says nothing about the client's."""

COUNTING_COMMANDS: Final = frozenset(
    {
        "migrate_to_cas",
        "cleanup_legacy_blobs",
        "collect_garbage",
        "verify_cas",
        "import_legacy",
    }
)
"""Commands whose counts are on the server's page; others would only leave files there."""


class CountsFile:
    """A process's file of counts, in the form that prometheus_client reads. Not thread safe.

    In place of the library's, which maps the file into memory: where the disk has no room for a
    page of it, writing there is a SIGBUS, which ends the process. Here no failure to write reaches
    whoever counts. What could not be written is kept in memory, and written when that goes again.
    """

    def __init__(self, filename: str) -> None:
        self._path = Path(filename)
        self._descriptor: int | None = None
        self._positions: dict[str, int] = {}
        self._retry_at = 0.0
        self._data = bytearray(_HEADER.pack(8, 0))
        with contextlib.suppress(OSError):
            data = self._path.read_bytes()
            if len(data) >= 8 and (used := _HEADER.unpack_from(data)[0]) > 8:
                self._data = bytearray(data[:used])
                self._positions = {key: at for key, _, _, at in self._read()}
        self._synced = False
        self._sync()

    def _read(self) -> Any:
        from prometheus_client.mmap_dict import _read_all_values

        return _read_all_values(self._data, len(self._data))  # type: ignore[no-untyped-call]

    def read_value(self, key: str) -> tuple[float, float]:
        if key not in self._positions:
            self._append(key)
        value: tuple[float, float] = _VALUE.unpack_from(self._data, self._positions[key])
        return value

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        if key not in self._positions:
            self._append(key)
        at = self._positions[key]
        _VALUE.pack_into(self._data, at, value, timestamp)
        self._write(at, at + _VALUE.size)

    def _append(self, key: str) -> None:
        encoded = key.encode()
        padding = b" " * (8 - (len(encoded) + 4) % 8)
        start = len(self._data)
        self._data += struct.pack("i", len(encoded)) + encoded + padding + _VALUE.pack(0.0, 0.0)
        self._positions[key] = len(self._data) - _VALUE.size
        _HEADER.pack_into(self._data, 0, len(self._data), 0)
        # The length last: who reads meanwhile sees whole entries.
        self._write(start, len(self._data))
        self._write(0, _HEADER.size)

    def _write(self, start: int, end: int) -> None:
        if not self._synced:
            self._sync()
            return
        try:
            self._put(start, end)
        except OSError as error:
            self._fail(error)

    def _sync(self) -> None:
        """Write all there is, unless that failed a moment ago."""
        if time.monotonic() < self._retry_at:
            return
        try:
            if self._descriptor is None:
                self._create()
            self._put(_HEADER.size, len(self._data))
            self._put(0, _HEADER.size)
            self._synced = True
        except OSError as error:
            self._fail(error)

    def _create(self) -> None:
        """A file that is never seen empty: who adds counts up could not read that."""
        new = self._path.with_suffix(".new")
        try:
            self._descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            self._put(0, len(self._data))
            new.replace(self._path)
        except OSError:
            self.close()
            new.unlink(missing_ok=True)
            raise

    def _put(self, start: int, end: int) -> None:
        rest = bytes(self._data[start:end])
        while rest:
            written = os.pwrite(self._descriptor or -1, rest, start)
            rest, start = rest[written:], start + written

    def _fail(self, error: OSError) -> None:
        self._synced = False
        self._retry_at = time.monotonic() + RETRY_SECONDS
        logger.warning("counts stay in memory until they can be written: %s", error)

    def close(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


_HEADER: Final = struct.Struct("ii")
_VALUE: Final = struct.Struct("dd")

RETRY_SECONDS: Final = 5.0


def share(data_dir: Path, environment: MutableMapping[str, str]) -> Path:
    """Have this process and its children keep their counts in the shared directory.

    Where that belongs to another user or cannot be made, this process keeps its counts to itself.
    """
    directory = data_dir / "metrics"
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
    if os.access(directory, os.W_OK):
        environment[VARIABLE] = str(directory)
        from prometheus_client import values

        values.MmapedDict = CountsFile  # type: ignore[attr-defined,assignment]
    return directory


def remove_ended(directory: Path) -> None:
    """Remove the counts of processes that have ended. For a server's start: counts begin anew.

    Those of a command that is running meanwhile stay.
    """
    for file, process in _files(directory):
        if process == KEPT or not _is_alive(process):
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


def add_up_ended(directory: Path) -> None:
    """Add the counts of processes that have ended to one file of each kind.

    For commands, of which each leaves files that nobody would remove before the server starts
    anew. The sums stay what they were; a gauge of a process goes with the process.
    """
    from prometheus_client.mmap_dict import MmapedDict

    # The library has no types for it.
    read: Any = MmapedDict.read_all_values_from_file
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for file, process in _files(directory):
            if process == KEPT or _is_alive(process):
                continue
            kind = file.name.partition("_")[0]
            if kind in ADDED_UP:
                kept = CountsFile(str(directory / f"{kind}_{KEPT}.db"))
                for key, value, timestamp, _ in read(str(file)):
                    kept.write_value(key, kept.read_value(key)[0] + value, timestamp)
                kept.close()
            file.unlink(missing_ok=True)


def _files(directory: Path) -> list[tuple[Path, int]]:
    """The files of counts, and whose they are."""
    found = ((file, re.search(r"_(\d+)\.db\Z", file.name)) for file in directory.glob("*.db"))
    return [(file, int(owner[1])) for file, owner in found if owner]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """The counts of all processes, for this machine and `INVENTORY_METRICS_ALLOWED`; else 403."""
    if not _may_read(request):
        return HttpResponse("Not for this address.\n", content_type="text/plain", status=403)
    from django_prometheus.exports import ExportToDjangoView

    response: HttpResponse = ExportToDjangoView(request)
    response["Cache-Control"] = "no-store"
    return response


def _may_read(request: HttpRequest) -> bool:
    """By the peer's own address; what a proxy says about its client can be forged."""
    if any(header in request.headers for header in FORWARDED):
        return False
    from inventory.middleware import is_loopback

    peer = request.META.get("REMOTE_ADDR", "")
    if is_loopback(peer):
        return True
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    return any(address in network for network in settings.INVENTORY_METRICS_ALLOWED)
