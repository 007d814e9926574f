"""What each role may do, in the API and in the admin: the whole matrix, anonymous included."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import Client, override_settings
from django.urls import URLPattern, get_resolver
from PIL import Image

from accounts.models import RoleGrant
from accounts.roles import ROLES
from accounts.tests.conftest import bearer
from attachments.models import Attachment, Change
from cas.storage.base import BlobStore
from parts.models import Part, Tag, Type

pytestmark = pytest.mark.django_db

EVERY_ROLE = ("viewer", "editor", "manager")
EDITORS = ("editor", "manager")
MANAGERS = ("manager",)


class Rows(NamedTuple):
    part: Part
    other: Part
    type: Type
    unused: Type
    tag: Tag
    row: Attachment
    change: int


def picture() -> SimpleUploadedFile:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(sink, "PNG")
    return SimpleUploadedFile("teal.png", sink.getvalue())


@pytest.fixture
def rows(db: None, disk_store: BlobStore) -> Rows:
    part = Part.objects.create(description="A part")
    part.tags.add(tag := Tag.objects.create(name="blue"))
    return Rows(
        part,
        Part.objects.create(description="Another"),
        Type.objects.create(name="resistor"),
        Type.objects.create(name="unused"),
        tag,
        upload(part),
        Change._default_manager.filter(table_name="part_tags").get().pk,
    )


@override_settings(INVENTORY_AUTH="open")
def upload(part: Part) -> Attachment:
    made = Client().post(f"/api/parts/{part.key}/attachments", {"file": picture()})
    assert made.status_code == 201
    return Attachment.objects.get()


class Case(NamedTuple):
    """A request to the API. `body` makes what is sent."""

    route: str
    method: str
    roles: tuple[str, ...]
    path: str
    body: Callable[[Rows], Any] = lambda _: None
    files: bool = False


PART = "/api/parts/{part.key}"
ROW = PART + "/attachments/{row.pk}"
CASES = [
    Case("type-list", "GET", EVERY_ROLE, "/api/types"),
    Case("type-list", "POST", EDITORS, "/api/types", lambda _: {"name": "new"}),
    Case("type-detail", "GET", EVERY_ROLE, "/api/types/{type.pk}"),
    Case("type-detail", "PUT", EDITORS, "/api/types/{type.pk}", lambda _: {"name": "r"}),
    Case("type-detail", "PATCH", EDITORS, "/api/types/{type.pk}", lambda _: {"name": "r"}),
    Case("type-detail", "DELETE", MANAGERS, "/api/types/{unused.pk}"),
    Case("part-list", "GET", EVERY_ROLE, "/api/parts"),
    Case("part-list", "POST", EDITORS, "/api/parts", lambda _: {"description": "d"}),
    Case("part-detail", "GET", EVERY_ROLE, PART),
    Case("part-detail", "PUT", EDITORS, PART, lambda _: {"description": "d"}),
    Case("part-detail", "PATCH", EDITORS, PART, lambda _: {"description": "d"}),
    Case("part-detail", "DELETE", EDITORS, PART),
    Case("part-tag", "POST", EDITORS, PART + "/tags/red"),
    Case("part-tag", "DELETE", EDITORS, PART + "/tags/blue"),
    Case("part-history", "GET", EVERY_ROLE, PART + "/history"),
    Case("restore-change", "POST", EDITORS, PART + "/history/{change}/restore", lambda _: {}),
    Case("part-cover", "GET", EVERY_ROLE, PART + "/cover"),
    Case("part-cover", "PUT", EDITORS, PART + "/cover", lambda r: {"attachment_id": r.row.pk}),
    Case("part-cover", "DELETE", EDITORS, PART + "/cover"),
    Case("attachment-list", "GET", EVERY_ROLE, PART + "/attachments"),
    Case(
        "attachment-list",
        "POST",
        EDITORS,
        PART + "/attachments",
        lambda _: {"file": picture()},
        files=True,
    ),
    Case("attachment-detail", "GET", EVERY_ROLE, ROW),
    Case("attachment-detail", "PUT", EDITORS, ROW, lambda _: {"title": "t"}),
    Case("attachment-detail", "PATCH", EDITORS, ROW, lambda _: {"title": "t"}),
    Case("attachment-detail", "DELETE", EDITORS, ROW),
    Case(
        "copy-attachment",
        "POST",
        EDITORS,
        "/api/parts/copy-attachment",
        lambda r: {"attachment_id": r.row.pk, "target_part_key": r.other.key},
    ),
    Case("token-list", "GET", EVERY_ROLE, "/api/tokens"),
]
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ELSEWHERE = {
    # Blobs are for who has their URL: it is signed, and `cas` asks no database who asks.
    ("cas-blob", "GET"),
    ("attachment-content", "GET"),
    # Made with a password or a session, revoked by its owner: see test_tokens.
    ("token-list", "POST"),
    ("token-detail", "GET"),
    ("token-detail", "DELETE"),
}


def ask(case: Case, rows: Rows, headers: dict[str, str]) -> int:
    content_type = {} if case.files else {"content_type": "application/json"}
    path = case.path.format(**rows._asdict())
    send = getattr(Client(headers=headers), case.method.lower())
    status: int = send(path, case.body(rows), **content_type).status_code
    return status


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method} {case.path}")
@pytest.mark.parametrize("role", [*EVERY_ROLE, "none"])
def test_the_api(case: Case, role: str, accounts: dict[str, User], rows: Rows) -> None:
    status = ask(case, rows, bearer(accounts[role]))
    assert status in ((200, 201, 204) if role in case.roles else (403,))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method} {case.path}")
def test_nobody(case: Case, accounts: dict[str, User], rows: Rows) -> None:
    assert ask(case, rows, {}) == 401
    assert ask(case, rows, {"Authorization": "Token " + 64 * "0"}) == 401


def test_every_endpoint_is_in_the_matrix() -> None:
    found = set()
    for pattern in get_resolver().url_patterns:
        if not str(pattern.pattern).startswith("api/"):
            continue
        for route in getattr(pattern, "url_patterns", [pattern]):
            assert isinstance(route, URLPattern)
            view = getattr(route.callback, "view_class", None)
            methods = [each for each in METHODS if hasattr(view, each.lower())] if view else ["GET"]
            found |= {(route.name, method) for method in methods}
    assert found == {(case.route, case.method) for case in CASES} | ELSEWHERE


ADMIN = [
    # (model and row, may view, may add, may change, may delete): as in the API
    ("parts/part", "part", EVERY_ROLE, EDITORS, EDITORS, EDITORS),
    ("parts/type", "unused", EVERY_ROLE, EDITORS, EDITORS, MANAGERS),
    ("parts/tag", "tag", EVERY_ROLE, EDITORS, EDITORS, MANAGERS),
    ("attachments/attachment", "row", EVERY_ROLE, (), EDITORS, EDITORS),
]


@pytest.mark.parametrize("role", [*EVERY_ROLE, "none"])
@pytest.mark.parametrize(("address", "name", "view", "add", "change", "delete"), ADMIN)
def test_the_admin(
    role: str,
    address: str,
    name: str,
    view: tuple[str, ...],
    add: tuple[str, ...],
    change: tuple[str, ...],
    delete: tuple[str, ...],
    accounts: dict[str, User],
    rows: Rows,
) -> None:
    client = Client()
    client.force_login(accounts[role])
    pk = getattr(rows, name).pk
    base = f"/admin/{address}"

    def allowed(status: int) -> bool:
        assert status in (200, 302, 403)
        return status != 403

    assert allowed(client.get(f"{base}/").status_code) == (role in view)
    assert allowed(client.get(f"{base}/{pk}/change/").status_code) == (role in view)
    assert allowed(client.get(f"{base}/add/").status_code) == (role in add)
    assert allowed(client.post(f"{base}/add/", {}).status_code) == (role in add)
    # A form that lacks everything is shown again to who may send it.
    assert allowed(client.post(f"{base}/{pk}/change/", FORMSET).status_code) == (role in change)
    assert allowed(client.post(f"{base}/{pk}/delete/", {"post": "yes"}).status_code) == (
        role in delete
    )
    assert type(getattr(rows, name)).objects.filter(pk=pk).exists() == (role not in delete)


FORMSET = {"attachments-TOTAL_FORMS": "0", "attachments-INITIAL_FORMS": "0"}


def test_the_admin_shows_nothing_to_nobody(accounts: dict[str, User]) -> None:
    assert Client().get("/admin/parts/part/")["Location"].startswith("/admin/login/")


def test_no_role_is_given_by_who_does_not_have_it(accounts: dict[str, User]) -> None:
    root = User.objects.create_superuser("root", password="x")
    strong = Group.objects.create(name="strong")
    strong.permissions.set(Permission.objects.all())
    client = Client()
    client.force_login(accounts["manager"])
    shown = client.get(f"/admin/auth/user/{accounts['viewer'].pk}/change/").content.decode()
    assert ">editor<" in shown
    assert ">strong<" not in shown
    assert 'name="is_superuser"' not in shown
    form = {
        "username": "viewer",
        "is_active": "on",
        "groups": [strong.pk],
        "is_superuser": "on",
        "user_permissions": [Permission.objects.get(codename="delete_group").pk],
    }
    client.post(f"/admin/auth/user/{accounts['viewer'].pk}/change/", form)
    del form["groups"]
    client.post(f"/admin/auth/user/{accounts['viewer'].pk}/change/", form)
    viewer = User.objects.get(username="viewer")
    assert not viewer.is_superuser
    assert not viewer.user_permissions.exists()
    assert not viewer.groups.filter(pk=strong.pk).exists()
    for path in ("password/", "delete/"):
        assert client.post(f"/admin/auth/user/{root.pk}/{path}", {"post": "1"}).status_code == 403
    assert client.post(f"/admin/auth/user/{root.pk}/change/", form).status_code == 403
    action = {"action": "delete_selected", "_selected_action": [root.pk], "post": "yes"}
    client.post("/admin/auth/user/", action)
    assert User.objects.filter(pk=root.pk, is_superuser=True).exists()


def test_what_an_operator_changes_in_a_role_stays() -> None:
    viewer = Group.objects.get(name="viewer")
    shown = viewer.permissions.get(codename="view_tag")
    viewer.permissions.remove(shown)
    added = Permission.objects.get(codename="view_user")
    viewer.permissions.add(added)
    Group.objects.get(name="editor").delete()
    RoleGrant.objects.filter(permission="parts.view_part").delete()
    viewer.permissions.remove(Permission.objects.get(codename="view_part"))
    call_command("migrate", verbosity=0)
    names = set(viewer.permissions.values_list("codename", flat=True))
    assert {"view_user", "view_part"} <= names  # what a release adds comes
    assert "view_tag" not in names
    assert not Group.objects.filter(name="editor").exists()
    assert set(ROLES) - {"editor"} <= set(Group.objects.values_list("name", flat=True))
