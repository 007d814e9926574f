"""A throw-away PostgreSQL cluster on a free loopback port.

    python -m tests.postgres COMMAND...     run COMMAND with DATABASE_URL naming a fresh cluster

The cluster lives in a temporary directory and ends with the command, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.server import free_port

SERVER_USER = "postgres"
"""PostgreSQL refuses to run as root, so root starts it as this user."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    # Nothing in a throw-away cluster has to survive a power cut.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


class Cluster:
    """A running cluster. `url` names its database `inventory`, of which we are the owner."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.port = free_port()
        self.url = f"postgres://inventory@127.0.0.1:{self.port}/inventory"

    def create(self) -> None:
        if os.geteuid() == 0:
            owner = pwd.getpwnam(SERVER_USER)
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        # Sorted by a language, as most servers are: whatever relies on the order of bytes must
        # say so, or fail here.
        self._run(
            "initdb", "-D", str(self.data), "-U", "inventory", "--auth=trust", "-E", "UTF8",
            "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US",
        )  # fmt: skip
        with (self.data / "postgresql.conf").open("a") as configuration:
            for name, value in SETTINGS.items():
                configuration.write(f"{name} = '{value}'\n")
            configuration.write(f"unix_socket_directories = '{self.directory}'\n")
            configuration.write(f"port = {self.port}\n")
        self.start()
        self._run(
            "createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "inventory", "inventory"
        )

    def start(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-l", str(self.directory / "log"), "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop")

    def restart(self, *, down_seconds: float = 0.0) -> None:
        """End every session, as a crash or a fail-over would, and come back."""
        self.stop()
        time.sleep(down_seconds)
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(_binaries() / program), *arguments]
        user = SERVER_USER if os.geteuid() == 0 else None
        # Output goes to a file: the server inherits it, and a pipe would never be closed.
        with (self.directory / "output").open("ab") as output:
            done = subprocess.run(
                command,
                user=user,
                group=user,
                extra_groups=[] if user else None,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                check=False,
            )
        if done.returncode:
            said = (self.directory / "output").read_text(errors="replace")
            raise RuntimeError(f"{program} failed:\n{said}")


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster of this block's own."""
    with tempfile.TemporaryDirectory(prefix="inventory-postgres-") as directory:
        made = Cluster(Path(directory))
        made.create()
        try:
            yield made
        finally:
            made.stop()


def _binaries() -> Path:
    """Debian keeps the server's programs out of PATH, one directory a version."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    if versions:
        return versions[-1].parent
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    raise SystemExit("PostgreSQL's server programs are missing; install the package postgresql")


def main(command: list[str]) -> int:
    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    with cluster() as made:
        environment = {**os.environ, "DATABASE_URL": made.url}
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
