"""What every blob store promises, held against both backends over real files and real HTTP."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import ContentFile

from cas.digest import Digest, Hasher
from cas.storage import attachment_store
from cas.storage.base import (
    Absent,
    BlobStore,
    ByteRange,
    Changed,
    Corrupt,
    Outcome,
    Staged,
    StoreError,
)

DATA = bytes(range(256)) * 1000


def stage(store: BlobStore, data: bytes = DATA, name: str = "upload") -> Staged:
    path = store.staging_dir / name
    path.write_bytes(data)
    return staged_at(path, data)


def staged_at(path: Path, data: bytes) -> Staged:
    hasher = Hasher()
    hasher.update(data)
    return Staged(path, hasher.digest, hasher.md5, hasher.size)


def put(store: BlobStore, key: str, data: bytes, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(data)
    store.put_legacy(key, source)


def bytes_at(store: BlobStore, key: str) -> bytes:
    with store.read(key) as stream:
        return stream.read()


def keys(store: BlobStore, prefix: str = "", after: str = "") -> list[str]:
    return [blob.key for blob in store.scan(prefix, after=after)]


def test_the_configured_store_keeps_the_contract(store: BlobStore) -> None:
    assert isinstance(store, BlobStore)
    assert attachment_store() is store


class TestCreate:
    def test_stores_the_bytes_at_their_digest(self, store: BlobStore) -> None:
        staged = stage(store)
        assert store.create(staged) is Outcome.STORED
        assert bytes_at(store, f"cas/{hashlib.sha256(DATA).hexdigest()}") == DATA

    def test_leaves_the_staged_file_to_its_owner(self, store: BlobStore) -> None:
        staged = stage(store)
        store.create(staged)
        assert staged.path.read_bytes() == DATA
        staged.path.unlink()
        assert bytes_at(store, staged.digest.key) == DATA

    def test_an_object_that_is_there_is_left_alone(self, store: BlobStore) -> None:
        staged = stage(store)
        store.create(staged)
        before = store.stat(staged.digest.key)
        assert store.create(stage(store, name="again")) is Outcome.PRESENT
        assert store.stat(staged.digest.key) == before

    def test_an_object_of_the_wrong_size_is_healed_and_logged(
        self, store: BlobStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        staged = stage(store)
        damage(store, staged.digest.key, DATA[:10], tmp_path)
        assert store.create(staged) is Outcome.HEALED
        assert bytes_at(store, staged.digest.key) == DATA
        assert "healed" in caplog.text

    def test_empty_and_single_bytes(self, store: BlobStore) -> None:
        for data in (b"", b"x"):
            staged = stage(store, data)
            assert store.create(staged) is Outcome.STORED
            assert bytes_at(store, staged.digest.key) == data

    @pytest.mark.parametrize("altered", [DATA[:-1], DATA + b"x", b""])
    def test_a_staged_file_of_another_length_is_refused(
        self, store: BlobStore, altered: bytes
    ) -> None:
        staged = stage(store)
        staged.path.write_bytes(altered)
        with pytest.raises(Corrupt):
            store.create(staged)
        assert keys(store, "cas/") == []

    def test_a_staged_file_that_is_gone_is_refused(self, store: BlobStore) -> None:
        staged = stage(store)
        staged.path.unlink()
        with pytest.raises(Corrupt):
            store.create(staged)

    def test_of_many_at_once_one_stores_and_none_fails(self, store: BlobStore) -> None:
        stage(store, b"first")
        store.create(stage(store, b"first"))  # so that nothing is set up for the first time
        staged = [stage(store, DATA, f"upload-{n}") for n in range(8)]
        barrier = threading.Barrier(8)
        outcomes: Counter[Outcome] = Counter()

        def create(one: Staged) -> None:
            barrier.wait()
            outcomes[store.create(one)] += 1

        threads = [threading.Thread(target=create, args=[one]) for one in staged]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == {Outcome.STORED: 1, Outcome.PRESENT: 7}
        assert bytes_at(store, staged[0].digest.key) == DATA


class TestRead:
    def test_absent(self, store: BlobStore) -> None:
        with pytest.raises(Absent) as caught:
            store.read("cas/" + "0" * 64)
        assert caught.value.key == "cas/" + "0" * 64
        with pytest.raises(Absent):
            store.stat("legacy/none.jpg")

    @pytest.mark.parametrize("key", ["", "../outside", "a/../b", "x" * 2000, "a\0b"])
    def test_what_cannot_be_a_key_is_absent(self, store: BlobStore, key: str) -> None:
        with pytest.raises(Absent):
            store.read(key)
        with pytest.raises(Absent):
            store.stat(key)

    @pytest.mark.parametrize(
        ("start", "stop"), [(0, 1), (0, len(DATA)), (1000, 1010), (len(DATA) - 1, len(DATA))]
    )
    def test_a_range(self, store: BlobStore, tmp_path: Path, start: int, stop: int) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        with store.read("legacy/a", ByteRange(start, stop)) as stream:
            assert stream.read(stop - start) == DATA[start:stop]

    def test_a_range_beyond_the_end_is_refused(self, store: BlobStore, tmp_path: Path) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        for start in (0, len(DATA), len(DATA) + 5):
            with pytest.raises(Corrupt):
                store.read("legacy/a", ByteRange(start, len(DATA) + 10))

    def test_the_stream_knows_the_whole_object(self, store: BlobStore, tmp_path: Path) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        with store.read("legacy/a", ByteRange(5, 9)) as stream:
            assert stream.blob == store.stat("legacy/a")  # type: ignore[attr-defined]

    def test_in_pieces(self, store: BlobStore, tmp_path: Path) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        with store.read("legacy/a") as stream:
            pieces = list(iter(lambda: stream.read(1000), b""))
        assert b"".join(pieces) == DATA
        assert {len(piece) for piece in pieces} == {1000}

    def test_stat(self, store: BlobStore, tmp_path: Path) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        blob = store.stat("legacy/a")
        assert (blob.key, blob.size) == ("legacy/a", len(DATA))
        assert abs(blob.modified - datetime.now(UTC)) < timedelta(minutes=1)
        put(store, "legacy/a", DATA[::-1], tmp_path)
        assert store.stat("legacy/a").etag != blob.etag


class TestScan:
    KEYS = ("a", "a-b/c", "a.b", "a/b", "a/b-c", "a/b.d/e", "a0", "b/é", "b/ü x+%", "c/1/2/3/4")

    @pytest.fixture
    def filled(self, store: BlobStore, tmp_path: Path) -> list[str]:
        """Keys whose order shows whether slashes are compared like any other character."""
        # On a filesystem "a" and "a/b" exclude each other.
        chosen = [key for key in self.KEYS if key != "a"] + ["a/b0/c", "a/b0-c"]
        for key in chosen:
            put(store, key, key.encode(), tmp_path)
        return sorted(chosen, key=str.encode)

    def test_everything_in_byte_order(self, store: BlobStore, filled: list[str]) -> None:
        assert keys(store) == filled

    def test_after_each_key(self, store: BlobStore, filled: list[str]) -> None:
        for position, key in enumerate(filled):
            assert keys(store, after=key) == filled[position + 1 :]
        assert keys(store, after="a/") == [key for key in filled if key > "a/"]
        assert keys(store, after="zzz") == []

    @pytest.mark.parametrize(
        "prefix", ["a", "a/", "a/b", "a/b-", "b/", "c/1/2/", "c/1/2/3/4", "none/", "a-", "../"]
    )
    def test_by_prefix(self, store: BlobStore, filled: list[str], prefix: str) -> None:
        assert keys(store, prefix) == [key for key in filled if key.startswith(prefix)]

    def test_by_prefix_and_after(self, store: BlobStore, filled: list[str]) -> None:
        expected = [key for key in filled if key.startswith("a/") and key > "a/b-c"]
        assert keys(store, "a/", after="a/b-c") == expected

    def test_says_what_stat_says(self, store: BlobStore, filled: list[str]) -> None:
        for blob in store.scan("b/"):
            seen = store.stat(blob.key)
            assert (blob.size, blob.etag) == (seen.size, seen.etag)
            assert abs(blob.modified - seen.modified) < timedelta(seconds=1)

    def test_an_empty_store(self, store: BlobStore) -> None:
        assert keys(store) == []
        assert keys(store, "cas/") == []

    def test_staged_files_are_no_objects(self, store: BlobStore) -> None:
        stage(store)
        assert keys(store) == []


class TestIngest:
    def test_stores_the_source_at_its_digest(self, store: BlobStore, tmp_path: Path) -> None:
        put(store, "legacy/a b/é.jpg", DATA, tmp_path)
        seen: list[int] = []
        done = store.ingest("legacy/a b/é.jpg", seen.append)
        assert done.digest == Digest.of(DATA)
        assert (done.size, done.outcome) == (len(DATA), Outcome.STORED)
        assert done.source == store.stat("legacy/a b/é.jpg")
        assert sum(seen) == len(DATA)
        assert bytes_at(store, done.digest.key) == DATA
        assert bytes_at(store, "legacy/a b/é.jpg") == DATA

    def test_a_duplicate_is_present(self, store: BlobStore, tmp_path: Path) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        put(store, "legacy/b", DATA, tmp_path)
        store.ingest("legacy/a")
        before = store.stat(Digest.of(DATA).key)
        assert store.ingest("legacy/b").outcome is Outcome.PRESENT
        assert store.stat(Digest.of(DATA).key) == before

    def test_a_target_of_other_bytes_is_healed(self, store: BlobStore, tmp_path: Path) -> None:
        """Of the right size: taken for sound, it would let a cleanup delete the last good copy."""
        put(store, "legacy/a", DATA, tmp_path)
        damage(store, Digest.of(DATA).key, DATA[::-1], tmp_path)
        assert store.ingest("legacy/a").outcome is Outcome.HEALED
        assert bytes_at(store, Digest.of(DATA).key) == DATA

    def test_a_target_of_the_wrong_size_is_healed(self, store: BlobStore, tmp_path: Path) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        damage(store, Digest.of(DATA).key, b"short", tmp_path)
        assert store.ingest("legacy/a").outcome is Outcome.HEALED
        assert bytes_at(store, Digest.of(DATA).key) == DATA

    def test_an_absent_source(self, store: BlobStore) -> None:
        with pytest.raises(Absent):
            store.ingest("legacy/none")
        assert keys(store, "cas/") == []

    def test_leaves_nothing_staged(self, store: BlobStore, tmp_path: Path) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        for _ in range(2):
            store.ingest("legacy/a")
        assert list(store.staging_dir.iterdir()) == []

    def test_an_empty_source(self, store: BlobStore, tmp_path: Path) -> None:
        put(store, "legacy/empty", b"", tmp_path)
        assert store.ingest("legacy/empty").digest == Digest.of(b"")
        assert bytes_at(store, Digest.of(b"").key) == b""

    def test_an_ingested_object_does_not_share_the_source(
        self, store: BlobStore, tmp_path: Path
    ) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        done = store.ingest("legacy/a")
        put(store, "legacy/a", b"overwritten", tmp_path)
        assert bytes_at(store, done.digest.key) == DATA


class TestDigestOf:
    def test_hashes_the_object(self, store: BlobStore, tmp_path: Path) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        seen: list[int] = []
        digest, blob = store.digest_of("legacy/a", seen.append)
        assert digest == Digest.of(DATA)
        assert blob == store.stat("legacy/a")
        assert sum(seen) == len(DATA)

    def test_absent(self, store: BlobStore) -> None:
        with pytest.raises(Absent):
            store.digest_of("legacy/none")


class TestRemove:
    def test_an_object(self, store: BlobStore, tmp_path: Path) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        store.remove("legacy/a")
        with pytest.raises(Absent):
            store.stat("legacy/a")

    def test_what_is_not_there_is_no_error(self, store: BlobStore) -> None:
        store.remove("legacy/none")
        store.remove("../outside")

    def test_many(self, store: BlobStore, tmp_path: Path) -> None:
        for name in "abc":
            put(store, f"legacy/{name}", DATA, tmp_path)
        outcomes = list(store.remove_many(["legacy/a", "legacy/b", "legacy/none"]))
        assert outcomes == [("legacy/a", None), ("legacy/b", None), ("legacy/none", None)]
        assert keys(store) == ["legacy/c"]

    def test_none(self, store: BlobStore) -> None:
        assert list(store.remove_many([])) == []


class TestCopy:
    def test_replaces_what_is_there(self, store: BlobStore, tmp_path: Path) -> None:
        put(store, "cas-not/a", DATA, tmp_path)
        put(store, "aside/b", b"before", tmp_path)
        store.copy("cas-not/a", "aside/b")
        assert bytes_at(store, "aside/b") == bytes_at(store, "cas-not/a") == DATA

    def test_of_one_version_alone(self, store: BlobStore, tmp_path: Path) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        first = store.stat("legacy/a").etag
        put(store, "legacy/a", DATA[::-1], tmp_path)
        with pytest.raises(Changed):
            store.copy("legacy/a", "aside/b", etag=first)
        assert keys(store) == ["legacy/a"]
        store.copy("legacy/a", "aside/b", etag=store.stat("legacy/a").etag)
        assert bytes_at(store, "aside/b") == DATA[::-1]

    def test_an_absent_source(self, store: BlobStore) -> None:
        with pytest.raises(Absent):
            store.copy("legacy/a", "aside/b")
        assert keys(store) == []


class TestWritingBelowCas:
    def test_is_refused_to_a_copy(self, store: BlobStore, tmp_path: Path) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        with pytest.raises(StoreError):
            store.copy("legacy/a", Digest.of(DATA).key)
        assert keys(store, "cas/") == []

    def test_is_refused_to_the_older_layout(self, store: BlobStore, tmp_path: Path) -> None:
        with pytest.raises(StoreError):
            put(store, Digest.of(DATA).key, DATA, tmp_path)

    def test_is_refused_to_djangos_save(self, store: BlobStore) -> None:
        with pytest.raises(SuspiciousFileOperation):
            store.save(Digest.of(DATA).key, ContentFile(b"other"))  # type: ignore[attr-defined]
        assert keys(store) == []


class TestAbandoned:
    def test_old_staged_files_go_and_fresh_ones_stay(self, store: BlobStore) -> None:
        stage(store, name="left-behind")
        before = datetime.now(UTC) - timedelta(hours=1)
        assert list(store.remove_abandoned(before)) == []
        later = datetime.now(UTC) + timedelta(hours=1)
        assert len(list(store.remove_abandoned(later, dry_run=True))) == 1
        assert [path.name for path in store.staging_dir.iterdir()] == ["left-behind"]
        assert "left-behind" in " ".join(store.remove_abandoned(later))
        assert list(store.staging_dir.iterdir()) == []


def damage(store: BlobStore, key: str, data: bytes, tmp_path: Path) -> None:
    """Put `data` at a CAS key past the store's own rules."""
    if hasattr(store, "client"):
        store.client.put_object(Bucket=store.bucket_name, Key=key, Body=data)  # type: ignore[attr-defined]
    else:
        path = Path(store.location, key)  # type: ignore[attr-defined]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
