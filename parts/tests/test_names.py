"""Types and tags are one per name, however it is written; what is folded is found and sorted so."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import IntegrityError, connection, connections, transaction
from django.db.migrations.executor import MigrationExecutor
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from attachments.folding import rebuild
from attachments.models import fold
from attachments.tests.factories import stored_row
from parts.models import FOLDED_LENGTH, Part, Tag, Type

pytestmark = pytest.mark.django_db

SPELLINGS = [
    "Łódź Op-Amp µ",
    "łódź op-amp μ",
    "LODZ OP-AMP U",
    unicodedata.normalize("NFD", "Łódź Op-Amp µ"),
    "Łó\u00addź Op\u2011Amp µ",
    "\ufeffŁódź\u200b Op\u2212Amp µ\ufe0f",
    "Ł\u2060ódź Op\u2013Amp \u202aµ\u202c",
    "Ｌódź Op\uff0dAmp µ",
    "Łódź \u00a0Op-Amp  µ",
]
"""One name, in the ways that keyboards and copied texts have it."""

AWKWARD = [
    "(", "-5", "0805", "10", "2", "a", "A1", "Ab", "ac", "Äz", "b", "Łódź", "lz", "Ω", "µ", "és",
    "e", "zero", "z", "_", "~", "Ж", "中", "🔌", "ß", "sr", "st", "x y", "xy", "x-y",
]  # fmt: skip


@pytest.fixture
def api() -> APIClient:
    return APIClient()


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def by_code_point(names: list[str]) -> list[str]:
    return sorted(names, key=fold)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_type_is_one_however_its_name_is_written(api: APIClient, spelling: str) -> None:
    made = api.post("/api/types", {"name": SPELLINGS[0]}, format="json")
    again = api.post("/api/types", {"name": spelling}, format="json")
    assert (made.status_code, again.status_code) == (201, 200)
    assert again.json() == made.json()
    part = api.post("/api/parts", {"description": "x", "type": spelling}, format="json").json()
    assert part["type"] == SPELLINGS[0]
    found = api.get("/api/parts", {"type": spelling}).json()["results"]
    assert [each["key"] for each in found] == [part["key"]]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_tag_is_one_however_its_name_is_written(api: APIClient, spelling: str) -> None:
    given = {"description": "x", "tags": [SPELLINGS[0], "other", spelling]}
    part = api.post("/api/parts", given, format="json").json()
    assert part["tags"] == [SPELLINGS[0], "other"]
    found = api.get("/api/parts", {"tag": [spelling, "OTHER"]}).json()["results"]
    assert [each["key"] for each in found] == [part["key"]]
    url = f"/api/parts/{part['key']}/tags/{spelling}"
    assert api.post(url).status_code == 200
    assert api.delete(url).json()["tags"] == ["other"]
    assert api.post(url).json()["tags"] == ["other", SPELLINGS[0]]
    assert Tag.objects.count() == 2


def test_a_name_can_be_written_otherwise_but_not_be_anothers(api: APIClient) -> None:
    diode, _led = Type.objects.create(name="Diode"), Type.objects.create(name="LED")
    url = f"/api/types/{diode.pk}"
    assert api.patch(url, {"name": "DIODE"}, format="json").json()["name"] == "DIODE"
    taken = api.patch(url, {"name": "led"}, format="json")
    assert taken.status_code == 400
    assert taken.json()["error"]["code"] == "unique"
    assert "“LED”" in taken.json()["error"]["details"]["name"][0]


@pytest.mark.parametrize("name", ["\u200b", "\u00ad\ufeff", "\u2060 \u200d", "\u0301"])
def test_a_name_of_which_nothing_is_seen_is_refused(
    api: APIClient, admin: Client, name: str
) -> None:
    part = {"description": "x", "tags": [name]}
    for url, given in (("/api/types", {"name": name}), ("/api/parts", part)):
        refused = api.post(url, given, format="json")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "blank")
    page = admin.post("/admin/parts/tag/add/", {"name": name})
    assert "visible character" in page.content.decode()
    assert not Tag.objects.exists()


@pytest.mark.parametrize("letter", ["\ufdfa", "\ufb03", "ß", "\u1e9e", "㌀", "x"])
def test_a_name_that_unfolds_to_many_letters_is_kept_and_found(api: APIClient, letter: str) -> None:
    names = [letter * 500, letter * 499]
    part = api.post("/api/parts", {"description": "x", "tags": names}, format="json")
    assert part.status_code == 201, part.content
    assert part.json()["tags"] == names
    assert api.get("/api/parts", {"tag": letter.upper() * 500}).json()["count"] == 1
    assert api.get("/api/parts", {"tag": letter * 498}).json()["count"] == 0
    assert max(len(tag.folded) for tag in Tag.objects.all()) <= FOLDED_LENGTH
    type_ = api.post("/api/types", {"name": letter * 100}, format="json")
    assert type_.status_code == 201
    description = {"description": letter * 5000, "manufacturer": letter * 255}
    assert api.post("/api/parts", description, format="json").status_code == 201


def test_a_search_is_limited_by_what_it_unfolds_to(api: APIClient) -> None:
    Part.objects.create(description="Fuse")
    invisible = "\u200b" * 600 + "fuse"
    assert api.get("/api/parts", {"search": invisible}).json()["count"] == 1
    assert api.get("/api/parts", {"search": "\ufdfa" * 100}).status_code == 400


@pytest.mark.parametrize("column", ["description", "manufacturer", "manufacturer_code"])
def test_parts_are_sorted_alike_on_every_database(api: APIClient, column: str) -> None:
    names = list(AWKWARD)
    for name in reversed(names):
        Part.objects.create(**{"description": "x", column: name})
    for sign, order in (("", list), ("-", lambda found: list(reversed(found)))):
        answer = api.get(f"/api/parts?ordering={sign}{column}&page_size=100").json()
        shown = [part[column] for part in answer["results"]]
        assert order(shown) == by_code_point(names)


def test_equal_names_keep_their_place_on_every_page(api: APIClient) -> None:
    for name in ["FUSE", "fuse", "Fuse", "Füse"] * 5:
        Part.objects.create(description=name)
    pages = [
        api.get(f"/api/parts?ordering=description&page={page}&page_size=3").json()
        for page in range(1, 8)
    ]
    keys = [part["key"] for page in pages for part in page["results"]]
    assert len(set(keys)) == 20


def test_types_and_pickers_are_sorted_alike(api: APIClient, admin: Client) -> None:
    names = list(AWKWARD)
    for name in reversed(names):
        Type.objects.create(name=name)
        Tag.objects.create(name=name)
    answer = api.get("/api/types", {"page_size": 100}).json()["results"]
    assert [each["name"] for each in answer] == by_code_point(names)
    for model in ("type", "tag"):
        field = {"type": "type", "tag": "tags"}[model]
        given = {"app_label": "parts", "model_name": "part", "field_name": field}
        shown = list(pages_of(admin, given))
        assert shown == by_code_point(names)
        found = admin.get(reverse("admin:autocomplete"), {**given, "term": "LODZ"}).json()
        assert [each["text"] for each in found["results"]] == ["Łódź"]
        page = admin.get(f"/admin/parts/{model}/", {"o": "1"}).context["cl"].result_list
        assert [row.name for row in page] == by_code_point(names)


def pages_of(admin: Client, given: dict[str, str]) -> Iterator[str]:
    page, more = 1, True
    while more:
        answer = admin.get(reverse("admin:autocomplete"), {**given, "page": str(page)}).json()
        yield from (each["text"] for each in answer["results"])
        page, more = page + 1, answer["pagination"]["more"]


def test_lists_of_the_admin_are_sorted_alike(admin: Client) -> None:
    names = list(AWKWARD)
    for name in reversed(names):
        Part.objects.create(description=name, manufacturer=name)
    for column in ("3", "4"):
        rows = admin.get("/admin/parts/part/", {"o": column}).context["cl"].result_list
        assert [row.description for row in rows] == by_code_point(names)


@pytest.mark.parametrize("spelling", ["LODZ", "łódź", "lo\u00addz", "Łodz foto"])
def test_attachments_are_found_by_folded_words(admin: Client, tmp_path: Any, spelling: str) -> None:
    part = Part.objects.create(description="x")
    row = stored_row(part, b"%PDF-1.7", tmp_path / "file")
    row.rename("Łódź – Foto")
    stored_row(part, b"%PDF-1.8", tmp_path / "other")
    for term in (spelling, f"{spelling} {part.key.lower()}"):
        found = admin.get("/admin/attachments/attachment/", {"q": term}).context["cl"].result_list
        assert [each.pk for each in found] == [row.pk]


def test_the_admin_says_who_has_the_name(admin: Client) -> None:
    Type.objects.create(name="Diode")
    page = admin.post("/admin/parts/type/add/", {"name": "DIODE"})
    assert page.status_code == 200
    assert "There is a type “Diode” already." in page.content.decode()


def test_the_admin_says_so_also_of_one_that_was_stored_meanwhile(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = Type.clean
    calls: list[int] = []

    def clean(self: Type) -> None:
        looked(self)
        if not calls:
            calls.append(1)
            raise IntegrityError("types.folded")

    monkeypatch.setattr(Type, "clean", clean)
    page = admin.post("/admin/parts/type/add/", {"name": "DIODE"})
    assert page.status_code == 302


def test_the_database_takes_no_second_one() -> None:
    for model in (Type, Tag):
        model.objects.create(name="Diode")
        with pytest.raises(IntegrityError), transaction.atomic():
            model.objects.create(name="DIODE")


@pytest.mark.django_db(transaction=True)
def test_of_many_who_create_a_name_at_once_one_does() -> None:
    answers: list[Any] = []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        client = APIClient()
        name = SPELLINGS[number]
        start.wait()
        if number % 2:
            answers.append(client.post("/api/types", {"name": name}, format="json"))
        else:
            given = {"description": f"{number}", "tags": [name, f"own {number}"]}
            answers.append(client.post("/api/parts", given, format="json"))
        connections.close_all()

    threads = [threading.Thread(target=create, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert Type.objects.count() == 1
    assert Tag.objects.filter(name__startswith="own").count() == 4
    assert Tag.objects.count() == 5


def migrated(*targets: tuple[str, str]) -> Any:
    executor = MigrationExecutor(connection)
    for app, name in targets:
        call_command("migrate", app, name, verbosity=0)
    return executor.loader.project_state(list(targets)).apps


@pytest.mark.django_db(transaction=True)
def test_a_migration_merges_what_there_is() -> None:
    before = [("parts", "0006_versions_and_folded_names"), ("attachments", "0012_versions")]
    try:
        apps = migrated(*before)
        old_part, old_type, old_tag = (
            apps.get_model("parts", name) for name in ("Part", "Type", "Tag")
        )
        types = [old_type.objects.create(name=name) for name in ("Led", "LED", "Diode", "led")]
        spelled = ("smd", "SMD", "Łódź", "lodz", "\u200b", "\u00ad")
        tags = {name: old_tag.objects.create(name=name) for name in spelled}
        parts = [
            old_part.objects.create(key=f"AAA{chr(65 + i)}", description=f"Łódź {i}", type=type_)
            for i, type_ in enumerate([types[0], types[1], types[1], types[2], types[3]])
        ]
        for name in ("lodz", "SMD", "smd"):
            parts[0].tags.add(tags[name])
        for name in ("smd", "Łódź"):
            parts[1].tags.add(tags[name])
        parts[2].tags.add(tags["SMD"])
        parts[3].tags.add(tags["\u200b"])
    finally:
        call_command("migrate", verbosity=0)
    assert sorted(Type.objects.values_list("name", flat=True)) == ["Diode", "LED"]
    kinds = [part.type.name for part in Part.objects.order_by("key") if part.type]
    assert kinds == ["LED", "LED", "LED", "Diode", "LED"]
    shown = APIClient().get("/api/parts/AAAA").json()
    # Two have each spelling; the older one stays. The first place of those merged is kept.
    assert shown["tags"] == ["Łódź", "smd"]
    assert APIClient().get("/api/parts/AAAB").json()["tags"] == ["smd", "Łódź"]
    assert [part.version for part in Part.objects.order_by("key")] == [4, 1, 2, 1, 2]
    assert Tag.objects.count() == 3
    assert APIClient().get("/api/parts", {"search": "lodz smd"}).json()["count"] == 3
    assert {name: corrected for name, (_, corrected) in rebuild().items()} == {
        "parts": 0, "types": 0, "tags": 0, "attachments": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Łódź Ørsted đ ħ ŧ ƶ", "lodz orsted d h t z"),
        ("so\u00adft ze\u200bro \ufeffbom w\u2060j", "soft zero bom wj"),
        ("−5 – — ‑ ﹣ － ⁃", "-5 - - - - - -"),
        ("Straße ÆŒ ﬁ", "strasse aeoe fi"),
        ("İ I ı", "i i i"),
        ("10 kΩ ±1 %", "10 kω ±1 %"),
        ("µF μF", "uf uf"),
    ],
)
def test_folding(text: str, folded: str) -> None:
    assert fold(text) == folded
    assert fold(folded) == folded
