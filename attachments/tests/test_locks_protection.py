"""Where the digest's lock would be none: inside a transaction that somebody else ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.db import transaction

from attachments import references
from attachments.tests.factories import PDF, staged
from attachments.tests.legacy import blobs, on_disk
from cas.digest import Digest
from cas.storage.base import BlobStore

pytestmark = pytest.mark.django_db(transaction=True)


@on_disk
def test_nothing_is_collected_inside_a_transaction(store: BlobStore, tmp_path: Path) -> None:
    """What says that a delete is on its way would not be committed before it is sent."""
    store.create(staged(PDF, tmp_path / "unreferenced"))
    with (
        transaction.atomic(),
        pytest.raises((transaction.TransactionManagementError, RuntimeError)),
        references.collecting(store, [Digest.of(PDF)]) as lock,
    ):
        list(lock.remove_many([Digest.of(PDF).key]))
    assert blobs(store) == {Digest.of(PDF)}
