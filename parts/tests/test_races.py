"""Every pair of writes at once: none is lost, what is derived fits, a version names one thing."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from rest_framework.test import APIClient

from attachments.models import Attachment, FoldedField, fold
from attachments.tests.factories import PDF, named, picture, stored_row
from cas.storage.base import BlobStore
from parts.models import Part, Tag, Type

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS: Final = 2
_numbers = itertools.count(1)


@dataclass
class World:
    """Two parts with what the writes are about; `name` makes what they create their own."""

    directory: Any
    name: str = field(default_factory=lambda: f"w{next(_numbers)}")

    def __post_init__(self) -> None:
        self.type = Type.objects.create(name=f"{self.name} type")
        self.other_type = Type.objects.create(name=f"{self.name} other type")
        self.tag = Tag.objects.create(name=f"{self.name} tag")
        self.other_tag = Tag.objects.create(name=f"{self.name} other tag")
        self.part = Part.objects.create(description=f"{self.name} part", type=self.type)
        self.other = Part.objects.create(description=f"{self.name} other")
        self.part.tags.add(self.tag, self.other_tag)
        self.photos = [
            stored_row(self.part, picture(colour), self.directory / f"{self.name}-{colour}")
            for colour in ("red", "green", "blue")
        ]
        self.photo = stored_row(self.other, picture("pink"), self.directory / f"{self.name}-other")
        self.address = f"/api/parts/{self.part.key}"

    def now(self) -> Part | None:
        return Part.objects.filter(pk=self.part.pk).first()


@dataclass
class Write:
    """A write, the fields of the part that it decides, and how its effect shows."""

    send: Callable[[APIClient, World], Any]
    fields: frozenset[str]
    done: Callable[[World], bool]


WRITES: dict[str, Write] = {}


def write(*fields: str, done: Callable[[World], bool]) -> Callable[[Any], Any]:
    def register(send: Any) -> Any:
        WRITES[send.__name__] = Write(send, frozenset(fields), done)
        return send

    return register


def of_part(world: World, name: str) -> Any:
    part = world.now()
    return part and getattr(part, name)


def tags_of(world: World) -> set[str]:
    return set(Tag.objects.filter(parts=world.part.pk).values_list("name", flat=True))


@write("description", done=lambda w: of_part(w, "description") == f"{w.name} Ωmega")
def change_the_description(client: APIClient, world: World) -> Any:
    return client.patch(world.address, {"description": f"{world.name} Ωmega"}, format="json")


@write("manufacturer", done=lambda w: of_part(w, "manufacturer") == "Würth")
def change_the_manufacturer(client: APIClient, world: World) -> Any:
    return client.patch(world.address, {"manufacturer": "Würth"}, format="json")


@write("type", done=lambda w: of_part(w, "type_id") == w.other_type.pk)
def change_the_type(client: APIClient, world: World) -> Any:
    return client.patch(world.address, {"type": world.other_type.name}, format="json")


@write("tags", "tag", "added", done=lambda w: tags_of(w) == {f"{w.name} a", f"{w.name} b"})
def set_new_tags(client: APIClient, world: World) -> Any:
    names = [f"{world.name} b", f"{world.name} a"]
    return client.patch(world.address, {"tags": names}, format="json")


@write(done=lambda w: Part.objects.filter(tags__name=f"{w.name} a").count() >= 1)
def create_with_the_same_tags(client: APIClient, world: World) -> Any:
    given = {"description": "New", "tags": [f"{world.name} a", f"{world.name} b"]}
    return client.post("/api/parts", given, format="json")


@write("added", done=lambda w: f"{w.name} added" in tags_of(w))
def add_a_tag(client: APIClient, world: World) -> Any:
    return client.post(f"{world.address}/tags/{world.name} added")


@write("tag", done=lambda w: w.tag.name not in tags_of(w))
def remove_a_tag(client: APIClient, world: World) -> Any:
    return client.delete(f"{world.address}/tags/{world.tag.name}")


@write("cover", "photo1", done=lambda w: of_part(w, "cover_attachment_id") == w.photos[1].pk)
def choose_a_cover(client: APIClient, world: World) -> Any:
    chosen = {"attachment_id": world.photos[1].pk}
    return client.put(f"{world.address}/cover", chosen, format="json")


@write("cover", done=lambda w: of_part(w, "cover_attachment_id") is None)
def remove_the_cover(client: APIClient, world: World) -> Any:
    return client.delete(f"{world.address}/cover")


@write("photo0", "cover", done=lambda w: not Attachment.objects.filter(pk=w.photos[0].pk).exists())
def delete_the_cover_photo(client: APIClient, world: World) -> Any:
    return client.delete(f"{world.address}/attachments/{world.photos[0].pk}")


@write("photo1", done=lambda w: not Attachment.objects.filter(pk=w.photos[1].pk).exists())
def delete_the_next_photo(client: APIClient, world: World) -> Any:
    return client.delete(f"{world.address}/attachments/{world.photos[1].pk}")


@write("uploaded", done=lambda w: Attachment.objects.filter(part=w.part.pk, title="Up").exists())
def upload(client: APIClient, world: World) -> Any:
    given = {"file": named(PDF, "a.pdf"), "title": "Up"}
    return client.post(f"{world.address}/attachments", given, format="multipart")


@write("copied", "cover", done=lambda w: Attachment.objects.filter(part=w.part.pk).count() >= 1)
def copy_to_it(client: APIClient, world: World) -> Any:
    given = {"attachment_id": world.photo.pk, "target_part_key": world.part.key}
    return client.post("/api/parts/copy-attachment", given, format="json")


@write(done=lambda w: Attachment.objects.filter(part=w.other.pk).count() >= 2)
def copy_from_it(client: APIClient, world: World) -> Any:
    given = {"attachment_id": world.photos[0].pk, "target_part_key": world.other.key}
    return client.post("/api/parts/copy-attachment", given, format="json")


@write("photo0", done=lambda w: Attachment.objects.filter(pk=w.photos[0].pk, title="New").exists())
def rename_an_attachment(client: APIClient, world: World) -> Any:
    address = f"{world.address}/attachments/{world.photos[0].pk}"
    return client.patch(address, {"title": "New"}, format="json")


@write("type name", done=lambda w: Type.objects.filter(name=f"{w.name} renamed").exists())
def rename_its_type(client: APIClient, world: World) -> Any:
    renamed = {"name": f"{world.name} renamed"}
    return client.put(f"/api/types/{world.type.pk}", renamed, format="json")


@write("other name", done=lambda w: Type.objects.filter(name=f"{w.name} renamed too").exists())
def rename_the_other_type(client: APIClient, world: World) -> Any:
    renamed = {"name": f"{world.name} renamed too"}
    return client.patch(f"/api/types/{world.other_type.pk}", renamed, format="json")


@write("other type", done=lambda w: not Type.objects.filter(pk=w.other_type.pk).exists())
def delete_the_other_type(client: APIClient, world: World) -> Any:
    return client.delete(f"/api/types/{world.other_type.pk}")


@write("everything", done=lambda w: w.now() is None)
def delete_the_part(client: APIClient, world: World) -> Any:
    return client.delete(world.address)


@write("tag name", done=lambda w: Tag.objects.filter(name=f"{w.name} new name").exists())
def rename_a_tag_in_the_admin(client: Client, world: World) -> Any:
    address = f"/admin/parts/tag/{world.tag.pk}/change/"
    given = {"name": f"{world.name} new name", "read_version": world.tag.version}
    return client.post(address, given)


@write("tag", "tag name", done=lambda w: not Tag.objects.filter(pk=w.tag.pk).exists())
def merge_tags_in_the_admin(client: Client, world: World) -> Any:
    given = {
        "action": "merge_tags",
        "_selected_action": [world.tag.pk, world.other_tag.pk],
        "merge": "yes",
        "kept": world.other_tag.pk,
    }
    return client.post("/admin/parts/tag/", given)


@write("tag", "tag name", done=lambda w: not Tag.objects.filter(pk=w.tag.pk).exists())
def delete_a_tag_in_the_admin(client: Client, world: World) -> Any:
    return client.post(f"/admin/parts/tag/{world.tag.pk}/delete/", {"post": "yes"})


@write("photo0", "photo1", "photo2", "cover", done=lambda w: True)
def delete_photos_in_the_admin(client: Client, world: World) -> Any:
    given = {
        "action": "delete_selected",
        "_selected_action": [world.photos[2].pk, world.photos[0].pk],
        "post": "yes",
    }
    return client.post("/admin/attachments/attachment/", given)


DELETING: Final = {"delete_the_part", "delete_the_other_type"}


def race(world: World, clients: list[Any], names: tuple[str, str]) -> dict[str, Any]:
    """Send two writes at once, and read the part all the while."""
    barrier, over = threading.Barrier(3), threading.Event()
    answers: list[Any] = [None, None]
    seen: dict[int, list[Any]] = defaultdict(list)

    def send(at: int) -> None:
        try:
            barrier.wait()
            time.sleep(random.random() * 0.004)  # noqa: S311 - no secret
            answers[at] = WRITES[names[at]].send(clients[at], world)
        finally:
            connections.close_all()

    def look() -> None:
        try:
            barrier.wait()
            while not over.is_set():
                remember(APIClient().get(world.address), seen, world.part.key)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=send, args=[at]) for at in (0, 1)]
    watcher = threading.Thread(target=look)
    for thread in (*threads, watcher):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    watcher.join()
    for at in (0, 1):
        if answers[at] is not None and answers[at].status_code < 300:
            remember(answers[at], seen, world.part.key)
    return {"answers": answers, "seen": seen}


def remember(answer: Any, seen: dict[int, list[Any]], key: str) -> None:
    shown = answer.json() if answer.headers.get("Content-Type") == "application/json" else {}
    of_a_part = answer.status_code < 300 and isinstance(shown, dict) and shown.get("key") == key
    if of_a_part and shown not in seen[shown["version"]]:
        seen[shown["version"]].append(shown)


def check(world: World, names: tuple[str, str], outcome: dict[str, Any], before: Part) -> None:
    codes = [answer.status_code if answer is not None else 0 for answer in outcome["answers"]]
    told = f"{names}: {codes} {[getattr(a, 'content', b'')[:300] for a in outcome['answers']]}"
    gone = DELETING & set(names)
    missing = {404, 400} if "not_found" in told or "does_not_exist" in told or gone else {404}
    for at in (0, 1):
        mine, partner = WRITES[names[at]], WRITES[names[1 - at]]
        assert codes[at] in {200, 201, 204, 302, *({409} if gone else ()), *missing}, told
        # The admin shows the form again, as 200, where it saved nothing.
        succeeded = codes[at] < 400 and not ("admin" in names[at] and codes[at] == 200)
        if succeeded and not gone and not mine.fields & partner.fields:
            assert mine.done(world), told
    for model in (Part, Type, Tag):
        for row in model._default_manager.all():
            for folded in model._meta.fields:
                if isinstance(folded, FoldedField):
                    text = "\n".join(getattr(row, name) for name in folded.sources)
                    assert getattr(row, folded.name) == fold(text), told
    part = world.now()
    if part is None:
        assert not Attachment.objects.filter(part=world.part.pk).exists(), told
        return
    pictures = list(Attachment.objects.pictures().filter(part=part.pk).values_list("pk", flat=True))
    assert part.cover_attachment_id in {None, *pictures}, told
    if "remove_the_cover" not in names and pictures:
        assert part.cover_attachment_id, told
    assert part.version >= before.version, told
    shown = APIClient().get(world.address).json()
    for other in outcome["seen"].get(shown["version"], []):
        assert other == shown, told


@pytest.mark.parametrize("first", WRITES)
def test_pairs(
    disk_store: BlobStore, tmp_path: Any, first: str, caplog: pytest.LogCaptureFixture
) -> None:
    administrator = User.objects.create_superuser("root")
    names = list(WRITES)
    for second in names[names.index(first) :]:
        for _ in range(ROUNDS):
            world = World(tmp_path)
            before = Part.objects.get(pk=world.part.pk)
            clients = []
            for name in (first, second):
                clients.append(Client() if "admin" in name else APIClient())
                if "admin" in name:
                    clients[-1].force_login(administrator)
            check(world, (first, second), race(world, clients, (first, second)), before)
    assert "Traceback" not in caplog.text
