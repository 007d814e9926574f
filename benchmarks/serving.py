"""Requests a second for 304, small, middling and large blobs, from disk and from S3."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks import blobs
from benchmarks.measurement import Contest, Table, megabytes, per_second, rows
from benchmarks.sites import WORKERS, fetch_rate, granian, static_nginx, validator, wrk
from cas.digest import Digest
from cas.storage.disk import DiskBlobStorage
from cas.storage.s3 import S3BlobStorage
from tests.nginx import nginx
from tests.s3 import S3Server
from tests.server import Server

SIZES = {"20 KB": 20_000, "1 MB": 1_000_000, "256 MB": 256_000_000}
CONNECTIONS = {"20 KB": 16, "1 MB": 16, "256 MB": 4}
QUERY = "content_type=image/png"
OURS_ALONE = {"max_attempts", "read_timeout"}
"""Options of our S3 storage that django-storages does not have."""

HIT = (
    "A hit costs nginx 33,000 instructions outside the kernel, and a read of the headers it kept; "
    "a static file costs 13,400 (callgrind). Most of the difference is parsing those headers anew "
    "each time, which no setting avoids. nginx and wrk share the cores."
)


def run(directory: Path, *, quick: bool) -> list[Table]:
    sizes = dict(list(SIZES.items())[:2]) if quick else SIZES
    seconds, rounds = (1, 1) if quick else (4, 5)
    files = directory / "files"
    files.mkdir()
    digests = {
        name: blobs.write(files / name.replace(" ", ""), size) for name, size in sizes.items()
    }
    return [
        *_from_disk(directory, files, digests, seconds, rounds),
        *_from_s3(directory, files, digests, seconds, rounds),
    ]


def _from_disk(
    directory: Path, files: Path, digests: dict[str, Digest], seconds: int, rounds: int
) -> list[Table]:
    data, accelerated = directory / "data", directory / "accelerated"
    for installation in (data, accelerated):
        kept = DiskBlobStorage(location=installation / "attachments")
        for name in digests:
            blobs.store(kept, files / name.replace(" ", ""))
    with ExitStack() as stack:
        enter = stack.enter_context
        ours = enter(Server(data, INVENTORY_WORKERS=WORKERS))
        accel = enter(Server(accelerated, INVENTORY_WORKERS=WORKERS, CAS_DELIVERY="accel"))
        front = enter(nginx(ours.port, directory / "front", data / "attachments"))
        sender = enter(
            nginx(
                accel.port,
                directory / "sender",
                accelerated / "attachments",
                content_cache="$cas_thumbnails",
            )
        )
        plain = enter(static_nginx(files, directory / "plain"))
        django = enter(granian(files))
        bare = enter(granian(files, bare=True))
        small = f"/api/cas/{digests['20 KB']}?{QUERY}"
        unchanged = {
            "empty Django view, same middleware": f"{django}/empty",
            "empty Django view, no middleware": f"{bare}/empty",
            "304 of a blob": ours.url + small,
            "304 of a blob, behind nginx, cached": front + small,
            "304 of a file, nginx": f"{plain}/20KB",
        }
        tables = [_not_modified(unchanged, seconds, rounds)]
        for name, digest in digests.items():
            blob = f"/api/cas/{digest}?{QUERY}"
            file = name.replace(" ", "")
            urls = {
                "nginx, static file": f"{plain}/{file}",
                "behind nginx, cached": front + blob,
                "behind nginx, accel": sender + blob,
                "stream": ours.url + blob,
                "whitenoise": f"{django}/white/{file}",
                "Django FileResponse": f"{django}/file/{file}",
            }
            tables.append(_disk_table(name, urls, seconds, rounds))
    return tables


def _not_modified(urls: dict[str, str], seconds: int, rounds: int) -> Table:
    def rate(who: str, url: str) -> Callable[[], float]:
        if "304" not in who:
            return lambda: wrk(url, connections=16, seconds=seconds)[0]
        wrk(url, connections=1, seconds=1)  # fills a cache
        header = validator(url)
        return lambda: wrk(url, connections=16, seconds=seconds, header=header)[0]

    rival = "empty Django view, same middleware"
    rates = Contest({who: rate(who, url) for who, url in urls.items()}, rounds).run()
    shown = rows(rates, rival, per_second, {"304 of a blob": 0.85})
    command = f"wrk -t1 -c16 -d{seconds}s -H 'If-None-Match: …' URL"
    return Table("304, from disk", rival, shown, command)


def _disk_table(name: str, urls: dict[str, str], seconds: int, rounds: int) -> Table:
    large = name == "256 MB"
    connections = CONNECTIONS[name]
    for url in urls.values():
        # The first request fills a cache; that is not what is measured.
        wrk(url, connections=1, seconds=2 if large else 1)

    def rate(url: str) -> float:
        requests, transfer = wrk(url, connections=connections, seconds=seconds)
        return transfer if large else requests

    rates = Contest({who: partial(rate, url) for who, url in urls.items()}, rounds).run()
    targets = {"behind nginx, cached": 0.9, **({"stream": 1.0} if large else {})}
    return Table(
        f"{name}, from disk",
        "nginx, static file",
        rows(rates, "nginx, static file", megabytes if large else per_second, targets),
        f"wrk -t1 -c{connections} -d{seconds}s URL",
        HIT if name == "20 KB" else "",
    )


def _from_s3(
    directory: Path, files: Path, digests: dict[str, Digest], seconds: int, rounds: int
) -> list[Table]:
    data = directory / "s3"
    data.mkdir()
    with S3Server(data) as service:
        bucket = service.new_bucket()
        options = service.storage_options(bucket)
        kept = S3BlobStorage(**options)
        for name in digests:
            blobs.store(kept, files / name.replace(" ", ""))
        environment = {"INVENTORY_WORKERS": WORKERS, **service.environment(bucket)}
        with ExitStack() as stack:
            enter = stack.enter_context
            ours = enter(Server(data, **environment))
            (directory / "s3-accel").mkdir()
            accel = enter(Server(directory / "s3-accel", **environment, CAS_DELIVERY="accel"))
            front = enter(nginx(ours.port, data / "front", data))
            sender = enter(
                nginx(
                    accel.port,
                    data / "sender",
                    data,
                    s3_origin=service.endpoint,
                    content_cache="$cas_thumbnails",
                )
            )
            known = {name: value for name, value in options.items() if name not in OURS_ALONE}
            django = enter(granian(files, s3_options=known))
            tables = []
            for name, digest in digests.items():
                blob = f"/api/cas/{digest}?{QUERY}"
                urls = {
                    "stream": ours.url + blob,
                    "behind nginx, cached": front + blob,
                    "behind nginx, accel": sender + blob,
                    "Django FileResponse of django-storages": f"{django}/s3/{digest.key}",
                }
                loop = partial(_boto3_loop, service, bucket, digest, seconds)
                tables.append(_s3_table(name, loop, urls, seconds, rounds))
            return tables


def _s3_table(
    name: str, loop: Callable[[], float], urls: dict[str, str], seconds: int, rounds: int
) -> Table:
    rival = "bare boto3 loop"
    fetch_rate(urls["behind nginx, cached"], 0.1)  # fills the cache
    measures = {who: partial(fetch_rate, url, seconds) for who, url in urls.items()}
    rates = Contest({rival: loop, **measures}, rounds).run()
    return Table(
        f"{name}, from S3, one reader",
        rival,
        rows(rates, rival, megabytes, {"stream": 0.9} if name == "256 MB" else {}),
        f"http.client on one connection for {seconds} s, 1 MiB a read: GET URL",
        note="The S3 server is moto behind the tests' proxy, in Python: all but the cache wait for "
        "it. WhiteNoise serves no S3.",
    )


def _boto3_loop(service: S3Server, bucket: str, digest: Digest, seconds: int) -> float:
    client = service.client
    begun, read = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        body = client.get_object(Bucket=bucket, Key=digest.key)["Body"]
        for chunk in body.iter_chunks(1 << 20):
            read += len(chunk)
    return read / (time.perf_counter() - begun)
