"""Peak resident memory of the server while it sends large blobs to several readers at once."""

from __future__ import annotations

import threading
import urllib.request
from pathlib import Path

from benchmarks import blobs
from benchmarks.measurement import Row, Table
from benchmarks.sites import WORKERS
from cas.storage.disk import DiskBlobStorage
from cas.storage.s3 import S3BlobStorage
from tests.s3 import S3Server
from tests.server import Server

READERS = 8
SIZE = 1 << 30


def run(directory: Path, *, quick: bool) -> list[Table]:
    size = 32 << 20 if quick else SIZE
    return [_disk(directory, size), _s3(directory, size)]


def _disk(directory: Path, size: int) -> Table:
    data = directory / "disk"
    path = directory / "large"
    blobs.write(path, size)
    digest = blobs.store(DiskBlobStorage(location=data / "attachments"), path)
    with Server(data, INVENTORY_WORKERS=WORKERS) as server:
        return _table("disk", server, f"/api/cas/{digest}?content_type=image/png", size)


def _s3(directory: Path, size: int) -> Table:
    data = directory / "s3"
    data.mkdir()
    path = directory / "large"
    with S3Server(data) as service:
        bucket = service.new_bucket()
        digest = blobs.store(S3BlobStorage(**service.storage_options(bucket)), path)
        with Server(data, INVENTORY_WORKERS=WORKERS, **service.environment(bucket)) as server:
            return _table("S3", server, f"/api/cas/{digest}?content_type=image/png", size)


def _table(where: str, server: Server, url: str, size: int) -> Table:
    server.get("/health/ready")
    idle = _peak(server)
    threads = [
        threading.Thread(target=_drain, args=[server.url + url, size]) for _ in range(READERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    peak = _peak(server)
    mib = f"{READERS} × {size >> 20} MiB at once"
    return Table(
        f"Peak memory, {mib} from {where}",
        "after one request",
        [
            Row("after one request", f"{idle / 1024:.0f} MiB", 1.0),
            Row(mib, f"{peak / 1024:.0f} MiB", idle / peak),
        ],
        command=f"urllib.request.urlopen(URL) in {READERS} threads, each read to its end",
        note=f"VmHWM of all {len(server.workers())} workers and their parent.",
    )


def _peak(server: Server) -> int:
    """KiB, the sum of every process's own peak."""
    total = 0
    for process in (server.process.pid, *server.workers()):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1])
    return total


def _drain(url: str, size: int) -> None:
    buffer, read = bytearray(1 << 20), 0
    with urllib.request.urlopen(url, timeout=600) as response:
        while count := response.readinto(buffer):
            read += count
    assert read == size
