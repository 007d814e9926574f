from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command

from attachments.models import fold
from parts.models import Part, Tag, Type
from parts.search import matching


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("CAFÉ", "cafe"),
        ("10 µF", "10 uf"),
        ("10 μF", "10 uf"),
        ("10 uF", "10 uf"),
        ("Straße", "strasse"),
        ("ﬁlter", "filter"),
        ("İstanbul", "istanbul"),
    ],
)
def test_fold(text, folded):
    assert fold(text) == folded


@pytest.fixture
def part(db):
    made = Part.objects.create(
        description="Kondensator 10 µF, Größe 1206",
        manufacturer="Würth Elektronik",
        manufacturer_code="WCAP-885012",
        type=Type.objects.create(name="Capacitor"),
    )
    made.tags.set([Tag.objects.create(name="SMD"), Tag.objects.create(name="Entstörung")])
    return made


def found(query):
    # The column that ranks an exact key first is the search's own.
    matches: Any = matching(Part.objects.all(), query)
    return list(matches.order_by("not_exact", "key"))


@pytest.mark.parametrize(
    "query",
    [
        "kondensator",
        "10 uf",
        "µf WÜRTH",
        "wurth capacitor smd",
        "entstorung",
        "885012",
        "grosse",
        "",
        "  ",
    ],
)
def test_every_word_is_found_somewhere(part, query):
    assert found(query) == [part]


@pytest.mark.parametrize("query", ["kondensator resistor", "smdx", "smd\\", "%", "_", "10_uf"])
def test_a_word_that_occurs_nowhere_finds_nothing(part, query):
    assert found(query) == []


def test_a_word_does_not_span_two_fields(part):
    assert found("1206würth") == []


def test_an_exact_key_comes_first(part):
    first = Part.objects.create(description=f"fits {part.key}", key="AAAA")
    first.save()
    Part.objects.filter(pk=part.pk).update(key="ZZZZ")
    part.refresh_from_db()
    part.save()
    Part.objects.filter(pk=first.pk).update(description="fits zzzz")
    first.refresh_from_db()
    first.save()
    assert found("zzzz") == [part, first]


@pytest.mark.django_db
def test_a_part_that_is_given_its_key_is_found():
    part = Part.objects.create(key="GIVE", description="Given")
    assert found("given") == [part]


def test_renaming_a_type_or_a_tag_is_found(part):
    part.type.name = "Condensateur"
    part.type.save()
    tag = part.tags.get(name="SMD")
    tag.name = "surface"
    tag.save()
    assert found("condensateur surface") == [part]
    assert found("capacitor") == []


def test_removed_and_deleted_tags_are_not_found(part):
    part.tags.remove(part.tags.get(name="SMD"))
    assert found("smd") == []
    Tag.objects.get(name="Entstörung").delete()
    assert found("entstorung") == []


def test_a_tag_set_from_its_own_side_is_found(part):
    tag = Tag.objects.create(name="favourite")
    tag.parts.add(part)
    assert found("favourite") == [part]
    tag.parts.clear()
    assert found("favourite") == []


def test_what_is_stale_is_rebuilt(part):
    Part.objects.update(search_text="stale")
    Tag.objects.filter(name="SMD").update(folded="")
    assert found("wurth") == []
    output = StringIO()
    call_command("rebuild_search", stdout=output)
    assert "parts: 1 of 1 corrected" in output.getvalue()
    assert "tags: 1 of 2 corrected" in output.getvalue()
    assert "types: 0 of 1 corrected" in output.getvalue()
    assert found("wurth capacitor smd") == [part]


def test_a_renamed_type_and_tag_are_found_by_their_new_names_alone(part):
    part.type.name = "Condensateur"
    part.type.save(update_fields=["name"])
    tag = part.tags.get(name="SMD")
    tag.name = "Oberfläche"
    tag.save()
    assert found("condensateur oberflache") == [part]
    assert found("capacitor") == found("smd") == []
    tag.delete()
    assert found("oberflache") == []


def test_a_search_with_thousands_of_tags_names_none_of_them(part, monkeypatch):
    monkeypatch.setattr("parts.search.FEW", 1)
    assert found("smd") == [part]
    part.tags.add(Tag.objects.create(name="smd 2"))
    assert found("smd") == [part]
    assert found("smd 3") == []


@pytest.mark.parametrize("query", [" ".join(f"w{n}" for n in range(33)), "\ufdfa" * 30])
def test_a_search_that_unfolds_to_too_much_is_refused(client, part, query):
    response = client.get("/api/parts", {"search": query})
    assert response.status_code == 400
    assert "search" in response.json()["error"]["details"]
