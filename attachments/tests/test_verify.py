"""verify_cas: what it finds, what it repairs, and that it only reads otherwise."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from collections import Counter
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from attachments import verifications
from attachments.maintenance import cleanup, verify
from attachments.maintenance.pacing import Bandwidth
from attachments.maintenance.run import ExitStatus, Stop
from attachments.maintenance.survey import survey
from attachments.maintenance.verdicts import Verdict
from attachments.models import Attachment, Verification
from attachments.tests.factories import staged
from attachments.tests.legacy import damage, make_legacy, make_row, on_disk, run, summary_of
from cas.digest import Digest
from cas.storage.base import BlobStore, Denied, Unreachable
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

VERIFY = ("verify_cas", "--json", "--read-all")
REPAIR = (*VERIFY, "--repair", "--yes-i-am-sure")


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Buck converter")


@pytest.fixture
def moved(store: BlobStore, part: Part) -> list[Digest]:
    """Three migrated rows whose old objects are still there."""
    contents = (b"one!", b"two!", b"three")
    for content in contents:
        make_legacy(store, part, content)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    return [Digest.of(content) for content in contents]


def remove_legacy(store: BlobStore) -> None:
    for stat in list(store.scan("parts/")):
        store.remove(stat.key)


def everything(store: BlobStore) -> dict[str, tuple[int, str]]:
    return {stat.key: (stat.size, stat.etag) for stat in store.scan("")}


def test_sound_blobs_are_intact(store: BlobStore, moved: list[Digest]) -> None:
    status, output = run(*VERIFY)
    summary = summary_of(output)
    assert status == 0, output
    assert (summary["planned"], summary["intact"], summary["bytes"]) == (3, 3, 13)
    assert summary["next"] == "manage.py cleanup_legacy_blobs --dry-run"


def test_every_kind_of_damage_is_found_and_nothing_touched(
    store: BlobStore, part: Part, moved: list[Digest], tmp_path: Path
) -> None:
    corrupt, lost, sized = moved
    damage(store, corrupt.key, b"ONE!")
    store.remove(lost.key)
    Attachment.objects.filter(s3_key=sized.key).update(file_size=99)
    orphan = staged(b"orphan", tmp_path / "orphan")
    store.create(orphan)
    damage(store, "cas/README", b"stray")
    before = everything(store)
    report = tmp_path / "report.jsonl"
    status, output = run(*VERIFY, "--report", str(report))
    summary = summary_of(output)
    found = [json.loads(line) for line in report.read_text().splitlines()]
    assert status == ExitStatus.DAMAGE_FOUND
    assert {
        name: summary[name]
        for name in ("corrupt", "missing", "wrong_size", "orphans", "strays", "still_damaged")
    } == {
        "corrupt": 1, "missing": 1, "wrong_size": 1, "orphans": 1, "strays": 1, "still_damaged": 3,
    }  # fmt: skip
    assert {(line["key"], line["verdict"]) for line in found if line["verdict"] != "intact"} == {
        (corrupt.key, "corrupt"),
        (lost.key, "missing"),
        (sized.key, "wrong_size"),
        (orphan.digest.key, "orphan"),
        ("cas/README", "stray"),
    }
    assert everything(store) == before
    assert summary["planned"] == sum(summary[str(verdict)] for verdict in Verdict)
    assert sorted(sample.split()[0] for sample in summary["samples"]) == sorted(
        f"{digest.key}:" for digest in moved
    )
    assert summary["next"] == f"manage.py verify_cas --json --report {report} --read-all --repair"


def test_repair_restores_from_the_old_objects(store: BlobStore, moved: list[Digest]) -> None:
    corrupt, lost, _sound = moved
    damage(store, corrupt.key, b"ONE!")
    store.remove(lost.key)
    status, output = run(*REPAIR)
    summary = summary_of(output)
    assert status == 0, output
    assert (summary["quarantined"], summary["restored"], summary["still_damaged"]) == (1, 2, 0)
    for digest in moved:
        assert store.digest_of(digest.key)[0] == digest
    found = Digest.of(b"ONE!")
    assert store.digest_of(f"quarantine/{corrupt}.{found}")[0] == found


def test_what_was_moved_aside_before_is_kept(store: BlobStore, moved: list[Digest]) -> None:
    contents = (b"ONE!", b"TWO!", b"ONE!")
    for content in contents:
        damage(store, moved[0].key, content)
        assert run(*REPAIR)[0] == 0
    kept = {store.digest_of(stat.key)[0] for stat in store.scan("quarantine/")}
    assert kept == {Digest.of(content) for content in contents}


@on_disk
def test_a_corrupt_blob_stays_until_there_is_what_to_restore_it_from(
    store: BlobStore, moved: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(store, moved[0].key, b"ONE!")
    real = store.scan

    def cut_short(prefix: str, *, after: str = "") -> Any:
        if prefix == "parts/":
            raise Unreachable("the listing never came")
        return real(prefix, after=after)

    monkeypatch.setattr(store, "scan", cut_short)
    status, output = run(*REPAIR)
    summary = summary_of(output)
    assert (status, summary["quarantined"]) == (ExitStatus.DAMAGE_FOUND, 0)
    assert "the listing never came" in summary["reason"]
    assert summary["next"].endswith(", then: manage.py verify_cas --json --read-all --repair")
    assert store.stat(moved[0].key).size == 4


@on_disk
@pytest.mark.parametrize("first", ["repair", "cleanup"])
def test_a_repair_and_a_cleanup_exclude_each_other(
    store: BlobStore,
    moved: list[Digest],
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
    first: str,
) -> None:
    """The old objects are what a repair restores from, and what a cleanup deletes."""
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    commands = {"repair": REPAIR, "cleanup": ("cleanup_legacy_blobs", "--yes-i-am-sure")}
    second = commands["cleanup" if first == "repair" else "repair"]
    module = verify if first == "repair" else cleanup
    step = "_repair" if first == "repair" else "_delete"
    damage(store, moved[0].key, b"ONE!")
    # To be found out by the repair, not by the cleanup.
    verifications.record([store.stat(moved[0].key)])
    real = getattr(module, step)
    statuses: list[int] = []

    def other() -> None:
        statuses.append(run(*second)[0])
        connections.close_all()

    def and_the_other_meanwhile(*arguments: Any) -> Any:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return real(*arguments)

    monkeypatch.setattr(module, step, and_the_other_meanwhile)
    assert run(*commands[first])[0] == 0
    assert statuses == [ExitStatus.LOCKED]


def test_what_cannot_be_restored_is_moved_aside_for_a_fresh_upload(
    store: BlobStore,
    part: Part,
    moved: list[Digest],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    remove_legacy(store)
    damage(store, moved[0].key, b"ONE!")
    status, output = run(*REPAIR)
    assert status == ExitStatus.DAMAGE_FOUND
    assert summary_of(output)["still_damaged"] == 1
    assert f"part {part.key}" in caplog.text
    store.create(staged(b"one!", tmp_path / "again"))
    assert store.digest_of(moved[0].key)[0] == moved[0]
    assert run(*VERIFY)[0] == 0


@on_disk
def test_a_row_that_is_wrong_about_its_size_is_no_reason_to_touch_the_blob(
    store: BlobStore, moved: list[Digest]
) -> None:
    Attachment.objects.filter(s3_key=moved[0].key).update(file_size=99)
    before = everything(store)
    status, output = run(*REPAIR)
    assert status == ExitStatus.DAMAGE_FOUND
    assert summary_of(output)["restored"] == 0
    assert everything(store) == before


@on_disk
def test_repair_asks_first(store: BlobStore, moved: list[Digest]) -> None:
    assert run("verify_cas", "--repair")[0] == ExitStatus.REFUSED


@on_disk
def test_a_blob_in_use_is_not_moved_aside(
    store: BlobStore, moved: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing to restore it from it stays; otherwise it is replaced where it is."""
    monkeypatch.setattr("attachments.locks._exclusive", lambda digests: nullcontext((set(), set())))
    damage(store, moved[0].key, b"ONE!")
    old = [stat.key for stat in store.scan("parts/")]
    with monkeypatch.context() as without_old:
        scan = store.scan
        without_old.setattr(
            store, "scan", lambda prefix, **at: (s for s in scan(prefix, **at) if s.key not in old)
        )
        status, output = run(*REPAIR)
    assert status == ExitStatus.DAMAGE_FOUND
    assert summary_of(output)["quarantined"] == 0
    assert store.stat(moved[0].key).size == 4
    assert run(*REPAIR)[0] == ExitStatus.DONE
    assert store.digest_of(moved[0].key)[0] == moved[0]
    kept = [stat.key for stat in store.scan(f"quarantine/{moved[0]}.")]
    assert [store.digest_of(key)[0] for key in kept] == [Digest.of(b"ONE!")]


