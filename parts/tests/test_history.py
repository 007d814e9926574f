"""Every write is in the history, whoever makes it; and a copy that follows it misses nothing."""

from __future__ import annotations

import io
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.test import Client
from django.utils import timezone
from PIL import Image

from accounts.models import Token
from attachments.history import all_recorded, create_triggers, current_actor
from attachments.models import Attachment, Change
from attachments.references import point_at_legacy
from cas.storage.base import BlobStore
from parts.models import Part, Tag, Type
from parts.tags import merge

pytestmark = pytest.mark.django_db

JSON = "application/json"

SECONDS = float(os.environ.get("SOAK_SECONDS", "6"))
"""How long a copy is kept beside writers."""


@pytest.fixture(autouse=True)
def _nothing_happened_yet(request: pytest.FixtureRequest) -> None:
    """SQLite's tables are emptied row by row between tests, which the triggers see."""
    marked = request.node.get_closest_marker("django_db")
    request.getfixturevalue("transactional_db" if marked.kwargs.get("transaction") else "db")
    Change._default_manager.all().delete()


@contextmanager
def acting(name: str) -> Iterator[None]:
    """What is written in the block was done by `name`."""
    token = current_actor.set(lambda: name)
    try:
        yield
    finally:
        current_actor.reset(token)


def photo(colour: str = "teal") -> SimpleUploadedFile:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(sink, "PNG")
    return SimpleUploadedFile("photo.png", sink.getvalue())


def stored() -> dict[tuple[str, int], dict[str, Any]]:
    """What the tables have of what is recorded."""
    found = {}
    for recorded in all_recorded():
        expressions = ", ".join(sql.format(row="t") for sql in recorded.values.values())
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT t.id, {expressions} FROM {recorded.table} t")  # noqa: S608
            for pk, *values in cursor.fetchall():
                found[recorded.table, pk] = dict(zip(recorded.values, values, strict=True))
    return found


