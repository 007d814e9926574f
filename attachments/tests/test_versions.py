"""A bucket that keeps old versions: deleting frees nothing there, and that is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
