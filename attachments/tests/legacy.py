"""Rows and objects of the older layout, as tests of the maintenance commands need them."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.utils import timezone

from attachments.models import Attachment
from cas.digest import Digest
from cas.storage.base import BlobStore
from parts.models import Part

on_disk = pytest.mark.parametrize("store", ["disk"], indirect=True)
"""For tests about what is done, not about the store it is done to: one backend is enough."""


def legacy_key(part: Part, extension: str = "pdf") -> str:
    return f"parts/{part.pk}/attachments/{uuid.uuid4()}.{extension}"


def put(store: BlobStore, key: str, content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        store.put_legacy(key, Path(file.name))


def make_row(part: Part, key: str, size: int) -> Attachment:
    return Attachment.objects.create(
        part=part,
        attachment_type=Attachment.Kind.PDF,
        title="Datasheet",
        s3_key=key,
        filename="datasheet.pdf",
        content_type="application/pdf",
        file_size=size,
    )


def make_legacy(store: BlobStore, part: Part, content: bytes) -> Attachment:
    """A row and its object, both in the older layout."""
    key = legacy_key(part)
    put(store, key, content)
    return make_row(part, key, len(content))


def as_after_a_migration() -> None:
    """A row that was migrated here, without which no cleanup takes older objects for its own."""
    part = Part.objects.create(description="Migrated")
    Attachment.objects.create(
        part=part,
        attachment_type=Attachment.Kind.URL,
        title="Page",
        url="https://example.org/",
        migrated_at=timezone.now(),
    )


def run(command: str, *arguments: str, **options: Any) -> tuple[int, str]:
    """A command's exit status and what it printed, both streams together."""
    output = StringIO()
    try:
        call_command(command, *arguments, stdout=output, stderr=output, **options)
    except SystemExit as end:
        return int(end.code or 0), output.getvalue()
    return 0, output.getvalue()


def summary_of(output: str) -> dict[str, Any]:
    """The summary among a command's JSON lines."""
    records = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return next(record["summary"] for record in records if "summary" in record)


def assert_whole(store: BlobStore) -> None:
    """Every row is migrated and its bytes hash to its key."""
    for row in Attachment.objects.exclude(attachment_type=Attachment.Kind.URL):
        digest, stat = store.digest_of(row.s3_key or "")
        assert row.s3_key == digest.key
        assert row.file_size == stat.size


def blobs(store: BlobStore) -> set[Digest]:
    return {Digest.from_key(stat.key) for stat in store.scan("cas/")}


def damage(store: Any, key: str, content: bytes) -> None:
    """Put other bytes at a key, as only a fault or another program would."""
    if hasattr(store, "bucket"):
        store.bucket.put_object(Key=key, Body=content)
    else:
        Path(store.location, key).write_bytes(content)


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def session_of(through: Any) -> int:
    with through.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        number: int = cursor.fetchone()[0]
        return number


def wait_until_ended(session: int) -> None:
    """Until PostgreSQL has ended this session, as a session of its own sees it."""
    other = connections.create_connection("default")

    def ended() -> bool:
        with other.cursor() as cursor:
            cursor.execute(
                "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)", [session]
            )
            return bool(cursor.fetchone()[0])

    try:
        wait_until(ended)
    finally:
        other.close()


def terminate_others() -> None:
    """End every other session of this database, as a fail-over would."""
    other = connections.create_connection("default")
    with other.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    other.close()
