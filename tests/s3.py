"""An S3 server for tests and benchmarks, in a process of its own.

`python -m tests.s3 --port N` runs it by itself; `S3Server` starts it and speaks to it. It ends
when its standard input does, so it cannot outlive whoever started it.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
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
from botocore.exceptions import ClientError

ROOT = Path(__file__).resolve().parent.parent
ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key"
REGION = "us-east-1"

DROPS = 20
"""Times that a bucket is emptied before it counts as one that cannot be deleted."""
GIVEN = "TEST_S3_ENDPOINT"
"""Environment variable that names another service than the stand-in, as JSON."""


class S3Endpoint:
    """An S3 service and the credentials for it; S3Server is the stand-in.

    Without `endpoint` it is Amazon's, without keys boto3 finds some.
    `bucket` is the one to use, emptied for every test; without it each test gets a new one,
    whose name begins with `prefix`.
    """

    def __init__(
        self,
        endpoint: str,
        access_key: str,
        secret_key: str,
        region: str = REGION,
        addressing_style: str = "path",
        bucket: str = "",
        prefix: str = "cas-test",
        ca_bundle: str = "",
    ) -> None:
        self.endpoint = endpoint
        self.access_key = access_key
        self.secret_key = secret_key
        self.region = region
        self.addressing_style = addressing_style
        self.bucket = bucket
        self.prefix = prefix
        self.ca_bundle = ca_bundle
        self._names = itertools.count(1)

    @classmethod
    def given(cls) -> Self | None:
        """The service that this run of the tests is about, if it is not about the stand-in."""
        said = os.environ.get(GIVEN)
        return cls(**json.loads(said)) if said else None

    def storage_options(self, bucket: str) -> dict[str, Any]:
        """OPTIONS for S3BlobStorage."""
        return {
            "bucket_name": bucket,
            "endpoint_url": self.endpoint or None,
            "access_key": self.access_key or None,
            "secret_key": self.secret_key or None,
            "region_name": self.region,
            "addressing_style": self.addressing_style,
            "max_attempts": 2,
            "read_timeout": 20,
            **({"verify": self.ca_bundle} if self.ca_bundle else {}),
        }

    def environment(self, bucket: str) -> dict[str, str]:
        """Environment variables that point a process of the application at a bucket."""
        return {
            "CAS_S3_BUCKET": bucket,
            "CAS_S3_ENDPOINT_URL": self.endpoint,
            "CAS_S3_REGION": self.region,
            "CAS_S3_ACCESS_KEY_ID": self.access_key,
            "CAS_S3_SECRET_ACCESS_KEY": self.secret_key,
            "CAS_S3_ADDRESSING_STYLE": self.addressing_style,
            **({"CAS_S3_CA_BUNDLE": self.ca_bundle} if self.ca_bundle else {}),
        }

    @property
    def trusted(self) -> str | None:
        """The file of authorities whose certificates `client` takes; None for the system's."""
        return self.ca_bundle or None

    @cached_property
    def client(self) -> Any:
        """A plain client, which reads the bucket without the store under test."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint or None,
            aws_access_key_id=self.access_key or None,
            aws_secret_access_key=self.secret_key or None,
            region_name=self.region,
            verify=self.trusted,
            config=Config(
                s3={"addressing_style": self.addressing_style},  # type: ignore[arg-type]
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def new_bucket(self) -> str:
        """An empty bucket. It is the test's own until `drop_bucket`."""
        if self.bucket:
            self.empty(self.bucket)
            return self.bucket
        name = f"{self.prefix}-{os.getpid()}-{next(self._names)}"
        # Anywhere but there, the region has to be named again.
        elsewhere = self.region != REGION and not self.endpoint
        where = {"LocationConstraint": self.region}
        self.client.create_bucket(
            Bucket=name, **({"CreateBucketConfiguration": where} if elsewhere else {})
        )
        return name

    def drop_bucket(self, bucket: str) -> None:
        """Empty the bucket, and delete it if it was created for a test.

        A request of a process that was killed may be carried out in between; then once more.
        """
        for attempt in range(DROPS):
            self.empty(bucket)
            if self.bucket:
                return
            try:
                self.client.delete_bucket(Bucket=bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] != "BucketNotEmpty" or attempt == DROPS - 1:
                    raise
            else:
                return

    def empty(self, bucket: str) -> None:
        """Delete all objects, all their versions and all unfinished uploads."""
        try:
            for page in self.client.get_paginator("list_object_versions").paginate(Bucket=bucket):
                for item in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                    named = {"Key": item["Key"], "VersionId": item["VersionId"]}
                    self.client.delete_object(Bucket=bucket, **named)
        except ClientError:
            # A store without versions may not know how to list them.
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                for item in page.get("Contents", ()):
                    self.client.delete_object(Bucket=bucket, Key=item["Key"])
        for page in self.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
            for item in page.get("Uploads", ()):
                named = {"Key": item["Key"], "UploadId": item["UploadId"]}
                self.client.abort_multipart_upload(Bucket=bucket, **named)

    def reset(self) -> None:
        """Take back what a test planned: nothing, as only the stand-in takes plans."""


class S3Server(S3Endpoint):
    """A running server. Context manager.

    `fault` plans one fault (actions: see tests/s3_faults.py), `ignore` names the checks that
    are switched off (names: see tests/s3_checks.py), `counts` says how many requests of each
    operation came, `sent` how many body bytes were answered to them.
    """

    def __init__(self, directory: Path, certificate: Path | None = None) -> None:
        """`certificate`: a PEM file with key, certificate and its authority's; then over TLS."""
        super().__init__("", ACCESS_KEY, SECRET_KEY)
        self._log = directory / "s3.log"
        self._certificate = certificate

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
        self.endpoint = f"http://127.0.0.1:{self.port}"
        if self._certificate:
            self.endpoint = f"https://localhost:{self.port}"
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
    def trusted(self) -> str | None:
        return str(self._certificate) if self._certificate else None

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

    def ignore(self, *names: str) -> None:
        """From now on exactly these checks are switched off."""
        self._control("ignore", names=list(names))

    def latency(self, milliseconds: float) -> None:
        self._control("latency", ms=milliseconds)

    def clock_ahead(self, seconds: float) -> None:
        """Date answers wrongly and refuse every request for its date, as S3 does after 15 minutes.

        A HEAD is refused without a reason, as it has no body.
        """
        self._control("clock", seconds=seconds)

    def reset(self) -> None:
        """Take back faults, switched off checks, latency and clock, and count from zero.

        Objects stay.
        """
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
