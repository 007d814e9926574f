"""The REST endpoints of the caller's own tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.authentication import PasswordAuthentication
from accounts.models import DEFAULT_DAYS, MOST_DAYS, Token
from attachments.serializers import StrictSerializer
from parts.views import PAGES, Pages, StrictView


class TokenInput(StrictSerializer):
    """What a new token is to be."""

    name = serializers.CharField(max_length=100)
    expires_in_days = serializers.IntegerField(
        min_value=1, max_value=MOST_DAYS, default=DEFAULT_DAYS
    )


def shown(token: Token) -> dict[str, Any]:
    """A token as JSON, without the token itself."""
    return {
        "id": token.token_key,
        "name": token.name,
        "created_at": token.created,
        "expires_at": token.expiry,
        "last_used_at": token.last_used_at,
    }


class TokenList(StrictView, generics.GenericAPIView[Token]):
    """The account's tokens. POST makes one, with a password or a session, not with a token.

    The answer to that is the only time that the token is shown.
    """

    PARAMETERS = PAGES
    permissions = {"GET": ("accounts.view_token",), "POST": ("accounts.add_token",)}
    pagination_class = Pages

    def get_authenticators(self) -> list[Any]:
        found = super().get_authenticators()
        if self.request is not None and self.request.method == "POST":
            # Last: the first says how a 401 asks, and browsers have a dialogue for passwords.
            found = [*found, PasswordAuthentication()]
        return found

    def get_queryset(self) -> QuerySet[Token]:
        return own_tokens(self.request)

    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(self.get_queryset())
        return self.get_paginated_response([shown(token) for token in page or ()])

    def post(self, request: Request) -> Response:
        if isinstance(request.auth, Token) or not request.user:
            self.permission_denied(request, "A token is made with a password or a session.")
        given = TokenInput(data=request.data)
        given.is_valid(raise_exception=True)
        days = timedelta(days=given.validated_data["expires_in_days"])
        made, token = Token.objects.create(
            request.user, expiry=days, name=given.validated_data["name"]
        )
        headers = {"Cache-Control": "no-store"}
        body = {**shown(made), "token": token}
        return Response(body, status.HTTP_201_CREATED, headers=headers)


class TokenDetail(StrictView):
    """One of the account's tokens. DELETE revokes it."""

    permissions = {"GET": ("accounts.view_token",), "DELETE": ("accounts.delete_token",)}

    def get(self, request: Request, token_key: str) -> Response:
        return Response(shown(get_object_or_404(own_tokens(request), token_key=token_key)))

    def delete(self, request: Request, token_key: str) -> Response:
        get_object_or_404(own_tokens(request), token_key=token_key).delete()
        return Response(status=status.HTTP_204_NO_CONTENT)


def own_tokens(request: Any) -> QuerySet[Token]:
    """Those of the account that asks; none of nobody."""
    user_id = getattr(request.user, "pk", None)
    rows: QuerySet[Token] = Token._default_manager.filter(user_id=user_id)
    return rows.order_by("-created", "digest")
