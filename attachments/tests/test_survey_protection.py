"""Large numbers of rows are looked at to the last one before anything is deleted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from attachments.maintenance import retry
from attachments.models import Attachment
from attachments.tests.factories import staged
from attachments.tests.legacy import on_disk, put, run
from cas.digest import Digest
from cas.exit_status import ExitStatus
from cas.storage.base import BlobStore
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

CLEANUP = ("cleanup_legacy_blobs", "--yes-i-am-sure")
OLD = "parts/1/attachments/00000000-0000-0000-0000-000000000001.pdf"
MANY = retry.ROWS_AT_A_TIME + 50
"""More than are fetched at a time."""


@pytest.fixture
def old(store: BlobStore, settings: Any) -> str:
    """What a cleanup would delete."""
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    put(store, OLD, b"old")
    return OLD


def make_rows(keys: Sequence[str], sizes: Sequence[int]) -> list[Attachment]:
    part = Part.objects.create(description="Buck converter")
    return Attachment.objects.bulk_create(
        Attachment(
            part=part, attachment_type="pdf", title="a", s3_key=key, filename="a.pdf",
            content_type="application/pdf", file_size=size,
        )
        for key, size in zip(keys, sizes, strict=True)
    )  # fmt: skip


@on_disk
def test_the_last_of_many_rows_on_one_blob_is_looked_at(
    store: BlobStore, old: str, tmp_path: Path
) -> None:
    """It alone is of another size."""
    store.create(staged(b"four", tmp_path / "staged"))
    sizes = [4] * MANY
    sizes[-1] = 5
    rows = make_rows([Digest.of(b"four").key] * MANY, sizes)
    status, output = run(*CLEANUP)
    assert status == ExitStatus.DAMAGE_FOUND
    assert f"row {rows[-1].pk} says 5" in output
    assert store.stat(old)


@on_disk
@pytest.mark.parametrize("lost", ["first", "last"])
def test_each_of_many_blobs_is_looked_for(store: BlobStore, old: str, lost: str) -> None:
    """One is missing; that of the first or of the last key, as rows and listing are ordered."""
    content = {Digest.of(b"%d" % number): b"%d" % number for number in range(MANY)}
    digests = sorted(content)
    missing = digests[0 if lost == "first" else -1]
    for digest in digests:
        if digest != missing:
            path = Path(store.location, digest.key)  # type: ignore[attr-defined]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content[digest])
    make_rows([digest.key for digest in digests], [len(content[digest]) for digest in digests])
    status, output = run(*CLEANUP)
    assert status == ExitStatus.DAMAGE_FOUND
    assert f"{missing.key} is missing" in output
    assert store.stat(old)
    arguments = ("--yes-i-am-sure", "--grace", "0")
    assert run("collect_garbage", *arguments)[0] == ExitStatus.DAMAGE_FOUND
