"""`python -m inventory.serve`: the production server, on `INVENTORY_BIND` and `PORT`.

Why Granian: `docs/reference/server.md` has the figures.
"""

from __future__ import annotations

import ctypes
import encodings.unicode_escape  # noqa: F401 - Django's log needs it when nothing can be opened
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import django
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import Server

from inventory import metrics
from inventory.checks import refuse_faulty_settings
from inventory.environment import EnvironmentFault

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

logger = logging.getLogger(__name__)

HEADER_SECONDS = 10
"""For a client to send its request's headers in."""

IDLE_THREAD_SECONDS = 600
"""The longest there is: a thread takes its database connection with it when it ends."""

STOP_SECONDS = 30
"""Until requests that are not finished are cut off, once the server is told to stop."""

PR_SET_PDEATHSIG = 1

UNAVAILABLE = b'{"error": {"code": "overloaded", "message": "Too many files are open. Try again."}}'
UNAVAILABLE_HEADERS = [
    ("Content-Type", "application/json"),
    ("Content-Length", str(len(UNAVAILABLE))),
    ("Cache-Control", "no-store"),
    ("Retry-After", "5"),
]


class CannotServe(Exception):
    """The server cannot be started as it is configured. The message says what to do."""


def check_address(address: str, port: int) -> None:
    """Raises CannotServe if listening there is impossible."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
        except OSError as error:
            raise CannotServe(
                f"Cannot listen on {address} port {port}: {error.strerror}. "
                f"Stop what uses it, or choose another port, as in: PORT={port + 1} make run"
            ) from error


def serve() -> None:
    """Serve until told to stop. Raises EnvironmentFault, CannotServe."""
    from inventory import settings

    address, port = settings.INVENTORY_BIND, settings.INVENTORY_PORT
    check_address(address, port)
    _allow_open_files()
    counts = metrics.share(settings.DATA_DIR, os.environ)
    metrics.remove_ended(counts)
    django.setup()
    try:
        refuse_faulty_settings()
    except ImproperlyConfigured as error:
        raise CannotServe(str(error)) from error
    from attachments.uploads import remove_abandoned

    remove_abandoned()
    server = Server(
        "inventory.serve:worker_application",
        factory=True,
        address=address,
        port=port,
        interface=Interfaces.WSGI,
        workers=settings.INVENTORY_WORKERS,
        blocking_threads=settings.INVENTORY_THREADS,
        blocking_threads_idle_timeout=IDLE_THREAD_SECONDS,
        # No client here speaks HTTP/2 without TLS, and it is one more parser to trust.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_SECONDS * 1000),
        websockets=False,
        respawn_failed_workers=True,
        workers_kill_timeout=STOP_SECONDS,
        log_level=LogLevels.error,
        log_dictconfig={
            **settings.LOGGING,
            "loggers": {name: {"propagate": True} for name in ("_granian", "granian.access")},
        },
    )

    os.register_at_fork(after_in_child=_restore_signals)

    @server.on_startup
    def print_address() -> None:
        # The socket is open: clients that connect from now on get a response.
        host = f"[{address}]" if ":" in address else address
        print(f"Inventory is served at http://{host}:{port}/", flush=True)

    server.serve()


def _allow_open_files() -> None:
    """As many connections and files as the system lets a process have if it asks."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def worker_application() -> object:
    """The server's WSGI entry: called in each worker process, returns the application."""
    if sys.platform == "linux":
        # The kernel ends the worker when the server is gone: one that is killed cannot tell its
        # workers, which would go on to hold the port.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    from inventory.middleware import is_out_of_files
    from inventory.wsgi import application

    keep_database_readable()

    def answer(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            return application(environ, start_response)
        except OSError as error:
            if not is_out_of_files(error):
                raise
            # Nothing that is not imported yet can be: the answer is made of what there is.
            logger.error("too many open files: %s", error)
            start_response("503 Service Unavailable", UNAVAILABLE_HEADERS)
            return [UNAVAILABLE]

    return answer


def keep_database_readable() -> None:
    """On SQLite, keep one connection open as long as the process lives.

    The last one to be closed removes the index of the write-ahead log, and on a full disk the next
    could not make it again, and not even read.
    """
    if connection.vendor != "sqlite":
        return
    global _kept
    _kept = connections.create_connection(DEFAULT_DB_ALIAS)
    try:
        with _kept.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM sqlite_master")
    except DatabaseError as error:
        logger.warning("the database cannot be read at present: %s", error)


_kept: BaseDatabaseWrapper | None = None


def _restore_signals() -> None:
    """A worker inherits the server's handlers, which ignore a SIGTERM until it has its own."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "inventory.settings")
    try:
        serve()
    except (EnvironmentFault, CannotServe) as fault:
        sys.exit(str(fault))


if __name__ == "__main__":
    main()
