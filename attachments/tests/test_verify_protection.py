"""What a verification must never call sound, or gone, or looked at."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from attachments.maintenance import verify
from attachments.models import Attachment
from attachments.tests.factories import stored_row
from attachments.tests.legacy import damage, on_disk, run, summary_of
from attachments.tests.waiting import in_thread
from cas.digest import Digest
from cas.exit_status import ExitStatus
from cas.storage.base import BlobStore
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

VERIFY = ("verify_cas", "--json", "--read-all")

CONTENTS = (b"one!", b"two!", b"three")


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def rows(store: BlobStore, tmp_path: Path) -> list[Attachment]:
    part = Part.objects.create(description="Buck converter")
    return [
        stored_row(part, content, tmp_path / f"staged-{number}")
        for number, content in enumerate(CONTENTS)
    ]


@on_disk
@pytest.mark.parametrize("referenced", [True, False])
def test_a_blob_that_vanishes_while_it_is_hashed(
    store: BlobStore,
    rows: list[Attachment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    referenced: bool,
) -> None:
    """It is missing as long as a row references it, and gone only when none does any more."""
    lost = Digest.of(CONTENTS[0])
    real = store.digest_of

    def after_it_vanished(key: str, on_bytes: Any = None) -> Any:
        if key == lost.key:
            store.remove(key)
            if not referenced:
                rows[0].delete()
        return real(key, on_bytes)

    monkeypatch.setattr(store, "digest_of", after_it_vanished)
    report = tmp_path / "report.jsonl"
    status, output = run(*VERIFY, "--report", str(report))
    summary = summary_of(output)
    verdicts = {(line := json.loads(text))["key"]: line for text in report.read_text().splitlines()}
    assert status == (ExitStatus.DAMAGE_FOUND if referenced else 0), output
    assert (summary["missing"], summary["gone"]) == (int(referenced), int(not referenced))
    assert verdicts[lost.key]["verdict"] == ("missing" if referenced else "gone")
    assert summary["intact"] == 2


@on_disk
@pytest.mark.parametrize("portion", [1, 2, 3])
def test_every_blob_is_hashed_however_many_are_due_at_once(
    store: BlobStore, rows: list[Attachment], monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    """Blobs that were never verified are all due since the same moment."""
    monkeypatch.setattr(verify, "BATCH", portion)
    status, output = run(*VERIFY)
    assert (status, summary_of(output)["intact"]) == (0, 3), output


@on_disk
@pytest.mark.parametrize("repair", [True, False])
def test_only_what_was_found_sound_counts_as_verified(
    store: BlobStore,
    rows: list[Attachment],
    caplog: pytest.LogCaptureFixture,
    repair: bool,
) -> None:
    """The next run looks at the others again, however recent this one was."""
    corrupt = Digest.of(CONTENTS[0])
    damage(store, corrupt.key, b"ONE!")
    options = ("--repair", "--yes-i-am-sure") if repair else ()
    assert run(*VERIFY, *options)[0] == ExitStatus.DAMAGE_FOUND
    assert f"{corrupt.key} is corrupt" in caplog.text
    if repair:
        damage(store, corrupt.key, b"One!")
    status, output = run(*VERIFY, "--older-than", "1d")
    summary = summary_of(output)
    assert status == ExitStatus.DAMAGE_FOUND
    assert (summary["corrupt"], summary["intact"]) == (1, 0)


@on_disk
def test_only_one_verification_at_a_time(
    store: BlobStore, rows: list[Attachment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two repairs would move aside and restore the same blobs."""
    real = store.digest_of
    statuses: list[int] = []

    def while_another_begins(key: str, on_bytes: Any = None) -> Any:
        if not statuses:
            statuses.append(-1)
            with ThreadPoolExecutor(1) as pool:
                statuses.append(in_thread(pool, lambda: run(*VERIFY)[0]).result())
        return real(key, on_bytes)

    monkeypatch.setattr(store, "digest_of", while_another_begins)
    assert run(*VERIFY, "--workers", "1")[0] == 0
    assert statuses == [-1, ExitStatus.LOCKED]
