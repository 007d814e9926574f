"""What a store was seen to support.

A store that accepts a condition or a checksum and ignores it is worse than one that refuses it, and
stores in wide use do that. So each capability is probed, once per store, with a request that must
be refused. The results are kept in this process and, where `CAS_STATE_DIR` is set, in a file there.
For each capability that is missing, the log says what is done in its place.
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
from typing import Final

from cas.storage.base import BlobStore, Denied, StoreError
from cas.storage.staging import state_dir

log = logging.getLogger(__name__)

VERSION: Final = 1
"""Of the probes; a change makes every result that was kept stale."""

PROBE_PREFIX: Final = ".cas-probe/"
"""Where probes write. Keys below it are nobody's data and can be deleted at any time."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The results of the probes: each capability's name and whether it was seen to work."""

    results: Mapping[str, bool]
    probed_at: datetime

    def supports(self, name: str) -> bool:
        """Whether `name` was seen to work; what was never probed was not."""
        return self.results.get(name, False)


NO_CAPABILITIES: Final = Capabilities({}, datetime.min.replace(tzinfo=UTC))
"""What is assumed of a store in which nothing could be probed."""

_found: dict[str, Capabilities] = {}


def known(store: BlobStore) -> Capabilities | None:
    """What was found about `store` before, without a request to it."""
    if store.identity not in _found and (path := _file(store)):
        try:
            kept = json.loads(path.read_text())
            results = {name: kept["results"][name] is True for name in store.fallbacks}
            probed_at = datetime.fromisoformat(kept["probed_at"])
            _found[store.identity] = Capabilities(results, probed_at)
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, OSError) as error:
            log.warning("%s cannot be read, the store is probed again: %s", path, error)
    return _found.get(store.identity)


def probe(store: BlobStore, *, force: bool = False, log_missing: bool = True) -> Capabilities:
    """The capabilities of `store`, probed if they never were, or again with `force`.

    Raises what the probes raise: Unreachable, and Denied where not even objects below
    `.cas-probe/` may be written.
    """
    capabilities = None if force else known(store)
    if capabilities is None:
        results = store.probe_capabilities(f"{PROBE_PREFIX}{uuid.uuid4().hex}/")
        capabilities = Capabilities(results, datetime.now(UTC))
        remember(store, capabilities)
        for name, supported in results.items():
            if not supported and log_missing:
                log.warning(
                    "%s does not support %s: %s", store.identity, name, store.fallbacks[name]
                )
    return capabilities


def probe_if_permitted(store: BlobStore) -> None:
    """As `probe`, but in a store in which nothing may be probed nothing is known, and relied on."""
    try:
        probe(store)
    except Denied as error:
        log.warning(
            "no capability of %s can be probed, none is relied on: %s", store.identity, error
        )


def remember(store: BlobStore, capabilities: Capabilities) -> None:
    """Take these for what was found about `store`, here and in the file that processes share."""
    _found[store.identity] = capabilities
    path = _file(store)
    if path is None:
        return
    kept = {
        "store": store.identity,
        "probed_at": capabilities.probed_at.isoformat(),
        "results": dict(capabilities.results),
    }
    temporary = path.with_suffix(f".{os.getpid()}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(json.dumps(kept, indent=2))
        temporary.replace(path)
    except OSError as error:
        log.warning("%s cannot be written, the store will be probed again: %s", path, error)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def forget() -> None:
    """Drop what this process remembers; files stay."""
    _found.clear()


def _file(store: BlobStore) -> Path | None:
    try:
        directory = state_dir()
    except StoreError as error:
        log.warning("nothing is remembered of %s: %s", store.identity, error)
        return None
    name = hashlib.sha256(store.identity.encode()).hexdigest()[:16]
    return directory / f"capabilities-{VERSION}-{name}.json" if directory else None
