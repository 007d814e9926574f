"""The SHA-256 digest that names a blob, and its one-to-one mapping to an object key.

Everything that turns bytes into a digest or a digest into a key goes through this module, so
that `cas/<h>` and `h` cannot drift apart.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cas.sniff import HEAD

CAS_PREFIX: Final = "cas/"
CHUNK: Final = 1024 * 1024
"""Bytes read at a time: large enough for SHA-256 to be the limit, small enough to stay flat."""

_HEX = re.compile(r"[0-9a-f]{64}")


class MalformedDigest(ValueError):
    """The text is not 64 lowercase hexadecimal digits."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 digest (FIPS 180-4) as 64 lowercase hexadecimal digits.

    Raises MalformedDigest for anything else: an upper-case spelling would be a second URL and a
    second cache entry for the same blob.
    """

    hex: str

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.hex):
            raise MalformedDigest("a digest is 64 lowercase hexadecimal digits")

    def __str__(self) -> str:
        return self.hex

    @property
    def key(self) -> str:
        """The object key of the blob with this digest."""
        return CAS_PREFIX + self.hex

    @property
    def raw(self) -> bytes:
        return bytes.fromhex(self.hex)

    @classmethod
    def from_key(cls, key: str) -> Digest:
        """The digest that `key` names. Raises MalformedDigest if it is not a CAS key."""
        if not key.startswith(CAS_PREFIX):
            raise MalformedDigest("a CAS key starts with 'cas/'")
        return cls(key.removeprefix(CAS_PREFIX))

    @classmethod
    def of(cls, data: bytes) -> Digest:
        return cls(hashlib.sha256(data).hexdigest())


CAS_KEY: Final = r"\Acas/[0-9a-f]{64}\Z"
"""What `is_cas_key` takes, in the syntax that Python and PostgreSQL share."""


def is_cas_key(key: str) -> bool:
    """Whether `key` is exactly a CAS key (the prefix alone is not enough)."""
    return key.startswith(CAS_PREFIX) and bool(_HEX.fullmatch(key.removeprefix(CAS_PREFIX)))


class Hasher:
    """Digest, MD5 (unless it is not wanted), size and `head` of bytes seen once, in order.

    MD5 is no proof of identity here: S3's Content-MD5 and single-part ETag are made of it
    (RFC 1864), which lets a store refuse, or us notice, an upload damaged on the way.
    """

    __slots__ = ("_md5", "_sha256", "head", "size")

    def __init__(self, *, with_md5: bool = True) -> None:
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if with_md5 else None
        self.size = 0
        self.head = b""

    def update(self, data: bytes | memoryview) -> None:
        if self.size < HEAD:
            self.head += bytes(data[: HEAD - self.size])
        self._sha256.update(data)
        if self._md5:
            self._md5.update(data)
        self.size += len(data)

    @property
    def digest(self) -> Digest:
        return Digest(self._sha256.hexdigest())

    @property
    def md5(self) -> bytes:
        if not self._md5:
            raise ValueError("this hasher was told to leave MD5 out")
        return self._md5.digest()


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def hash_stream(
    stream: Readable, on_bytes: Callable[[int], None] | None = None, *, with_md5: bool = True
) -> Hasher:
    """Read `stream` to its end in flat memory. `on_bytes` hears each chunk's length."""
    hasher = Hasher(with_md5=with_md5)
    while chunk := stream.read(CHUNK):
        hasher.update(chunk)
        if on_bytes:
            on_bytes(len(chunk))
    return hasher
