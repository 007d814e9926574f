"""Bodies: of answers, read to exactly their end, and of requests, parts of a file."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, BinaryIO

from botocore.exceptions import BotoCoreError
from urllib3.exceptions import HTTPError

from cas.storage.base import BlobStat
from cas.storage.s3.errors import CutShort, translate
from cas.storage.streams import BlobStream

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class AnswerBody(io.RawIOBase):
    """The body of a GetObject answer. Raises Corrupt if it ends before `length` bytes.

    A connection that breaks or falls silent raises Unreachable instead: that says nothing about
    the object.
    """

    def __init__(self, body: Any, length: int, key: str) -> None:
        super().__init__()
        self._body = body
        self._left = length
        self._key = key

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        try:
            count: int = self._body.readinto(view)
        except (BotoCoreError, HTTPError, OSError) as error:
            raise translate(error, self._key) from error
        self._left -= count
        if count == 0 and self._left > 0 and view.nbytes:
            raise CutShort("the answer ended before the object", key=self._key)
        return count

    def close(self) -> None:
        if not self.closed:
            self._body.close()
        super().close()


class FileSection(io.RawIOBase):
    """`length` bytes of an open file from `start`, as a seekable file of their own.

    Reads by position, so sections of one file can be sent at the same time.
    """

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        super().__init__()
        self._descriptor = file.fileno()
        self._start = start
        self._length = length
        self._position = 0

    def __len__(self) -> int:
        return self._length

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        data = self.read(memoryview(buffer).nbytes)
        memoryview(buffer).cast("B")[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._length - self._position, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        data = os.pread(self._descriptor, wanted, self._start + self._position)
        self._position += len(data)
        return data


class ObjectStream(BlobStream):
    """A stream from S3. `md5` is the whole object's, where the store says it by its ETag."""

    def __init__(self, raw: io.RawIOBase, blob: BlobStat, md5: bytes | None) -> None:
        super().__init__(raw, blob)
        self.md5 = md5
