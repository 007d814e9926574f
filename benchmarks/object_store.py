"""A small and fast S3 stand-in that keeps objects in memory, for measuring only.

    python -m benchmarks.object_store

moto answers some hundred requests a second, which would be all that is measured. This answers
some thousand, after as long a wait as it is told, and honours the guards that a migration relies
on: Content-MD5, SHA-256 checksums, If-None-Match, conditional copies. It does no authentication
and no multipart uploads. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import base64
import bisect
import hashlib
import json
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000
BLOCK = 256 * 1024
MODIFIED = "Mon, 02 Jan 2023 00:00:00 GMT"
MODIFIED_ISO = "2023-01-02T00:00:00.000Z"

Answer = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True, slots=True)
class Stored:
    data: bytes
    etag: str
    sha256: str
    """Base64, and "" for an object that was stored without a checksum."""


class Objects:
    """Objects by key; one bucket is as good as another."""

    def __init__(self) -> None:
        self.by_key: dict[str, Stored] = {}
        self._sorted: list[str] | None = []

    def put(self, key: str, stored: Stored) -> None:
        if key not in self.by_key:
            self._sorted = None
        self.by_key[key] = stored

    def remove(self, key: str) -> None:
        if self.by_key.pop(key, None):
            self._sorted = None

    def page(self, prefix: str, after: str) -> tuple[list[str], bool]:
        """The next keys below the prefix, and whether there are more."""
        if self._sorted is None:
            self._sorted = sorted(self.by_key)
        at = max(bisect.bisect_left(self._sorted, prefix), bisect.bisect_right(self._sorted, after))
        found = self._sorted[at : at + PAGE + 1]
        keys = [key for key in found if key.startswith(prefix)]
        return keys[:PAGE], len(keys) > PAGE


class Service:
    def __init__(self) -> None:
        self.objects = Objects()
        self.latency = 0.0
        self.counts: Counter[str] = Counter()
        # A service hashes what it copies on machines of its own, not on the one that migrates.
        self._sums: dict[str, str] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return False
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
        if headers.get("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(headers.get("content-length") or 0))
        url = urlsplit(target)
        if url.path.startswith("/-/"):
            status, extra, answer = self._control(url.path[3:], json.loads(body))
        else:
            await asyncio.sleep(self.latency)
            key = unquote(url.path).lstrip("/").partition("/")[2]
            query = {n: v[0] for n, v in parse_qs(url.query, keep_blank_values=True).items()}
            status, extra, answer = self._s3(method, key, query, headers, body)
        fields = {"Content-Length": str(len(answer)), **extra}
        said = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {status} X\r\n{said}\r\n".encode())
        if method != "HEAD":
            view = memoryview(answer)
            for start in range(0, len(answer), BLOCK):
                writer.write(view[start : start + BLOCK])
                await writer.drain()
        return True

    def _s3(
        self, method: str, key: str, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> Answer:
        self.counts[method] += 1
        if method in ("GET", "HEAD"):
            return self._listing(query) if not key else self._read(key, headers)
        if method == "PUT":
            if "partNumber" in query:
                return 200, {"ETag": _etag(body)}, b""
            if not key:
                return 200, {}, b""
            copied = headers.get("x-amz-copy-source")
            return self._copy(key, copied, headers) if copied else self._write(key, headers, body)
        if method == "POST" and "uploads" in query:
            return _xml("<InitiateMultipartUploadResult><UploadId>none</UploadId>"
                        "</InitiateMultipartUploadResult>")  # fmt: skip
        if method == "POST":
            return _error(501, "NotImplemented")
        self.objects.remove(key)
        return 204, {}, b""

    def _read(self, key: str, headers: dict[str, str]) -> Answer:
        stored = self.objects.by_key.get(key)
        if stored is None:
            return _error(404, "NoSuchKey")
        extra = {"ETag": stored.etag, "Last-Modified": MODIFIED}
        if stored.sha256 and headers.get("x-amz-checksum-mode"):
            extra |= {"x-amz-checksum-sha256": stored.sha256, "x-amz-checksum-type": "FULL_OBJECT"}
        return 200, extra, stored.data

    def _write(self, key: str, headers: dict[str, str], body: bytes) -> Answer:
        if headers.get("if-none-match") == "*" and key in self.objects.by_key:
            return _error(412, "PreconditionFailed")
        said = headers.get("content-md5")
        if said and said != _base64(hashlib.md5(body, usedforsecurity=False).digest()):
            return _error(400, "BadDigest")
        checksum = headers.get("x-amz-checksum-sha256", "")
        if checksum and checksum != _base64(hashlib.sha256(body).digest()):
            return _error(400, "BadDigest")
        stored = Stored(body, _etag(body), checksum)
        self.objects.put(key, stored)
        return 200, {"ETag": stored.etag}, b""

    def _copy(self, key: str, copied: str, headers: dict[str, str]) -> Answer:
        source = self.objects.by_key.get(unquote(copied).lstrip("/").partition("/")[2])
        if source is None:
            return _error(404, "NoSuchKey")
        if headers.get("x-amz-copy-source-if-match", source.etag) != source.etag:
            return _error(412, "PreconditionFailed")
        summed = ""
        if headers.get("x-amz-checksum-algorithm"):
            summed = self._sums.get(source.etag) or _base64(hashlib.sha256(source.data).digest())
        self.objects.put(key, Stored(source.data, source.etag, summed))
        told = f"<ChecksumSHA256>{summed}</ChecksumSHA256>" if summed else ""
        return _xml(
            f"<CopyObjectResult><LastModified>{MODIFIED_ISO}</LastModified>"
            f"<ETag>{escape(source.etag)}</ETag>{told}</CopyObjectResult>"
        )

    def _listing(self, query: dict[str, str]) -> Answer:
        after = query.get("continuation-token") or query.get("start-after", "")
        keys, more = self.objects.page(query.get("prefix", ""), after)
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{MODIFIED_ISO}</LastModified>"
            f"<ETag>{escape(self.objects.by_key[key].etag)}</ETag>"
            f"<Size>{len(self.objects.by_key[key].data)}</Size></Contents>"
            for key in keys
        )
        token = f"<NextContinuationToken>{keys[-1]}</NextContinuationToken>" if more else ""
        return _xml(
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{items}"
            "</ListBucketResult>"
        )

    def _control(self, path: str, said: dict[str, Any]) -> Answer:
        answer: Any = {}
        if path == "latency":
            self.latency = said["seconds"]
        elif path == "legacy":
            self._legacy(said["count"], said["size"])
        elif path == "blobs":
            shared = Stored(b"x" * said["size"], _etag(b"x"), "")
            for number in range(said["count"]):
                name = hashlib.sha256(str(number).encode()).hexdigest()
                self.objects.put(f"cas/{name}", shared)
        elif path == "drop":
            for key in [key for key in self.objects.by_key if key.startswith(said["prefix"])]:
                self.objects.remove(key)
        else:
            answer = dict(self.counts)
        return 200, {}, json.dumps(answer).encode()

    def _legacy(self, count: int, size: int) -> None:
        tail = hashlib.shake_128(b"tail").digest(size - 8)
        for number in range(count):
            data = b"%08d" % number + tail
            stored = Stored(data, _etag(data), "")
            self.objects.put(legacy_key(number), stored)
            self._sums[stored.etag] = _base64(hashlib.sha256(data).digest())


def legacy_key(number: int) -> str:
    """The key of the object that `legacy` makes as its `number`-th."""
    return f"parts/1/attachments/00000000-0000-4000-8000-{number:012d}.pdf"


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _xml(text: str) -> Answer:
    return 200, {"Content-Type": "application/xml"}, text.encode()


def _error(status: int, code: str) -> Answer:
    return (
        status,
        {"Content-Type": "application/xml"},
        f"<Error><Code>{code}</Code></Error>".encode(),
    )


async def main() -> None:
    service = Service()
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
