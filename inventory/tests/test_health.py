from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import Client

from attachments.models import Attachment
from cas.storage.base import BlobStore, Unreachable
from inventory import health
from parts.models import Part

pytestmark = pytest.mark.django_db


def test_live_needs_neither_of_them(django_assert_num_queries: Any, monkeypatch: Any) -> None:
    def never() -> BlobStore:
        raise AssertionError

    monkeypatch.setattr(health, "attachment_store", never)
    with django_assert_num_queries(0):
        response = Client().get("/health/live")
    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"


def test_ready_with_a_database_and_a_store(store: BlobStore) -> None:
    response = Client().get("/health/ready")
    assert response.status_code == 200, response.content
    assert response.json() == {
        "status": "ready",
        "checks": {"database": "ok", "store": "ok", "unmigrated_attachments": False},
    }


def test_unmigrated_rows_are_reported_and_are_no_fault(disk_store: BlobStore) -> None:
    Attachment.objects.create(
        part=Part.objects.create(description="Fuse"),
        attachment_type="pdf",
        s3_key="parts/1/attachments/3fa85f64-5717-4562-b3fc-2c963f66afa6.pdf",
        filename="a.pdf",
        content_type="application/pdf",
        file_size=1,
    )
    response = Client().get("/health/ready")
    assert response.status_code == 200
    assert response.json()["checks"]["unmigrated_attachments"] is True


def test_not_ready_without_the_store(
    disk_store: BlobStore, monkeypatch: Any, settings: Any
) -> None:
    settings.CAS_RETRY_AFTER = 17

    def silent(self: BlobStore, key: str) -> None:
        raise Unreachable("no answer")

    monkeypatch.setattr(type(disk_store), "stat", silent)
    response = Client().get("/health/ready")
    assert response.status_code == 503
    assert response["Retry-After"] == "17"
    assert response.json()["checks"]["store"] == "unreachable"


@pytest.mark.usefixtures("disk_store")
def test_not_ready_when_uploads_cannot_be_staged(monkeypatch: Any) -> None:
    monkeypatch.setattr("inventory.health.os.access", lambda path, mode: False)
    response = Client().get("/health/ready")
    assert response.status_code == 503
    assert response.json()["checks"]["store"] == "staging_not_writable"


@pytest.mark.usefixtures("disk_store")
def test_not_ready_without_the_database(monkeypatch: Any) -> None:
    def refuse() -> None:
        raise OperationalError("gone")

    monkeypatch.setattr(connection, "ensure_connection", refuse)
    response = Client().get("/health/ready")
    assert response.status_code == 503
    assert response.json()["checks"] == {"database": "unavailable", "store": "ok"}
