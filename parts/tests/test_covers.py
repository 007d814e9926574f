import pytest

from attachments.models import Attachment
from attachments.tests.factories import attached, file_fields
from parts.covers import NotACover, set_cover
from parts.models import Part

pytestmark = pytest.mark.django_db


@pytest.fixture
def part():
    return Part.objects.create(description="Sensor")


def image(part, **fields):
    return attached(part, **file_fields(b"x") | fields)


def cover_of(part):
    return Part.objects.get(pk=part.pk).cover_attachment


def test_the_first_image_becomes_the_cover(part):
    pdf = image(part, attachment_type="pdf", content_type="application/pdf")
    assert cover_of(part) is None
    first = image(part)
    image(part)
    assert cover_of(part) == first
    assert pdf.part == part


def test_the_oldest_remaining_image_follows(part):
    first, second, third = image(part), image(part), image(part)
    set_cover(part.pk, third.pk)
    third.delete()
    assert cover_of(part) == first
    first.delete()
    assert cover_of(part) == second
    second.delete()
    assert cover_of(part) is None


def test_deleting_in_bulk_leaves_an_image_that_is_there(part):
    image(part), image(part)
    last = image(part)
    part.attachments.exclude(pk=last.pk).delete()
    assert cover_of(part) == last


def test_a_part_that_is_to_have_no_cover_keeps_none(part):
    first, second = image(part), image(part)
    set_cover(part.pk, None)
    second.delete()
    assert cover_of(part) is None
    assert first.part == part


def test_deleting_a_part_takes_its_attachments(part):
    image(part), image(part)
    part.delete()
    assert not Attachment.objects.exists()


def test_only_an_own_image_can_be_the_cover(part):
    other = Part.objects.create(description="Other")
    with pytest.raises(Attachment.DoesNotExist):
        set_cover(part.pk, image(other).pk)
    with pytest.raises(NotACover):
        set_cover(part.pk, image(part, attachment_type="pdf").pk)
