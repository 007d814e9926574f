"""What keeps a repair from deleting the only good copy of a blob, or what somebody is using."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from django.db import transaction

from attachments import references
from attachments.locks import lock_shared
from attachments.models import Attachment
from attachments.tests.factories import PDF, staged
from attachments.tests.legacy import damage, make_legacy, make_row, on_disk, put, run, summary_of
from attachments.tests.waiting import in_thread
from attachments.uploads import StagedUpload
from cas.digest import Digest
from cas.exit_status import ExitStatus
from cas.storage.base import Absent, BlobStore, Changed, Corrupt, StoreError, Unreachable
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

REPAIR = ("verify_cas", "--json", "--read-all", "--repair", "--right-store", "--yes-i-am-sure")

RIGHT = b"right"
WRONG = b"WRONG"
BLOB = Digest.of(RIGHT)


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attachments.maintenance.retry.FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Buck converter")


@pytest.fixture
def corrupt(store: BlobStore, part: Part, tmp_path: Path) -> Digest:
    """A referenced blob with wrong bytes. There is no old object to restore it from."""
    store.create(staged(RIGHT, tmp_path / "staged"))
    make_row(part, BLOB.key, len(RIGHT))
    damage(store, BLOB.key, WRONG)
    return BLOB


def aside(store: BlobStore) -> set[Digest]:
    return {store.digest_of(stat.key)[0] for stat in store.scan("quarantine/")}


def test_what_is_healed_while_it_is_moved_aside_stays(
    store: BlobStore, corrupt: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload puts the right bytes there after the wrong ones were read; no others exist."""
    real = store.copy

    def and_healed(source: str, target: str, **version: Any) -> None:
        real(source, target, **version)
        damage(store, corrupt.key, RIGHT)

    monkeypatch.setattr(store, "copy", and_healed)
    run(*REPAIR)
    assert store.digest_of(corrupt.key)[0] == corrupt


