"""An S3 server for tests and benchmarks, in a process of its own.

`python -m tests.s3 --port N` runs it by itself; `S3Server` starts it and speaks to it. It ends
when its standard input does, so it cannot outlive whoever started it.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
from botocore.config import Config

ROOT = Path(__file__).resolve().parent.parent
ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key"
REGION = "us-east-1"


class S3Server:
    """A running server. Context manager.

    `fault` plans one fault (actions: see tests/s3_faults.py), `ignore` names the guards that
    stop working (names: see tests/s3_guards.py), `counts` says how many requests of each
    operation came, `sent` how many body bytes were answered to them.
    """

    def __init__(self, directory: Path, certificate: Path | None = None) -> None:
        """`certificate`: a PEM file with key, certificate and its authority's; then over TLS."""
        self._log = directory / "s3.log"
        self._certificate = certificate
        self._names = itertools.count(1)

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.s3", "--port", "0", "--until-eof"]
                + (["--certificate", str(self._certificate)] if self._certificate else []),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the S3 server did not start: {self._log.read_text()}")
        self.port = int(line)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.communicate()

    @property
    def endpoint(self) -> str:
        if self._certificate:
            return f"https://localhost:{self.port}"
        return f"http://127.0.0.1:{self.port}"

    def storage_options(self, bucket: str) -> dict[str, Any]:
        """OPTIONS for S3BlobStorage."""
        return {
            "bucket_name": bucket,
            "endpoint_url": self.endpoint,
            "access_key": ACCESS_KEY,
            "secret_key": SECRET_KEY,
            "region_name": REGION,
            "addressing_style": "path",
            "max_attempts": 2,
            "read_timeout": 20,
        }

    def environment(self, bucket: str) -> dict[str, str]:
        """Environment variables that point a process of the application at a bucket."""
        return {
            "CAS_S3_BUCKET": bucket,
            "CAS_S3_ENDPOINT_URL": self.endpoint,
            "CAS_S3_REGION": REGION,
            "CAS_S3_ACCESS_KEY_ID": ACCESS_KEY,
            "CAS_S3_SECRET_ACCESS_KEY": SECRET_KEY,
            "CAS_S3_ADDRESSING_STYLE": "path",
        }

    @cached_property
    def client(self) -> Any:
        """A plain client, to look at the bucket past the store under test."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}),
            verify=str(self._certificate) if self._certificate else None,
        )

    def new_bucket(self) -> str:
        name = f"bucket-{next(self._names)}"
        self.client.create_bucket(Bucket=name)
        return name

    def drop_bucket(self, bucket: str) -> None:
        self._control("drop", bucket=bucket)

    def fill(self, bucket: str, keys: Iterable[str], body: str = "x") -> None:
        """Put the same object at many keys, without a request for each."""
        self._control("fill", bucket=bucket, keys=list(keys), body=body)

    def fault(
        self,
        operation: str,
        action: str,
        *,
        key_contains: str = "",
        skip: int = 0,
        times: int = 1,
        **options: Any,
    ) -> None:
        self._control(
            "fault",
            operation=operation,
            action=action,
            key_contains=key_contains,
            skip=skip,
            times=times,
            options=options,
        )

    def ignore(self, *guards: str) -> None:
        """From now on exactly these guards are not honoured."""
        self._control("ignore", guards=list(guards))

    def latency(self, milliseconds: float) -> None:
        self._control("latency", ms=milliseconds)

    def reset(self) -> None:
        """Take back faults, ignored guards and latency, and count from zero. Objects stay."""
        self._control("reset")

    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = self._control("counts")["counts"]
        return counts

    def sent(self) -> dict[str, int]:
        sent: dict[str, int] = self._control("counts")["sent"]
        return sent

    def _control(self, path: str, **said: Any) -> Any:
        connection = self._connect()
        try:
            connection.request("POST", f"/-/{path}", json.dumps(said))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        if self._certificate is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        trusted = ssl.create_default_context(cafile=str(self._certificate))
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=trusted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")
    parser.add_argument("--certificate", help="speak TLS with this key and certificate (PEM)")
    options = parser.parse_args()
    from tests.s3_server import build

    server = build(options.port)
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    print(server.server_address[1], flush=True)
    if options.until_eof:
        threading.Thread(target=_stop_at_eof, args=[server], daemon=True).start()
    server.serve_forever(poll_interval=0.1)


def _stop_at_eof(server: Any) -> None:
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
