"""Bodies: of answers, read to exactly their end, and of requests, parts of a file."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, BinaryIO

from botocore.exceptions import BotoCoreError
from urllib3.exceptions import HTTPError

from cas.storage.base import BlobStat, CutShort
from cas.storage.s3.errors import translate

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class ObjectStream(io.RawIOBase):
    """The body of a GetObject answer: `length` bytes of the object that `blob` describes.

    Raises CutShort if it ends before them. A connection that breaks or falls silent raises
    Unreachable instead. Not buffered: its readers take large blocks, which a buffer would copy.
    """

    def __init__(self, body: Any, length: int, blob: BlobStat) -> None:
        super().__init__()
        self.blob = blob
        self._body = body
        self._left = length

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        try:
            data: bytes = self._body.read(wanted)
        except (BotoCoreError, HTTPError, OSError) as error:
            raise translate(error, self.blob.key) from error
        self._left -= len(data)
        if len(data) < wanted:
            raise CutShort("the answer ended before the object", key=self.blob.key)
        return data

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(view.nbytes)
        view[: len(data)] = data
        return len(data)

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
