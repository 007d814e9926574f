"""The readable end of a blob, whichever backend keeps it."""

from __future__ import annotations

import io

from cas.storage.base import BlobStat


class BlobStream(io.BufferedReader):
    """A stream of a blob, or of a range of it, that also knows what it is a stream of.

    `blob` describes the whole object as the store did when it answered the read, so that a
    caller who needs its size or version needs no second request.
    """

    def __init__(self, raw: io.RawIOBase, blob: BlobStat) -> None:
        super().__init__(raw)
        self.blob = blob
