"""Which of a store's guards were seen to refuse.

A guard that a store accepts and ignores is worse than none, and stores in wide use do that. So
each is tried with bytes that must be refused, once per store; what was found is kept in this
process and, where `CAS_STATE_DIR` is set, in a file there. For each guard that failed the trial
the log says what is done in its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from cas.storage.base import Denied, StoreError
from cas.storage.places import state_dir

log = logging.getLogger(__name__)

VERSION: Final = 1
"""Of the trials; a change makes every stored result stale."""

PROBE_PREFIX: Final = ".cas-probe/"
"""Where trials write. Keys below it are nobody's data and can be deleted at any time."""


@dataclass(frozen=True, slots=True)
class Guards:
    """The result of the trials: each guard's name and whether it refused what it must."""

    results: Mapping[str, bool]
    tried_at: datetime

    def honours(self, name: str) -> bool:
        """Whether `name` was seen to refuse; a guard that was never tried was not."""
        return self.results.get(name, False)


NO_GUARDS: Final = Guards({}, datetime.min.replace(tzinfo=UTC))
"""What is assumed of a store that let nothing be tried."""


@runtime_checkable
class Guarded(Protocol):
    """A store whose guards can be tried."""

    @property
    def identity(self) -> str:
        """Names the place the blobs are in: two stores with the same one are the same."""

    @property
    def fallbacks(self) -> Mapping[str, str]:
        """By guard: what is done where it is not honoured."""

    def try_guards(self, prefix: str) -> Mapping[str, bool]:
        """Try every guard of `fallbacks` on objects below `prefix`, and remove these again."""


_found: dict[str, Guards] = {}


def known(store: Guarded) -> Guards | None:
    """The guards of `store` if they were tried before, without asking the store anything."""
    if store.identity in _found:
        return _found[store.identity]
    guards = _load(store)
    if guards:
        _found[store.identity] = guards
    return guards


def probe(store: Guarded, *, force: bool = False, log_missing: bool = True) -> Guards:
    """The guards of `store`; tries them if nobody has yet, or again with `force`.

    What is done in place of each guard that is not honoured is logged unless the caller says it.
    Raises what the trials raise: Unreachable, and Denied where the store lets us not even write
    below `.cas-probe/`.
    """
    guards = None if force else known(store)
    if guards is None:
        results = store.try_guards(f"{PROBE_PREFIX}{uuid.uuid4().hex}/")
        guards = Guards(results, datetime.now(UTC))
        _found[store.identity] = guards
        _save(store, guards)
        for name, honoured in results.items():
            if not honoured and log_missing:
                log.warning(
                    "%s does not honour %s: %s", store.identity, name, store.fallbacks[name]
                )
    return guards


def probe_or_assume_none(store: Guarded) -> Guards:
    """As `probe`, but a store that refuses to be tried is taken to honour nothing.

    That is not remembered as a finding. Raises what else `probe` raises.
    """
    try:
        return probe(store)
    except Denied as error:
        log.warning("%s lets no guard be tried, none is relied on: %s", store.identity, error)
        return NO_GUARDS


def forget() -> None:
    """Drop what this process remembers; files stay."""
    _found.clear()


def _file(store: Guarded) -> Path | None:
    try:
        directory = state_dir()
    except StoreError as error:
        log.warning("nothing is remembered of %s: %s", store.identity, error)
        return None
    if directory is None:
        return None
    return directory / f"guards-{hashlib.sha256(store.identity.encode()).hexdigest()[:16]}.json"


def _load(store: Guarded) -> Guards | None:
    path = _file(store)
    if path is None:
        return None
    try:
        said = json.loads(path.read_text())
        if said["version"] != VERSION or said["store"] != store.identity:
            return None
        if set(said["results"]) != set(store.fallbacks):
            return None
        return Guards(
            {name: value is True for name, value in said["results"].items()},
            datetime.fromisoformat(said["tried_at"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        log.warning("%s cannot be read, the guards are tried again: %s", path, error)
        return None


def _save(store: Guarded, guards: Guards) -> None:
    path = _file(store)
    if path is None:
        return
    said = {
        "version": VERSION,
        "store": store.identity,
        "tried_at": guards.tried_at.isoformat(),
        "results": dict(guards.results),
    }
    temporary = path.with_suffix(f".{os.getpid()}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(json.dumps(said, indent=2))
        temporary.replace(path)
    except OSError as error:
        log.warning("%s cannot be written, the guards will be tried again: %s", path, error)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
