"""What is found at a blob's key counts only with proof, and wrong bytes are kept aside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from cas.digest import Digest
from cas.storage.base import (
    BlobStat,
    BlobStore,
    Changed,
    Denied,
    Outcome,
    Proofs,
    SizeMismatch,
    Unreachable,
)
from cas.storage.capabilities import probe
from cas.storage.quarantine import examine
from cas.storage.s3 import S3BlobStorage
from cas.tests.test_store_contract import DATA, bytes_at, damage, keys, put, stage
from cas.tests.test_store_s3 import LARGE, MIB, upload_in_parts
from tests.s3 import S3Server

WRONG = DATA[::-1]
DIGEST = Digest.of(DATA)
ASIDE = f"quarantine/{DIGEST}.{Digest.of(WRONG)}"


class Memory:
    """Proofs that are kept in a list."""

    def __init__(self) -> None:
        self.recorded: list[BlobStat] = []
        self.proofs = Proofs(hold=self.hold, record=self.recorded.append)

    def hold(self, blob: BlobStat) -> bool:
        return (blob.key, blob.etag) in [(seen.key, seen.etag) for seen in self.recorded]


def healed_so_far() -> float:
    return REGISTRY.get_sample_value("cas_healed_blobs_total") or 0


@pytest.mark.parametrize("wrong", [WRONG, b"short", b""])
@pytest.mark.parametrize("way", ["create", "ingest"])
def test_wrong_bytes_are_kept_aside_and_replaced(
    store: BlobStore, tmp_path: Path, way: str, wrong: bytes
) -> None:
    damage(store, DIGEST.key, wrong, tmp_path)
    put(store, "legacy/a", DATA, tmp_path)
    before = healed_so_far()
    if way == "create":
        assert store.create(stage(store)) is Outcome.HEALED
    else:
        assert store.ingest("legacy/a").outcome is Outcome.HEALED
    assert bytes_at(store, DIGEST.key) == DATA
    assert keys(store, "quarantine/") == [f"quarantine/{DIGEST}.{Digest.of(wrong)}"]
    assert bytes_at(store, f"quarantine/{DIGEST}.{Digest.of(wrong)}") == wrong
    assert healed_so_far() == before + 1


def test_nothing_is_replaced_where_it_cannot_be_kept(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str, **version: Any) -> None:
        raise Denied("not below this prefix", key=target)

    damage(store, DIGEST.key, WRONG, tmp_path)
    put(store, "legacy/a", DATA, tmp_path)
    monkeypatch.setattr(store, "copy", refuse)
    with pytest.raises(Denied):
        store.create(stage(store))
    with pytest.raises(Denied):
        store.ingest("legacy/a")
    assert bytes_at(store, DIGEST.key) == WRONG


def test_what_another_upload_heals_while_it_is_read_is_left(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(store, DIGEST.key, WRONG, tmp_path)
    real, other = store.digest_of, stage(store, name="other")

    def healed_meanwhile(key: str, on_bytes: Any = None) -> tuple[Digest, BlobStat]:
        monkeypatch.setattr(store, "digest_of", real)
        outcomes: list[Outcome] = []

        def heal(_count: int) -> None:
            if not outcomes:
                outcomes.append(store.create(other))

        return real(key, heal)

    monkeypatch.setattr(store, "digest_of", healed_meanwhile)
    store.create(stage(store))
    assert bytes_at(store, DIGEST.key) == DATA
    assert {key: bytes_at(store, key) for key in keys(store, "quarantine/")} == {ASIDE: WRONG}


def test_what_another_upload_heals_before_it_is_copied_aside_stays_aside(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy of the wrong bytes is not replaced by one of the right ones."""
    if hasattr(store, "client"):
        probe(store)
    damage(store, DIGEST.key, WRONG, tmp_path)
    real, other = store.copy, stage(store, name="other")

    def healed_before(source: str, target: str, **version: Any) -> None:
        monkeypatch.setattr(store, "copy", real)
        assert store.create(other) is Outcome.HEALED
        real(source, target, **version)

    monkeypatch.setattr(store, "copy", healed_before)
    assert store.create(stage(store)) is Outcome.PRESENT
    assert bytes_at(store, DIGEST.key) == DATA
    assert {key: bytes_at(store, key) for key in keys(store, "quarantine/")} == {ASIDE: WRONG}


