"""A throw-away Ceph cluster with an object gateway (RGW) on free loopback ports.

    python -m tests.ceph COMMAND...     run COMMAND with CAS_S3_* naming the gateway

One monitor, one OSD that keeps everything in memory, one gateway, and one user who may create
buckets. The cluster lives in a temporary directory and ends with the command, however that ends.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.server import free_port

ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key"
START_SECONDS = 120
NEEDED = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")

CONFIGURATION = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}/0
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
# Without keys nothing can be encrypted, which the gateway asks for by itself.
ms mon client mode = crc
run dir = {directory}
admin socket =
log file = {directory}/$name.log
crash dir = {directory}
keyring = {directory}/keyring
mon data = {directory}/mon
mon data avail crit = 1
paxos propose interval = 0.05
osd data = {directory}/osd
osd objectstore = memstore
memstore device bytes = 4G
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
rgw data = {directory}
rgw frontends = beast endpoint=127.0.0.1:{rgw_port}
rgw dynamic resharding = false
rgw override bucket index max shards = 1
"""


class Ceph:
    """A running cluster. `environment` points a process at its gateway."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._configuration = directory / "ceph.conf"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "CAS_S3_BUCKET": "",
            "CAS_S3_CA_BUNDLE": "",
            "CAS_S3_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "CAS_S3_REGION": "us-east-1",
            "CAS_S3_ACCESS_KEY_ID": ACCESS_KEY,
            "CAS_S3_SECRET_ACCESS_KEY": SECRET_KEY,
            "CAS_S3_ADDRESSING_STYLE": "path",
            "TEST_S3_SERVICE": "Ceph RGW 16.2",
        }

    def start(self) -> None:
        """Returns when the gateway answers. Raises RuntimeError with what Ceph said if it fails."""
        cluster, osd, port = str(uuid.uuid4()), str(uuid.uuid4()), free_port()
        self._configuration.write_text(
            CONFIGURATION.format(
                fsid=cluster, mon_port=port, rgw_port=self._port, directory=self._directory
            )
        )
        for name in ("mon", "osd"):
            (self._directory / name).mkdir()
        address = f"[v2:127.0.0.1:{port}/0]"
        self._run("monmaptool", "--create", "--fsid", cluster, "--addv", "a", address, "monmap")
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", "monmap")
        self._start("ceph-mon", "-i", "a")
        self._run("ceph", "osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._start("ceph-osd", "-i", "0")
        self._run(
            "radosgw-admin", "user", "create", "--uid=tests", "--display-name=tests",
            f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}", "--max-buckets=1000",
        )  # fmt: skip
        self._start("radosgw", "-n", "client.rgw")
        self._wait_for_gateway()

    def stop(self) -> None:
        for process in self._processes[::-1]:
            process.kill()
            process.wait()

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [program, *arguments],
            # Where every one of Ceph's programs looks.
            env={**os.environ, "CEPH_CONF": str(self._configuration)},
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode:
            said = done.stdout.decode(errors="replace")
            raise RuntimeError(f"{program} failed:\n{said}{self._logs()}")

    def _start(self, program: str, *arguments: str) -> None:
        """In the foreground of a process that the kernel ends when we do."""
        with (self._directory / "output").open("ab") as output:
            started = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program, "-f", *arguments],
                cwd=self._directory,
                env={**os.environ, "CEPH_CONF": str(self._configuration)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._processes.append(started)

    def _wait_for_gateway(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._processes[-1].poll() is not None:
                break
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
                connection.request("GET", "/")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"the gateway did not start:\n{self._logs()}")

    def _logs(self) -> str:
        logs = [self._directory / "output", *self._directory.glob("*.log")]
        return "\n".join(
            f"{log.name}:\n{log.read_text(errors='replace')[-2000:]}"
            for log in logs
            if log.exists()
        )


@contextlib.contextmanager
def cluster() -> Iterator[Ceph]:
    """A cluster of this block's own."""
    if missing := [name for name in NEEDED if not shutil.which(name)]:
        raise SystemExit(
            f"Ceph's programs are missing: {', '.join(missing)}. "
            "Install the Debian packages radosgw, ceph-mon and ceph-osd"
        )
    with tempfile.TemporaryDirectory(prefix="inventory-ceph-") as directory:
        made = Ceph(Path(directory))
        try:
            made.start()
            yield made
        finally:
            made.stop()


def main(command: list[str]) -> int:
    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    with cluster() as made:
        environment = {**os.environ, **made.environment}
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
