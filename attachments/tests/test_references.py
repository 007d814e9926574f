from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from django.apps import apps
from django.db import connections, models, transaction
from django.test.utils import isolate_apps
from django.utils import timezone

from attachments import references
from attachments.locks import SharedLock, lock_shared
from attachments.models import Attachment, Verification
from attachments.object_keys import KeyKind, ObjectKeyField
from attachments.tests.factories import PDF, legacy_row, staged, stored_row
from attachments.uploads import StagedUpload
from cas.digest import Digest
from cas.storage.base import Absent, Corrupt, Unreachable
from parts.models import Part, SourceRow

DIGEST = Digest.of(PDF)


@pytest.fixture
def part(db):
    return Part.objects.create(description="Voltage regulator")


@pytest.fixture
def upload(tmp_path):
    return StagedUpload(
        staged(PDF, tmp_path / "staged"), "sheet.pdf", "application/pdf", Attachment.Kind.PDF
    )


class Recording:
    """A store that notes what the database held when the blob was written."""

    def __init__(self, store, failure=None):
        self.store = store
        self.failure = failure
        self.rows_seen = []

    def create(self, staged, *proofs):
        self.rows_seen.append(Attachment.objects.filter(s3_key=staged.digest.key).count())
        if self.failure:
            raise self.failure
        return self.store.create(staged)


def test_a_row_points_at_stored_bytes(store, part, upload):
    row = references.attach(part.pk, upload, "Datasheet")
    with store.read(row.s3_key) as stream:
        assert stream.read() == PDF
    assert (row.s3_key, row.file_size) == (DIGEST.key, len(PDF))


def test_the_row_is_flushed_before_the_bytes(disk_store, part, upload, monkeypatch):
    recording = Recording(disk_store)
    monkeypatch.setattr(references, "attachment_store", lambda: recording)
    references.attach(part.pk, upload, "")
    assert recording.rows_seen == [1]


def test_a_storage_failure_takes_the_row_back(disk_store, part, upload, monkeypatch):
    recording = Recording(disk_store, Unreachable("no answer"))
    monkeypatch.setattr(references, "attachment_store", lambda: recording)
    with pytest.raises(Unreachable):
        references.attach(part.pk, upload, "")
    assert not Attachment.objects.exists()


def test_a_blob_of_a_failed_transaction_stays(store, part, upload):
    with transaction.atomic():
        references.attach(part.pk, upload, "")
        transaction.set_rollback(True)
    assert not Attachment.objects.exists()
    assert store.stat(DIGEST.key).size == len(PDF)


def test_the_same_bytes_twice_are_one_object_and_two_rows(store, part, upload):
    references.attach(part.pk, upload, "one")
    before = references.DEDUPLICATED_BYTES._value.get()
    references.attach(part.pk, upload, "two")
    assert [stat.key for stat in store.scan("cas/")] == [DIGEST.key]
    assert Attachment.objects.count() == 2
    assert references.DEDUPLICATED_BYTES._value.get() - before == len(PDF)


def test_a_copy_moves_no_bytes(store, part, tmp_path):
    source = stored_row(part, b"image", tmp_path / "staged")
    other = Part.objects.create(description="Its twin")
    copied = references.copy(source.pk, other.pk)
    assert (copied.part, copied.s3_key) == (other, source.s3_key)
    assert len(list(store.scan(""))) == 1


def test_copying_what_is_gone_says_so(disk_store, part):
    with pytest.raises(references.SourceGone):
        references.copy(4711, part.pk)


def test_repoint_moves_only_from_the_old_key(store, part, tmp_path):
    row = legacy_row(part, PDF, tmp_path / "old")
    store.create(staged(PDF, tmp_path / "staged"))
    assert not references.repoint(
        row.pk, "parts/1/attachments/other.pdf", DIGEST, len(PDF), SharedLock(), PDF
    )
    old_key = row.s3_key or ""
    assert references.repoint(row.pk, old_key, DIGEST, len(PDF), SharedLock(), PDF)
    assert not references.repoint(row.pk, old_key, DIGEST, len(PDF), SharedLock(), PDF)
    row.refresh_from_db()
    assert row.s3_key == DIGEST.key


