"""Fixtures for tests of the whole system."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.s3 import S3Endpoint


@pytest.fixture
def database() -> Iterator[dict[str, str]]:
    """Environment for a database of its own on the server the tests run on, if they do."""
    url = os.environ.get("DATABASE_URL")
    if not url:
        yield {}
        return
    import psycopg

    name = f"move_{uuid.uuid4().hex}"
    base, _, query = url.partition("?")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        yield {"DATABASE_URL": base.rpartition("/")[0] + f"/{name}" + (query and f"?{query}")}
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=["disk", "s3"])
def installation(
    request: pytest.FixtureRequest, tmp_path: Path, database: dict[str, str]
) -> Installation:
    environment = {"CAS_MIGRATION_DELETE_OLD_OBJECTS": "true", **database}
    if request.param == "s3":
        service: S3Endpoint = request.getfixturevalue("s3_endpoint")
        environment |= service.environment(request.getfixturevalue("s3_bucket"))
    else:
        environment |= {"CAS_S3_BUCKET": ""}
    made = Installation(tmp_path, environment)
    made.check("migrate", "--verbosity", "0")
    return made
