"""Which rows are left to be migrated, and that PostgreSQL knows without reading all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import connection
from django.test import Client

from attachments.maintenance.migrate import Blocks, IdRange, unmigrated
from attachments.maintenance.runner import CancelToken
from attachments.maintenance.status import migration_status
from attachments.models import Attachment
from attachments.tests.legacy import make_row
from cas.digest import Digest, is_cas_key
from cas.storage.base import BlobStore
from parts.models import Part

MIGRATED = 5000
INDEX = "attachment_unmigrated"

NEARLY_MIGRATED = [f"CAS/{64 * 'a'}", f"cas/{64 * 'A'}", f"cas/{64 * 'a'}\n", "cas/a", "parts/x"]


@pytest.fixture
def part(db: object) -> Part:
    return Part.objects.create(description="Op-amp")


@pytest.mark.parametrize("key", NEARLY_MIGRATED)
def test_only_an_exact_key_counts_as_migrated(part: Part, key: str) -> None:
    make_row(part, Digest.of(b"a").key, 1)
    row = make_row(part, key, 1)
    assert list(unmigrated()) == [row]


@pytest.mark.parametrize("key", [*NEARLY_MIGRATED, "cas/nothex", Digest.of(b"b").key, None])
def test_migrated_means_one_thing(part: Part, key: str | None, admin_client: Client) -> None:
    """In the queries, the model, the status and the admin's filter alike."""
    row = make_row(part, "parts/x", 1)
    if key is None:
        Attachment.objects.filter(pk=row.pk).update(attachment_type="url", url="https://a.b")
    Attachment.objects.filter(pk=row.pk).update(s3_key=key)
    row.refresh_from_db()
    migrated = key is not None and is_cas_key(key)
    left = key is not None and not migrated
    assert (row.digest is not None) == migrated
    assert list(Attachment.objects.migrated()) == ([row] if migrated else [])
    assert list(Attachment.objects.unmigrated()) == ([row] if left else [])
    status = migration_status()
    assert (status.migrated, status.unmigrated, status.links) == (migrated, left, key is None)
    for choice, listed in (("migrated", migrated), ("legacy", left)):
        page = admin_client.get(f"/admin/attachments/attachment/?storage={choice}")
        assert len(page.context["cl"].queryset) == listed


@contextmanager
def plans() -> Iterator[list[str]]:
    """PostgreSQL's plan of every query on attachments that is made in the block."""
    found: list[str] = []

    def explain(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("SELECT") and Attachment._meta.db_table in sql:
            with connection.connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN {sql}", params)
                found.append("\n".join(line for (line,) in cursor.fetchall()))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        yield found


LOOKS: dict[str, Callable[[], object]] = {
    "a migration's next block": lambda: list(Blocks(IdRange(), CancelToken()).groups()),
    "one of a range of ids": lambda: list(Blocks(IdRange(1, 10**9), CancelToken()).groups()),
    "the readiness page": lambda: Client().get("/health/ready"),
    "the system check": lambda: run_checks(databases=["default"]),
    "the count before the question": lambda: unmigrated().count(),
}


@pytest.mark.postgres
@pytest.mark.parametrize("look", LOOKS)
def test_that_all_is_migrated_is_known_without_reading_the_rows(
    disk_store: BlobStore, part: Part, look: str
) -> None:
    keys = [Digest.of(b"%d" % number).key for number in range(MIGRATED)]
    Attachment.objects.bulk_create(
        Attachment(
            part=part, attachment_type="pdf", s3_key=key, filename="a.pdf",
            content_type="application/pdf", file_size=1,
        )
        for key in keys
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {Attachment._meta.db_table}")
    with plans() as found:
        LOOKS[look]()
    assert found
    assert all(INDEX in plan and "Seq Scan" not in plan for plan in found), found


@pytest.mark.sqlite
def test_other_programs_can_write_the_table_on_sqlite(part: Part) -> None:
    """REGEXP is a function of Django's; an index with it would be refused anywhere else."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT sql FROM sqlite_master WHERE tbl_name = 'part_attachments'")
        assert not [sql for (sql,) in cursor.fetchall() if sql and "REGEXP" in sql]
