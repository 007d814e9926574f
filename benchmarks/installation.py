"""An installation on PostgreSQL whose commands are measured, with its blobs on disk or S3."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.object_store import legacy_key
from tests.postgres import cluster
from tests.server import ROOT

Told = dict[str, Any]


class Control:
    """Speaks to a running S3 stand-in about what it is to do."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(self, path: str, **said: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        with contextlib.closing(connection):
            connection.request("POST", f"/-/{path}", json.dumps(said))
            return json.loads(connection.getresponse().read())


class Measured:
    """Runs the tasks of `benchmarks.migrating`, each in a process of its own.

    `control` is the stand-in's where the blobs are in S3.
    """

    def __init__(self, data: Path, url: str, control: Control | None) -> None:
        self.control = control
        self._blobs = data / "attachments"
        store = {"CAS_S3_BUCKET": ""} if control is None else {
            "CAS_S3_BUCKET": "bench",
            "CAS_S3_ENDPOINT_URL": f"http://127.0.0.1:{control.port}",
            "CAS_S3_REGION": "us-east-1",
            "CAS_S3_ACCESS_KEY_ID": "key",
            "CAS_S3_SECRET_ACCESS_KEY": "secret",
            "CAS_S3_ADDRESSING_STYLE": "path",
        }  # fmt: skip
        self._environment = {
            **os.environ,
            "DATABASE_URL": url,
            "INVENTORY_DATA_DIR": str(data),
            "INVENTORY_LOG_LEVEL": "ERROR",
            "CAS_MIGRATION_DELETE_OLD_OBJECTS": "true",
            **store,
        }
        command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(command, cwd=ROOT, env=self._environment, check=True)

    def together(self, tasks: Sequence[Sequence[str]]) -> list[Told]:
        """Run tasks at once, begun at the same moment when all are ready."""
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.migrating", *task],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for task in tasks
        ]
        for process in processes:
            assert process.stdout
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"{tasks} did not start")
        for process in processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        return [json.loads(process.communicate()[0]) for process in processes]

    def do(self, *task: str) -> Told:
        return self.together([task])[0]

    def fill(self, count: int, size: int) -> None:
        """Objects and rows of the older layout, and no others."""
        if self.control is None:
            shutil.rmtree(self._blobs, ignore_errors=True)
            tail = os.urandom(size - 8)
            for number in range(count):
                path = self._blobs / legacy_key(number)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"%08d" % number + tail)
        else:
            self.control("drop", prefix="")
            self.control("legacy", count=count, size=size)
        self.again(count, size)

    def again(self, count: int, size: int) -> None:
        """The same objects, with no row migrated and no blob there."""
        if self.control is None:
            for name in ("cas", "limit"):
                shutil.rmtree(self._blobs / name, ignore_errors=True)
            # What a measurement has left to be written is not the next one's to wait for.
            os.sync()
        else:
            for prefix in ("cas/", "limit/"):
                self.control("drop", prefix=prefix)
        self.do("rows", str(count), str(size), str(count))


@contextlib.contextmanager
def on_disk(directory: Path) -> Iterator[Measured]:
    data = directory / "disk"
    data.mkdir()
    with cluster() as database:
        yield Measured(data, database.url, None)


@contextlib.contextmanager
def on_s3(directory: Path, *, latency: float) -> Iterator[Measured]:
    data = directory / "s3"
    data.mkdir()
    with cluster() as database, stand_in() as control:
        control("latency", seconds=latency)
        yield Measured(data, database.url, control)


@contextlib.contextmanager
def stand_in() -> Iterator[Control]:
    """An S3 stand-in in a process of its own, for as long as the block runs."""
    command = [sys.executable, "-m", "benchmarks.object_store"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdin
        assert service.stdout
        try:
            yield Control(int(service.stdout.readline()))
        finally:
            service.stdin.close()
