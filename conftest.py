"""Fixtures that every room's tests share: a blob store on disk and one on S3, real both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import JSONFileLoader

from cas.storage import attachment_store, capabilities
from cas.storage.base import BlobStore
from tests.s3 import S3Endpoint, S3Server

_probed: dict[str, capabilities.Capabilities] = {}

SLOW_FIXTURES = {"s3_store", "s3_bucket", "s3_server", "s3_endpoint", "installation"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--units",
        action="store_true",
        help="only tests without a server, a process or a database to be emptied after each",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--units"):
        return
    units = [item for item in items if _is_unit(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(units)])
    items[:] = units


def _is_unit(item: pytest.Item) -> bool:
    database = item.get_closest_marker("django_db")
    emptied = database is not None and database.kwargs.get("transaction")
    on_s3 = "s3" in item.name
    return not (emptied or on_s3 or SLOW_FIXTURES & set(getattr(item, "fixturenames", ())))


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store or a database that a test takes away is not waited for during minutes."""
    monkeypatch.setattr("attachments.maintenance.runner.PATIENCE_SECONDS", 1.0)


@pytest.fixture(scope="session", autouse=True)
def _service_models_are_read_once() -> Iterator[None]:
    """Each client parses megabytes of JSON otherwise, which takes longer than most tests."""
    kept: dict[str, Any] = {}
    load = JSONFileLoader.load_file

    def load_once(loader: JSONFileLoader, path: str) -> Any:
        if path not in kept:
            kept[path] = load(loader, path)
        return kept[path]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", load_once)
        yield


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that makes every check, on a free loopback port, for the whole session."""
    if S3Endpoint.given():
        pytest.skip("only the stand-in misbehaves on demand")
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_endpoint(request: pytest.FixtureRequest) -> S3Endpoint:
    """The S3 service that tests use which need no faults: the stand-in, unless one is given."""
    return S3Endpoint.given() or request.getfixturevalue("s3_server")


@pytest.fixture
def s3_bucket(s3_endpoint: S3Endpoint) -> Iterator[str]:
    """A fresh bucket; all faults and switched off checks are taken back afterwards."""
    s3_endpoint.reset()
    bucket = s3_endpoint.new_bucket()
    yield bucket
    s3_endpoint.reset()
    s3_endpoint.drop_bucket(bucket)


@pytest.fixture
def disk_store(tmp_path: Path, settings: Any) -> BlobStore:
    """`attachment_store()` on disk, in this test's own directory."""
    return _configure(
        settings,
        "cas.storage.disk.DiskBlobStorage",
        {"location": str(tmp_path / "attachments")},
    )


@pytest.fixture
def s3_store(
    request: pytest.FixtureRequest,
    s3_endpoint: S3Endpoint,
    s3_bucket: str,
    tmp_path: Path,
    settings: Any,
) -> BlobStore:
    """`attachment_store()` on S3, in this test's own bucket."""
    settings.CAS_STAGING_DIR = str(tmp_path / "staging")
    settings.CAS_STATE_DIR = str(tmp_path / "state")
    store = _configure(
        settings, "cas.storage.s3.S3BlobStorage", s3_endpoint.storage_options(s3_bucket)
    )
    # Another bucket of the same service supports the same, unless the test plans faults: it is
    # probed once in a session.
    if "s3_server" not in request.node.fixturenames:
        if s3_endpoint.endpoint not in _probed:
            _probed[s3_endpoint.endpoint] = capabilities.probe(store)
        capabilities.remember(store, _probed[s3_endpoint.endpoint])
    return store


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest) -> BlobStore:
    """The configured store; a test that uses this runs once for each backend."""
    chosen: BlobStore = request.getfixturevalue(f"{request.param}_store")
    return chosen


def _configure(settings: Any, backend: str, options: dict[str, Any]) -> BlobStore:
    settings.STORAGES = {
        **settings.STORAGES,
        "attachments": {"BACKEND": backend, "OPTIONS": options},
    }
    return attachment_store()