def replayed() -> dict[tuple[str, int], dict[str, Any]]:
    """What the history says that they have."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for change in Change._default_manager.exclude(action="touch").order_by("transaction_id", "id"):
        row = (change.table_name, change.row_id)
        assert found.get(row) == change.before, (change.pk, change.before)
        if change.action == "delete":
            del found[row]
        else:
            found[row] = change.after or {}
    return found


class Collection:
    """Writes of every kind; each returns the part that it is of."""

    def __init__(self) -> None:
        self.client = Client()
        self.part = Part.objects.create(description="first")
        self.other = Part.objects.create(description="other")
        self.type = Type.objects.create(name="resistor")
        self.path = f"/api/parts/{self.part.key}"

    def created(self, path: str, body: Any = None, **kind: Any) -> Any:
        made = self.client.post(path, body, **(kind or {"content_type": JSON}))
        assert made.status_code in (200, 201), made.content
        return made.json()

    def changed(self, path: str, body: Any) -> bool:
        made = self.client.patch(path, body, content_type=JSON)
        assert made.status_code == 200, made.content
        return True

    def uploaded(self, colour: str = "teal") -> int:
        body = self.created(f"{self.path}/attachments", {"file": photo(colour)}, format="multipart")
        return int(body["id"])


WRITES: dict[str, Callable[[Collection], Any]] = {
    "API: add": lambda c: c.created("/api/parts", {"description": "new", "tags": ["a", "b"]}),
    "API: change": lambda c: c.changed(c.path, {"description": "second", "type": "resistor"}),
    "API: tags": lambda c: c.changed(c.path, {"tags": ["x", "y"]}),
    "API: one tag": lambda c: c.created(f"{c.path}/tags/z"),
    "API: upload": lambda c: c.uploaded(),
    "API: link": lambda c: c.created(f"{c.path}/attachments", {"url": "https://x.example/"}),
    "API: title": lambda c: c.changed(f"{c.path}/attachments/{c.uploaded()}", {"title": "t"}),
    "API: copy": lambda c: c.created(
        "/api/parts/copy-attachment",
        {"attachment_id": c.uploaded(), "target_part_key": c.other.key},
    ),
    "API: cover": lambda c: (c.uploaded(), c.client.delete(f"{c.path}/cover")),
    "API: delete an attachment": lambda c: c.client.delete(f"{c.path}/attachments/{c.uploaded()}"),
    "API: delete a part": lambda c: (c.uploaded(), c.client.delete(c.path)),
    "API: type": lambda c: c.changed(f"/api/types/{c.type.pk}", {"name": "R"}),
    "API: delete a type": lambda c: c.client.delete(f"/api/types/{c.type.pk}"),
    "merge tags": lambda c: (
        c.changed(c.path, {"tags": ["x", "y"]}),
        merge(Tag.objects.get(name="x"), [Tag.objects.get(name="y")]),
    ),
    "update": lambda c: Part.objects.update(manufacturer="Vishay"),
    "bulk": lambda c: Part.objects.bulk_create(
        [Part(key="QQQQ", description="q"), Part(key="RRRR", description="r")]
    ),
    "SQL": lambda c: connection.cursor().execute("UPDATE parts SET seller = 'S'"),
    "QuerySet.delete": lambda c: (c.uploaded(), Part.objects.all().delete()),
    "sample": lambda c: call_command("load_sample", "--parts", "3", "--seed", "1", verbosity=0),
    "old object": lambda c: point_at_legacy(
        c.uploaded(), Attachment.objects.get().s3_key or "", "parts/1/attachments/a.png", 9
    ),
}


@pytest.mark.parametrize("name", WRITES)
def test_every_write_is_in_the_history(name: str, disk_store: BlobStore) -> None:
    collection = Collection()
    assert replayed() == stored()
    newest = Change._default_manager.order_by("id").last()
    WRITES[name](collection)
    assert replayed() == stored()
    assert newest
    assert Change._default_manager.filter(pk__gt=newest.pk).exists()


def test_who_it_was_is_recorded(settings: Any) -> None:
    settings.INVENTORY_AUTH = "accounts"
    ada = User.objects.create_superuser("ada")
    token = Token.objects.create(ada, name="labels")[1]
    program = Client(headers={"Authorization": f"Token {token}"})
    program.post("/api/types", {"name": "a"}, content_type=JSON)
    browser = Client()
    browser.force_login(ada)
    browser.post("/admin/parts/type/add/", {"name": "b"})
    with acting("manage.py import_parts"):
        Type.objects.create(name="c")
    found = Change._default_manager.filter(table_name="types").order_by("id")
    told = [(change.actor, (change.after or {})["name"]) for change in found]
    assert told == [("ada (labels)", "a"), ("ada", "b"), ("manage.py import_parts", "c")]


def test_a_write_that_is_rolled_back_leaves_nothing_not_even_its_author() -> None:
    with acting("first"), transaction.atomic():
        Type.objects.create(name="a")
        transaction.set_rollback(True)
    with acting("second"):
        Type.objects.create(name="a")
    assert [change.actor for change in Change._default_manager.all()] == ["second"]


@pytest.mark.django_db(transaction=True)
def test_who_acts_is_told_to_the_transaction_alone() -> None:
    """A pooler may give the session to another client after it."""
    with acting("first"):
        Type.objects.create(name="a")
        Type.objects.update(name="b")
        with connection.cursor() as cursor:
            cursor.execute("update types set name = 'c'")
            if connection.vendor == "postgresql":
                cursor.execute("SELECT current_setting('inventory.actor', true)")
                assert not cursor.fetchone()[0]
    found = Change._default_manager.filter(table_name="types").values_list("actor", flat=True)
    assert list(found) == ["first"] * 3


def test_a_migration_is_no_edit(disk_store: BlobStore) -> None:
    collection = Collection()
    pk = collection.uploaded()
    before = Change._default_manager.exclude(action="touch").count()
    key = Attachment.objects.get(pk=pk).s3_key or ""
    assert point_at_legacy(pk, key, "parts/1/attachments/a.png", 68)
    assert Change._default_manager.exclude(action="touch").count() == before
    last = Change._default_manager.order_by("id").last()
    assert last
    assert (last.action, last.before, last.after) == ("touch", None, None)
    assert last.part_id == collection.part.pk


def test_triggers_that_are_gone_are_made_again() -> None:
    with connection.cursor() as cursor:
        name = "changes_of_types"
        if connection.vendor == "sqlite":
            cursor.execute(f"DROP TRIGGER {name}_insert")
        else:
            cursor.execute(f"DROP TRIGGER {name} ON types")
    Type.objects.create(name="unseen")
    assert not Change._default_manager.exists()
    create_triggers(using="default")
    Type.objects.create(name="seen")
    assert Change._default_manager.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_migration_backwards_takes_them_with_it_and_forwards_brings_them() -> None:
    try:
        call_command("migrate", "attachments", "0014", verbosity=0)
        Part.objects.create(description="unseen")
    finally:
        call_command("migrate", verbosity=0)
    assert not Change._default_manager.exists()
    Part.objects.update(description="seen")
    assert Change._default_manager.get().action == "update"


def test_the_history_of_a_part(disk_store: BlobStore) -> None:
    collection = Collection()
    collection.changed(collection.path, {"description": "second", "tags": ["a"]})
    collection.uploaded()
    answer = collection.client.get(f"{collection.path}/history").json()
    told = [(each["what"], each["action"], each["fields"]) for each in answer["results"]]
    assert ("part", "update", {"description": {"before": "first", "after": "second"}}) in told
    assert ("tag", "insert", {"tag": {"before": None, "after": "a"}}) in told
    assert told[-1][:2] == ("part", "insert")
    assert answer["count"] == len(told)
    assert any(each["what"] == "attachment" and each["row_id"] for each in answer["results"])
    assert "s3_key" not in str(answer)
    assert "cas/" not in str(answer)
    assert collection.client.get("/api/parts/ZZZZ/history").status_code == 404
    collection.client.force_login(User.objects.create_superuser("ada"))
    page = collection.client.get(f"/admin/parts/part/{collection.part.pk}/history/")
    assert "<del>first</del>" in page.content.decode()
    assert "part changed" in page.content.decode()


def newest(collection: Collection, what: str, action: str) -> str:
    """The address at which the newest change of this kind is taken back."""
    found = collection.client.get(f"{collection.path}/history?page_size=500").json()["results"]
    pk = next(each["id"] for each in found if (each["what"], each["action"]) == (what, action))
    return f"{collection.path}/history/{pk}/restore"


def test_changes_are_taken_back(disk_store: BlobStore) -> None:
    collection = Collection()
    client, path = collection.client, collection.path
    collection.changed(path, {"description": "second", "seller": "S", "type": "resistor"})
    change = newest(collection, "part", "update")
    collection.changed(path, {"description": "third", "package": "SOT-23"})
    # One field, as it was before a change further back.
    shown = collection.created(change, {"fields": ["description"]}) and client.get(path).json()
    assert [shown[name] for name in ("description", "seller", "package")] == [
        "first",
        "S",
        "SOT-23",
    ]
    # All that it changed, and nothing else.
    shown = collection.created(change, {})
    found = [shown[name] for name in ("description", "seller", "type", "package")]
    assert found == ["first", "", None, "SOT-23"]
    # Tags and titles.
    collection.created(f"{path}/tags/red")
    assert collection.created(newest(collection, "tag", "insert"), {})["tags"] == []
    assert collection.created(newest(collection, "tag", "delete"), {})["tags"] == ["red"]
    pk = collection.uploaded()
    collection.changed(f"{path}/attachments/{pk}", {"title": "other"})
    collection.created(newest(collection, "attachment", "update"), {})
    assert client.get(f"{path}/attachments/{pk}").json()["title"] == "photo.png"
    # A cover, while it is there.
    client.delete(f"{path}/cover")
    without = newest(collection, "part", "update")
    assert collection.created(without, {})["cover_url"]
    client.delete(f"{path}/attachments/{pk}")
    assert client.post(without, {}, JSON).json()["error"]["code"] == "not_restorable"
    assert replayed() == stored()


def test_what_cannot_be_taken_back_changes_nothing(disk_store: BlobStore) -> None:
    collection = Collection()
    client = collection.client
    collection.changed(collection.path, {"type": "resistor"})
    collection.changed(collection.path, {"type": None})
    change = newest(collection, "part", "update")
    client.delete(f"/api/types/{collection.type.pk}")
    before = stored()
    assert client.post(change, {}, JSON).status_code == 400
    assert client.post(change, {"fields": ["nothing"]}, JSON).status_code == 400
    assert client.post(change, {"fields": ["key"]}, JSON).status_code == 400
    assert client.post(change, {"more": 1}, JSON).status_code == 400
    assert client.post(change, {"fields": []}, JSON).status_code == 400
    stale = client.post(change, {"fields": ["seller"]}, JSON, headers={"If-Match": '"99"'})
    assert stale.status_code == 412
    added = newest(collection, "part", "insert")
    assert client.post(added, {}, JSON).status_code == 409
    others = change.replace(collection.part.key, collection.other.key)
    assert client.post(others, {}, JSON).status_code == 404
    assert stored() == before


def test_a_change_is_taken_back_in_the_admin(disk_store: BlobStore) -> None:
    collection = Collection()
    collection.changed(collection.path, {"description": "second"})
    collection.client.force_login(User.objects.create_superuser("ada"))
    page = f"/admin/parts/part/{collection.part.pk}/history/"
    found = re.findall(r'action="([^"]+/restore/)"', collection.client.get(page).content.decode())
    assert len(found) == 1
    shown = collection.client.post(found[0], follow=True).content.decode()
    assert "as it was before" in shown
    collection.part.refresh_from_db()
    assert collection.part.description == "first"
    reader = Client()
    reader.force_login(User.objects.create_user("reader"))
    assert reader.post(found[0]).status_code == 403
    assert collection.client.get(found[0]).status_code == 405


class Copy:
    """A client that keeps a copy of the collection by `updated_since`."""

    def __init__(self) -> None:
        self.client = Client()
        self.parts: dict[str, Any] = {}
        self.cursor = self.client.get("/api/parts?updated_since=now").json()["cursor"]
        page = "/api/parts?page_size=500"
        while page:
            body = self.client.get(page).json()
            self.keep(body["results"])
            page = body["next"]

    def keep(self, parts: list[Any]) -> None:
        for part in parts:
            rows = self.client.get(f"/api/parts/{part['key']}/attachments")
            self.parts[part["key"]] = (part, rows.json() if rows.status_code == 200 else [])

    def follow(self, page_size: int = 50) -> None:
        more = True
        while more:
            query = {"updated_since": self.cursor, "page_size": page_size}
            body = self.client.get("/api/parts", query).json()
            for key in body["deleted"]:
                self.parts.pop(key, None)
            self.keep(body["results"])
            self.cursor, more = body["cursor"], body["more"]

    def equals_the_collection(self) -> bool:
        """Soon: a transaction of another test on the same server is waited for."""
        deadline = time.monotonic() + 30
        while not (equal := self.parts == Copy().parts) and time.monotonic() < deadline:
            time.sleep(0.05)
            self.follow()
        return equal


@pytest.mark.django_db(transaction=True)
def test_a_copy_follows_what_happens(disk_store: BlobStore) -> None:
    collection = Collection()
    copy = Copy()
    for write in WRITES.values():
        if Part.objects.filter(pk=collection.part.pk).exists():
            write(collection)
        else:
            fresh = Part.objects.create(description="first")
            collection.part, collection.path = fresh, f"/api/parts/{fresh.key}"
        copy.follow(page_size=3)
        assert copy.equals_the_collection()


@pytest.mark.django_db(transaction=True)
def test_what_is_pruned_is_gone_and_whoever_has_not_read_it_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("attachments.history.BATCH", 2)
    Part.objects.create(description="first")
    late = Copy()
    for number in range(5):
        Part.objects.update(description=f"edit {number}")
    copy = Copy()
    Change._default_manager.update(at=timezone.now() - timedelta(days=40))
    Part.objects.update(description="last")
    call_command("prune_history", "--older-than", "30d", "--dry-run")
    assert capsys.readouterr().out == "6 changes would be deleted\n"
    call_command("prune_history", "--older-than", "30d")
    call_command("prune_history", "--older-than", "30d")
    assert capsys.readouterr().out == "6 changes deleted\n0 changes deleted\n"
    found = Change._default_manager.order_by("id").values_list("action", flat=True)
    assert list(found) == ["pruned", "update"]
    assert copy.equals_the_collection()
    answer = late.client.get("/api/parts", {"updated_since": late.cursor})
    assert answer.status_code == 410
    assert answer.json()["error"]["code"] == "cursor_expired"
    ahead = late.client.get("/api/parts", {"updated_since": f"{9 * 10**17}-1"})
    assert ahead.json()["error"]["code"] == "cursor_expired"
    key = Part.objects.get().key
    assert late.client.get(f"/api/parts/{key}/history").json()["count"] == 1
    Change._default_manager.update(at=timezone.now() - timedelta(days=40))
    call_command("prune_history", "--older-than", "30d")
    assert Change._default_manager.count() == 1


@pytest.mark.parametrize("cursor", ["", "x", "1", "1-", "-1-1", "1-1-1", "9" * 19 + "-1", "٣-1"])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    answer = Client().get("/api/parts", {"updated_since": cursor})
    assert answer.status_code == 400
    assert "updated_since" in answer.json()["error"]["details"]


def test_filters_do_not_go_with_a_cursor() -> None:
    answer = Client().get("/api/parts", {"updated_since": "now", "search": "x"})
    assert answer.status_code == 400
    assert "search" in answer.json()["error"]["details"]


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_what_is_committed_late_is_not_missed() -> None:
    copy = Copy()
    began, go_on = threading.Event(), threading.Event()

    def slow_writer() -> None:
        with transaction.atomic():
            Part.objects.create(description="slow")
            began.set()
            go_on.wait(20)
        connections.close_all()

    thread = threading.Thread(target=slow_writer)
    thread.start()
    assert began.wait(20)
    Part.objects.create(description="quick")
    copy.follow()
    assert copy.parts == {}  # it lags by the transaction that is open
    go_on.set()
    thread.join()
    assert copy.equals_the_collection()
    assert {part["description"] for part, _ in copy.parts.values()} == {"slow", "quick"}


def write_at_random(choose: random.Random, client: Client) -> None:
    path = f"/api/parts/{choose.choice(list(Part.objects.values_list('key', flat=True)))}"
    colour = choose.choice(["red", "blue", "teal"])

    def slowly() -> None:
        with transaction.atomic():
            Part.objects.filter(key=path[-4:]).update(seller=colour)
            time.sleep(choose.random() / 20)

    def delete() -> None:
        if Part.objects.count() > 5:
            client.delete(path)

    choose.choice(
        [
            lambda: client.post("/api/parts", {"description": "new", "tags": [colour]}, JSON),
            lambda: client.patch(path, {"description": str(choose.random())}, JSON),
            lambda: client.post(f"{path}/attachments", {"file": photo(colour)}),
            lambda: client.post(f"{path}/tags/{colour}"),
            slowly,
            delete,
        ]
    )()


@pytest.mark.django_db(transaction=True)
def test_a_copy_beside_writers_ends_equal(disk_store: BlobStore) -> None:
    for number in range(20):
        Part.objects.create(description=f"part {number}")
    copy = Copy()
    stop = time.monotonic() + SECONDS
    faults: list[BaseException] = []

    def write(seed: int) -> None:
        choose, client = random.Random(seed), Client()  # noqa: S311
        try:
            while time.monotonic() < stop:
                write_at_random(choose, client)
        except BaseException as error:  # noqa: BLE001
            faults.append(error)
        finally:
            connections.close_all()

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        copy.follow()
    assert not faults
    assert Change._default_manager.count() > 100
    assert copy.equals_the_collection()
