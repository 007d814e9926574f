"""Each reason for which a store refuses, with its cure; certificates of an own authority."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from cas.digest import Digest
from cas.storage.base import Absent, Denied, StoreError, Unreachable
from cas.storage.s3 import S3BlobStorage
from cas.tests.test_store_contract import DATA, bytes_at, keys, put, stage
from cas.tests.test_store_s3 import other_store
from tests.authority import Authority, authority
from tests.s3 import S3Server

TWO_HOURS_OFF = {"Date": "two hours ago"}
"""To be written out in the test: much time may pass until it runs."""


def written_out(headers: dict[str, str]) -> dict[str, str]:
    if headers is not TWO_HOURS_OFF:
        return headers
    return {"Date": format_datetime(datetime.now(UTC) - timedelta(hours=2), usegmt=True)}


@pytest.mark.parametrize(
    ("status", "code", "headers", "cure"),
    [
        (404, "NoSuchBucket", {}, "Correct CAS_S3_BUCKET"),
        (403, "RequestTimeTooSkewed", TWO_HOURS_OFF, r"120 minutes ahead of the store's"),
        (403, "RequestTimeTooSkewed", {}, "clock .* set it right"),
        (301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"}, "CAS_S3_REGION"),
        (
            400,
            "AuthorizationHeaderMalformed",
            {"x-amz-bucket-region": "eu-west-1"},
            "CAS_S3_REGION to eu-west-1",
        ),
        (403, "InvalidAccessKeyId", {}, "correct CAS_S3_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", {}, "correct CAS_S3_SECRET_ACCESS_KEY"),
        (403, "AccessDenied", {}, "lack a right that is needed: s3:ListBucket"),
        (400, "ExpiredToken", {}, "renew them"),
    ],
)
def test_each_refusal_names_its_cure(
    s3_server: S3Server,
    s3_bucket: str,
    status: int,
    code: str,
    headers: dict[str, str],
    cure: str,
) -> None:
    store = other_store(s3_server, s3_bucket)
    s3_server.fault("*", "error", status=status, code=code, headers=written_out(headers), times=-1)
    with pytest.raises(Denied, match=cure):
        keys(store, "cas/")


@pytest.mark.parametrize(
    ("code", "headers", "cure"),
    [
        ("SignatureDoesNotMatch", {}, "CAS_S3_SECRET_ACCESS_KEY"),
        ("InvalidAccessKeyId", {}, "CAS_S3_ACCESS_KEY_ID"),
        ("AccessDenied", {}, "s3:GetObject"),
        ("AccessDenied", TWO_HOURS_OFF, "clock"),
    ],
)
def test_a_look_without_a_reason_asks_for_it(
    s3_server: S3Server, s3_bucket: str, code: str, headers: dict[str, str], cure: str
) -> None:
    """The answer to a HEAD has no body that could say why."""
    store = other_store(s3_server, s3_bucket)
    s3_server.fault("*", "error", status=403, code=code, headers=written_out(headers), times=-1)
    with pytest.raises(Denied, match=cure):
        store.stat("legacy/a")


def test_where_reading_is_let_the_refused_look_is_what_is_told(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    store = other_store(s3_server, s3_bucket)
    put(store, "legacy/a", DATA, tmp_path)
    s3_server.fault("HeadObject", "error", status=403, code="AccessDenied")
    with pytest.raises(Denied, match="HeadObject"):
        store.stat("legacy/a")


@pytest.mark.parametrize(
    ("operation", "right"),
    [
        ("PutObject", "s3:PutObject"),
        ("ListObjectsV2", "s3:ListBucket"),
        ("DeleteObject", "s3:DeleteObject"),
    ],
)
def test_the_missing_right_is_named(
    s3_store: Any, s3_server: S3Server, tmp_path: Path, operation: str, right: str
) -> None:
    s3_server.fault(operation, "error", status=403, code="AccessDenied", times=-1)
    acts = {
        "PutObject": lambda: put(s3_store, "legacy/a", DATA, tmp_path),
        "ListObjectsV2": lambda: keys(s3_store),
        "DeleteObject": lambda: s3_store.remove("legacy/a"),
    }
    with pytest.raises(Denied, match=right):
        acts[operation]()


def test_a_bucket_that_is_not_there_makes_nothing_absent(
    s3_server: S3Server, s3_bucket: str
) -> None:
    """A HEAD says 404 of the bucket as of the object."""
    with pytest.raises(Denied, match="CAS_S3_BUCKET"):
        other_store(s3_server, "no-such-bucket").stat("legacy/a")
    with pytest.raises(Absent):
        other_store(s3_server, s3_bucket).stat("legacy/a")


@pytest.mark.parametrize("status", [400, 405, 501])
def test_an_operation_that_is_not_there_is_no_refusal(
    s3_server: S3Server, s3_bucket: str, status: int
) -> None:
    s3_server.fault("GetObject", "error", status=status, code="NotImplemented")
    with pytest.raises(StoreError) as caught:
        other_store(s3_server, s3_bucket).read("legacy/a")
    assert caught.value.code == "unsupported"


class TestOwnAuthority:
    @pytest.fixture
    def made(self, tmp_path: Path) -> Authority:
        return authority(tmp_path)

    @pytest.fixture
    def server(self, made: Authority, tmp_path: Path) -> Iterator[S3Server]:
        with S3Server(tmp_path, made.server) as server:
            yield server

    def test_is_trusted_where_it_is_named(
        self, server: S3Server, made: Authority, tmp_path: Path, settings: Any
    ) -> None:
        settings.CAS_STAGING_DIR = str(tmp_path / "staging")
        options = server.storage_options(server.new_bucket())
        store = S3BlobStorage(**options, verify=str(made.bundle))
        store.create(stage(store))
        assert bytes_at(store, Digest.of(DATA).key) == DATA

    def test_and_nowhere_else(self, server: S3Server) -> None:
        store = S3BlobStorage(**server.storage_options(server.new_bucket()))
        with pytest.raises(Unreachable, match="CAS_S3_CA_BUNDLE"):
            store.stat("legacy/a")
