"""An S3 server over real HTTP: moto keeps the objects, behind the checks of a strict S3.

One process, one lock around moto (whose listings do not bear concurrent writes), so that
conditions are checked and acted on as one. Injected latency and silent answers are waited out
outside the lock. Requests below `/-/` are the tests' own: faults, switched off checks, counts.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import create_backend_app
from moto.s3.models import FakeDeleteMarker, s3_backends

from tests.s3_checks import Checks, Refusal, S3Request
from tests.s3_faults import Fault, Plan

MOST_SKEW_SECONDS = 900
"""How far a request's date may be off."""

ENCRYPTED = {
    "CompleteMultipartUpload",
    "CopyObject",
    "GetObject",
    "HeadObject",
    "ListObjectsV2",
    "PutObject",
}
"""Operations whose answer has an object's ETag."""


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    send: int | None = None
    """Bytes of the body to send before closing the connection; None: all, and keep it open."""


class Hang(Exception):
    """Say nothing for `seconds`, then close."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


@dataclass
class State:
    plan: Plan = field(default_factory=Plan)
    checks: Checks = field(default_factory=Checks)
    counts: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of response bodies by operation."""
    begun: dict[str, str] = field(default_factory=dict)
    """When each multipart upload was created; moto says 2010 of all of them."""
    latency: float = 0.0
    clock_ahead: float = 0.0
    """Seconds by which the dates of answers are wrong."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        self.plan.clear()
        self.checks.ignored.clear()
        self.counts.clear()
        self.sent.clear()
        self.latency = 0.0
        self.clock_ahead = 0.0


class Store:
    """moto, called in this process."""

    def __init__(self) -> None:
        self._app = create_backend_app("s3")

    def call(self, request: S3Request) -> Answer:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": request.method,
            "PATH_INFO": request.path.encode().decode("latin-1"),
            "RAW_URI": request.headers.get(":target", request.path),
            "REQUEST_URI": request.headers.get(":target", request.path),
            "QUERY_STRING": request.raw_query,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_LENGTH": str(len(request.body)),
            "CONTENT_TYPE": request.headers.get("content-type", ""),
            "wsgi.input": io.BytesIO(request.body),
            "wsgi.errors": io.StringIO(),
            "wsgi.url_scheme": "http",
            "wsgi.version": (1, 0),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in request.headers.items():
            if not name.startswith(":"):
                environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
        started: list[Any] = []

        def start_response(*args: Any) -> Any:
            started.extend(args)

        body = b"".join(self._app(environ, start_response))
        return Answer(int(started[0].split()[0]), started[1], body)

    def objects(self, bucket: str) -> Any:
        found = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets.get(bucket)
        return found.keys if found else {}

    def etag_of(self, bucket: str, key: str) -> str | None:
        found = self.objects(bucket).get(key)
        return None if found is None or isinstance(found, FakeDeleteMarker) else found.etag

    def put(self, bucket: str, key: str, body: bytes) -> None:
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, key, body)

    def remove(self, bucket: str, key: str) -> None:
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].delete_object(bucket, key)

    def drop(self, bucket: str) -> None:
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets.pop(bucket, None)


def operation_of(method: str, key: str, query: dict[str, str], headers: dict[str, str]) -> str:
    """The S3 API's name for a request."""
    if not key:
        named = {
            ("GET", "uploads"): "ListMultipartUploads",
            ("POST", "delete"): "DeleteObjects",
            ("GET", "versioning"): "GetBucketVersioning",
            ("PUT", "versioning"): "PutBucketVersioning",
            ("GET", "object-lock"): "GetObjectLockConfiguration",
            ("GET", "versions"): "ListObjectVersions",
        }
        for (verb, flag), name in named.items():
            if verb == method and flag in query:
                return name
        plain = {"GET": "ListObjectsV2", "HEAD": "HeadBucket", "PUT": "CreateBucket"}
        return plain.get(method, "DeleteBucket")
    copying = "x-amz-copy-source" in headers
    if "uploadId" in query:
        multipart = {
            "PUT": "UploadPartCopy" if copying else "UploadPart",
            "POST": "CompleteMultipartUpload",
            "DELETE": "AbortMultipartUpload",
        }
        return multipart.get(method, "ListParts")
    if method == "POST" and "uploads" in query:
        return "CreateMultipartUpload"
    if method == "GET" and "attributes" in query:
        return "GetObjectAttributes"
    if method == "PUT" and copying:
        return "CopyObject"
    return {"PUT": "PutObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}.get(
        method, "GetObject"
    )


