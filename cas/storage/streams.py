"""The readable end of a blob, as callers see it whichever backend keeps it."""

from __future__ import annotations

from typing import BinaryIO

from cas.storage.base import BlobStat


class BlobStream(BinaryIO):
    """What `BlobStore.read` gives: a stream of a blob, or of a range of it.

    A type only: a stream from disk is a real file, one from S3 is not. `blob` describes the whole
    object as the store did when it answered the read, so that a caller who needs its size or
    version needs no second request.
    """

    blob: BlobStat