@on_disk
def test_what_is_healed_before_it_is_read_again_stays(
    store: BlobStore, corrupt: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the verdict and the repair."""
    real = store.scan

    def healed_by_now(prefix: str, *, after: str = "") -> Any:
        if prefix == "parts/":
            damage(store, corrupt.key, RIGHT)
        return real(prefix, after=after)

    monkeypatch.setattr(store, "scan", healed_by_now)
    _, output = run(*REPAIR)
    assert summary_of(output)["corrupt"] == 1
    assert summary_of(output)["quarantined"] == 0
    assert store.digest_of(corrupt.key)[0] == corrupt
    assert aside(store) == set()


@on_disk
def test_a_copy_that_is_not_what_was_read_is_no_reason_to_delete(
    store: BlobStore, corrupt: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is moved aside may be all there is; it goes only when its copy was read back."""
    real = store.copy

    def cut_short(source: str, target: str, **version: Any) -> None:
        real(source, target, **version)
        damage(store, target, b"WR")

    monkeypatch.setattr(store, "copy", cut_short)
    status, output = run(*REPAIR)
    assert status == ExitStatus.DAMAGE_FOUND
    assert summary_of(output)["quarantined"] == 0
    assert store.digest_of(corrupt.key)[0] == Digest.of(WRONG)


def test_moved_aside_is_kept_byte_for_byte(store: BlobStore, corrupt: Digest) -> None:
    assert summary_of(run(*REPAIR)[1])["quarantined"] == 1
    assert aside(store) == {Digest.of(WRONG)}
    assert list(store.scan("cas/")) == []


@on_disk
def test_a_delete_that_fails_is_not_called_moved(
    store: BlobStore, corrupt: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        store, "remove_many", lambda keys: ((key, Unreachable("503", key=key)) for key in keys)
    )
    status, output = run(*REPAIR)
    assert status == ExitStatus.DAMAGE_FOUND
    assert summary_of(output)["quarantined"] == 0
    assert "503" in output


@on_disk
@pytest.mark.postgres
@pytest.mark.parametrize("readable", [True, False])
def test_what_an_upload_relies_on_stays(
    store: BlobStore,
    part: Part,
    corrupt: Digest,
    monkeypatch: pytest.MonkeyPatch,
    readable: bool,
) -> None:
    """Its transaction has found the blob there and has not committed its row yet."""
    if not readable:
        put(store, f"parts/1/attachments/{BLOB.hex[:32]}.pdf", RIGHT)
        fail_to_read(store, corrupt, monkeypatch)
    held, leave = Event(), Event()

    def upload() -> None:
        with transaction.atomic():
            lock_shared([corrupt])
            held.set()
            leave.wait(30)

    with ThreadPoolExecutor(1) as pool:
        uploading = in_thread(pool, upload)
        assert held.wait(30)
        try:
            status, output = run(*REPAIR)
        finally:
            leave.set()
        uploading.result()
    assert status == ExitStatus.DAMAGE_FOUND
    assert summary_of(output)["quarantined"] == 0
    assert store.stat(corrupt.key).size == len(WRONG)


def fail_to_read(store: BlobStore, digest: Digest, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the object that is there at this moment cannot be read, as on a bad sector."""
    real = store.digest_of
    bad = store.stat(digest.key).etag

    def failing(key: str, on_bytes: Any = None) -> Any:
        if key == digest.key and store.stat(key).etag == bad:
            raise Unreachable("Input/output error", key=key)
        return real(key, on_bytes)

    monkeypatch.setattr(store, "digest_of", failing)


@pytest.fixture
def unreadable(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Digest]:
    """Makes a migrated blob unreadable whose old object is still there."""

    def make() -> Digest:
        make_legacy(store, part, RIGHT)
        assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
        fail_to_read(store, BLOB, monkeypatch)
        return BLOB

    return make


@on_disk
def test_what_can_be_read_again_makes_no_way(
    store: BlobStore, unreadable: Callable[[], Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that did not answer for a while; the blob is as sound as it was."""
    digest = unreadable()
    removed: list[str] = []
    real = store.remove_many
    scan = store.scan

    def answers_by_now(prefix: str, *, after: str = "") -> Any:
        if prefix == "parts/" and after == "":
            monkeypatch.setattr(store, "digest_of", type(store).digest_of.__get__(store))
        return scan(prefix, after=after)

    def recorded(keys: Any) -> Any:
        keys = list(keys)
        removed.extend(keys)
        return real(keys)

    monkeypatch.setattr(store, "scan", answers_by_now)
    monkeypatch.setattr(store, "remove_many", recorded)
    status, output = run(*REPAIR)
    assert (status, summary_of(output)["restored"]) == (ExitStatus.DAMAGE_FOUND, 0)
    assert digest.key not in removed
    assert store.digest_of(digest.key)[0] == digest


@on_disk
def test_what_is_healed_while_it_makes_way_stays(
    store: BlobStore, unreadable: Callable[[], Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload replaced it after it was found unreadable: what is there now was not looked at."""
    digest = unreadable()
    failing = store.digest_of
    removed: list[str] = []
    real = store.remove_many
    repairing: list[bool] = []

    def then_healed(key: str, on_bytes: Any = None) -> Any:
        try:
            return failing(key, on_bytes)
        except Unreachable:
            if repairing:
                damage(store, key, RIGHT)
            raise

    def recorded(keys: Any) -> Any:
        keys = list(keys)
        removed.extend(keys)
        return real(keys)

    scan = store.scan

    def begun(prefix: str, *, after: str = "") -> Any:
        if prefix == "parts/":
            repairing.append(True)
        return scan(prefix, after=after)

    monkeypatch.setattr(store, "scan", begun)
    monkeypatch.setattr(store, "digest_of", then_healed)
    monkeypatch.setattr(store, "remove_many", recorded)
    run(*REPAIR)
    assert repairing
    assert digest.key not in removed
    assert store.digest_of(digest.key)[0] == digest


@on_disk
def test_nothing_is_restored_while_a_delete_may_be_on_its_way(
    store: BlobStore,
    part: Part,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would take away what was restored, and the run had called it sound."""
    old = make_legacy(store, part, PDF)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    digest = Digest.of(PDF)
    damage(store, digest.key, PDF.upper())
    with monkeypatch.context() as silent:
        silent.setattr(
            store, "remove_many", lambda keys: ((key, Unreachable("lost", key=key)) for key in keys)
        )
        assert run(*REPAIR)[0] == ExitStatus.DAMAGE_FOUND
    # The delete is carried out, and what else that request may still do is not known.
    store.remove(digest.key)
    status, output = run(*REPAIR)
    assert status == ExitStatus.DAMAGE_FOUND
    assert summary_of(output)["restored"] == 0
    assert list(store.scan("cas/")) == []
    assert old.s3_key is not None
    assert store.digest_of(old.s3_key)[0] == digest
    upload = StagedUpload(
        staged(PDF, tmp_path / "again"), "a.pdf", "application/pdf", Attachment.Kind.PDF
    )
    with pytest.raises(Unreachable):
        references.attach(part.pk, upload, "again")


@on_disk
def test_only_what_hashes_to_its_key_is_called_restored(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the store says that it did: a cleanup deletes the old object next."""
    make_legacy(store, part, RIGHT)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    damage(store, BLOB.key, WRONG)
    real = store.ingest

    def kept_badly(source: str, *arguments: Any) -> Any:
        ingested = real(source, *arguments)
        damage(store, BLOB.key, WRONG)
        return ingested

    monkeypatch.setattr(store, "ingest", kept_badly)
    status, output = run(*REPAIR)
    assert status == ExitStatus.DAMAGE_FOUND
    assert (summary_of(output)["restored"], summary_of(output)["still_damaged"]) == (0, 1)


@on_disk
def test_an_old_object_that_goes_while_it_is_copied_ends_nothing(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its blob is not called restored, and the other one is."""
    old = {make_legacy(store, part, content).s3_key or "" for content in (RIGHT, b"other")}
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    for content in (RIGHT, b"other"):
        store.remove(Digest.of(content).key)
    first = min(old)
    real = store.ingest

    def gone_by_now(source: str, *arguments: Any) -> Any:
        if source == first:
            store.remove(source)
        return real(source, *arguments)

    monkeypatch.setattr(store, "ingest", gone_by_now)
    status, output = run(*REPAIR)
    summary = summary_of(output)
    assert status == ExitStatus.DAMAGE_FOUND
    assert (summary["missing"], summary["restored"], summary["still_damaged"]) == (2, 1, 1)
    assert len(list(store.scan("cas/"))) == 1


@on_disk
def test_a_blob_that_went_before_it_could_be_moved_aside_ends_nothing(
    store: BlobStore, corrupt: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.scan

    def gone_by_now(prefix: str, *, after: str = "") -> Any:
        if prefix == "parts/":
            store.remove(corrupt.key)
        return real(prefix, after=after)

    monkeypatch.setattr(store, "scan", gone_by_now)
    status, output = run(*REPAIR)
    assert status == ExitStatus.DAMAGE_FOUND
    assert summary_of(output)["quarantined"] == 0
    assert summary_of(output)["reason"] == ""


@on_disk
@pytest.mark.parametrize("error", [Absent, Changed, Corrupt])
def test_an_old_object_that_cannot_be_used_is_passed_by(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch, error: type[StoreError]
) -> None:
    """The next one of the same size has the bytes."""
    digest = Digest.of(RIGHT)
    make_row(part, digest.key, len(RIGHT))
    first, second = (f"parts/{number}/attachments/{BLOB.hex[:32]}.pdf" for number in (1, 2))
    put(store, first, RIGHT)
    put(store, second, RIGHT)
    real = store.digest_of

    def failing(key: str, on_bytes: Any = None) -> Any:
        if key == first:
            raise error("no", key=key)
        return real(key, on_bytes)

    monkeypatch.setattr(store, "digest_of", failing)
    status, output = run(*REPAIR)
    assert (status, summary_of(output)["restored"]) == (0, 1), output
    assert store.digest_of(digest.key)[0] == digest


def test_a_blob_is_restored_once_however_many_old_objects_hold_it(
    store: BlobStore, part: Part
) -> None:
    make_legacy(store, part, RIGHT)
    make_legacy(store, part, RIGHT)
    make_legacy(store, part, b"other")
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    store.remove(BLOB.key)
    damage(store, Digest.of(b"other").key, b"OTHER")
    status, output = run(*REPAIR)
    summary = summary_of(output)
    assert status == 0, output
    assert (summary["restored"], summary["quarantined"]) == (2, 1)
    assert store.digest_of(BLOB.key)[0] == BLOB


@on_disk
def test_what_cannot_be_read_and_then_is_gone_is_restored(
    store: BlobStore, unreadable: Callable[[], Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = unreadable()
    scan = store.scan
    removed: list[str] = []

    def gone_by_now(prefix: str, *, after: str = "") -> Any:
        if prefix == "parts/" and not removed:
            removed.append(digest.key)
            store.remove(digest.key)
        return scan(prefix, after=after)

    monkeypatch.setattr(store, "scan", gone_by_now)
    status, output = run(*REPAIR)
    assert (status, summary_of(output)["restored"]) == (0, 1), output
    assert store.digest_of(digest.key)[0] == digest
