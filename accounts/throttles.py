"""Rates: uploads by account, logins by address. See `Allowance` for how they are counted."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from rest_framework.throttling import BaseThrottle

from accounts.models import Allowance


def upload_wait(user: Any) -> int:
    """Take an upload. Returns 0, or the seconds until this account may upload again."""
    rate = settings.INVENTORY_UPLOAD_RATE
    if settings.INVENTORY_AUTH == "open" or rate is None or user is None or user.pk is None:
        return 0
    return Allowance.take(f"upload:{user.pk}", rate)


def login_wait(request: HttpRequest) -> int:
    """Take a login. Returns 0, or the seconds until this address may try again."""
    if settings.INVENTORY_LOGIN_RATE is None:
        return 0
    return Allowance.take(f"login:{address_of(request)}", settings.INVENTORY_LOGIN_RATE)


def address_of(request: HttpRequest) -> str:
    """The client's address; "" on a Unix socket."""
    return str(request.META.get("REMOTE_ADDR", ""))


class UploadThrottle(BaseThrottle):
    """Counts the requests of views that say that they take files (`takes_uploads`)."""

    _wait = 0

    def allow_request(self, request: Any, view: Any) -> bool:
        if request.method == "POST" and getattr(view, "takes_uploads", False):
            self._wait = upload_wait(request.user)
        return not self._wait

    def wait(self) -> float:
        return self._wait
