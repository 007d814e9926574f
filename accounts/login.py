"""Logins: how often one may be tried, and what is answered after too many wrong passwords.

Wrong passwords are counted by account and address in the database (django-axes), whether they come
by the admin's form or with a request for a token.
"""

from __future__ import annotations

import math
from typing import Any

from axes.helpers import get_cool_off
from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponseBase

from accounts.throttles import login_wait
from cas.responses import error_response


class LoginForm(AuthenticationForm):
    """The admin's. Every active account may sign in; its permissions say what it sees."""

    def clean(self) -> dict[str, Any]:
        request: Any = self.request
        if wait := login_wait(request):
            # Read by `locked_out`, which makes the page a 429.
            request.axes_locked_out, request.login_wait = True, wait
            raise ValidationError(f"Too many logins. Try again in {wait} seconds.", "throttled")
        try:
            return super().clean()
        except ValidationError:
            if getattr(request, "axes_locked_out", False):
                minutes = math.ceil(_lock_seconds() / 60)
                told = f"Too many wrong passwords. Try again in {minutes} minutes."
                raise ValidationError(told, "locked_out") from None
            raise


def _lock_seconds() -> int:
    cool_off = get_cool_off()
    return int(cool_off.total_seconds()) if cool_off else 0


def locked_out(
    request: HttpRequest, response: HttpResponseBase, credentials: Any = None
) -> HttpResponseBase:
    """The answer to a login that was not looked at (`AXES_LOCKOUT_CALLABLE`): a 429."""
    seconds = getattr(request, "login_wait", None) or _lock_seconds()
    if request.path_info.startswith("/api/"):
        message = "Too many wrong passwords for this account from this address."
        return error_response(request, 429, "locked_out", message, {"Retry-After": str(seconds)})
    response.status_code = 429
    response["Retry-After"] = str(seconds)
    return response
