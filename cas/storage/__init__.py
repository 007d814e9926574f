"""The blob store that this installation is configured with."""

from __future__ import annotations

from typing import Final, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import storages

from cas.storage.base import BlobStore

ALIAS: Final = "attachments"


def attachment_store() -> BlobStore:
    """The store configured as `STORAGES["attachments"]`, one instance a process.

    Raises ImproperlyConfigured if the configured class keeps another contract, and Django's
    InvalidStorageError if none is configured.
    """
    store = storages[ALIAS]
    if not keeps_contract(type(store)):
        raise ImproperlyConfigured(f"STORAGES[{ALIAS!r}] is not a blob store: {type(store)}")
    return cast(BlobStore, store)


def keeps_contract(kind: type) -> bool:
    """Whether a class has every member of BlobStore.

    The class, not an instance: `hasattr` on an instance would run its properties at every call.
    """
    return all(hasattr(kind, name) for name in vars(BlobStore) if not name.startswith("_"))
