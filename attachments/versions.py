"""Versions of rows, by which no edit is lost without a word, and what ends transactions early.

Every write that changes what clients see raises a row's `version`. A row that was changed since it
was read is not saved over. Transactions that write lock what they are about to change before they
read it, in one order: the digests of blobs, parts by id, their attachments by id, types, tags by
name. Nothing of these but digests is locked while bytes travel. What is deadlocked all the same is
tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from django.db import IntegrityError, OperationalError, connection, models, transaction
from django.db.models import F, Model, QuerySet

ATTEMPTS: Final = 4

DEADLOCKS: Final = ("40P01", "40001")
"""PostgreSQL's codes for a deadlock and for a serialization failure."""

DISK_FULL: Final = "53100"

READ_ONLY: Final = "25006"

FOREIGN_KEY: Final = "23503"
"""Its code for a row that refers to one which was deleted meanwhile."""

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=Model)


class ChangedMeanwhile(Exception):
    """The row was changed since it was read; nothing was written."""


class Versioned(models.Model):
    """A row whose `version` counts the writes that changed what clients see of it."""

    # The database's default is for the processes of an earlier release during an upgrade.
    version = models.PositiveIntegerField(default=1, db_default=1, editable=False)

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Raises ChangedMeanwhile, and DoesNotExist for a row that was deleted meanwhile."""
        if self._state.adding:
            super().save(*args, **kwargs)
            return
        if (fields := kwargs.get("update_fields")) is not None:
            kwargs["update_fields"] = {*fields, "version"}
        with transaction.atomic():
            stored = type(self)._base_manager.select_for_update(no_key=True).filter(pk=self.pk)
            version = stored.values_list("version", flat=True).first()
            if version is None:
                raise type(self).DoesNotExist(f"{self._meta.verbose_name} {self.pk} was deleted")
            if version != self.version:
                raise ChangedMeanwhile(
                    f"{self._meta.verbose_name} {self.pk} has the version {version} by now, "
                    f"{self.version} was read"
                )
            self.version += 1
            try:
                super().save(*args, **{**kwargs, "force_update": True})
            except BaseException:
                self.version -= 1
                raise


def lock(model: type[M], ids: Any) -> list[int]:
    """Lock rows, by their ids or a query for these, until the transaction ends.

    Returns the ids of those that are there. Other rows may still come to refer to them. What was
    read of them before is of no use: another transaction may have been waited for.
    """
    rows = model._base_manager.select_for_update(no_key=True).filter(pk__in=ids).order_by("pk")
    return list(rows.values_list("pk", flat=True))


def raise_versions(rows: QuerySet[Any]) -> int:
    """What clients see of these rows has changed. Returns how many there are."""
    return rows.update(version=F("version") + 1)


def _code(error: BaseException) -> str:
    return getattr(error.__cause__, "sqlstate", None) or ""


def is_busy(error: BaseException) -> bool:
    """Whether it is other writers that are in the way, not the database that is away."""
    return _code(error) in DEADLOCKS or "database is locked" in str(error)


def is_full(error: BaseException) -> bool:
    """Whether the database's disk has no room left."""
    return _code(error) == DISK_FULL or "database or disk is full" in str(error)


def is_read_only(error: BaseException) -> bool:
    """Whether the database answers and takes no changes: a standby, a read-only file system."""
    return _code(error) == READ_ONLY or "readonly database" in str(error)


def retried(function: Callable[P, R]) -> Callable[P, R]:
    """Call a function again whose transaction another one's changes have ended.

    That is a deadlock, or a row that was deleted when this one was about to refer to it. Within
    another transaction it is called once.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(ATTEMPTS - 1):
            try:
                return function(*args, **kwargs)
            except (OperationalError, IntegrityError) as error:
                if connection.in_atomic_block or _code(error) not in (*DEADLOCKS, FOREIGN_KEY):
                    raise
        return function(*args, **kwargs)

    return call
