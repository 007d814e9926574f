"""A small and fast S3 stand-in that keeps objects in memory, for measuring only.

    python -m benchmarks.object_store

moto answers some hundred requests a second, which would be all that is measured. This answers
some ten thousand, each after a configured delay, and supports the conditions that a migration
relies on: Content-MD5, SHA-256 checksums, If-Match, If-None-Match, conditional copies. It does no
authentication and no multipart uploads. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import base64
import bisect
import hashlib
import json
import re
import sys
import time
from collections import Counter
from email.utils import formatdate
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape, unescape

from benchmarks.http_protocol import Answer, Connection, Request

PAGE = 1000
LONG_AGO = 1_672_617_600
"""When objects that were not sent were modified, in seconds: in January 2023."""

XML = {"Content-Type": "application/xml"}


class Stored(NamedTuple):
    """An object. `sha256` is base64, and "" if it was stored without a checksum."""

    data: bytes
    etag: str
    sha256: str
    modified: int


class Objects:
    """Objects by key; one bucket is as good as another."""

    def __init__(self) -> None:
        self.by_key: dict[str, Stored] = {}
        # Every key in order, but for those added since; some may have been deleted since.
        self._sorted: list[str] = []
        self._added: set[str] = set()
        self._deleted: set[str] = set()

    def put(self, key: str, stored: Stored) -> None:
        if key in self._deleted:
            self._deleted.remove(key)
        elif key not in self.by_key:
            self._added.add(key)
        self.by_key[key] = stored

    def remove(self, key: str) -> None:
        if self.by_key.pop(key, None) is None:
            return
        if key in self._added:
            self._added.remove(key)
        else:
            self._deleted.add(key)

    def page(self, prefix: str, after: str) -> tuple[list[str], bool]:
        """The next keys below the prefix, and whether there are more."""
        if self._added:
            left = [key for key in self._sorted if key not in self._deleted]
            # Two runs, which Python merges in one pass.
            self._sorted = sorted(left + sorted(self._added))
            self._added.clear()
            self._deleted.clear()
        found: list[str] = []
        at = max(bisect.bisect_left(self._sorted, prefix), bisect.bisect_right(self._sorted, after))
        for position in range(at, len(self._sorted)):
            key = self._sorted[position]
            if not key.startswith(prefix):
                break
            if key not in self._deleted:
                found.append(key)
            if len(found) > PAGE:
                break
        return found[:PAGE], len(found) > PAGE


class S3:
    """Answers requests about the objects, and what the benchmarks say to it below `/-/`."""

    def __init__(self) -> None:
        self.objects = Objects()
        self.latency = 0.0
        self.counts: Counter[str] = Counter()
        # A service hashes what it copies on machines of its own, not on the one that migrates.
        self._sums: dict[str, str] = {}

    def answer(self, request: Request, body: bytes) -> Answer:
        if request.path.startswith("/-/"):
            return self._control(request.path[3:], json.loads(body))
        method, headers = request.method, request.headers
        self.counts[method] += 1
        key = unquote(request.path[1:].partition("/")[2])
        query = dict(parse_qsl(request.query, keep_blank_values=True)) if request.query else {}
        if method in ("GET", "HEAD"):
            return self._read(key, headers) if key else self._listing(query)
        if method == "PUT":
            if "partNumber" in query:
                return 200, {"ETag": _etag(body)}, b""
            if not key:
                return 200, {}, b""
            copied = headers.get("x-amz-copy-source")
            return self._copy(key, copied, headers) if copied else self._write(key, headers, body)
        if method == "POST" and "delete" in query:
            return self._delete(body.decode())
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
        if headers.get("if-match", stored.etag) != stored.etag:
            return _error(412, "PreconditionFailed")
        extra = {"ETag": stored.etag, "Last-Modified": formatdate(stored.modified, usegmt=True)}
        if stored.sha256 and headers.get("x-amz-checksum-mode"):
            extra |= {"x-amz-checksum-sha256": stored.sha256, "x-amz-checksum-type": "FULL_OBJECT"}
        return 200, extra, stored.data

    def _write(self, key: str, headers: dict[str, str], body: bytes) -> Answer:
        if self._is_taken(key, headers):
            return _error(412, "PreconditionFailed")
        md5 = hashlib.md5(body, usedforsecurity=False)
        said = headers.get("content-md5")
        if said and said != _base64(md5.digest()):
            return _error(400, "BadDigest")
        checksum = headers.get("x-amz-checksum-sha256", "")
        if checksum and checksum != _base64(hashlib.sha256(body).digest()):
            return _error(400, "BadDigest")
        stored = Stored(body, f'"{md5.hexdigest()}"', checksum, int(time.time()))
        self.objects.put(key, stored)
        return 200, {"ETag": stored.etag}, b""

    def _copy(self, key: str, copied: str, headers: dict[str, str]) -> Answer:
        source = self.objects.by_key.get(unquote(copied).lstrip("/").partition("/")[2])
        if source is None:
            return _error(404, "NoSuchKey")
        if headers.get("x-amz-copy-source-if-match", source.etag) != source.etag:
            return _error(412, "PreconditionFailed")
        if self._is_taken(key, headers):
            return _error(412, "PreconditionFailed")
        summed = ""
        if headers.get("x-amz-checksum-algorithm"):
            summed = self._sums.get(source.etag) or _base64(hashlib.sha256(source.data).digest())
        now = int(time.time())
        self.objects.put(key, Stored(source.data, source.etag, summed, now))
        told = f"<ChecksumSHA256>{summed}</ChecksumSHA256>" if summed else ""
        return _xml(
            f"<CopyObjectResult><LastModified>{_iso(now)}</LastModified>"
            f"<ETag>{escape(source.etag)}</ETag>{told}</CopyObjectResult>"
        )

    def _is_taken(self, key: str, headers: dict[str, str]) -> bool:
        return headers.get("if-none-match") == "*" and key in self.objects.by_key

    def _delete(self, body: str) -> Answer:
        keys = re.findall("<Key>([^<]*)</Key>", body)
        for key in keys:
            self.objects.remove(unescape(key))
        told = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        return _xml(f"<DeleteResult>{told}</DeleteResult>")

    def _listing(self, query: dict[str, str]) -> Answer:
        after = query.get("continuation-token") or query.get("start-after", "")
        keys, more = self.objects.page(query.get("prefix", ""), after)
        items = []
        for key in keys:
            stored = self.objects.by_key[key]
            items.append(
                f"<Contents><Key>{escape(key)}</Key>"
                f"<LastModified>{_iso(stored.modified)}</LastModified>"
                f"<ETag>{escape(stored.etag)}</ETag><Size>{len(stored.data)}</Size></Contents>"
            )
        token = f"<NextContinuationToken>{keys[-1]}</NextContinuationToken>" if more else ""
        return _xml(
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
            f"{''.join(items)}</ListBucketResult>"
        )

    def _control(self, path: str, said: dict[str, Any]) -> Answer:
        answer: Any = {}
        if path == "latency":
            self.latency = said["seconds"]
        elif path == "legacy":
            self._legacy(said["count"], said["size"])
        elif path == "blobs":
            shared = Stored(b"x" * said["size"], _etag(b"x"), "", LONG_AGO)
            for number in range(said.get("first", 0), said["count"]):
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
            stored = Stored(data, _etag(data), "", LONG_AGO)
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
    return 200, XML, text.encode()


def _error(status: int, code: str) -> Answer:
    return status, XML, f"<Error><Code>{code}</Code></Error>".encode()


def _iso(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


async def main() -> None:
    service = S3()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
