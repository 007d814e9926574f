"""System checks name each bad setting."""

from __future__ import annotations

from typing import Any

import pytest

from cas.conf import check_serving, serving


def found() -> list[str | None]:
    return [message.id for message in check_serving()]


def test_the_defaults_are_good() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("name", "value", "id_"),
    [
        ("CAS_PUBLIC_BASE_URL", "cdn.example", "cas.E001"),
        ("CAS_PUBLIC_BASE_URL", "https://cdn.example/", "cas.E001"),
        ("CAS_SIGNED_URLS", True, "cas.E002"),
        ("CAS_URL_SIGNING_KEYS", ["short"], "cas.E003"),
        ("CAS_URL_SIGNING_KEYS", ["ab" * 30], "cas.E003"),
        ("CAS_URL_SIGNING_KEYS", ["0123456789abcdef" * 2], "cas.E003"),
        ("CAS_URL_SIGNING_KEYS", ["abcdefghijklmnopqrstuvwxyz0123456789"], "cas.E003"),
        ("CAS_URL_SIGNING_KEYS", ["insecure-" + "0123456789" * 4], "cas.E003"),
        ("CAS_DELIVERY", "pigeon", "cas.E004"),
        ("CAS_THUMBNAIL_SIZES", [150, 2000], "cas.E005"),
        ("CAS_THUMBNAIL_SIZES", [100], "cas.E006"),
        ("CAS_CORS_ALLOWED_ORIGINS", ["https://a.example/"], "cas.E007"),
        ("CAS_REDIRECT_TTL", 5, "cas.E008"),
        ("CAS_THUMBNAIL_CONCURRENCY", 0, "cas.E009"),
        ("CAS_ACCEL_PREFIX", "/x/", "cas.E010"),
        ("CAS_DELIVERY", "redirect", "cas.E011"),
    ],
)
def test_a_bad_value(settings: Any, name: str, value: object, id_: str) -> None:
    setattr(settings, name, value)
    assert found() == [id_]


def test_settings_are_typed(settings: Any) -> None:
    settings.CAS_THUMBNAIL_CACHE_DIR = "/var/cache/thumbnails"
    settings.CAS_THUMBNAIL_SIZES = [150]
    assert serving().thumbnail_cache_dir.name == "thumbnails"
    assert serving().thumbnail_sizes == (150,)
