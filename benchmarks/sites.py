"""The servers that are measured, as real processes on free loopback ports."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.server import ROOT, free_port

WORKERS = str(os.cpu_count() or 1)


def wrk(url: str, *, connections: int, seconds: int, header: str = "") -> tuple[float, float]:
    """Requests and bytes a second. Raises RuntimeError if any answer was no success or 304."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s"]
    command += ["-H", header] if header else []
    done = subprocess.run([*command, url], capture_output=True, text=True, check=True)
    if "Non-2xx" in done.stdout:
        raise RuntimeError(f"{url}: {done.stdout}")
    requests = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    transfer = re.search(r"Transfer/sec:\s+([\d.]+)([KMGT]?)B", done.stdout)
    if not requests or not transfer:
        raise RuntimeError(f"{url}: {done.stdout}")
    unit = 1024 ** " KMGT".index(transfer[2] or " ")
    return float(requests[1]), float(transfer[1]) * unit


def validator(url: str) -> str:
    """The If-None-Match line to which `url` answers 304, and nothing else: this is looked at."""
    split = urlsplit(url)
    connection = http.client.HTTPConnection(split.hostname or "", split.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("HEAD", f"{split.path}?{split.query}")
        answer = connection.getresponse()
        answer.read()
        tag = answer.headers["ETag"]
        connection.request("GET", f"{split.path}?{split.query}", headers={"If-None-Match": tag})
        if (status := connection.getresponse().status) != 304:
            raise RuntimeError(f"{url}: {status}")
    return f"If-None-Match: {tag}"


def fetch_rate(url: str, seconds: float) -> float:
    """Bytes a second of one reader. Raises RuntimeError if any answer was no success."""
    split = urlsplit(url)
    buffer, read = bytearray(1 << 20), 0
    connection = http.client.HTTPConnection(split.hostname or "", split.port, timeout=60)
    with contextlib.closing(connection):
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            connection.request("GET", f"{split.path}?{split.query}")
            response = connection.getresponse()
            if response.status != 200:
                raise RuntimeError(f"{url}: {response.status}")
            while count := response.readinto(buffer):
                read += count
        return read / (time.perf_counter() - begun)


@contextlib.contextmanager
def granian(
    files: Path, *, bare: bool = False, s3_options: dict[str, Any] | None = None
) -> Iterator[str]:
    """The rivals on the same server with the same number of workers and threads.

    `s3_options` are those of the storage that the rival reads from S3 with.
    """
    port = free_port()
    environment = {
        **os.environ,
        "RIVAL_FILES": str(files),
        "RIVAL_BARE": "1" if bare else "",
        "RIVAL_S3": json.dumps(s3_options or {}),
        "INVENTORY_DATA_DIR": str(files.parent / "rival"),
    }
    command = [
        str(Path(sys.executable).with_name("granian")), "--interface", "wsgi",
        "--host", "127.0.0.1", "--port", str(port), "--http", "1",
        "--workers", WORKERS, "--blocking-threads", "16",
        "--no-ws", "--log-level", "error", "benchmarks.rival_app:application",
    ]  # fmt: skip
    with _process(command, port, environment):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def static_nginx(files: Path, state: Path) -> Iterator[str]:
    """nginx at its plainest: sendfile, as many workers as cores."""
    port = free_port()
    state.mkdir()
    configuration = state / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    configuration.write_text(
        f"{user} worker_processes auto; pid {state}/pid; events {{ worker_connections 1024; }}"
        f" http {{ access_log {state}/access.log combined buffer=64k flush=5s; sendfile on;"
        " tcp_nopush on; keepalive_requests 10000;"
        f" open_file_cache max=1000; server {{ listen 127.0.0.1:{port}; root {files}; }} }}"
    )
    command = [
        "nginx", "-c", str(configuration), "-p", str(state), "-e", str(state / "log"),
        "-g", "daemon off;",
    ]  # fmt: skip
    with _process(command, port, dict(os.environ)):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _process(command: list[str], port: int, environment: dict[str, str]) -> Iterator[None]:
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        try:
            for _ in range(400):
                with contextlib.suppress(OSError), contextlib.closing(_connect(port)):
                    break
                time.sleep(0.05)
            else:
                raise RuntimeError(f"{command[0]} did not start")
            yield
        finally:
            process.terminate()


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 1)
