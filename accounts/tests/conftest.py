"""Accounts of every role, and the collection that they work on."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Group, User

from accounts.models import Token
from accounts.roles import ROLES


@pytest.fixture
def accounts(db: None, settings: Any) -> dict[str, User]:
    """An account of each role, and one of none; the API is for accounts."""
    settings.INVENTORY_AUTH = "accounts"
    made = {}
    for role in (*ROLES, "none"):
        made[role] = User.objects.create_user(role, password="correct horse battery")
        if role in ROLES:
            made[role].groups.add(Group.objects.get(name=role))
    return made


def bearer(user: User, name: str = "test") -> dict[str, str]:
    """The header of a request with a new token of this account."""
    return {"Authorization": f"Token {Token.objects.create(user, name=name)[1]}"}
