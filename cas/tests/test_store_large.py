"""Objects that go in parts, on any store: what a store says of them differs most."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cas.digest import Digest
from cas.storage.base import Outcome
from cas.storage.s3 import S3BlobStorage
from cas.tests.test_store_contract import bytes_at, damage, keys, put, stage
from cas.tests.test_store_s3 import uploads

PART = 5 * 1024 * 1024
LARGE = os.urandom(PART) * 2 + b"a last part"


@pytest.fixture
def store(s3_store: Any) -> S3BlobStorage:
    assert isinstance(s3_store, S3BlobStorage)
    s3_store.multipart_threshold = s3_store.part_size = PART
    s3_store.copy_threshold = s3_store.copy_part_size = PART
    return s3_store


def test_are_stored_once(store: S3BlobStorage) -> None:
    staged = stage(store, LARGE)
    assert store.create(staged) is Outcome.STORED
    assert store.create(staged) is Outcome.PRESENT
    assert bytes_at(store, staged.digest.key) == LARGE
    assert keys(store) == [staged.digest.key]
    assert uploads(store) == []


def test_are_copied_once(store: S3BlobStorage, tmp_path: Path) -> None:
    put(store, "legacy/a", LARGE, tmp_path)
    assert store.ingest("legacy/a").outcome is Outcome.STORED
    assert store.ingest("legacy/a").outcome is Outcome.PRESENT
    key = Digest.of(LARGE).key
    assert bytes_at(store, key) == LARGE
    assert keys(store) == [key, "legacy/a"]
    assert uploads(store) == []
    store.copy("legacy/a", "aside/a")
    assert bytes_at(store, "aside/a") == LARGE


@pytest.mark.parametrize("wrong", [LARGE[::-1], LARGE[:-1]], ids=["same size", "shorter"])
def test_wrong_bytes_are_replaced_and_kept_aside(
    store: S3BlobStorage, tmp_path: Path, wrong: bytes
) -> None:
    staged = stage(store, LARGE)
    damage(store, staged.digest.key, wrong, tmp_path)
    assert store.create(staged) is Outcome.HEALED
    assert bytes_at(store, staged.digest.key) == LARGE
    (aside,) = keys(store, "quarantine/")
    assert bytes_at(store, aside) == wrong
    assert uploads(store) == []


def test_a_source_of_wrong_bytes_is_told_by_its_digest(
    store: S3BlobStorage, tmp_path: Path
) -> None:
    put(store, "legacy/a", LARGE[::-1], tmp_path)
    assert store.ingest("legacy/a").digest == Digest.of(LARGE[::-1])
