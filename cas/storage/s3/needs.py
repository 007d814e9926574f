"""What the commands need of a bucket, and what each thing costs that is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cas.digest import CAS_PREFIX
from cas.storage.base import Versioning
from cas.storage.guards import PROBE_PREFIX
from cas.storage.preflight import Need, Weight
from cas.storage.quarantine import QUARANTINE_PREFIX

LEGACY_PREFIX: Final = "parts/"

_COSTS: Final[Mapping[tuple[str, str], tuple[Weight, str]]] = {
    ("put", PROBE_PREFIX): (
        Weight.REPLACEABLE,
        "no guard can be tried, so none is relied on: bytes are read back instead",
    ),
    ("delete", PROBE_PREFIX): (
        Weight.REPLACEABLE,
        "small objects of trials stay below .cas-probe/; anyone may delete them",
    ),
    ("multipart", PROBE_PREFIX): (
        Weight.NEEDED,
        "files of more than 64 MiB cannot be stored",
    ),
    ("put", CAS_PREFIX): (Weight.ESSENTIAL, "nothing can be uploaded or migrated"),
    ("head", CAS_PREFIX): (Weight.ESSENTIAL, "nothing can be uploaded, migrated or served"),
    ("get", CAS_PREFIX): (Weight.ESSENTIAL, "nothing can be served"),
    ("list", CAS_PREFIX): (
        Weight.NEEDED,
        "verify_cas, cleanup_legacy_blobs and collect_garbage cannot run",
    ),
    ("copy", CAS_PREFIX): (Weight.NEEDED, "migrate_to_cas cannot copy within the store"),
    ("multipart", CAS_PREFIX): (
        Weight.NEEDED,
        "files of more than 64 MiB cannot be stored",
    ),
    ("abort", CAS_PREFIX): (
        Weight.REPLACEABLE,
        "unfinished uploads stay and take room: have a lifecycle rule of the bucket remove them",
    ),
    ("list uploads", ""): (
        Weight.REPLACEABLE,
        "collect_garbage goes on, but leaves unfinished uploads to a lifecycle rule of the bucket",
    ),
    ("delete", CAS_PREFIX): (Weight.NEEDED, "collect_garbage cannot delete"),
    ("delete many", ""): (
        Weight.REPLACEABLE,
        "objects are deleted one by one, a request each",
    ),
    ("list", LEGACY_PREFIX): (
        Weight.NEEDED,
        "migrate_to_cas and cleanup_legacy_blobs cannot run",
    ),
    ("get", LEGACY_PREFIX): (Weight.NEEDED, "migrate_to_cas cannot read old objects"),
    ("delete", LEGACY_PREFIX): (Weight.NEEDED, "cleanup_legacy_blobs cannot delete"),
    ("copy", QUARANTINE_PREFIX): (
        Weight.NEEDED,
        "wrong bytes cannot be moved aside, so they are neither repaired nor healed",
    ),
    ("read versioning", ""): (
        Weight.REPLACEABLE,
        "whether deleting frees room is not known: old versions may stay",
    ),
}

NEEDS: Final = {
    (operation, prefix): Need(operation, prefix, weight, cost)
    for (operation, prefix), (weight, cost) in _COSTS.items()
}

_EXPIRE: Final = "Have a lifecycle rule of the bucket expire noncurrent versions."
VERSIONS_NOTES: Final[Mapping[Versioning, str]] = {
    Versioning.KEPT: (
        "The bucket keeps versions: what is deleted stays as an old version, and no room is "
        f"freed. {_EXPIRE}"
    ),
    Versioning.SUSPENDED: (
        "The bucket kept versions before: of what was written then, old versions stay when it is "
        f"deleted, and no room is freed. {_EXPIRE}"
    ),
    Versioning.LOCKED: (
        "The bucket has object lock: what is deleted stays as an old version until its retention "
        f"ends, and no room is freed before. {_EXPIRE}"
    ),
}
