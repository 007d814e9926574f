"""The application's own server, as a real process on a free loopback port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
STARTING_SECONDS = 60
STOPPING_SECONDS = 60
"""More than the server gives its workers: one that is told to stop in the very moment in which it
takes over its signals does not hear it, and is killed in the end."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """`python -m inventory.serve` with a data directory and variables of its own."""

    def __init__(self, data_dir: Path, **variables: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "INVENTORY_DATA_DIR": str(data_dir),
            "PORT": str(self.port),
            "INVENTORY_WORKERS": "2",
            **variables,
        }
        self.log = data_dir / "server.log"

    def launch(self) -> None:
        """Start the process; it does not answer yet."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "inventory.serve"],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        self.launch()
        deadline = time.monotonic() + STARTING_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()}")
            time.sleep(0.05)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def answers(self) -> bool:
        try:
            return self.get("/health/live")[0] == 200
        except OSError:
            return False

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code, answer.read()

    def workers(self) -> list[int]:
        """Process ids of the worker processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(number) for number in children.read_text().split()]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the server. The exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOPPING_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
