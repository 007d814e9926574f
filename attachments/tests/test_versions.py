"""A bucket that keeps old versions: deleting frees nothing there, and that is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attachments.maintenance.preflight import PROBE
from attachments.tests.factories import staged
from attachments.tests.legacy import make_legacy, on_disk, run, summary_of
from cas.storage.base import BlobStore, StoreError, Versioning
from parts.models import Part

pytestmark = pytest.mark.django_db(transaction=True)

COMMANDS = {
    "cleanup_legacy_blobs": ("--yes-i-am-sure", "--json"),
    "collect_garbage": ("--yes-i-am-sure", "--grace", "0", "--json"),
}


@on_disk
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("versioning", Versioning)
def test_what_deleting_leaves_behind_is_said(
    store: BlobStore,
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
    tmp_path: Path,
    name: str,
    wanted: bool,
    versioning: Versioning,
) -> None:
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    make_legacy(store, Part.objects.create(description="Relay"), b"one")
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    store.create(staged(b"unreferenced", tmp_path / "staged"))
    real, asked = store.remove_many, []

    def noted(
        keys: list[str], *, versions: bool = False
    ) -> Iterator[tuple[str, StoreError | None]]:
        asked.append(versions)
        return real(keys)

    monkeypatch.setattr(store, "versioning", lambda: versioning)
    monkeypatch.setattr(store, "remove_many", noted)
    status, output = run(name, *COMMANDS[name], *(["--delete-versions"] if wanted else []))
    told = summary_of(output)["old_versions"]
    assert status == 0, output
    assert asked == [wanted]
    if versioning in (Versioning.NONE, Versioning.UNKNOWN):
        assert told == ""
    elif wanted:
        assert ("object lock" in told) == (versioning is Versioning.LOCKED)
    else:
        assert "old" in told
        assert "--delete-versions" in told


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("wanted", [False, True])
def test_old_versions_go_where_that_is_wanted_and_no_others(
    s3_store: Any, settings: Any, tmp_path: Path, name: str, wanted: bool
) -> None:
    """A bucket that really keeps them, with an older version of each object."""
    settings.CAS_MIGRATION_DELETE_OLD_OBJECTS = True
    s3_store.client.put_bucket_versioning(
        Bucket=s3_store.bucket_name, VersioningConfiguration={"Status": "Enabled"}
    )
    row = make_legacy(s3_store, Part.objects.create(description="Relay"), b"one")
    old = row.s3_key or ""
    assert run("migrate_to_cas", "--yes-i-am-sure")[0] == 0
    row.refresh_from_db()
    unreferenced = staged(b"unreferenced", tmp_path / "staged")
    s3_store.create(unreferenced)
    for key in (old, unreferenced.digest.key):
        s3_store.client.put_object(Bucket=s3_store.bucket_name, Key=key, Body=b"changed")
    before = versions(s3_store)
    assert run(name, *COMMANDS[name], "--dry-run", "--delete-versions")[0] == 0
    assert versions(s3_store) == before

    status, output = run(name, *COMMANDS[name], *(["--delete-versions"] if wanted else []))
    assert status == 0, output
    deleted = old if name == "cleanup_legacy_blobs" else unreferenced.digest.key
    others = before - Counter({deleted: before[deleted]})
    left = versions(s3_store)
    assert deleted not in {stat.key for stat in s3_store.scan("")}
    assert bool(summary_of(output)["old_versions"]) is not wanted
    # The mark of the deletion comes on top.
    assert left == others + Counter({deleted: 0 if wanted else before[deleted] + 1})
    assert s3_store.digest_of(row.s3_key or "")[0].key == row.s3_key


def versions(store: Any) -> Counter[str]:
    """How many versions and marks of deletions each key has, but for the check's own object."""
    found = store.client.list_object_versions(Bucket=store.bucket_name)
    kept = [*found.get("Versions", []), *found.get("DeleteMarkers", [])]
    names = (one["Key"] for one in kept)
    return Counter(key for key in names if key != PROBE.key and not key.startswith(".cas-probe/"))
