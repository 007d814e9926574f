"""The blob store that this installation is configured with."""

from __future__ import annotations

from typing import Final, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import storages

from cas.storage.base import BlobStore

ALIAS: Final = "attachments"


def attachment_store() -> BlobStore:
    """The store configured as `STORAGES["attachments"]`, one instance a process.

    Raises ImproperlyConfigured if what is configured keeps another contract, and Django's
    InvalidStorageError if nothing is.
    """
    store = storages[ALIAS]
    if not keeps_contract(type(store)):
        raise ImproperlyConfigured(f"STORAGES[{ALIAS!r}] is not a blob store: {type(store)}")
    return cast(BlobStore, store)


def keeps_contract(kind: type) -> bool:
    """Whether a class has everything that BlobStore asks for.

    Asked of the class, because to ask an instance would run its properties at every call.
    """
    return all(hasattr(kind, name) for name in vars(BlobStore) if not name.startswith("_"))
