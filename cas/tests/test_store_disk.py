"""What only a store on disk can get wrong: links, crashes, filesystems that fill up or refuse."""

from __future__ import annotations

import errno
import os
import stat as modes
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cas.digest import Digest
from cas.storage import disk
from cas.storage.base import (
    Absent,
    ByteRange,
    Changed,
    Corrupt,
    Denied,
    Outcome,
    StoreError,
    StoreFull,
    Unreachable,
)
from cas.storage.capabilities import probe
from cas.storage.disk import DiskBlobStorage
from cas.tests.test_store_contract import DATA, bytes_at, damage, keys, put, stage


@pytest.fixture
def store(disk_store: Any) -> DiskBlobStorage:
    assert isinstance(disk_store, DiskBlobStorage)
    return disk_store


def failing(number: int) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_stream_keeps_its_descriptor_at_the_start_of_the_range(
    store: DiskBlobStorage, tmp_path: Path
) -> None:
    put(store, "legacy/a", DATA, tmp_path)
    with store.read("legacy/a", ByteRange(700, 800)) as stream:
        assert os.read(stream.fileno(), 100) == DATA[700:800]


def test_the_staged_file_becomes_the_object_without_a_copy(store: DiskBlobStorage) -> None:
    staged = stage(store)
    store.create(staged)
    assert Path(store.path(staged.digest.key)).samefile(staged.path)


def test_an_object_has_the_configured_permissions(store: DiskBlobStorage) -> None:
    staged = stage(store)
    staged.path.chmod(0o600)
    store.create(staged)
    mode = Path(store.path(staged.digest.key)).stat().st_mode
    assert modes.S_IMODE(mode) == store.file_permissions_mode == 0o644


@pytest.mark.parametrize("key", ["../outside", "legacy/../../outside", "./legacy/../../outside"])
def test_no_key_leads_out_of_the_directory(
    store: DiskBlobStorage, tmp_path: Path, key: str
) -> None:
    """There is a file at each of these paths."""
    put(store, "legacy/a", DATA, tmp_path)
    outside = Path(store.location).parent / "outside"
    outside.write_bytes(b"not of the store")
    for look in (store.read, store.stat, store.digest_of, store.ingest):
        with pytest.raises(Absent):
            look(key)
    store.remove(key)
    assert list(store.remove_many([key])) == [(key, None)]
    with pytest.raises(Absent):
        put(store, key, DATA, tmp_path)
    with pytest.raises(Absent):
        store.copy("legacy/a", key)
    with pytest.raises(Absent):
        store.copy(key, "legacy/b")
    assert outside.read_bytes() == b"not of the store"
    assert keys(store) == ["legacy/a"]


@pytest.mark.parametrize("key", ["/legacy/a", "legacy//a", "legacy/./a", "legacy/a/", ".staging/x"])
def test_each_object_has_one_key(store: DiskBlobStorage, tmp_path: Path, key: str) -> None:
    """What other spellings would lead to the same file is no key, and neither is a staged file."""
    put(store, "legacy/a", DATA, tmp_path)
    stage(store, name="x")
    with pytest.raises(Absent):
        store.stat(key)
    store.remove(key)
    assert (keys(store), (store.staging_dir / "x").exists()) == (["legacy/a"], True)


