"""Tokens of programs, what their users have left of a rate, and which permissions roles were given.

Users, groups and permissions are Django's own (`django.contrib.auth`).
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import ClassVar, Final

from django.conf import settings
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone
from knox.models import AbstractAuthToken, AuthTokenManager

from accounts.rates import Rate

DEFAULT_DAYS: Final = 365
MOST_DAYS: Final = 3650
"""Until a token expires."""

USED_WRITTEN_EVERY: Final = timedelta(hours=1)


class Token(AbstractAuthToken):  # type: ignore[misc]
    """A program's key to an account: it may do what the account may.

    Only a hash is stored; the token itself is shown once, when it is made. `token_key`, its first
    15 characters, names it. `last_used_at` is written at most once an hour.
    """

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="auth_token_set"
    )
    name = models.CharField(max_length=100)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects: ClassVar[AuthTokenManager] = AuthTokenManager()

    class Meta:
        db_table = "api_tokens"
        ordering = ("-created",)

    def __str__(self) -> str:
        return f"{self.name} ({self.token_key}…)"

    @property
    def is_expired(self) -> bool:
        return self.expiry is not None and self.expiry <= timezone.now()

    def used(self) -> None:
        """Write down that it was used now, if that was not done within the hour."""
        now = timezone.now()
        if self.last_used_at is None or now - self.last_used_at >= USED_WRITTEN_EVERY:
            before = Q(last_used_at__isnull=True) | Q(last_used_at__lte=now - USED_WRITTEN_EVERY)
            rows = type(self)._base_manager.filter(before, pk=self.pk)
            rows.update(last_used_at=now)


class Allowance(models.Model):
    """What is left of a rate to somebody, in the database, so that all processes agree.

    The generic cell rate algorithm: `used_up_to` is the time by which what was taken is earned
    back. Rows whose time is past say nothing, and are deleted.
    """

    key = models.CharField(max_length=200, primary_key=True)
    used_up_to = models.DateTimeField(db_index=True)

    class Meta:
        db_table = "allowances"

    def __str__(self) -> str:
        return self.key

    @classmethod
    def take(cls, key: str, rate: Rate) -> int:
        """Take one. Returns 0, or the seconds until there is one to be taken."""
        each = timedelta(seconds=rate.seconds / rate.number)
        now = timezone.now()
        with transaction.atomic():
            row, is_new = cls._default_manager.select_for_update().get_or_create(
                key=key, defaults={"used_up_to": now}
            )
            if is_new:
                cls._default_manager.filter(used_up_to__lt=now).exclude(key=key).delete()
            used = max(row.used_up_to, now) + each
            too_many = (used - now).total_seconds() - rate.seconds
            if too_many > 1e-6:
                return max(1, math.ceil(too_many))
            row.used_up_to = used
            row.save(update_fields=["used_up_to"])
        return 0


class RoleGrant(models.Model):
    """That a role was given a permission once: whoever takes it away does so for good."""

    role = models.CharField(max_length=50)
    permission = models.CharField(max_length=200)

    class Meta:
        db_table = "role_grants"
        constraints = (
            models.UniqueConstraint(fields=["role", "permission"], name="role_granted_once"),
        )

    def __str__(self) -> str:
        return f"{self.role}: {self.permission}"
