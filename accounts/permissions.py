"""What an account may do in the API: what Django's permissions allow it in the admin."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from rest_framework.permissions import BasePermission


class ModelPermissions(BasePermission):
    """Asks for the permissions that a view names for the request's method, in `permissions`.

    A view that names none for a method is for nobody. Where the API is open, everybody has all.
    """

    message = "This account may not do that."

    def has_permission(self, request: Any, view: Any) -> bool:
        if settings.INVENTORY_AUTH == "open":
            return True
        if request.user is None or not request.user.is_authenticated:
            return False
        if request.method == "OPTIONS":
            return True
        needed = view.permissions.get("GET" if request.method == "HEAD" else request.method)
        # A method that the view does not have is a 405, whoever asks.
        if needed is None:
            return not hasattr(view, request.method.lower())
        return bool(request.user.has_perms(needed))
