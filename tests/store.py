"""Tries an S3 service that is not the stand-in: its capabilities, then every test of the store.

    CAS_S3_ENDPOINT_URL=https://… CAS_S3_ACCESS_KEY_ID=… CAS_S3_SECRET_ACCESS_KEY=… \\
        python -m tests.store [PYTEST OPTIONS]

Works in buckets that it creates and deletes again, or in `CAS_S3_BUCKET`, which must be empty and
is empty afterwards. `--stand-in` tries the stand-in like any other service. Ends with the
status of the tests; a test that could not be run here is listed and counted as not tested.

This module is also the pytest plugin of such a run.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.s3 import GIVEN, ROOT, S3Endpoint, S3Server

ABOUT_S3 = {"s3_endpoint", "s3_server"}
"""Fixtures: a test that has one of them concerns S3, as does one with the parameter `s3`."""

REFUSED = 4


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what does not concern an S3 store."""
    about = [item for item in items if _is_about_s3(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in about])
    items[:] = about


def _is_about_s3(item: Any) -> bool:
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return bool(ABOUT_S3 & set(item.fixturenames)) or "s3" in parameters


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what passed and, by file and name, what was not tested."""
    found = {
        outcome: terminalreporter.getreports(outcome)
        for outcome in ("passed", "failed", "error", "skipped")
    }
    terminalreporter.section("what was tested on this store")
    names: Counter[str] = Counter(report.nodeid.partition("[")[0] for report in found["skipped"])
    if names:
        terminalreporter.line(
            f"Not tested here, mostly because only the stand-in misbehaves as told: {names.total()}"
        )
        for name, times in sorted(names.items()):
            terminalreporter.line(f"  {name}" + (f" ({times} times)" if times > 1 else ""))
    failed = len(found["failed"]) + len(found["error"])
    terminalreporter.line(
        f"{len(found['passed'])} passed, {failed} failed, {names.total()} not tested"
    )


def main(arguments: list[str]) -> int:
    if "--stand-in" in arguments:
        arguments.remove("--stand-in")
        os.environ["TEST_S3_SERVICE"] = "stand-in"
        with tempfile.TemporaryDirectory() as directory, S3Server(Path(directory)) as server:
            return run(named(server.environment("") | {"CAS_S3_BUCKET": ""}), arguments)
    endpoint = named(os.environ)
    if not endpoint.endpoint and not endpoint.bucket:
        print(__doc__, file=sys.stderr)
        return 2
    return run(endpoint, arguments)


def named(environment: Any) -> S3Endpoint:
    """The service that `CAS_S3_*` names."""
    return S3Endpoint(
        environment.get("CAS_S3_ENDPOINT_URL", ""),
        environment.get("CAS_S3_ACCESS_KEY_ID", ""),
        environment.get("CAS_S3_SECRET_ACCESS_KEY", ""),
        environment.get("CAS_S3_REGION") or "us-east-1",
        environment.get("CAS_S3_ADDRESSING_STYLE") or "auto",
        environment.get("CAS_S3_BUCKET", ""),
        f"cas-test-{secrets.token_hex(6)}",
        environment.get("CAS_S3_CA_BUNDLE", ""),
    )


def run(endpoint: S3Endpoint, arguments: list[str]) -> int:
    try:
        if endpoint.bucket and (found := first_key(endpoint)):
            print(
                f"{endpoint.bucket} is not empty (it has {found}), and the tests would delete "
                "what is in it. Name an empty bucket, or none to have some created.",
                file=sys.stderr,
            )
            return REFUSED
        bucket = endpoint.new_bucket()
    except (ClientError, BotoCoreError) as error:
        print(f"No bucket to work in: {error}", file=sys.stderr)
        return REFUSED
    try:
        status = show_capabilities(endpoint, bucket)
    finally:
        endpoint.drop_bucket(bucket)
    if status:
        return status
    try:
        return test(endpoint, arguments)
    finally:
        clean_up(endpoint)


def first_key(endpoint: S3Endpoint) -> str | None:
    """Any key of the bucket, also of a version that is no longer current."""
    for operation, lists in (
        (endpoint.client.list_objects_v2, ("Contents",)),
        (endpoint.client.list_object_versions, ("Versions", "DeleteMarkers")),
    ):
        answer = operation(Bucket=endpoint.bucket, MaxKeys=1)
        for name in lists:
            for item in answer.get(name, ()):
                return str(item["Key"])
    return None


def show_capabilities(endpoint: S3Endpoint, bucket: str) -> int:
    with tempfile.TemporaryDirectory() as directory:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CAS_")},
            "INVENTORY_DATA_DIR": directory,
            **endpoint.environment(bucket),
        }
        return subprocess.run(
            [sys.executable, "manage.py", "probe_store"], cwd=ROOT, env=environment, check=False
        ).returncode


def test(endpoint: S3Endpoint, arguments: list[str]) -> int:
    told = {
        "endpoint": endpoint.endpoint,
        "access_key": endpoint.access_key,
        "secret_key": endpoint.secret_key,
        "region": endpoint.region,
        "addressing_style": endpoint.addressing_style,
        "bucket": endpoint.bucket,
        "prefix": endpoint.prefix,
        "ca_bundle": endpoint.ca_bundle,
    }
    command = [
        sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "tests.store",
        "-m", "not postgres",
        # Tests that share a bucket run one after the other.
        "-n", "0" if endpoint.bucket else "auto", *arguments,
    ]  # fmt: skip
    environment = {**os.environ, GIVEN: json.dumps(told)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def clean_up(endpoint: S3Endpoint) -> None:
    """Delete what tests that were cut off left behind."""
    if endpoint.bucket:
        endpoint.empty(endpoint.bucket)
        return
    try:
        for bucket in endpoint.client.list_buckets()["Buckets"]:
            if bucket["Name"].startswith(endpoint.prefix):
                endpoint.drop_bucket(bucket["Name"])
    except ClientError as error:
        print(f"Buckets named {endpoint.prefix}-… may be left: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