def test_repoint_refuses_a_blob_that_is_not_there(store, part, tmp_path):
    row = legacy_row(part, PDF, tmp_path / "old")
    with pytest.raises(Absent):
        references.repoint(row.pk, row.s3_key or "", DIGEST, len(PDF), SharedLock(), PDF)
    store.create(staged(PDF, tmp_path / "staged"))
    with pytest.raises(Corrupt):
        references.repoint(row.pk, row.s3_key or "", DIGEST, len(PDF) + 1, SharedLock(), PDF)
    row.refresh_from_db()
    assert row.is_legacy


@pytest.mark.django_db(transaction=True)
def test_a_digest_is_held_inside_a_transaction_only():
    with pytest.raises(transaction.TransactionManagementError):
        lock_shared([DIGEST])


@pytest.mark.django_db(transaction=True)
def test_what_is_referenced_is_not_offered_for_collection(store, tmp_path):
    part = Part.objects.create(description="Fuse")
    stored_row(part, PDF, tmp_path / "staged")
    other = Digest.of(b"other")
    with references.collecting(store, [DIGEST, other]) as lock:
        assert lock.removable == {other}


def in_thread(pool, function, *args):
    def run():
        try:
            return function(*args)
        finally:
            connections.close_all()

    return pool.submit(run)


@pytest.mark.django_db(transaction=True)
def test_an_upload_and_a_collection_of_one_digest_exclude_each_other(
    store, upload, tmp_path, monkeypatch
):
    """Without the lock the upload finds the blob there, and the collector then deletes it."""
    part = Part.objects.create(description="Fuse")
    store.create(staged(PDF, tmp_path / "unreferenced"))
    looked, deleted = Event(), Event()

    class Slow:
        def create(self, staged, *proofs):
            outcome = store.create(staged)
            looked.set()
            deleted.wait(2)
            return outcome

    def collect():
        with references.collecting(store, [DIGEST]) as lock:
            list(lock.remove_many([digest.key for digest in lock.removable]))
        deleted.set()

    monkeypatch.setattr(references, "attachment_store", Slow)
    with ThreadPoolExecutor(2) as pool:
        uploading = in_thread(pool, references.attach, part.pk, upload, "")
        assert looked.wait(5)
        in_thread(pool, collect).result()
        row = uploading.result()
    with store.read(row.s3_key) as stream:
        assert stream.read() == PDF


@pytest.mark.django_db(transaction=True)
def test_an_upload_waits_for_a_collection_and_then_stores_again(store, upload, tmp_path):
    part = Part.objects.create(description="Fuse")
    store.create(staged(PDF, tmp_path / "unreferenced"))
    with ThreadPoolExecutor(1) as pool:
        with references.collecting(store, [DIGEST]) as lock:
            assert lock.removable == {DIGEST}
            uploading = in_thread(pool, references.attach, part.pk, upload, "")
            with pytest.raises(TimeoutError):
                uploading.result(timeout=0.3)
            assert list(lock.remove_many([DIGEST.key])) == [(DIGEST.key, None)]
        row = uploading.result()
    assert store.stat(row.s3_key).size == len(PDF)


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_uploads_of_one_digest_do_not_wait_for_each_other():
    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        lock_shared([DIGEST])

        def hold():
            with transaction.atomic():
                lock_shared([DIGEST])
            return True

        assert in_thread(pool, hold).result(timeout=5)


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_digest_in_use_is_skipped_and_not_waited_for(disk_store):
    free = Digest.of(b"free")
    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        lock_shared([DIGEST])

        def collect():
            with references.collecting(disk_store, [DIGEST, free]) as lock:
                return lock.removable

        assert in_thread(pool, collect).result(timeout=5) == {free}


OURS = ("inventory", "parts", "attachments", "cas")
NO_KEY = (models.IntegerField, models.BooleanField, models.DateField)
"""Kinds of columns that cannot hold a key, whatever is written into them."""

