"""What rows of an older installation name stays until they are released."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from attachments import references
from attachments.maintenance import cleanup as cleanup_module
from attachments.maintenance.repair import repair
from attachments.maintenance.run import ExitStatus, Stop
from attachments.models import Attachment
from attachments.tests.factories import staged
from attachments.tests.legacy import (
    assert_whole,
    blobs,
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
from cas.storage.base import BlobStore, StoreError
from parts.models import Part, SourceRow

pytestmark = pytest.mark.django_db(transaction=True)

CLEANUP = ("cleanup_legacy_blobs", "--yes-i-am-sure", "--verify-content", "--json")
COLLECT = ("collect_garbage", "--yes-i-am-sure", "--grace", "0", "--json")

ids = count(1)


@pytest.fixture
def part() -> Part:
    return Part.objects.create(description="Buck converter")


@pytest.fixture(autouse=True)
def allowed(settings: Any) -> None:
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True


def recorded(
    key: str | None, state: SourceRow.State = SourceRow.State.REFUSED, **fields: Any
) -> SourceRow:
    """A row of the older installation `old`, as an import records it."""
    reason = "invalid" if state is SourceRow.State.REFUSED else ""
    given = {"source": "old", "source_table": "part_attachments", "reason_code": reason, **fields}
    return SourceRow.objects.create(
        source_id=str(next(ids)), object_key=key, state=state, tried_at=timezone.now(), **given
    )


def release(cause: SourceRow.Release, **which: Any) -> None:
    rows = SourceRow.objects.filter(released_at__isnull=True, **which)
    rows.update(released_at=timezone.now(), release_cause=cause)


def put_blob(store: BlobStore, content: bytes, path: Path) -> str:
    upload = staged(content, path / f"upload-{Digest.of(content)}")
    store.create(upload)
    return upload.digest.key


def keys_of(store: BlobStore) -> set[str]:
    return {stat.key for stat in store.scan("")}


class Move:
    """An import as the tables and the store are after it: what came, what did not, what nobody
    recorded."""

    def __init__(self, store: BlobStore, part: Part, path: Path) -> None:
        self.accepted = [make_legacy(store, part, content).s3_key or "" for content in (b"a", b"b")]
        for key in self.accepted:
            recorded(key, SourceRow.State.ACCEPTED)
        # Its last part has spaces, which no key of ours has.
        self.accepted.append("parts/7/attachments/data sheet.pdf")
        put(store, self.accepted[-1], b"c")
        make_row(part, self.accepted[-1], 1)
        recorded(self.accepted[-1], SourceRow.State.ACCEPTED)
        self.refused = [legacy_key(part), "parts/9/attachments/not a uuid.jpg"]
        for key in self.refused:
            put(store, key, b"refused")
            recorded(key)
        self.refused_blob = put_blob(store, b"refused too", path)
        recorded(self.refused_blob)
        self.untried = legacy_key(part)
        put(store, self.untried, b"untried")
        recorded(self.untried, SourceRow.State.UNTRIED)
        recorded(legacy_key(part), reason_code="absent")
        recorded(Digest.of(b"nowhere").key, reason_code="absent")
        recorded(None)
        self.added_since = legacy_key(part)
        put(store, self.added_since, b"added since")


@pytest.fixture
def move(store: BlobStore, part: Part, tmp_path: Path) -> Move:
    return Move(store, part, tmp_path)


def test_nothing_goes_that_the_source_still_names(
    store: BlobStore, move: Move, tmp_path: Path
) -> None:
    """Import, migrate, verify, cleanup and a collection with no grace."""
    before = keys_of(store)
    garbage = put_blob(store, b"garbage", tmp_path)
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    status, output = run("verify_cas", "--json")
    verified = summary_of(output)
    assert status == 0, output
    assert (verified["missing"], verified["held"], verified["orphans"]) == (0, 1, 1)
    assert run("migration_status", "--check-objects")[0] == 0
    status, output = run(*CLEANUP)
    cleaned = summary_of(output)
    assert status == 0, output
    assert (cleaned["deleted"], cleaned["held"], cleaned["unknown_left_alone"]) == (0, 6, 1)
    status, output = run(*COLLECT)
    collected = summary_of(output)
    assert status == 0, output
    assert (collected["collected"], collected["held"]) == (1, 1)
    assert before <= keys_of(store)
    assert garbage not in keys_of(store)
    assert_whole(store)


def test_retiring_a_source_frees_the_accepted_rows_objects_and_no_other(
    store: BlobStore, move: Move
) -> None:
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    before = keys_of(store)
    release(SourceRow.Release.RETIRED, state=SourceRow.State.ACCEPTED)
    status, output = run(*CLEANUP)
    assert status == 0, output
    assert before - keys_of(store) == set(move.accepted)
    assert run(*COLLECT)[0] == 0
    assert before - keys_of(store) == set(move.accepted)
    assert_whole(store)
    release(SourceRow.Release.FORGOTTEN, state=SourceRow.State.REFUSED)
    assert run(*CLEANUP)[0] == 0
    assert run(*COLLECT, "--max-delete-percent", "50")[0] == 0
    gone = {*move.accepted, *move.refused, move.refused_blob}
    assert before - keys_of(store) == gone
    # Never named by a row that was read: only on the operator's word.
    status, output = run(*CLEANUP, "--delete-unnamed")
    assert (status, summary_of(output)["deleted"]) == (0, 1)
    assert before - keys_of(store) == {*gone, move.added_since}
    assert move.untried in keys_of(store)


def test_a_source_with_cas_keys_holds_its_blobs(
    store: BlobStore, part: Part, tmp_path: Path
) -> None:
    """Our row may be deleted while the older installation still shows the blob."""
    key = put_blob(store, b"shared", tmp_path)
    row = make_row(part, key, 6)
    make_row(part, put_blob(store, b"other", tmp_path), 5)
    recorded(key, SourceRow.State.ACCEPTED)
    row.delete()
    status, output = run(*COLLECT)
    assert (status, summary_of(output)["held"]) == (0, 1)
    assert Digest.from_key(key) in blobs(store)
    release(SourceRow.Release.RETIRED)
    assert run(*COLLECT)[0] == 0
    assert Digest.from_key(key) not in blobs(store)


@on_disk
def test_what_stays_is_reported_with_the_reason(
    store: BlobStore, move: Move, tmp_path: Path
) -> None:
    run("migrate_to_cas", "--yes-i-am-sure")
    release(SourceRow.Release.RETIRED, state=SourceRow.State.ACCEPTED)
    put(store, "backup.tar", b"keep")
    before = keys_of(store)
    report = tmp_path / "report.jsonl"
    command = ("cleanup_legacy_blobs", "--dry-run", "--json", "--report", str(report))
    status, output = run(*command, "--delete-unnamed")
    assert "--delete-unnamed" in summary_of(output)["next"]
    status, output = run("cleanup_legacy_blobs", "--dry-run", "--json", "--report", str(report))
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert status == 0
    assert keys_of(store) == before
    outcomes = {line["key"]: (line["outcome"], line.get("why")) for line in lines}
    held = ("held", "a row of an older installation names it")
    unnamed = ("unknown", "no row of an imported source ever named it")
    assert outcomes == {
        **dict.fromkeys(move.accepted, ("would_delete", None)),
        **dict.fromkeys([*move.refused, move.untried], held),
        move.added_since: unnamed,
        "backup.tar": ("unknown", "not a known legacy key"),
    }


@on_disk
def test_a_held_key_is_counted_as_nothing_else(store: BlobStore, part: Part) -> None:
    """A row of ours on the same key, with another idea of its size, is judged by itself."""
    key = legacy_key(part)
    put(store, key, b"four")
    row = make_row(part, key, 9)
    recorded(key, pk=row.pk, object_size=5)
    status, output = run("migration_status", "--check-objects", "--json")
    assert status == ExitStatus.DAMAGE_FOUND
    assert summary_of(output)["samples"] == [f"wrong size: {key}, row {row.pk}"]
    Attachment.objects.filter(pk=row.pk).update(file_size=4)
    assert run("migration_status", "--check-objects")[0] == 0


@on_disk
def test_the_status_says_why_objects_are_held(store: BlobStore, move: Move) -> None:
    recorded(legacy_key(Part.objects.get()), source="older")
    recorded("parts/x", SourceRow.State.ACCEPTED, source="older")
    release(SourceRow.Release.RETIRED, state=SourceRow.State.ACCEPTED, source="older")
    _, output = run("migration_status", "--json")
    holds = {
        "old accepted": 3,
        "old refused absent": 2,
        "old refused invalid": 3,
        "old untried": 1,
        "older refused invalid": 1,
    }
    assert summary_of(output)["holds"] == holds
    _, output = run("migration_status")
    assert "3 old accepted, 2 old refused absent, 3 old refused invalid" in output


@on_disk
def test_a_hold_that_comes_meanwhile_keeps_its_object(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look right before a batch is deleted, under the lock."""
    keys = [make_legacy(store, part, content).s3_key or "" for content in (b"a", b"bb")]
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    real = cleanup_module._check_unreferenced

    def then_held(*arguments: Any) -> None:
        real(*arguments)
        recorded(keys[0])

    monkeypatch.setattr(cleanup_module, "_check_unreferenced", then_held)
    status, output = run(*CLEANUP)
    summary = summary_of(output)
    assert status == 0, output
    assert (summary["deleted"], summary["held"]) == (1, 1)
    assert set(keys) & keys_of(store) == {keys[0]}


