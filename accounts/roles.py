"""The roles: groups that have permissions of Django's. They are made after a migration.

A permission is given to a role once. Whoever takes it from the group, gives the group another one
or deletes the group has decided that: later migrations leave it.
"""

from __future__ import annotations

from typing import Any, Final

from django.contrib.auth.models import Group, Permission
from django.db import connections, transaction

from accounts.models import RoleGrant


def _each(actions: str, *models: str) -> frozenset[str]:
    """Permissions by their names, as `parts.view_part`."""
    return frozenset(
        f"{label}.{action}_{name}"
        for label, _, name in (model.partition(".") for model in models)
        for action in actions.split()
    )


VIEWER: Final = _each("view", "parts.part", "parts.type", "parts.tag", "attachments.attachment") | (
    _each("view add delete", "accounts.token")
)
EDITOR: Final = VIEWER | (
    _each("add change delete", "parts.part", "attachments.attachment")
    | _each("add change", "parts.type", "parts.tag")
)
MANAGER: Final = EDITOR | (
    _each("delete", "parts.type", "parts.tag")
    | _each("view add change delete", "auth.user")
    | _each("view", "auth.group")
)
ROLES: Final = {"viewer": VIEWER, "editor": EDITOR, "manager": MANAGER}


def create_roles(using: str, **_: Any) -> None:
    """Give each role what it was not given before. Receives `post_migrate`."""
    # A migration backwards takes the table away.
    if RoleGrant._meta.db_table not in connections[using].introspection.table_names():
        return
    grants = RoleGrant._default_manager.using(using)
    groups = Group._default_manager.using(using)
    permissions = Permission._default_manager.using(using)
    with transaction.atomic(using=using):
        given = set(grants.values_list("role", "permission"))
        wanted = {(role, name) for role, names in ROLES.items() for name in names} - given
        if not wanted:
            return
        labels = {name.partition(".")[0] for _role, name in wanted}
        known = {
            f"{label}.{codename}": pk
            for pk, label, codename in permissions.filter(
                content_type__app_label__in=labels
            ).values_list("pk", "content_type__app_label", "codename")
        }
        for role in ROLES:
            new = [name for of, name in sorted(wanted) if of == role and name in known]
            if any(of == role for of, _name in given):
                group = groups.filter(name=role).first()
            else:
                group = groups.get_or_create(name=role)[0]
            if group is not None:
                group.permissions.add(*(known[name] for name in new))
            grants.bulk_create(RoleGrant(role=role, permission=name) for name in new)