def test_a_copy_aside_that_went_wrong_is_not_relied_on(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_badly(source: str, target: str, **version: Any) -> None:
        put(store, target, b"half", tmp_path)

    damage(store, DIGEST.key, WRONG, tmp_path)
    monkeypatch.setattr(store, "copy", copy_badly)
    with pytest.raises((Changed, Unreachable)):
        store.create(stage(store))
    assert bytes_at(store, DIGEST.key) == WRONG


def test_a_sound_blob_is_examined_and_left(store: BlobStore) -> None:
    store.create(stage(store))
    examined = examine(store, DIGEST)
    assert (examined.blob, examined.aside) == (store.stat(DIGEST.key), "")
    assert keys(store) == [DIGEST.key]


class TestExpectedSize:
    def test_another_size_is_refused_before_anything_is_stored(
        self, store: BlobStore, tmp_path: Path
    ) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        for size in (len(DATA) - 1, len(DATA) + 1, 0):
            with pytest.raises(SizeMismatch) as caught:
                store.ingest("legacy/a", expected_size=size)
            assert (caught.value.code, caught.value.key) == ("size_mismatch", "legacy/a")
        assert keys(store, "cas/") == []
        assert list(store.staging_dir.iterdir()) == []
        assert store.ingest("legacy/a", expected_size=len(DATA)).outcome is Outcome.STORED

    def test_nothing_is_read_either(self, store: BlobStore, tmp_path: Path) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        seen: list[int] = []
        with pytest.raises(SizeMismatch):
            store.ingest("legacy/a", seen.append, expected_size=1)
        assert seen == []

    def test_nor_where_the_store_tells_the_digest(self, s3_store: Any, tmp_path: Path) -> None:
        probe(s3_store)
        for key in ("legacy/a", "legacy/b"):
            s3_store.client.put_object(
                Bucket=s3_store.bucket_name, Key=key, Body=DATA, ChecksumAlgorithm="SHA256"
            )
        s3_store.ingest("legacy/a")
        s3_store.remove(DIGEST.key)
        with pytest.raises(SizeMismatch):
            s3_store.ingest("legacy/b", expected_size=1)
        assert keys(s3_store, "cas/") == []


class TestOnDisk:
    """A file has no checksum: it is read once, and again when it was written to."""

    def test_is_read_once(self, disk_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        memory = Memory()
        staged = stage(disk_store)
        disk_store.create(staged, memory.proofs)
        assert disk_store.create(staged, memory.proofs) is Outcome.PRESENT
        assert [blob.key for blob in memory.recorded] == [DIGEST.key]
        monkeypatch.delattr(type(disk_store), "digest_of")
        assert disk_store.create(staged, memory.proofs) is Outcome.PRESENT
        put_source(disk_store, DATA)
        assert disk_store.ingest("legacy/a", proofs=memory.proofs).outcome is Outcome.PRESENT

    def test_and_again_when_it_was_written_to(self, disk_store: Any, tmp_path: Path) -> None:
        memory = Memory()
        staged = stage(disk_store)
        disk_store.create(staged, memory.proofs)
        disk_store.create(staged, memory.proofs)
        damage(disk_store, DIGEST.key, WRONG, tmp_path)
        second = stage(disk_store, name="second")
        assert disk_store.create(second, memory.proofs) is Outcome.HEALED
        assert bytes_at(disk_store, DIGEST.key) == DATA

    def test_a_proof_does_not_excuse_another_size(self, disk_store: Any, tmp_path: Path) -> None:
        damage(disk_store, DIGEST.key, b"short", tmp_path)
        holds_all = Proofs(hold=lambda blob: True, record=lambda blob: None)
        assert disk_store.create(stage(disk_store), holds_all) is Outcome.HEALED


class TestWithoutAnMd5:
    """Objects of parts and encrypted ones, whose ETag is no MD5."""

    @pytest.fixture
    def probed(self, s3_store: Any, s3_server: S3Server) -> S3BlobStorage:
        store: S3BlobStorage = s3_store
        store.multipart_threshold = store.part_size = 6 * MIB
        probe(store)
        s3_server.reset()
        return store

    @pytest.mark.parametrize("ignored", [[], ["part_number"]])
    def test_parts_are_compared_with_the_file(
        self, probed: S3BlobStorage, s3_server: S3Server, ignored: list[str]
    ) -> None:
        """Stored in parts of 5 MiB, by another program, and we have the file."""
        s3_server.ignore(*ignored)
        upload_in_parts(probed, Digest.of(LARGE).key, LARGE)
        s3_server.fault("HeadObject", "no_checksum", times=-1)
        assert probed.create(stage(probed, LARGE)) is Outcome.PRESENT
        assert s3_server.counts().get("GetObject") is None

    @pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (416, "InvalidRange")])
    def test_where_a_store_refuses_to_tell_of_a_part_too(
        self, probed: S3BlobStorage, s3_server: S3Server, status: int, code: str
    ) -> None:
        upload_in_parts(probed, Digest.of(LARGE).key, LARGE)
        # Of the three HEADs, the one with a part's number.
        s3_server.fault("HeadObject", "error", status=status, code=code, skip=2)
        assert probed.create(stage(probed, LARGE)) is Outcome.PRESENT
        assert s3_server.counts()["HeadObject"] == 3

    def test_by_the_checksum_of_their_checksums_as_well(
        self, probed: S3BlobStorage, s3_server: S3Server
    ) -> None:
        upload_in_parts(probed, Digest.of(LARGE).key, LARGE)
        s3_server.fault("HeadObject", "other_etag", times=-1)
        assert probed.create(stage(probed, LARGE)) is Outcome.PRESENT
        assert s3_server.counts().get("GetObject") is None

    def test_other_bytes_in_parts_are_found_and_healed(
        self, probed: S3BlobStorage, s3_server: S3Server
    ) -> None:
        digest = Digest.of(LARGE)
        upload_in_parts(probed, digest.key, LARGE[::-1])
        assert probed.create(stage(probed, LARGE)) is Outcome.HEALED
        assert bytes_at(probed, digest.key) == LARGE
        aside = f"quarantine/{digest}.{Digest.of(LARGE[::-1])}"
        assert bytes_at(probed, aside) == LARGE[::-1]

    @pytest.mark.parametrize("way", ["create", "ingest"])
    def test_what_is_encrypted_is_read_once(
        self, probed: S3BlobStorage, s3_server: S3Server, tmp_path: Path, way: str
    ) -> None:
        encrypted(probed, DIGEST.key, DATA)
        put(probed, "legacy/a", DATA, tmp_path)
        memory = Memory()
        s3_server.reset()
        for _ in range(2):
            if way == "create":
                assert probed.create(stage(probed), memory.proofs) is Outcome.PRESENT
            else:
                done = probed.ingest("legacy/a", proofs=memory.proofs)
                assert done.outcome is Outcome.PRESENT
        reads = s3_server.counts().get("GetObject", 0)
        assert reads == (1 if way == "create" else 3)
        assert [blob.key for blob in memory.recorded] == [DIGEST.key]

    def test_what_is_encrypted_and_wrong_is_healed(
        self, probed: S3BlobStorage, s3_server: S3Server
    ) -> None:
        encrypted(probed, DIGEST.key, WRONG)
        assert probed.create(stage(probed)) is Outcome.HEALED
        assert bytes_at(probed, DIGEST.key) == DATA
        assert bytes_at(probed, ASIDE) == WRONG


def encrypted(store: S3BlobStorage, key: str, data: bytes) -> None:
    store.client.put_object(
        Bucket=store.bucket_name, Key=key, Body=data, ServerSideEncryption="aws:kms"
    )


def put_source(store: Any, data: bytes) -> None:
    path = Path(store.location, "legacy", "a")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