HOLD_NO_KEY = {
    "attachments.Attachment": (
        "what people are told of the file, or the address of a web page",
        {"attachment_type", "title", "url", "filename", "content_type", "search_text"},
    ),
    "attachments.Verification": (
        "what was verified when; it is meant to outlive its blobs and to keep none",
        {"digest", "etag"},
    ),
    "attachments.Change": (
        "what a row had and has that people edit, which no key is among",
        {"table_name", "action", "actor", "before", "after"},
    ),
    "attachments.PendingDeletion": ("what is being deleted", {"digest"}),
    "parts.Type": ("a name", {"name", "folded"}),
    "parts.Tag": ("a name", {"name", "folded"}),
    "parts.Part": (
        "what people write about a part",
        {
            "key", "description", "manufacturer", "manufacturer_code", "product_page", "seller",
            "seller_link", "package", "pin_pitch", "voltage_rating", "input_voltage",
            "output_voltage", "mounting_type", "series", "dimensions", "search_text",
            "description_sorted", "manufacturer_sorted", "manufacturer_code_sorted",
        },
    ),
    "parts.SourceRow": (
        "which row of an older installation it is, and what became of it",
        {
            "source", "source_table", "source_id", "name", "state", "reason_code", "reason",
            "release_cause",
        },
    ),
}  # fmt: skip
"""Columns that could hold a key and were looked at: why what they hold refers to no blob."""


def columns_that_could_hold_a_key(model):
    for field in model._meta.concrete_fields:
        # A reference to another table holds what it refers to there.
        held = field.target_field if isinstance(field, models.ForeignKey) else field
        if not isinstance(held, NO_KEY):
            yield model._meta.label, field.column


def test_every_column_that_can_hold_a_key_is_registered():
    """A model that gains one and is not registered would lose its blobs to the collector."""
    found = {
        column
        for model in apps.get_models(include_auto_created=True)
        if model.__module__.partition(".")[0] in OURS
        for column in columns_that_could_hold_a_key(model)
    }
    looked_at = {(label, name) for label, (_why, names) in HOLD_NO_KEY.items() for name in names}
    registered = {(model._meta.label, field.column) for model, field in references.key_columns()}
    assert found - looked_at == registered
    assert registered == {("attachments.Attachment", "s3_key"), ("parts.SourceRow", "object_key")}
    assert looked_at <= found, "columns that are gone or can hold no key"


def test_a_column_carries_its_kind_and_so_does_its_copy():
    reference = references.key_columns(KeyKind.REFERENCE)
    hold = references.key_columns(KeyKind.HOLD)
    assert [column.model for column in reference] == [Attachment]
    assert [column.model for column in hold] == [SourceRow]
    copied = hold[0].field.clone()
    assert (copied.kind, copied.active) == (KeyKind.HOLD, hold[0].field.active)


def test_a_reference_cannot_be_released():
    with pytest.raises(ValueError, match="only a hold"):
        ObjectKeyField(max_length=10, active=models.Q(pk=1))


@pytest.mark.django_db
def test_what_a_hold_names_is_referenced_until_it_is_released():
    row = SourceRow.objects.create(
        source="old", source_table="part_attachments", source_id="1", object_key=DIGEST.key
    )
    assert references.referenced({DIGEST}) == {DIGEST}
    row.released_at, row.release_cause = timezone.now(), SourceRow.Release.FORGOTTEN
    row.save()
    assert references.referenced({DIGEST}) == set()


@isolate_apps("attachments")
def test_no_kind_of_column_escapes_the_registry():
    class Sheet(models.Model):  # noqa: DJ008 - lives in this test only
        file = models.FileField()
        picture = models.ImageField()
        digests = models.JSONField()
        raw = models.BinaryField()
        uuid = models.UUIDField()
        verified = models.ForeignKey(Verification, models.CASCADE)
        pages = models.IntegerField()
        made = models.DateTimeField()

        class Meta:
            app_label = "attachments"

    found = [column for _label, column in columns_that_could_hold_a_key(Sheet)]
    assert found == ["file", "picture", "digests", "raw", "uuid", "verified_id"]
