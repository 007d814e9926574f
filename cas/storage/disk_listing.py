"""The keys below a directory in the order an S3 listing has, with memory that stays flat."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cas.storage.base import Absent, Unreachable
from cas.storage.disk_files import translated

BATCH: Final = 65_536
"""Names of one directory held at a time: about ten megabytes."""


def keys_below(root: Path, prefix: str, after: str, *, hidden: str) -> Iterator[str]:
    """Keys of the files below `root` that start with `prefix` and come behind `after`.

    Ascending by their bytes. `hidden` names a directory of `root` to leave out. Raises
    Unreachable if a directory vanishes before it was read: without it the listing would only
    look complete.
    """
    # Start at the deepest directory that holds every match, not at the root.
    parent = prefix.rpartition("/")[0]
    with translated(parent):
        exists = ".." not in parent.split("/") and (root / parent.lstrip("/")).is_dir()
    if exists and parent.split("/")[0] != hidden:
        base = os.fsencode(f"{parent}/" if parent else "")
        listing = _Listing(os.fsencode(root), os.fsencode(prefix), os.fsencode(after), hidden)
        yield from listing.walk(base)


class _Listing:
    def __init__(self, root: bytes, prefix: bytes, after: bytes, hidden: str) -> None:
        self._root = root
        self._prefix = prefix
        self._after = after
        self._hidden = os.fsencode(hidden) + b"/"

    def walk(self, base: bytes) -> Iterator[str]:
        """Keys that start with `base`, which is empty or a directory's key with its slash."""
        for name in self._names(base):
            key = base + name
            if name.endswith(b"/"):
                yield from self.walk(key)
            else:
                yield os.fsdecode(key)

    def _names(self, base: bytes) -> Iterator[bytes]:
        """The directory's entries that can lead to a match, in order of the keys below them.

        Subdirectories end in a slash, and are sorted with it: "a-b" comes before "a/b". A large
        directory is read several times, each time for the next names in order, so as not to
        hold all of them; a file added meanwhile may be missed, as in any listing.
        """
        last = b""
        while True:
            try:
                with translated(os.fsdecode(base)), os.scandir(self._root + b"/" + base) as found:
                    names = (e.name + (b"/" if e.is_dir() else b"") for e in found)
                    wanted = (n for n in names if n > last and self._leads(base + n))
                    batch = heapq.nsmallest(BATCH, wanted)
            except Absent as error:
                raise Unreachable("a directory vanished while listed", key=error.key) from error
            yield from batch
            if len(batch) < BATCH:
                return
            last = batch[-1]

    def _leads(self, key: bytes) -> bool:
        """Whether `key`, or if it names a directory something below it, is to be listed."""
        if key == self._hidden:
            return False
        if key.endswith(b"/"):
            in_prefix = key.startswith(self._prefix) or self._prefix.startswith(key)
            return in_prefix and (key > self._after or self._after.startswith(key))
        return key.startswith(self._prefix) and key > self._after
