"""System check of the configured blob store; it reads the settings and connects to no store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.apps.config import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import InvalidStorageError, storages

from cas.storage.base import ALIAS, keeps_contract

_STORES = "Use cas.storage.disk.DiskBlobStorage or cas.storage.s3.S3BlobStorage."


def check_store(app_configs: Sequence[AppConfig] | None = None, **_: Any) -> list[CheckMessage]:
    """System check: `STORAGES["attachments"]` is a blob store that can keep its promises."""
    if found := _problem():
        problem, hint, id_ = found
        return [Error(f"STORAGES[{ALIAS!r}] {problem}", hint, id=id_)]
    return []


def _problem() -> tuple[str, str, str] | None:
    """What is wrong, what to do about it, and the check's id."""
    if ALIAS not in settings.STORAGES:
        return "is missing.", _STORES, "cas.E020"
    try:
        store = storages[ALIAS]
    except (InvalidStorageError, ImproperlyConfigured, TypeError) as error:
        return f"cannot be used: {error}", "See the backend's options.", "cas.E021"
    if not keeps_contract(type(store)):
        return f"is {type(store).__name__}, which is not a blob store.", _STORES, "cas.E022"
    if hasattr(store, "bucket_name"):
        without = ("names no bucket.", "Set OPTIONS['bucket_name'].", "cas.E023")
        return None if store.bucket_name else without
    location = settings.STORAGES[ALIAS].get("OPTIONS", {}).get("location")
    if not location:
        # Without one, Django would take MEDIA_ROOT, by default the current directory.
        return "names no directory.", "Set OPTIONS['location'].", "cas.E024"
    for name in ("MEDIA_ROOT", "STATIC_ROOT"):
        served = getattr(settings, name, None)
        if served and Path(location).absolute().is_relative_to(Path(served).absolute()):
            hint = "Move the blobs elsewhere: they must be served with this application's headers."
            return f"is below {name}, which a web server may serve as it is.", hint, "cas.E025"
    return None
