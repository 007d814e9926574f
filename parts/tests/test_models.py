import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction

from attachments.models import Attachment
from parts import models
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
        {"attachment_type": "url", "title": "Shop", "url": "https://a.b", "s3_key": "cas/x"},
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
    """Held by the database: a composite key on PostgreSQL, triggers on SQLite."""

    @pytest.fixture
    def foreign(self):
        return Attachment.objects.create(part=make(), **FILE)

    @pytest.fixture
    def refused(self):
        """PostgreSQL checks at commit (the key is deferred), SQLite at the statement."""

        def commit(change):
            with transaction.atomic():
                if change():
                    connection.check_constraints()

        def refused(change):
            with pytest.raises(IntegrityError):
                commit(change)

        return refused

    def test_another_parts_attachment_cannot_be_the_cover(self, foreign, refused):
        part = make()
        refused(lambda: Part.objects.filter(pk=part.pk).update(cover_attachment=foreign.pk))

    def test_a_part_is_not_born_with_a_foreign_cover(self, foreign, refused):
        refused(lambda: make(cover_attachment=foreign))

    def test_a_cover_cannot_move_to_another_part(self, foreign, refused):
        assert Part.objects.get(pk=foreign.part_id).cover_attachment_id == foreign.pk
        other = make()
        refused(lambda: Attachment.objects.filter(pk=foreign.pk).update(part=other))
