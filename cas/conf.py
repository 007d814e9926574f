"""The settings of this app in one table, and the system checks that refuse bad values.

`ServingSettings` is the table. The checks below are made from it; a project can make its reader of
the environment and its reference page from it as well, as `inventory.settings` does.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from django.apps.config import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.files.storage import FileSystemStorage, storages
from django.core.signals import setting_changed

from cas.storage.base import ALIAS

LARGEST_THUMBNAIL: Final = 1024
"""Pixels of the longer side."""

THUMBNAIL_SIZE: Final = 150
"""Pixels of the thumbnails that computed URLs name unless another size is wanted."""

MINIMUM_DISTINCT: Final = 8
"""Different characters of a signing key; a random one has far more."""

HOW_TO_MAKE_A_KEY: Final = "python3 -c 'import secrets; print(secrets.token_urlsafe(50))'"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: in words, how text becomes one (ValueError), and which are allowed."""

    expected: str
    parse: Callable[[str], Any] = str
    allows: Callable[[Any], bool] = lambda value: True
    refused: str = ""
    """How messages call a wrong value, instead of repeating it, if it is a secret."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of a table of settings. `shown` is the default in words, if it needs any."""

    name: str
    kind: Kind
    default: Any
    meaning: str
    shown: str = ""
    check: str = "cas.E009"

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, None if it is allowed."""
        allowed = value == self.default or self.kind.allows(value)
        return None if allowed else self.refusal(value)

    def refusal(self, value: object) -> str:
        return f"{self.kind.refused or f'is {value!r}'}. Write {self.kind.expected}."


def integer(minimum: int, maximum: int | None = None) -> Kind:
    def parse(text: str) -> int:
        # int alone would accept signs, spaces, underscores and digits of other scripts.
        if not re.fullmatch("[0-9]{1,19}", text):
            raise ValueError(text)
        return int(text)

    limits = f"{minimum} or more" if maximum is None else f"from {minimum} to {maximum}"
    return Kind(
        f"a whole number, {limits}",
        parse,
        lambda n: isinstance(n, int | float) and minimum <= n and (maximum is None or n <= maximum),
    )


def choice(*options: str) -> Kind:
    return Kind(f"one of {', '.join(options)}", allows=lambda value: value in options)


def list_of(entry: Kind, several: str) -> Kind:
    """Any number of entries, separated by commas in text; `several` names them in the plural."""
    return Kind(
        f"{several}, separated by commas",
        lambda text: [entry.parse(item.strip()) for item in text.split(",") if item.strip()],
        lambda value: all(entry.allows(item) for item in value),
        entry.refused,
    )


def _boolean(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(text)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(
            parts.scheme in ("http", "https")
            and parts.hostname
            and parts.port != 0
            and not re.search(r"[\s?#]|/\Z", text)
        )
    except ValueError:
        return False


def _is_origin(text: str) -> bool:
    """An origin (RFC 6454), scheme://host[:port]."""
    return _is_url(text) and not urlsplit(text).path and "@" not in text


