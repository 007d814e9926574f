import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.db.models import fields

from attachments.models import Attachment
from attachments.tests.factories import attached
from parts import models, views
from parts.models import Part, Type

pytestmark = pytest.mark.django_db


def make(**fields):
    return Part.objects.create(**{"description": "Resistor", **fields})


def drawing(monkeypatch, *keys):
    drawn = iter(keys)
    monkeypatch.setattr(models, "new_key", lambda: next(drawn))


def test_a_key_is_four_uppercase_letters():
    assert all(len(key) == 4 and key.isascii() and key.isupper() for key in [make().key])


def test_a_taken_key_is_drawn_again(monkeypatch):
    drawing(monkeypatch, "AAAA", "AAAA", "AAAA", "BBBB")
    assert [make().key, make().key] == ["AAAA", "BBBB"]


def test_running_out_of_keys_says_so(monkeypatch):
    monkeypatch.setattr(models, "new_key", lambda: "AAAA")
    make()
    with pytest.raises(models.KeysExhausted):
        make()


def test_another_fault_is_not_taken_for_a_collision(monkeypatch):
    with pytest.raises(IntegrityError, match="pin_count"), transaction.atomic():
        make(pin_count=0)


def test_a_key_never_changes():
    part = make()
    part.key = "QQQQ"
    with pytest.raises(ValidationError):
        part.save()


@pytest.mark.parametrize(
    "changes", [{"pin_count": 0}, {"pin_count": -1}, {"description": ""}, {"key": "ABC"}]
)
def test_the_database_itself_refuses(changes):
    part = make()
    with pytest.raises(IntegrityError), transaction.atomic():
        Part.objects.filter(pk=part.pk).update(**changes)


def test_type_names_are_unique():
    Type.objects.create(name="Fuse")
    with pytest.raises(IntegrityError), transaction.atomic():
        Type.objects.create(name="Fuse")


FILE = {
    "attachment_type": "image",
    "title": "Photo",
    "s3_key": "cas/" + "a" * 64,
    "filename": "photo.png",
    "content_type": "image/png",
    "file_size": 1,
}


@pytest.mark.parametrize(
    "fields",
    [
        {"attachment_type": "url", "title": "Shop"},
        {"attachment_type": "url", "title": "Shop", "url": ""},
        {"attachment_type": "url", "title": "Shop", "url": "https://a.b", "s3_key": ""},
        {"attachment_type": "video", "title": "Shop"},
        FILE | {"s3_key": None},
        FILE | {"s3_key": ""},
        FILE | {"filename": None},
        FILE | {"filename": ""},
        FILE | {"content_type": None},
        FILE | {"content_type": ""},
        FILE | {"file_size": None},
        FILE | {"file_size": -1},
    ],
)
def test_the_database_refuses_incomplete_attachments(fields):
    part = make()
    with pytest.raises(IntegrityError), transaction.atomic():
        Attachment.objects.create(part=part, **fields)


def test_sizes_are_64_bit():
    row = Attachment.objects.create(part=make(), **FILE | {"file_size": 2**40})
    row.refresh_from_db()
    assert row.file_size == 2**40


class TestCoverIsOwn:
    """Held by the database, at the end of the transaction."""

    @pytest.fixture
    def foreign(self):
        return attached(make(), **FILE)

    def test_another_parts_attachment_cannot_be_the_cover(self, foreign):
        part = make()
        refused(lambda: Part.objects.filter(pk=part.pk).update(cover_attachment=foreign.pk))

    def test_a_part_is_not_born_with_a_foreign_cover(self, foreign):
        refused(lambda: make(cover_attachment=foreign))

    def test_a_cover_cannot_move_to_another_part(self, foreign):
        assert Part.objects.get(pk=foreign.part_id).cover_attachment_id == foreign.pk
        other = make()
        refused(lambda: Attachment.objects.filter(pk=foreign.pk).update(part=other))

    def test_a_form_is_told_before_the_database_is(self, foreign):
        part = make()
        part.cover_attachment = foreign
        with pytest.raises(ValidationError) as refusal:
            part.validate_constraints()
        assert refusal.value.messages == ["The cover is not an attachment of this part."]
        part.cover_attachment = None
        part.validate_constraints()
        Part.objects.get(pk=foreign.part_id).validate_constraints()


def refused(change):
    """What the database does at the end of a transaction, inside the test's own."""

    def commit():
        with transaction.atomic():
            change()
            connection.check_constraints()

    with pytest.raises(IntegrityError):
        commit()


@pytest.mark.django_db(transaction=True)
def test_a_foreign_cover_is_a_conflict(client, monkeypatch):
    """The database speaks when the transaction commits, which is still inside the view."""
    foreign = attached(make(), **FILE)
    own = attached(make(), **FILE)
    rows = Part.objects.filter(pk=own.part_id)
    monkeypatch.setattr(
        views, "set_cover", lambda part, row: rows.update(cover_attachment=foreign.pk)
    )
    answer = client.put(
        f"/api/parts/{own.part.key}/cover", {"attachment_id": own.pk}, "application/json"
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert rows.get().cover_attachment_id == own.pk


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("model", [Part, Attachment])
def test_a_column_can_be_added(model):
    """An ordinary migration: SQLite rebuilds the table for it."""
    own = attached(make(), **FILE)
    foreign = attached(make(), **FILE)
    field = fields.TextField(default="")
    field.set_attributes_from_name("remark")
    field.model = model
    with connection.schema_editor() as editor:
        editor.add_field(model, field)
    try:
        with pytest.raises(IntegrityError):
            Part.objects.filter(pk=own.part_id).update(cover_attachment=foreign.pk)
        with pytest.raises(IntegrityError):
            Attachment.objects.filter(pk=own.pk).update(part=foreign.part_id)
        own.delete()
        assert Part.objects.get(pk=own.part_id).cover_attachment_id is None
        Part.objects.get(pk=foreign.part_id).delete()
        assert not Attachment.objects.exists()
    finally:
        with connection.schema_editor() as editor:
            editor.remove_field(model, field)
