"""Every capability is probed before it is relied on, and replaced where it is missing."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from cas.digest import Digest
from cas.storage import capabilities
from cas.storage.base import Changed, Corrupt, Denied, Outcome, Unreachable
from cas.storage.capabilities import PROBE_PREFIX, probe
from cas.storage.s3 import S3BlobStorage
from cas.storage.s3.probes import FALLBACKS
from cas.tests.test_store_contract import DATA, bytes_at, damage, keys, put, stage
from cas.tests.test_store_s3 import LARGE, MIB, uploads
from tests.s3 import S3Server

IGNORABLE = (
    ("content_md5",),
    ("checksum_sha256",),
    ("content_md5", "checksum_sha256"),
    ("if_none_match",),
    ("complete_if_none_match",),
    ("copy_if_match",),
    ("copy_if_none_match",),
    ("part_copy_if_match",),
    ("copy_checksum",),
    ("copy_checksum", "checksum_sha256"),
    ("get_object_attributes",),
    ("checksums_rejected",),
    ("opaque_etags",),
    ("opaque_etags", "content_md5", "checksum_sha256", "copy_checksum"),
    (
        "content_md5",
        "checksum_sha256",
        "if_none_match",
        "complete_if_none_match",
        "copy_if_match",
        "copy_if_none_match",
        "part_copy_if_match",
        "copy_checksum",
    ),
)


@pytest.fixture
def store(s3_store: Any) -> S3BlobStorage:
    assert isinstance(s3_store, S3BlobStorage)
    s3_store.multipart_threshold = s3_store.part_size = 5 * MIB
    s3_store.copy_threshold = s3_store.copy_part_size = 5 * MIB
    return s3_store


class TestProbe:
    def test_a_strict_store_supports_everything(
        self, store: S3BlobStorage, s3_server: S3Server
    ) -> None:
        assert dict(probe(store).results) == dict.fromkeys(FALLBACKS, True)

    @pytest.mark.parametrize("name", [name for name in FALLBACKS if name != "stored_checksum"])
    def test_each_capability_is_missed_alone(
        self,
        store: S3BlobStorage,
        s3_server: S3Server,
        caplog: pytest.LogCaptureFixture,
        name: str,
    ) -> None:
        s3_server.ignore(name)
        missed = {name for name, supported in probe(store).results.items() if not supported}
        # A checksum that was not checked when it was stored is worth nothing later.
        assert missed - {"stored_checksum"} == {name}
        assert ("stored_checksum" in missed) == (name == "checksum_sha256")
        assert f"does not support {name}: {FALLBACKS[name]}" in caplog.text

    def test_a_store_that_refuses_every_checksum_supports_none(
        self, store: S3BlobStorage, s3_server: S3Server
    ) -> None:
        s3_server.ignore("checksums_rejected")
        found = probe(store)
        for name in ("checksum_sha256", "copy_checksum", "stored_checksum"):
            assert not found.supports(name)
        assert found.supports("content_md5")

    def test_leaves_nothing_behind(self, store: S3BlobStorage, s3_server: S3Server) -> None:
        s3_server.ignore(*IGNORABLE[-1])
        probe(store)
        assert keys(store) == []
        assert uploads(store) == []

    def test_is_done_once(self, store: S3BlobStorage, s3_server: S3Server) -> None:
        first = probe(store)
        s3_server.reset()
        assert probe(store) is first
        capabilities.forget()
        assert probe(store) == first
        assert s3_server.counts() == {}
        assert probe(store, force=True).probed_at > first.probed_at
        assert s3_server.counts()["PutObject"] > 5

    def test_a_store_of_another_name_is_probed_by_itself(
        self, store: S3BlobStorage, s3_server: S3Server
    ) -> None:
        probe(store)
        s3_server.ignore("if_none_match")
        other = S3BlobStorage(**s3_server.storage_options(s3_server.new_bucket()))
        assert not probe(other).supports("if_none_match")
        assert probe(store).supports("if_none_match")

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 0}', "{}"])
    def test_an_unreadable_file_is_written_again(
        self, store: S3BlobStorage, settings: Any, text: str
    ) -> None:
        first = probe(store)
        (path,) = Path(settings.CAS_STATE_DIR).iterdir()
        path.write_text(text)
        capabilities.forget()
        assert probe(store).probed_at > first.probed_at
        assert json.loads(path.read_text())["store"] == store.identity

    def test_where_nothing_may_be_probed_nothing_is_relied_on(
        self, store: S3BlobStorage, s3_server: S3Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        s3_server.fault(
            "PutObject",
            "error",
            status=403,
            code="AccessDenied",
            key_contains=PROBE_PREFIX,
            times=-1,
        )
        with pytest.raises(Denied):
            probe(store)
        assert store.create(stage(store)) is Outcome.STORED
        assert "none is relied on" in caplog.text
        assert capabilities.known(store) is None

    def test_a_store_that_is_down_is_not_judged(
        self, store: S3BlobStorage, s3_server: S3Server
    ) -> None:
        s3_server.fault("PutObject", "error", status=503, code="SlowDown", skip=2, times=-1)
        with pytest.raises(Unreachable):
            store.create(stage(store))
        assert capabilities.known(store) is None
        s3_server.reset()
        assert probe(store).supports("content_md5")


@pytest.mark.parametrize("ignored", IGNORABLE, ids="+".join)
class TestWithoutCapabilities:
    """All that holds with capabilities holds without them."""

    @pytest.fixture(autouse=True)
    def _ignore(self, store: S3BlobStorage, s3_server: S3Server, ignored: tuple[str, ...]) -> None:
        s3_server.ignore(*ignored)
        probe(store)

    def test_create(self, store: S3BlobStorage, tmp_path: Path) -> None:
        for data in (DATA, LARGE):
            staged = stage(store, data)
            assert store.create(staged) is Outcome.STORED
            assert store.create(staged) is Outcome.PRESENT
            damage(store, staged.digest.key, b"short", tmp_path)
            assert store.create(staged) is Outcome.HEALED
            assert bytes_at(store, staged.digest.key) == data
        assert list(store.remove_many([Digest.of(DATA).key])) == [(Digest.of(DATA).key, None)]

    def test_ingest(self, store: S3BlobStorage, tmp_path: Path) -> None:
        for data in (DATA, LARGE):
            put(store, "legacy/a", data, tmp_path)
            assert store.ingest("legacy/a").outcome is Outcome.STORED
            assert store.ingest("legacy/a").outcome is Outcome.PRESENT
            assert bytes_at(store, Digest.of(data).key) == data
        assert list(store.staging_dir.iterdir()) == []

    def test_damage_on_the_way_up(self, store: S3BlobStorage, s3_server: S3Server) -> None:
        s3_server.fault("PutObject", "alter_request")
        with pytest.raises(Corrupt):
            store.create(stage(store))
        s3_server.fault("UploadPart", "alter_request", skip=1)
        with pytest.raises(Corrupt):
            store.create(stage(store, LARGE))
        assert keys(store) == []

    def test_damage_on_the_way_down(
        self, store: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        for data in (DATA, LARGE):
            put(store, "legacy/a", data, tmp_path)
            s3_server.fault("GetObject", "alter_body")
            with pytest.raises(Corrupt):
                store.ingest("legacy/a")
            assert keys(store, "cas/") == []

    def test_a_source_overwritten_meanwhile(
        self, store: S3BlobStorage, s3_server: S3Server, tmp_path: Path
    ) -> None:
        """Whatever comes of it, no object is other than its key says."""
        for operation, data in (("CopyObject", DATA), ("UploadPartCopy", LARGE)):
            put(store, "legacy/a", data, tmp_path)
            other = data[::-1].decode("latin-1")
            s3_server.fault(operation, "overwrite_first", key="legacy/a", body=other)
            s3_server.fault("PutObject", "overwrite_first", key="legacy/a", body=other)
            with contextlib.suppress(Changed):
                store.ingest("legacy/a")
            for key in keys(store, "cas/"):
                assert Digest.of(bytes_at(store, key)).key == key
