"""`/metrics` for Prometheus, the same whichever worker process answers.

Every process keeps its counts in files of one shared directory, and an answer adds them up. That
directory has to be named before prometheus_client is first imported, so this module imports it
late.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

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


def share(data_dir: Path, environment: MutableMapping[str, str]) -> Path:
    """Have this process and its children keep their counts in the shared directory.

    Where that belongs to another user, this process keeps its counts to itself.
    """
    directory = data_dir / "metrics"
    directory.mkdir(parents=True, exist_ok=True)
    if os.access(directory, os.W_OK):
        environment[VARIABLE] = str(directory)
    return directory


def remove_ended(directory: Path) -> None:
    """Remove the counts of processes that have ended. For a server's start: counts begin anew.

    Those of a command that is running meanwhile stay.
    """
    for file, process in _files(directory):
        if process == KEPT or not _is_alive(process):
            file.unlink(missing_ok=True)


def add_up_ended(directory: Path) -> None:
    """Add the counts of processes that have ended to one file of each kind.

    For commands, of which each leaves files that nobody would remove before the server starts
    anew. The sums stay what they were; a gauge of a process goes with the process.
    """
    from prometheus_client import mmap_dict

    # The library has no types for it.
    counts: Any = mmap_dict.MmapedDict

    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for file, process in _files(directory):
            if process == KEPT or _is_alive(process):
                continue
            kind = file.name.partition("_")[0]
            if kind in ADDED_UP:
                kept = counts(str(directory / f"{kind}_{KEPT}.db"))
                for key, value, timestamp, _ in counts.read_all_values_from_file(str(file)):
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