class TestCrash:
    """A write that dies between its steps leaves no object, and no half of one."""

    @pytest.mark.parametrize("step", ["fsync", "link"])
    def test_before_the_link(
        self, store: DiskBlobStorage, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        monkeypatch.setattr(os, step, failing(errno.EIO))
        with pytest.raises(Unreachable):
            store.ingest("legacy/a")
        assert keys(store, "cas/") == []
        assert list(store.staging_dir.iterdir()) == []

    def test_the_bytes_are_durable_before_the_name(
        self, store: DiskBlobStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps: list[str] = []
        link, fsync = os.link, os.fsync

        def note_link(source: Path, target: Path) -> None:
            steps.append("link" if "cas" in target.parts else "link staged")
            link(source, target)

        def note_fsync(descriptor: int) -> None:
            directory = modes.S_ISDIR(os.fstat(descriptor).st_mode)
            steps.append("fsync directory" if directory else "fsync file")
            fsync(descriptor)

        staged = stage(store)
        Path(store.location, "cas").mkdir()
        monkeypatch.setattr(os, "link", note_link)
        monkeypatch.setattr(os, "fsync", note_fsync)
        store.create(staged)
        assert steps == ["link staged", "fsync file", "link", "fsync directory"]
        steps.clear()
        assert store.create(staged) is Outcome.PRESENT
        # The one who linked it may have died before its own fsync.
        assert steps == ["fsync directory"]

    @pytest.fixture
    def synced(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The names of the files and directories that fsync was called for, in order."""
        names: list[str] = []
        fsync = os.fsync

        def note(descriptor: int) -> None:
            names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", note)
        return names

    def test_new_directories_are_durable(self, store: DiskBlobStorage, synced: list[str]) -> None:
        staged = stage(store)
        synced.clear()
        store.create(staged)
        # The directory that got the name of cas/, then the bytes, then cas/ with their name.
        assert (synced[0], synced[-1]) == ("attachments", "cas")

    def test_a_healed_blob_is_durable(
        self, store: DiskBlobStorage, synced: list[str], tmp_path: Path
    ) -> None:
        staged = stage(store)
        damage(store, staged.digest.key, DATA[::-1], tmp_path)
        synced.clear()
        assert store.create(staged) is Outcome.HEALED
        # First the copy of the wrong bytes and its name, then the right ones and theirs.
        aside, right = synced.index("quarantine"), synced.index("cas")
        assert aside < right
        assert synced[aside - 1].startswith("incoming-")
        assert synced[right - 1].startswith("incoming-")

    def test_what_is_copied_is_durable(
        self, store: DiskBlobStorage, synced: list[str], tmp_path: Path
    ) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        put(store, "aside/b", DATA, tmp_path)
        synced.clear()
        store.copy("legacy/a", "aside/b")
        assert synced[0].startswith("incoming-")
        assert synced[1:] == ["aside"]

    def test_what_somebody_else_linked_first_is_kept(
        self, store: DiskBlobStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between `stat` and `link`: the file that was linked first stays."""
        staged, other = stage(store), stage(store, name="other")
        link = os.link
        target = Path(store.path(staged.digest.key))

        def second(source: Path, name: Path) -> None:
            if name == target and not target.exists():
                link(other.path, name)
            link(source, name)

        monkeypatch.setattr(os, "link", second)
        assert store.create(staged) is Outcome.PRESENT
        assert target.samefile(other.path)


def test_only_old_files_are_abandoned(store: DiskBlobStorage) -> None:
    stage(store, name="old")
    (store.staging_dir / "directory").mkdir()
    later = datetime.now(UTC) + timedelta(hours=1)
    assert len(list(store.remove_abandoned(later))) == 1
    assert [path.name for path in store.staging_dir.iterdir()] == ["directory"]


class TestOtherFilesystem:
    """Staged files that cannot be linked are copied, and hashed again on the way."""

    def test_is_copied(self, store: DiskBlobStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        staged = stage(store)
        self.refuse_links_from(staged.path, monkeypatch)
        assert store.create(staged) is Outcome.STORED
        assert bytes_at(store, staged.digest.key) == DATA
        assert not Path(store.path(staged.digest.key)).samefile(staged.path)

    def test_bytes_altered_after_hashing_are_refused(
        self, store: DiskBlobStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        staged = stage(store)
        staged.path.write_bytes(DATA[::-1])
        self.refuse_links_from(staged.path, monkeypatch)
        with pytest.raises(Corrupt):
            store.create(staged)
        assert keys(store) == []
        assert list(store.staging_dir.iterdir()) == [staged.path]

    @staticmethod
    def refuse_links_from(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        link = os.link

        def refuse(source: Path, target: Path) -> None:
            if source == path:
                raise OSError(errno.EXDEV, "another filesystem")
            link(source, target)

        monkeypatch.setattr(os, "link", refuse)


class TestWithoutHardLinks:
    @pytest.fixture(autouse=True)
    def _no_links(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))

    def test_objects_are_renamed_into_place(self, store: DiskBlobStorage) -> None:
        staged = stage(store)
        assert store.create(staged) is Outcome.STORED
        assert store.create(staged) is Outcome.PRESENT
        assert bytes_at(store, staged.digest.key) == DATA
        assert list(store.staging_dir.iterdir()) == [staged.path]

    def test_healing_works(self, store: DiskBlobStorage) -> None:
        staged = stage(store)
        target = Path(store.path(staged.digest.key))
        target.parent.mkdir()
        target.write_bytes(b"short")
        assert store.create(staged) is Outcome.HEALED
        assert bytes_at(store, staged.digest.key) == DATA

    def test_the_probe_says_so(
        self, store: DiskBlobStorage, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert not probe(store).supports("hard_links")
        assert "rename" in caplog.text


def test_the_probe_finds_hard_links(store: DiskBlobStorage) -> None:
    assert probe(store).supports("hard_links")
    assert list(store.staging_dir.iterdir()) == []


class TestErrors:
    @pytest.mark.parametrize(
        ("number", "kind"),
        [
            (errno.ENOENT, Absent),
            (errno.EACCES, Denied),
            (errno.EPERM, Denied),
            (errno.EROFS, Denied),
            (errno.ENOSPC, StoreFull),
            (errno.EDQUOT, StoreFull),
            (errno.EIO, Unreachable),
            (errno.ESTALE, Unreachable),
            (errno.ETIMEDOUT, Unreachable),
            (errno.EINVAL, StoreError),
        ],
    )
    def test_each_has_its_meaning(
        self,
        store: DiskBlobStorage,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        kind: type[StoreError],
    ) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        monkeypatch.setattr(Path, "stat", failing(number))
        with pytest.raises(StoreError) as caught:
            store.stat("legacy/a")
        assert type(caught.value) is kind
        assert caught.value.key == "legacy/a"

    def test_a_full_disk_leaves_nothing(
        self, store: DiskBlobStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(store, "legacy/a", DATA, tmp_path)
        monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
        with pytest.raises(StoreFull):
            store.ingest("legacy/a")
        with pytest.raises(StoreFull):
            store.create(stage(store))
        assert keys(store, "cas/") == []
        assert [path.name for path in store.staging_dir.iterdir()] == ["upload"]

    def test_batch_deletes_say_which_key_failed(
        self, store: DiskBlobStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("a", "b"):
            put(store, f"legacy/{name}", DATA, tmp_path)
        unlink = Path.unlink

        def refuse(path: Path, missing_ok: bool = False) -> None:
            if path.name == "a":
                raise PermissionError(errno.EACCES, "no")
            unlink(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", refuse)
        first, second = store.remove_many(["legacy/a", "legacy/b"])
        assert isinstance(first[1], Denied)
        assert second == ("legacy/b", None)


class TestChangingSource:
    """A source that changes while it is read is noticed, whatever it looks like afterwards."""

    def change_while_reading(self, store: DiskBlobStorage, change: Callable[[], None]) -> None:
        changes = iter([change])

        def on_bytes(_: int) -> None:
            for act in changes:
                act()

        with pytest.raises(Changed):
            store.ingest("legacy/a", on_bytes)
        assert keys(store, "cas/") == []
        assert list(store.staging_dir.iterdir()) == []

    @pytest.fixture
    def source(self, store: DiskBlobStorage, tmp_path: Path) -> Path:
        put(store, "legacy/a", DATA * 10, tmp_path)
        return Path(store.path("legacy/a"))

    def test_overwritten_in_place(self, store: DiskBlobStorage, source: Path) -> None:
        self.change_while_reading(store, lambda: self.rewrite(source, DATA[::-1] * 10))

    def test_cut_short(self, store: DiskBlobStorage, source: Path) -> None:
        self.change_while_reading(store, lambda: os.truncate(source, 10))

    def test_grown(self, store: DiskBlobStorage, source: Path) -> None:
        self.change_while_reading(store, lambda: self.rewrite(source, DATA * 11))

    def test_replaced(self, store: DiskBlobStorage, source: Path, tmp_path: Path) -> None:
        self.change_while_reading(store, lambda: put(store, "legacy/a", DATA[::-1] * 10, tmp_path))

    def test_deleted(self, store: DiskBlobStorage, source: Path) -> None:
        self.change_while_reading(store, source.unlink)

    @staticmethod
    def rewrite(path: Path, data: bytes) -> None:
        path.write_bytes(data)
        # Clocks of filesystems are coarse; the test shall not depend on theirs.
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def test_a_stream_of_a_file_cut_short_raises(store: DiskBlobStorage, tmp_path: Path) -> None:
    put(store, "legacy/a", DATA, tmp_path)
    with store.read("legacy/a") as stream:
        os.truncate(store.path("legacy/a"), 1000)
        assert stream.read(500) == DATA[:500]
        with pytest.raises(Corrupt):
            stream.read(len(DATA))


class TestScan:
    def test_a_directory_larger_than_a_batch(
        self, store: DiskBlobStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(disk, "BATCH", 3)
        chosen = [f"legacy/{n}" for n in range(10)] + ["legacy/5/x", "legacy/5-x"]
        chosen.remove("legacy/5")
        for key in chosen:
            put(store, key, b"x", tmp_path)
        assert keys(store) == sorted(chosen)
        assert keys(store, "legacy/", after="legacy/5-x") == sorted(chosen)[6:]

    def test_a_vanished_directory_is_no_end(self, store: DiskBlobStorage, tmp_path: Path) -> None:
        for key in ("a/x", "b/x"):
            put(store, key, b"x", tmp_path)
        listing = store.scan("")
        next(listing)
        Path(store.path("b")).rename(tmp_path / "moved")
        with pytest.raises(Unreachable):
            next(listing)

    def test_an_unreadable_directory_is_no_end(
        self, store: DiskBlobStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(store, "a/x", b"x", tmp_path)
        monkeypatch.setattr(os, "scandir", failing(errno.EACCES))
        with pytest.raises(Denied):
            keys(store)

    def test_a_vanished_file_is_left_out(self, store: DiskBlobStorage, tmp_path: Path) -> None:
        for key in ("a", "b", "c"):
            put(store, key, b"x", tmp_path)
        listing = store.scan("")
        next(listing)
        store.remove("b")
        assert [blob.key for blob in listing] == ["c"]

    def test_only_files_are_objects(self, store: DiskBlobStorage, tmp_path: Path) -> None:
        put(store, "a/x", b"x", tmp_path)
        os.mkfifo(store.path("a/pipe"))
        Path(store.path("a/broken")).symlink_to("nowhere")
        assert keys(store) == ["a/x"]

    def test_what_has_no_key_or_another_one_is_left_alone(
        self, store: DiskBlobStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        put(store, "a/x", b"x", tmp_path)
        Path(store.path("a/link")).symlink_to(store.path("a"))
        Path(os.fsdecode(os.fsencode(store.path("a/")) + b"\xff.pdf")).write_bytes(b"x")
        Path(os.fsdecode(os.fsencode(store.path("a/")) + b"\xfe")).mkdir()
        assert keys(store) == ["a/x"]
        assert caplog.text.count("is left alone") == 3

    def test_a_prefix_may_be_on_another_disk(self, store: DiskBlobStorage, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        Path(store.location).mkdir(exist_ok=True)
        Path(store.path("a")).symlink_to(elsewhere)
        put(store, "a/x", b"x", tmp_path)
        assert keys(store) == ["a/x"]


def test_a_wrong_object_that_is_no_file_is_not_taken_for_one(store: DiskBlobStorage) -> None:
    Path(store.path(Digest.of(DATA).key)).mkdir(parents=True)
    with pytest.raises(StoreError):
        store.create(stage(store))