def _follows_a_pattern(key: str) -> bool:
    """Whether a key repeats a shorter string, or is little more than consecutive characters."""
    repeated = any(key.startswith(key[length:]) for length in range(1, len(key) // 2 + 1))
    steps = [ord(after) - ord(before) for before, after in pairwise(key)]
    consecutive = max(steps.count(1), steps.count(-1)) if steps else 0
    return repeated or consecutive * 10 > len(steps) * 9


def is_guessable(key: str, at_least: int) -> bool:
    """Whether a key is short (in characters) or uniform, or a placeholder."""
    return bool(
        len(key) < at_least
        or len(set(key)) < MINIMUM_DISTINCT
        or _follows_a_pattern(key)
        or re.match(r"(django-)?insecure|change-?me", key, re.IGNORECASE)
    )


TEXT: Final = Kind("any text")
BOOLEAN: Final = Kind("true or false", _boolean)
DIRECTORY: Final = Kind("the path of a directory that this user may write to", Path)
URL: Final = Kind("a URL such as https://cdn.example.org", lambda text: text.rstrip("/"), _is_url)
ORIGINS: Final = list_of(
    Kind("", allows=_is_origin), "origins such as https://parts.example.org, without a path"
)
_ORIGINS_OR_ANY: Final = list_of(
    Kind("", allows=lambda item: item == "*" or _is_origin(item)),
    "origins such as https://parts.example.org, without a path, or * for any",
)
_KEYS: Final = list_of(
    Kind(
        "", allows=lambda key: not is_guessable(key, 32), refused="has a key that is easily guessed"
    ),
    "keys of at least 32 random characters",
)
_PATH: Final = Kind(
    "an absolute path without a slash at its end, the prefix that nginx's configuration has",
    allows=lambda path: bool(re.fullmatch(r"/[\w./-]*[\w.-]", path)),
)
_SIZES: Final = list_of(integer(1, LARGEST_THUMBNAIL), f"numbers from 1 to {LARGEST_THUMBNAIL}")


_CACHE_DIR: Final = Path(tempfile.gettempdir(), "cas-thumbnails")


def _row(kind: Kind, default: Any, meaning: str, **more: str) -> Any:
    row = Setting("", kind, default, meaning, **more)
    return dataclasses.field(default=default, metadata={"setting": row})


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """How blobs are served. Each field is the setting `CAS_<NAME>`; `serving()` has the values."""

    public_base_url: str = _row(
        URL, "", "put before every computed URL, a CDN's for instance", check="cas.E001"
    )
    signed_urls: bool = _row(
        BOOLEAN, False, "every blob URL carries a signature, and others are answered 403"
    )
    url_signing_keys: tuple[str, ...] = _row(
        _KEYS, (), "the first signs, all verify", check="cas.E003"
    )
    cors_allowed_origins: tuple[str, ...] = _row(
        _ORIGINS_OR_ANY, (), "sites whose pages may read blobs", check="cas.E007"
    )
    delivery: str = _row(choice("stream", "accel", "redirect"), "stream",
        "who sends the bytes: the application, nginx, or the S3 service", check="cas.E004"
    )  # fmt: skip
    accel_prefix: str = _row(
        _PATH, "/_cas", "the path of nginx's internal locations", check="cas.E010"
    )
    redirect_ttl: int = _row(
        integer(10, 604_800), 300, "how long a URL of the S3 service is good", check="cas.E008"
    )
    retry_after: int = _row(integer(1, 3600), 5, "the `Retry-After` of every 503")
    thumbnail_sizes: tuple[int, ...] = _row(
        _SIZES, (), f"the sizes in pixels that are served; {THUMBNAIL_SIZE} must be one of them",
        check="cas.E005", shown=f"any from 1 to {LARGEST_THUMBNAIL}",
    )  # fmt: skip
    thumbnail_cache_dir: Path = _row(DIRECTORY, _CACHE_DIR, "finished thumbnails")  # noqa: RUF009
    thumbnail_cache_bytes: int = _row(integer(1), 1024**3, "how large that may grow (1 GiB)")
    thumbnail_max_pixels: int = _row(integer(1, 1_000_000_000), 250_000_000,
        "images with more are refused, at upload and for a thumbnail (422); formats have their own",
    )  # fmt: skip
    thumbnail_concurrency: int = _row(integer(1, 256), 2, "made at one time on this machine")
    thumbnail_wait: float = _row(
        integer(1, 600), 20, "how long a request for a thumbnail waits for others, until a 503"
    )


SERVING: Final = tuple(
    dataclasses.replace(field.metadata["setting"], name=f"CAS_{field.name.upper()}")
    for field in dataclasses.fields(ServingSettings)
)


def from_values(values: dict[str, Any]) -> ServingSettings:
    """The settings of this app among `values`, by name; the defaults for the others."""
    found = {}
    for setting in SERVING:
        value = values.get(setting.name, setting.default)
        if isinstance(setting.default, tuple | Path):
            value = type(setting.default)(value)
        found[setting.name.removeprefix("CAS_").lower()] = value
    return ServingSettings(**found)


@lru_cache(maxsize=1)
def serving() -> ServingSettings:
    """The settings as they are now, `override_settings` included."""
    names = [setting.name for setting in SERVING if hasattr(settings, setting.name)]
    return from_values({name: getattr(settings, name) for name in names})


setting_changed.connect(lambda **_: serving.cache_clear(), weak=False)


def contradictions(current: ServingSettings) -> Iterator[tuple[str, str, str]]:
    """Settings that are allowed, but not together: the check's id, the name and the problem."""
    if current.signed_urls and not current.url_signing_keys:
        problem = f"is missing, and CAS_SIGNED_URLS is on. Make a key with: {HOW_TO_MAKE_A_KEY}"
        yield "cas.E002", "CAS_URL_SIGNING_KEYS", problem
    if current.thumbnail_sizes and THUMBNAIL_SIZE not in current.thumbnail_sizes:
        problem = f"lacks {THUMBNAIL_SIZE}, the size that computed URLs name. Add it."
        yield "cas.E006", "CAS_THUMBNAIL_SIZES", problem


def check_serving(app_configs: Sequence[AppConfig] | None = None, **_: Any) -> list[CheckMessage]:
    """System check: every setting of this app has a usable value."""
    current = serving()
    found: list[CheckMessage] = []
    for setting in SERVING:
        value = getattr(current, setting.name.removeprefix("CAS_").lower())
        if problem := setting.problem(value):
            found.append(Error(f"{setting.name} {problem}", id=setting.check))
    if not found:
        found += [Error(f"{name} {said}", id=id_) for id_, name, said in contradictions(current)]
    if current.delivery == "redirect" and isinstance(storages[ALIAS], FileSystemStorage):
        message = "CAS_DELIVERY is redirect and blobs are files, which have no URL of their own."
        found.append(Error(message, "Choose stream or accel, or store on S3.", id="cas.E011"))
    return found
