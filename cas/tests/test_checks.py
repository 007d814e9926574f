"""A wrong STORAGES["attachments"] is named before the first request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cas.checks import check_store

DISK = "cas.storage.disk.DiskBlobStorage"
S3 = "cas.storage.s3.S3BlobStorage"


def ids(settings: Any, chosen: dict[str, Any] | None) -> list[str | None]:
    rest = {name: kept for name, kept in settings.STORAGES.items() if name != "attachments"}
    settings.STORAGES = rest if chosen is None else {**rest, "attachments": chosen}
    return [message.id for message in check_store()]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (None, "cas.E020"),
        ({"BACKEND": "cas.storage.none.Such"}, "cas.E021"),
        ({"BACKEND": DISK, "OPTIONS": {"directory": "/srv"}}, "cas.E021"),
        ({"BACKEND": S3, "OPTIONS": {"bucket_name": "b", "gzip": True}}, "cas.E021"),
        ({"BACKEND": "django.core.files.storage.FileSystemStorage"}, "cas.E022"),
        ({"BACKEND": S3, "OPTIONS": {"region_name": "us-east-1"}}, "cas.E023"),
        ({"BACKEND": DISK}, "cas.E024"),
    ],
)
def test_each_mistake_has_its_id(
    settings: Any, chosen: dict[str, Any] | None, expected: str
) -> None:
    assert ids(settings, chosen) == [expected]


@pytest.mark.parametrize("root", ["MEDIA_ROOT", "STATIC_ROOT"])
def test_blobs_must_not_be_below_what_is_served(settings: Any, tmp_path: Path, root: str) -> None:
    setattr(settings, root, str(tmp_path))
    below = {"BACKEND": DISK, "OPTIONS": {"location": str(tmp_path / "blobs")}}
    beside = {"BACKEND": DISK, "OPTIONS": {"location": f"{tmp_path}-blobs"}}
    assert ids(settings, below) == ["cas.E025"]
    assert ids(settings, beside) == []


def test_the_stores_under_test_pass(store: Any) -> None:
    assert check_store() == []
