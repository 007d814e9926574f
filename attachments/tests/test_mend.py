"""mend_row: each fault of a row, shown and mended by one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attachments import references
from attachments.locks import lock_shared
from attachments.models import Attachment
from attachments.tests.factories import PDF, picture
from attachments.tests.legacy import (
    assert_whole,
    damage,
    legacy_key,
    make_legacy,
    make_row,
    on_disk,
    put,
    run,
    summary_of,
)
from cas.digest import Digest
from cas.exit_status import ExitStatus
from cas.storage.base import BlobStore
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

SURE = ("--yes-i-am-sure", "--json")


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Buck converter")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sheet.pdf"
    path.write_bytes(PDF)
    return path


def mend(row: Attachment, *arguments: str) -> tuple[int, dict[str, Any]]:
    status, output = run("mend_row", str(row.pk), *arguments, *SURE)
    row.refresh_from_db()
    return status, summary_of(output)


def test_a_wrong_size_is_shown_and_accepted(store: BlobStore, part: Part) -> None:
    row = make_legacy(store, part, b"four")
    Attachment.objects.filter(pk=row.pk).update(file_size=9)
    status, shown = mend(row)
    assert (status, shown["fault"]) == (0, "size_mismatch")
    assert (shown["row_bytes"], shown["object_bytes"]) == (9, 4)
    assert shown["next"] == f"manage.py mend_row {row.pk} --json --accept-size"
    assert mend(row, "--accept-size", "--dry-run")[1]["mended"] is False
    assert row.file_size == 9
    status, done = mend(row, "--accept-size")
    assert (status, done["mended"], row.file_size) == (0, True, 4)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    assert_whole(store)


@on_disk
@pytest.mark.parametrize("migrated", [False, True])
def test_an_unknown_key_is_pointed_at_an_object(
    store: BlobStore, part: Part, migrated: bool
) -> None:
    sound = make_legacy(store, part, b"content")
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    target = Digest.of(b"content").key if migrated else sound.s3_key or ""
    row = make_row(part, "uploads/old name.pdf", 3)
    shown = mend(row)[1]
    assert shown["fault"] == "unknown_key"
    assert "--point-at KEY" in shown["next"]
    status, _ = mend(row, "--point-at", target)
    assert (status, row.s3_key, row.file_size) == (0, target, 7)


@on_disk
@pytest.mark.parametrize("target", ["parts/1/attachments/none.pdf", "elsewhere/a", "cas/nothex"])
def test_a_row_is_not_pointed_at_nothing(store: BlobStore, part: Part, target: str) -> None:
    put(store, "elsewhere/a", b"a")
    row = make_row(part, "uploads/a.pdf", 3)
    status, summary = mend(row, "--point-at", target)
    assert (status, row.s3_key) == (ExitStatus.REFUSED, "uploads/a.pdf")
    assert summary["next"].startswith("Choose ")
    assert "--point-at KEY" in summary["next"]


@on_disk
def test_a_row_is_not_pointed_at_damaged_bytes(store: BlobStore, part: Part) -> None:
    make_legacy(store, part, b"content")
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    key = Digest.of(b"content").key
    damage(store, key, b"CONTENT")
    row = make_row(part, "uploads/a.pdf", 7)
    assert mend(row, "--point-at", key)[0] == ExitStatus.REFUSED
    assert row.s3_key == "uploads/a.pdf"


@pytest.mark.parametrize("fault", ["absent", "corrupt", "lost"])
def test_a_file_replaces_what_is_absent_or_corrupt(
    store: BlobStore, part: Part, file: Path, fault: str
) -> None:
    if fault == "absent":
        row = make_row(part, legacy_key(part), 5)
    else:
        row = make_legacy(store, part, b"content")
        assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
        row.refresh_from_db()
        if fault == "corrupt":
            damage(store, row.s3_key or "", b"CONTENT")
        else:
            store.remove(row.s3_key or "")
    assert mend(row)[1]["fault"] == ("corrupt" if fault == "corrupt" else "absent")
    status, summary = mend(row, "--replace-with", str(file), "--dry-run")
    assert (status, summary["mended"]) == (0, False)
    assert not [stat for stat in store.scan("cas/") if stat.key == Digest.of(PDF).key]
    status, summary = mend(row, "--replace-with", str(file))
    assert (status, summary["mended"]) == (0, True)
    assert (row.s3_key, row.file_size) == (Digest.of(PDF).key, len(PDF))
    assert list(store.staging_dir.glob("mend-*")) == []
    assert_whole(store)


@on_disk
def test_a_file_of_another_kind_is_refused(store: BlobStore, part: Part, tmp_path: Path) -> None:
    row = make_row(part, legacy_key(part), 5)
    photo = tmp_path / "photo.png"
    photo.write_bytes(picture())
    status, summary = mend(row, "--replace-with", str(photo))
    assert status == ExitStatus.REFUSED
    assert "kind" in summary["reason"]
    assert mend(row, "--replace-with", str(tmp_path / "none"))[0] == ExitStatus.REFUSED
    (tmp_path / "text").write_text("no picture")
    assert mend(row, "--replace-with", str(tmp_path / "text"))[0] == ExitStatus.REFUSED


@on_disk
def test_a_replacement_holds_the_digests_lock(
    store: BlobStore, part: Part, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_row(part, legacy_key(part), 5)
    held: list[Digest] = []

    def noted(digests: list[Digest]) -> None:
        assert not (Path(store.location) / Digest.of(PDF).key).exists()  # type: ignore[attr-defined]
        held.extend(digests)
        lock_shared(digests)

    monkeypatch.setattr(references, "lock_shared", noted)
    assert mend(row, "--replace-with", str(file))[0] == 0
    assert held == [Digest.of(PDF)]


@on_disk
def test_a_row_that_has_changed_meanwhile_is_left(
    store: BlobStore, part: Part, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_row(part, legacy_key(part), 5)
    real = references.replace

    def after_another(pk: int, key: str, upload: Any) -> bool:
        Attachment.objects.filter(pk=pk).update(s3_key="parts/1/attachments/other.pdf")
        return real(pk, key, upload)

    monkeypatch.setattr(references, "replace", after_another)
    assert mend(row, "--replace-with", str(file))[0] == ExitStatus.REFUSED
    assert row.s3_key == "parts/1/attachments/other.pdf"


@on_disk
def test_a_row_is_deleted(store: BlobStore, part: Part) -> None:
    row = make_row(part, legacy_key(part), 5)
    assert run("mend_row", str(row.pk), "--delete-row", "--dry-run")[0] == 0
    assert Attachment.objects.filter(pk=row.pk).exists()
    assert run("mend_row", str(row.pk), "--delete-row")[0] == ExitStatus.REFUSED
    assert Attachment.objects.filter(pk=row.pk).exists()
    assert run("mend_row", str(row.pk), "--delete-row", "--yes-i-am-sure")[0] == 0
    assert not Attachment.objects.filter(pk=row.pk).exists()


@on_disk
@pytest.mark.parametrize("way", ["--accept-size", "--delete-row"])
def test_a_sound_row_is_left_alone(store: BlobStore, part: Part, way: str) -> None:
    row = make_legacy(store, part, b"content")
    status, summary = mend(row, way)
    assert status == ExitStatus.REFUSED
    assert "nothing to mend" in summary["reason"]
    assert mend(row)[1]["fault"] == ""


@on_disk
def test_a_row_that_is_not_there(store: BlobStore) -> None:
    status, output = run("mend_row", "999", *SURE)
    assert status == ExitStatus.REFUSED
    assert "there is no row 999" in summary_of(output)["reason"]