@on_disk
def test_a_hold_that_comes_before_the_lock_keeps_its_blob(
    store: BlobStore, part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_row(part, put_blob(store, b"kept", tmp_path), 4)
    key = put_blob(store, b"held", tmp_path)
    real = references.collecting

    def after_a_hold(store: BlobStore, digests: set[Digest]) -> Any:
        recorded(key)
        return real(store, digests)

    monkeypatch.setattr(references, "collecting", after_a_hold)
    status, output = run(*COLLECT)
    assert (status, summary_of(output)["in_use"]) == (0, 1)
    assert Digest.from_key(key) in blobs(store)


def test_a_corrupt_blob_that_only_a_hold_names_stays_where_it_is(
    store: BlobStore, tmp_path: Path
) -> None:
    key = put_blob(store, b"good", tmp_path)
    damage(store, key, b"evil")
    recorded(key)
    status, output = run("verify_cas", "--repair", "--yes-i-am-sure", "--json", "--read-all")
    summary = summary_of(output)
    assert status == ExitStatus.DAMAGE_FOUND, output
    assert (summary["corrupt"], summary["quarantined"]) == (1, 0)
    assert keys_of(store) == {key}
    release(SourceRow.Release.FORGOTTEN)
    _, output = run("verify_cas", "--repair", "--yes-i-am-sure", "--json", "--read-all")
    assert summary_of(output)["quarantined"] == 1


@on_disk
def test_a_hold_that_comes_while_a_blob_is_moved_aside_keeps_it(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = put_blob(store, b"good", tmp_path)
    damage(store, key, b"evil")
    real = store.copy

    def then_held(source: str, target: str, **version: Any) -> None:
        real(source, target, **version)
        recorded(key)

    monkeypatch.setattr(store, "copy", then_held)
    assert list(repair(store, [Digest.from_key(key)], [], [], Stop())) == []
    assert key in keys_of(store)


@on_disk
def test_holds_are_looked_up_for_each_portion(
    store: BlobStore, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup_module, "BATCH", 2)
    contents = [bytes([number]) for number in range(5)]
    keys = [make_legacy(store, part, content).s3_key or "" for content in contents]
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    for key in keys:
        recorded(key, SourceRow.State.ACCEPTED)
    held = sorted(keys)[1::2]
    SourceRow.objects.exclude(object_key__in=held).update(
        released_at=timezone.now(), release_cause=SourceRow.Release.RETIRED
    )
    deleted: list[str] = []
    real = store.remove_many

    def watched(keys: Iterable[str]) -> Iterator[tuple[str, StoreError | None]]:
        asked = list(keys)
        deleted.extend(asked)
        yield from real(asked)

    monkeypatch.setattr(store, "remove_many", watched)
    status, output = run(*CLEANUP)
    assert (status, summary_of(output)["held"]) == (0, 2), output
    assert sorted(deleted) == sorted(keys)[0::2]
    assert set(held) == keys_of(store) & set(keys)


@on_disk
def test_only_what_is_below_the_older_prefix_is_cleaned_up(store: BlobStore, part: Part) -> None:
    """Whatever a row named: other places of the bucket are not the older layout's."""
    keys = {"backups/parts.tar", f"quarantine/{Digest.of(b'a')}", "PARTS/1/a.pdf"}
    for key in keys:
        put(store, key, b"keep")
        recorded(key, SourceRow.State.ACCEPTED)
    release(SourceRow.Release.RETIRED)
    status, output = run(*CLEANUP, "--delete-unnamed")
    assert (status, summary_of(output)["unknown_left_alone"]) == (0, 3), output
    assert keys_of(store) == keys
