"""System checks of the configured blob store; they read the settings and do not connect to a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.apps.config import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import InvalidStorageError, storages

from cas.storage import ALIAS, keeps_contract


def check_store(app_configs: Sequence[AppConfig] | None = None, **_: Any) -> list[CheckMessage]:
    """System check: `STORAGES["attachments"]` is a blob store that can keep its promises."""
    if ALIAS not in settings.STORAGES:
        return [
            Error(
                f"STORAGES has no {ALIAS!r}.",
                "Add one with cas.storage.disk.DiskBlobStorage or cas.storage.s3.S3BlobStorage.",
                id="cas.E020",
            )
        ]
    try:
        store = storages[ALIAS]
    except (InvalidStorageError, ImproperlyConfigured, TypeError) as error:
        hint = "See the backend's options."
        return [Error(f"STORAGES[{ALIAS!r}] cannot be used: {error}", hint, id="cas.E021")]
    if not keeps_contract(type(store)):
        return [
            Error(
                f"STORAGES[{ALIAS!r}] is {type(store).__name__}, which is not a blob store.",
                "Use cas.storage.disk.DiskBlobStorage or cas.storage.s3.S3BlobStorage.",
                id="cas.E022",
            )
        ]
    options = settings.STORAGES[ALIAS].get("OPTIONS", {})
    if hasattr(store, "bucket_name"):
        return _check_bucket(store)
    return _check_directory(options)


def _check_bucket(store: Any) -> list[CheckMessage]:
    if store.bucket_name:
        return []
    hint = "Set OPTIONS['bucket_name']."
    return [Error(f"STORAGES[{ALIAS!r}] names no bucket.", hint, id="cas.E023")]


def _check_directory(options: dict[str, Any]) -> list[CheckMessage]:
    if not options.get("location"):
        # Without one, Django would take MEDIA_ROOT, by default the current directory.
        hint = "Set OPTIONS['location']."
        return [Error(f"STORAGES[{ALIAS!r}] names no directory.", hint, id="cas.E024")]
    location = Path(options["location"]).absolute()
    for name in ("MEDIA_ROOT", "STATIC_ROOT"):
        served = getattr(settings, name, None)
        if served and location.is_relative_to(Path(served).absolute()):
            return [
                Error(
                    f"The blobs are below {name}, which a web server may hand out as it is.",
                    "Move them elsewhere: uploads must pass this application's headers.",
                    id="cas.E025",
                )
            ]
    return []
