"""nginx with the shipped configuration, as a real process on a free loopback port."""

from __future__ import annotations

import http.client
import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

from tests.server import ROOT, STARTING_SECONDS, free_port

NO_STORE = "http://127.0.0.1:9"
SYSTEM_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


@contextmanager
def nginx(
    upstream: int,
    state: Path,
    blobs: Path,
    *,
    s3_origin: str = NO_STORE,
    s3_ca_bundle: str = SYSTEM_AUTHORITIES,
    content_cache: str = "blobs",
) -> Iterator[str]:
    """Before the service on port `upstream`; yields a URL without a slash at its end.

    `state` is created, `blobs` is where blobs are files, `content_cache` is `blobs`
    or `$cas_thumbnails`.
    """
    port = free_port()
    state.mkdir(parents=True)
    file = configuration(
        upstream,
        state,
        blobs,
        port=port,
        s3_origin=s3_origin,
        s3_ca_bundle=s3_ca_bundle,
        content_cache=content_cache,
    )
    log = state / "error.log"
    command = ["nginx", "-c", str(file), "-p", str(state), "-e", str(log)]
    with subprocess.Popen([*command, "-g", "daemon off;"], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + STARTING_SECONDS
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"nginx did not start:\n{log.read_text()}")
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def configuration(
    upstream: int,
    state: Path,
    blobs: Path,
    *,
    port: int = 8080,
    s3_origin: str = NO_STORE,
    s3_ca_bundle: str = SYSTEM_AUTHORITIES,
    content_cache: str = "blobs",
) -> Path:
    """The shipped configuration, filled in as its first lines say, written to a file in `state`."""
    template = Template((ROOT / "deploy" / "nginx.conf").read_text())
    text = template.safe_substitute(
        NGINX_LISTEN=f"127.0.0.1:{port}",
        NGINX_SERVER_NAMES="127.0.0.1 localhost",
        INVENTORY_UPSTREAM=f"127.0.0.1:{upstream}",
        NGINX_STATE=str(state),
        NGINX_CONTENT_CACHE=content_cache,
        INVENTORY_BLOBS=str(blobs),
        CAS_S3_ORIGIN=s3_origin,
        CAS_S3_CA_BUNDLE=s3_ca_bundle,
    )
    if os.geteuid() == 0:
        # nginx started by root would give up the rights to read the test's files.
        text = f"user {pwd.getpwuid(0).pw_name};\n{text}"
    file = state / "nginx.conf"
    file.write_text(text)
    return file


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
