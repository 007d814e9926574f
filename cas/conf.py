"""Typed settings of this app, and the system checks that refuse bad ones.

Read through `serving()`, which follows `override_settings`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from django.apps.config import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.files.storage import FileSystemStorage, storages
from django.core.signals import setting_changed

from cas.storage import ALIAS

LARGEST_THUMBNAIL: Final = 1024
"""Pixels of the longer side."""

MINIMUM_DISTINCT: Final = 8
"""Different characters of a signing key; a random one has far more."""

DELIVERIES: Final = ("stream", "accel", "redirect")


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """How blobs are served. Each field is the setting `CAS_<NAME>`, with its default."""

    public_base_url: str = ""
    """Scheme and host put before every computed URL, a CDN's for instance."""
    signed_urls: bool = False
    url_signing_keys: tuple[str, ...] = ()
    """The first signs; all verify."""
    cors_allowed_origins: tuple[str, ...] = ()
    """Origins whose pages may read blobs; `*` for any."""
    delivery: str = "stream"
    accel_prefix: str = "/_cas"
    """Path of nginx's internal locations, without a trailing slash."""
    redirect_ttl: int = 300
    """Seconds for which a presigned URL is good."""
    thumbnail_sizes: tuple[int, ...] = ()
    """Sizes that may be asked for, in pixels; empty for any from 1 to 1024."""
    thumbnail_cache_dir: Path = Path(tempfile.gettempdir(), "cas-thumbnails")
    thumbnail_cache_bytes: int = 1024**3
    thumbnail_max_pixels: int = 50_000_000
    thumbnail_concurrency: int = 2
    """Generations at one time on this machine."""
    thumbnail_wait: float = 20.0
    """Seconds a request waits for its turn before it is answered 503."""
    retry_after: int = 5
    """Seconds a client is asked to wait after a 503."""

    @property
    def cross_origin(self) -> bool:
        """Whether pages of other origins are meant to show blobs."""
        return bool(self.cors_allowed_origins or self.public_base_url)


_TUPLES: Final = {"url_signing_keys", "cors_allowed_origins", "thumbnail_sizes"}
_NAMES: Final = {f"CAS_{name.upper()}": name for name in ServingSettings.__slots__}


@lru_cache(maxsize=1)
def serving() -> ServingSettings:
    """The serving settings as they are now."""
    found: dict[str, Any] = {}
    for setting, name in _NAMES.items():
        if hasattr(settings, setting):
            value = getattr(settings, setting)
            found[name] = tuple(value) if name in _TUPLES else value
    if "thumbnail_cache_dir" in found:
        found["thumbnail_cache_dir"] = Path(found["thumbnail_cache_dir"])
    return ServingSettings(**found)


def _forget(*, setting: str, **_: Any) -> None:
    if setting in _NAMES:
        serving.cache_clear()


setting_changed.connect(_forget)


def _bad_base_url(s: ServingSettings) -> bool:
    return bool(s.public_base_url) and not re.fullmatch(
        r"https?://[^/?#\s]+(/[^?#\s]*[^/?#\s])?", s.public_base_url
    )


def _bad_sizes(s: ServingSettings) -> bool:
    return any(not 1 <= size <= LARGEST_THUMBNAIL for size in s.thumbnail_sizes)


def _bad_origins(s: ServingSettings) -> bool:
    return any(
        origin != "*" and not re.fullmatch(r"https?://[^/?#\s]+", origin)
        for origin in s.cors_allowed_origins
    )


def _weak_keys(s: ServingSettings) -> bool:
    return any(
        len(key) < 32
        or len(set(key)) < MINIMUM_DISTINCT
        or re.match(r"(django-)?insecure|change-?me", key, re.IGNORECASE)
        for key in s.url_signing_keys
    )


_RULES: Final[Sequence[tuple[str, Callable[[ServingSettings], bool], str, str]]] = (
    (
        "cas.E001",
        _bad_base_url,
        "CAS_PUBLIC_BASE_URL is not a URL of a host.",
        "Write it as https://cdn.example.org, without a slash at its end.",
    ),
    (
        "cas.E002",
        lambda s: s.signed_urls and not s.url_signing_keys,
        "CAS_SIGNED_URLS is on and CAS_URL_SIGNING_KEYS is empty.",
        "List at least one key; the first one signs.",
    ),
    (
        "cas.E003",
        _weak_keys,
        "A key in CAS_URL_SIGNING_KEYS is easily guessed: it has fewer than 32 characters, few "
        "different ones, or is a placeholder.",
        "Generate one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'",
    ),
    (
        "cas.E004",
        lambda s: s.delivery not in DELIVERIES,
        "CAS_DELIVERY is unknown.",
        f"Choose one of {', '.join(DELIVERIES)}.",
    ),
    (
        "cas.E005",
        _bad_sizes,
        "CAS_THUMBNAIL_SIZES has a size that is not between 1 and 1024.",
        "Remove it, or leave the list empty to allow them all.",
    ),
    (
        "cas.E006",
        lambda s: bool(s.thumbnail_sizes) and 150 not in s.thumbnail_sizes,
        "CAS_THUMBNAIL_SIZES does not allow 150, the size of every computed thumbnail URL.",
        "Add 150 to the list.",
    ),
    (
        "cas.E007",
        _bad_origins,
        "CAS_CORS_ALLOWED_ORIGINS has an entry that is no origin.",
        "An origin is scheme://host[:port] without a path; * allows any.",
    ),
    (
        "cas.E008",
        lambda s: s.redirect_ttl < 10 or s.redirect_ttl > 604_800,
        "CAS_REDIRECT_TTL is not between 10 seconds and 7 days.",
        "S3 refuses presigned URLs that live longer than 604800 seconds.",
    ),
    (
        "cas.E009",
        lambda s: (
            min(s.thumbnail_cache_bytes, s.thumbnail_max_pixels, s.thumbnail_concurrency) < 1
            or s.thumbnail_wait <= 0
            or s.retry_after < 1
        ),
        "A CAS_THUMBNAIL_* limit or CAS_RETRY_AFTER is not positive.",
        "Give each a number above zero.",
    ),
    (
        "cas.E010",
        lambda s: not re.fullmatch(r"/[\w./-]*[\w.-]", s.accel_prefix),
        "CAS_ACCEL_PREFIX is not an absolute path without a trailing slash.",
        "It must be the prefix of the internal locations in nginx's configuration.",
    ),
)


def check_serving(app_configs: Sequence[AppConfig] | None = None, **_: Any) -> list[CheckMessage]:
    """System check: every serving setting has a usable value."""
    current = serving()
    found: list[CheckMessage] = [
        Error(message, hint, id=id_) for id_, bad, message, hint in _RULES if bad(current)
    ]
    if current.delivery == "redirect" and isinstance(storages[ALIAS], FileSystemStorage):
        message = "CAS_DELIVERY is redirect and blobs are files, which have no URL of their own."
        found.append(Error(message, "Choose stream or accel, or store on S3.", id="cas.E011"))
    return found