def error_document(code: str, message: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
    ).encode()


def refuse(refusal: Refusal) -> Answer:
    headers = [("Content-Type", "application/xml")]
    return Answer(refusal.status, headers, error_document(refusal.code, refusal.message))


def flip(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body


class Front:
    """Faults, then checks, then moto, then faults again."""

    def __init__(self) -> None:
        self.state = State()
        self.store = Store()

    def handle(self, request: S3Request) -> Answer:
        state = self.state
        with state.lock:
            state.counts[request.operation] += 1
        if state.latency:
            time.sleep(state.latency)
        fault = state.plan.next(request.operation, request.key or request.query.get("prefix", ""))
        if fault:
            answer = self._prevent(fault, request)
            if answer:
                return answer
        if abs(state.clock_ahead) > MOST_SKEW_SECONDS:
            return refuse(Refusal(403, "RequestTimeTooSkewed", "The clocks are too far apart."))
        with state.lock:
            refusal = state.checks.refusal(request, self._etag_of)
            answer = refuse(refusal) if refusal else self._act(request, fault)
            state.sent[request.operation] += len(answer.body)
        return self._spoil(fault, request, answer) if fault else answer

    def _act(self, request: S3Request, fault: Fault | None) -> Answer:
        refused: list[str] = []
        if fault and fault.action == "delete_errors":
            refused = _take_out(request, fault.options["text"])
        if request.operation in ("CopyObject", "UploadPartCopy") and (
            "copy_checksum" in self.state.checks.ignored
        ):
            request.headers.pop("x-amz-checksum-algorithm", None)
        if request.operation == "HeadObject" and "part_number" in self.state.checks.ignored:
            request.raw_query = re.sub(r"partNumber=\d+&?", "", request.raw_query)
            request.headers[":target"] = f"{request.path}?{request.raw_query}"
        if "x-amz-checksum-sha256" in request.headers:
            # moto keeps a checksum only if the algorithm is named as well.
            request.headers.setdefault("x-amz-sdk-checksum-algorithm", "SHA256")
        if refused and b"<Key>" not in request.body:
            answer = Answer(
                200, [("Content-Type", "application/xml")], b"<DeleteResult></DeleteResult>"
            )
        else:
            answer = self.store.call(request)
        if request.operation in ("CreateMultipartUpload", "ListMultipartUploads"):
            self._date(answer)
        if "opaque_etags" in self.state.checks.ignored:
            _hide_etags(request.operation, answer)
        if fault and refused:
            code = fault.options.get("code", "InternalError")
            errors = "".join(
                f"<Error><Key>{escape(k)}</Key><Code>{code}</Code><Message>no</Message></Error>"
                for k in refused
            )
            answer.body = answer.body.replace(
                b"</DeleteResult>", f"{errors}</DeleteResult>".encode()
            )
        return answer

    def _etag_of(self, bucket: str, key: str) -> str | None:
        etag = self.store.etag_of(bucket, key)
        hidden = "opaque_etags" in self.state.checks.ignored
        return _opaque(etag) if etag and hidden else etag

    def _date(self, answer: Answer) -> None:
        """Give multipart uploads the time at which they were created."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())

        def date(match: re.Match[str]) -> str:
            begun = self.state.begun.setdefault(match[1], now)
            return re.sub("(<Initiated>)[^<]*", rf"\g<1>{begun}", match[0])

        text = answer.body.decode()
        pattern = r"<UploadId>([^<]+)</UploadId>(.*?<Initiated>[^<]*)?"
        answer.body = re.sub(pattern, date, text, flags=re.S).encode()

    def _prevent(self, fault: Fault, request: S3Request) -> Answer | None:
        options = fault.options
        if fault.action == "error":
            code = options.get("code", "InternalError")
            answer = refuse(Refusal(options.get("status", 500), code, "as planned"))
            answer.headers += options.get("headers", {}).items()
            return answer
        if fault.action == "not_done":
            return Answer(204, [], b"")
        if fault.action == "error_in_200":
            return refuse(Refusal(200, options.get("code", "InternalError"), "as planned"))
        if fault.action == "wait_then_act":
            time.sleep(options["seconds"])
        elif fault.action == "alter_request":
            request.body = flip(request.body)
        elif fault.action == "overwrite_first":
            with self.state.lock:
                self.store.put(request.bucket, options["key"], options["body"].encode("latin-1"))
        elif fault.action == "remove_first":
            with self.state.lock:
                self.store.remove(request.bucket, options["key"])
        return None

    def _spoil(self, fault: Fault, request: S3Request, answer: Answer) -> Answer:
        action, options = fault.action, fault.options
        if action == "act_then_hang":
            raise Hang(options.get("seconds", 30))
        if action == "act_then_close":
            raise Hang(0)
        if action == "close_mid_body":
            answer.send = options.get("bytes", len(answer.body) // 2)
        elif action == "short_body":
            answer.body = answer.body[: options.get("bytes", len(answer.body) // 2)]
        elif action == "alter_body":
            answer.body = flip(answer.body)
        elif action == "act_then_error":
            return refuse(Refusal(options["status"], options["code"], "as planned"))
        elif action in ("empty_etag", "no_checksum", "other_etag"):
            _strip(action, answer)
        elif action in ("nothing_listed", "no_token", "unsorted"):
            answer.body = _lie(action, answer.body)
        return answer

    def control(self, path: str, body: bytes) -> Any:
        """Requests of tests to the server itself."""
        state = self.state
        said = json.loads(body) if body else {}
        if path == "/-/fault":
            state.plan.add(Fault(**said))
        elif path == "/-/ignore":
            state.checks.ignored = set(said["names"])
        elif path == "/-/latency":
            state.latency = said["ms"] / 1000
        elif path == "/-/clock":
            state.clock_ahead = said["seconds"]
        elif path == "/-/fill":
            with state.lock:
                for key in said["keys"]:
                    self.store.put(said["bucket"], key, said["body"].encode())
        elif path == "/-/drop":
            with state.lock:
                self.store.drop(said["bucket"])
        elif path == "/-/reset":
            state.reset()
        with state.lock:
            return {"counts": dict(state.counts), "sent": dict(state.sent)}


def _lie(action: str, listing: bytes) -> bytes:
    if action == "no_token":
        text = re.sub("<NextContinuationToken>.*</NextContinuationToken>", "", listing.decode())
        return re.sub("(<IsTruncated>)[a-z]+", r"\1true", text, flags=re.I).encode()
    items = re.findall(b"<Contents>.*?</Contents>", listing, re.S)
    rest = re.sub(b"<Contents>.*?</Contents>", b"", listing, flags=re.S)
    kept = b"".join(items[::-1]) if action == "unsorted" else b""
    return rest.replace(b"</ListBucketResult>", kept + b"</ListBucketResult>")


def _opaque(etag: str) -> str:
    """An ETag of the same form that has nothing to do with the bytes."""
    plain, dash, parts = etag.strip('"').partition("-")
    return hashlib.md5(plain.encode(), usedforsecurity=False).hexdigest() + dash + parts


def _hide_etags(operation: str, answer: Answer) -> None:
    """Answer as for objects encrypted with a key of a key service (SSE-KMS).

    Those of parts stay: the client has to name them again.
    """
    if operation not in ENCRYPTED:
        return
    named = re.compile(r'((?:&quot;|")?)([0-9a-f]{32}(?:-\d+)?)\1')

    def hide(text: str) -> str:
        return named.sub(lambda match: match[1] + _opaque(match[2]) + match[1], text)

    answer.headers = [
        (name, hide(value) if name.lower() == "etag" else value) for name, value in answer.headers
    ]
    if operation != "GetObject":
        body = answer.body.decode()
        answer.body = re.sub("(?<=<ETag>)[^<]*", lambda m: hide(m[0]), body).encode()
    if operation != "ListObjectsV2" and answer.status == 200:
        answer.headers.append(("x-amz-server-side-encryption", "aws:kms"))


def _strip(action: str, answer: Answer) -> None:
    """Take out of an answer what identifies an object's bytes."""
    if action == "empty_etag":
        answer.body = re.sub(b"<ETag>.*?</ETag>", b"<ETag></ETag>", answer.body)
    kept = []
    for name, value in answer.headers:
        if name.lower() == "etag":
            count = value.strip('"').partition("-")[2]
            if action == "other_etag":
                kept.append((name, f'"{"0" * 32}-{count}"'))
            elif action == "no_checksum":
                kept.append((name, value))
        elif action != "no_checksum" or "checksum" not in name.lower():
            kept.append((name, value))
    answer.headers = kept


def _take_out(request: S3Request, text: str) -> list[str]:
    """Remove keys that contain `text` from a batch delete; returns them."""
    refused: list[str] = []

    def judge(match: re.Match[str]) -> str:
        key = match[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        if text not in key:
            return match[0]
        refused.append(key)
        return ""

    document = request.body.decode()
    document = re.sub(r"<Object>\s*<Key>(.*?)</Key>.*?</Object>", judge, document, flags=re.S)
    request.body = document.encode()
    return refused


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1024 * 1024
    front: Front

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        if self.path.startswith("/-/"):
            said = json.dumps(self.front.control(self.path, body)).encode()
            self._reply(Answer(200, [("Content-Type", "application/json")], said))
            return
        try:
            answer = self.front.handle(self._understand(body))
        except Hang as hang:
            self._wait_for_close(hang.seconds)
            self.close_connection = True
            return
        self._reply(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def handle_expect_100(self) -> bool:
        proceed = super().handle_expect_100()
        self.wfile.flush()
        return proceed

    def _understand(self, body: bytes) -> S3Request:
        target, _, raw_query = self.path.partition("?")
        path = unquote(target)
        bucket, _, key = path.lstrip("/").partition("/")
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(raw_query, keep_blank_values=True))
        headers[":target"] = self.path
        operation = operation_of(self.command, key, query, headers)
        return S3Request(
            operation, bucket, key, query, headers, body, self.command, path, raw_query
        )

    def _reply(self, answer: Answer) -> None:
        head = [f"HTTP/1.1 {answer.status} {_phrase(answer.status)}"]
        if not any(name.lower() == "date" for name, _ in answer.headers):
            date = formatdate(time.time() + self.front.state.clock_ahead, usegmt=True)
            head.append(f"Date: {date}")
        skip = {"content-length", "connection", "transfer-encoding"}
        announced = str(len(answer.body))
        for name, value in answer.headers:
            if name.lower() not in skip:
                head.append(f"{name}: {value}")
            elif name.lower() == "content-length" and self.command == "HEAD":
                announced = value
        if answer.status not in (204, 304):
            head.append(f"Content-Length: {announced}")
        self.wfile.write(("\r\n".join(head) + "\r\n\r\n").encode("latin-1"))
        if self.command != "HEAD":
            self.wfile.write(answer.body[: answer.send])
        self.wfile.flush()
        if answer.send is not None:
            self.close_connection = True

    def _wait_for_close(self, seconds: float) -> None:
        """Stay silent, but no longer than the client cares to wait."""
        self.connection.settimeout(seconds or 0.001)
        try:
            self.connection.recv(1)
        except (TimeoutError, ConnectionError):
            return

    def log_message(self, *args: Any) -> None:
        """Say nothing: stderr is for what goes wrong in the server."""


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def build(port: int) -> Server:
    """A server bound to `port` of the loopback interface (0: any free one), not yet serving."""
    handler = type("BoundHandler", (Handler,), {"front": Front()})
    return Server(("127.0.0.1", port), handler)
