"""Who makes a request: a program with a token, or a browser with a session."""

from __future__ import annotations

import logging
from typing import Any

from django.db import DatabaseError
from knox.auth import TokenAuthentication as KnoxAuthentication
from rest_framework import authentication
from rest_framework.exceptions import AuthenticationFailed, Throttled

from accounts.models import Token
from accounts.throttles import login_wait
from attachments.locks import CONNECTION_ERRORS

logger = logging.getLogger(__name__)


class TokenAuthentication(KnoxAuthentication):  # type: ignore[misc]
    """`Authorization: Token …`. The token is `request.auth`."""

    def authenticate_credentials(self, token: bytes) -> Any:
        # What is no token is none of the database's business, nor of a decoder's.
        if not token.isalnum():
            raise AuthenticationFailed("This token is not known, or not any more.")
        user, found = super().authenticate_credentials(token)
        try:
            found.used()
        except CONNECTION_ERRORS:
            raise
        except DatabaseError as error:
            # A database that cannot be written to can still be read.
            logger.warning("the use of the token %s was not recorded: %s", found.name, error)
        return user, found

    def _cleanup_token(self, auth_token: Token) -> bool:
        """Whether it has expired. It stays in its owner's list, where it says so."""
        return auth_token.is_expired


class PasswordAuthentication(authentication.BasicAuthentication):
    """`Authorization: Basic …` (RFC 7617), for making tokens alone. Failures count as any login."""

    def authenticate_credentials(self, userid: str, password: str, request: Any = None) -> Any:
        if "\0" in userid or "\0" in password:
            raise AuthenticationFailed("There is no such account, or the password is wrong.")
        if wait := login_wait(request._request):
            raise Throttled(wait, "Too many logins from this address.")
        # Not the framework's request: what is noted there is lost to middleware.
        return super().authenticate_credentials(userid, password, request._request)