@on_disk
def test_a_blob_healed_meanwhile_is_not_moved_aside(
    store: BlobStore, moved: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload put the right bytes back after the corrupt ones were read.

    There is no old object: what the repair deletes now nothing brings back.
    """
    remove_legacy(store)
    damage(store, moved[0].key, b"ONE!")
    real = store.copy

    def and_healed(source: str, target: str, **version: Any) -> None:
        real(source, target, **version)
        damage(store, moved[0].key, b"one!")

    monkeypatch.setattr(store, "copy", and_healed)
    assert summary_of(run(*REPAIR)[1])["quarantined"] == 0
    assert store.digest_of(moved[0].key)[0] == moved[0]


@on_disk
def test_a_referenced_blob_that_vanishes_while_it_is_hashed_is_missing(
    store: BlobStore, moved: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there in the survey; only one that no row references any more is merely gone."""
    real = store.digest_of

    def vanishing(key: str, on_bytes: Any = None) -> Any:
        if key == moved[0].key:
            store.remove(key)
        return real(key, on_bytes)

    monkeypatch.setattr(store, "digest_of", vanishing)
    status, output = run(*VERIFY)
    summary = summary_of(output)
    assert status == ExitStatus.DAMAGE_FOUND, output
    assert (summary["missing"], summary["gone"], summary["still_damaged"]) == (1, 0, 1)
    Attachment.objects.filter(s3_key=moved[0].key).delete()
    assert run(*VERIFY)[0] == 0


@on_disk
def test_the_least_recently_verified_come_first(
    store: BlobStore, moved: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "BATCH", 1)
    days = {moved[0]: 1, moved[1]: 3, moved[2]: 2}
    for digest, age in days.items():
        Verification.objects.create(
            digest=digest.hex, verified_at=timezone.now() - timedelta(days=age)
        )
    asked: list[str] = []
    real = store.digest_of

    def recorded(key: str, on_bytes: Any = None) -> Any:
        asked.append(key)
        return real(key, on_bytes)

    monkeypatch.setattr(store, "digest_of", recorded)
    run(*VERIFY, "--workers", "1", "--older-than", "36h")
    assert asked == [moved[1].key, moved[2].key]
    asked.clear()
    run(*VERIFY, "--workers", "1", "--older-than", "36h")
    assert asked == []


@on_disk
def test_a_run_cut_short_says_how_to_go_on(store: BlobStore, moved: list[Digest]) -> None:
    status, output = run(*VERIFY, "--max-duration", "0")
    summary = summary_of(output)
    assert status == ExitStatus.LIMIT_REACHED
    assert (summary["intact"], summary["remaining"]) == (0, 3)
    assert summary["next"] == (
        "manage.py verify_cas --json --max-duration 0s --older-than 1d --read-all"
    )


@on_disk
def test_the_time_allowed_is_for_hashing(
    store: BlobStore, moved: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing that takes longer than a nightly run would otherwise be all it ever does."""
    happened: list[str] = []
    real = survey

    def recorded(*arguments: Any) -> Any:
        yield from real(*arguments)
        happened.append("listed")

    monkeypatch.setattr(verify, "survey", recorded)
    monkeypatch.setattr(Stop, "after", lambda _self, seconds: happened.append(f"{seconds:g} s"))
    assert run(*VERIFY, "--max-duration", "1h")[0] == 0
    assert happened == ["listed", "3600 s"]


@on_disk
def test_a_run_that_ends_in_its_survey_is_to_be_made_again(
    store: BlobStore, moved: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing planned yet it has not verified everything."""
    real = survey

    def then_a_signal(*arguments: Any) -> Any:
        for entry in real(*arguments):
            os.kill(os.getpid(), signal.SIGTERM)
            yield entry

    monkeypatch.setattr(verify, "survey", then_a_signal)
    status, output = run("verify_cas", "--workers", "2", "--bandwidth", "1M", "--json")
    summary = summary_of(output)
    assert (status, summary["planned"]) == (ExitStatus.INTERRUPTED, 0)
    assert summary["next"] == (
        "manage.py verify_cas --json --workers 2 --bandwidth 1M --older-than 1d"
    )


@on_disk
def test_what_was_found_before_the_store_failed_is_told_and_remembered(
    store: BlobStore, moved: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(store, moved[0].key, b"ONE!")
    real = store.digest_of

    def denied_at_last(key: str, on_bytes: Any = None) -> Any:
        if key == moved[1].key:
            raise Denied("expired", key=key)
        return real(key, on_bytes)

    order = [moved[0], moved[2], moved[1]]
    monkeypatch.setattr(verify, "_due", lambda before, stop: iter(order))
    monkeypatch.setattr(store, "digest_of", denied_at_last)
    status, output = run(*VERIFY, "--workers", "1")
    summary = summary_of(output)
    assert status == ExitStatus.DAMAGE_FOUND
    assert "expired" in summary["reason"]
    assert (summary["corrupt"], summary["intact"], summary["remaining"]) == (1, 1, 1)
    remembered = Verification.objects.filter(verified_at__gt=verify.NEVER)
    assert [row.digest for row in remembered] == [moved[2].hex]


@on_disk
def test_a_blob_has_one_verdict(store: BlobStore, moved: list[Digest]) -> None:
    """A short one is of the wrong size in the survey, and corrupt once it is hashed."""
    damage(store, moved[0].key, b"ON")
    summary = summary_of(run(*VERIFY, "--older-than", "0")[1])
    assert (summary["planned"], summary["corrupt"], summary["wrong_size"]) == (3, 1, 0)
    assert (summary["failures"], summary["intact"]) == ({"corrupt": 1}, 2)


@on_disk
def test_a_suspicious_size_is_hashed_however_recently_it_was(
    store: BlobStore, moved: list[Digest]
) -> None:
    assert run(*VERIFY)[0] == 0
    damage(store, moved[0].key, b"ON")
    store.remove(moved[1].key)
    summary = summary_of(run(*VERIFY, "--older-than", "1d")[1])
    assert (summary["planned"], summary["corrupt"], summary["missing"]) == (2, 1, 1)
    assert summary["remaining"] == 0
    # What was enrolled before it was lost is not planned twice.
    summary = summary_of(run(*VERIFY)[1])
    assert (summary["planned"], summary["remaining"], summary["missing"]) == (3, 0, 1)


@on_disk
def test_bytes_damaged_on_their_way_are_read_again(
    store: BlobStore, moved: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.digest_of
    readings: Counter[str] = Counter()

    def once_altered(key: str, on_bytes: Any = None) -> Any:
        readings[key] += 1
        digest, stat = real(key, on_bytes)
        return (Digest.of(b"noise") if readings[key] == 1 else digest), stat

    monkeypatch.setattr(store, "digest_of", once_altered)
    status, output = run(*VERIFY)
    assert (status, summary_of(output)["intact"]) == (0, 3)


@on_disk
def test_workers_and_bandwidth_are_heeded(
    store: BlobStore, moved: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[int] = []
    together = threading.Barrier(3)
    real = store.digest_of

    def at_once(key: str, on_bytes: Any = None) -> Any:
        together.wait(30)
        return real(key, on_bytes)

    monkeypatch.setattr(Bandwidth, "spend", lambda _self, count: spent.append(count))
    monkeypatch.setattr(store, "digest_of", at_once)
    assert run(*VERIFY, "--workers", "3", "--bandwidth", "1M")[0] == 0
    assert sum(spent) == 13


@on_disk
def test_a_blob_deleted_meanwhile_is_no_damage(store: BlobStore, moved: list[Digest]) -> None:
    Verification.objects.create(
        digest=Digest.of(b"collected").hex, verified_at=datetime(2020, 1, 1, tzinfo=UTC)
    )
    status, output = run(*VERIFY)
    assert status == 0
    assert summary_of(output)["gone"] == 1
    assert not Verification.objects.filter(digest=Digest.of(b"collected").hex).exists()


@on_disk
def test_an_unreadable_blob_is_reported_and_the_rest_verified(
    store: BlobStore, moved: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attachments.maintenance.pacing.FIRST_WAIT_SECONDS", 0.001)
    real = store.digest_of

    def failing(key: str, on_bytes: Any = None) -> Any:
        if key == moved[0].key:
            raise Unreachable("500", key=key)
        return real(key, on_bytes)

    monkeypatch.setattr(store, "digest_of", failing)
    status, output = run(*VERIFY)
    summary = summary_of(output)
    assert status == ExitStatus.DAMAGE_FOUND
    assert (summary["unreadable"], summary["intact"]) == (1, 2)


@on_disk
@pytest.mark.parametrize("copies", [True, False])
def test_an_unreadable_blob_makes_way_for_its_old_object_if_there_is_one(
    store: BlobStore, moved: list[Digest], monkeypatch: pytest.MonkeyPatch, copies: bool
) -> None:
    """As on a disk with a bad sector."""
    monkeypatch.setattr("attachments.maintenance.pacing.FIRST_WAIT_SECONDS", 0.001)
    if not copies:
        remove_legacy(store)
    read, remove = store.digest_of, store.remove_many
    gone: list[str] = []

    def failing(key: str, on_bytes: Any = None) -> Any:
        if key == moved[0].key and not gone:
            raise Unreachable("Input/output error", key=key)
        return read(key, on_bytes)

    def removing(keys: Any) -> Any:
        gone.extend(keys)
        return remove(gone)

    monkeypatch.setattr(store, "digest_of", failing)
    monkeypatch.setattr(store, "remove_many", removing)
    status, output = run(*REPAIR)
    summary = summary_of(output)
    assert status == (0 if copies else ExitStatus.DAMAGE_FOUND)
    assert (summary["unreadable"], summary["restored"]) == (1, int(copies))
    assert gone == ([moved[0].key] if copies else [])
    assert store.stat(moved[0].key).size == 4


@on_disk
def test_refused_credentials_end_it(
    store: BlobStore, moved: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(key: str, on_bytes: Any = None) -> Any:
        raise Denied("expired", key=key)

    monkeypatch.setattr(store, "digest_of", denied)
    assert run(*VERIFY)[0] == ExitStatus.UNAVAILABLE


@on_disk
def test_the_stores_own_checksum_is_used_unless_told_otherwise(
    store: BlobStore, moved: list[Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.stat

    def with_checksum(key: str) -> Any:
        stat = real(key)
        return dataclasses.replace(stat, sha256=Digest.of(b"two!"))

    monkeypatch.setattr(store, "stat", with_checksum)
    status, output = run("verify_cas", "--json")
    assert status == ExitStatus.DAMAGE_FOUND
    assert (summary_of(output)["corrupt"], summary_of(output)["intact"]) == (2, 1)
    assert run(*VERIFY)[0] == 0


@on_disk
def test_rows_that_reference_a_missing_blob_are_named(
    store: BlobStore, moved: list[Digest], part: Part
) -> None:
    row = make_row(part, Digest.of(b"lost").key, 4)
    status, output = run("verify_cas")
    assert status == ExitStatus.DAMAGE_FOUND
    assert f"row {row.pk}" in output
