"""Requests to one bucket: what our client does otherwise than others, and what errors mean."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import io
import logging
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import IncompleteRead
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore import exceptions as botocore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.utils import parse_timestamp
from django.core.exceptions import ImproperlyConfigured
from storages.backends.s3 import S3Storage
from storages.utils import setting
from urllib3.exceptions import HTTPError

from cas.digest import Digest
from cas.storage.base import (
    Absent,
    BlobStat,
    ByteRange,
    Changed,
    Corrupt,
    CutShort,
    Denied,
    StoreError,
    StoreFull,
    Unreachable,
    Unsupported,
)
from cas.storage.capabilities import known

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

log = logging.getLogger(__name__)

MIB: Final = 1024 * 1024


USER_AGENT: Final = f"cas Boto3/{boto3.__version__}"
"""Botocore's own is put together anew for each request, an eighth of all a small one costs."""


class Bucket(S3Storage):  # type: ignore[misc]
    """Requests to the bucket that the options of a store name.

    Takes django-storages' options (except `location` and `gzip`: a key is the whole key, and
    the bytes are the bytes) and those of `get_default_settings`, each of which is also a Django
    setting `CAS_S3_<OPTION>`. Times are in seconds, sizes in bytes: objects larger than a
    threshold go in parts of about the part size.
    """

    client_config: Config
    multipart_threshold: int
    part_size: int
    copy_threshold: int
    copy_part_size: int

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for forbidden in ("location", "gzip"):
            if getattr(self, forbidden):
                raise ImproperlyConfigured(f"a blob store cannot be used with {forbidden!r}")
        own = Config(user_agent=USER_AGENT).merge(self.client_config)
        self.client_config = own.merge(
            Config(
                connect_timeout=self.connect_timeout,
                read_timeout=self.read_timeout,
                retries={"mode": "standard", "total_max_attempts": self.max_attempts},
                max_pool_connections=self.pool_size,
                tcp_keepalive=True,
                # Some stores refuse the checksums that newer botocore adds. Those that the
                # store was seen to check are sent with each request.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
        )
        self._clients: dict[int, Any] = {}

    def get_default_settings(self) -> dict[str, Any]:
        return {
            **super().get_default_settings(),
            # By itself boto3 still presigns with version 2, which newer services refuse.
            "signature_version": setting("AWS_S3_SIGNATURE_VERSION", "s3v4"),
            "connect_timeout": setting("CAS_S3_CONNECT_TIMEOUT", 5),
            "read_timeout": setting("CAS_S3_READ_TIMEOUT", 60),
            "max_attempts": setting("CAS_S3_MAX_ATTEMPTS", 4),
            "pool_size": setting("CAS_S3_POOL_SIZE", 64),
            "multipart_threshold": setting("CAS_S3_MULTIPART_THRESHOLD", 64 * MIB),
            "part_size": setting("CAS_S3_PART_SIZE", 16 * MIB),
            "copy_threshold": setting("CAS_S3_COPY_THRESHOLD", 5 * 1024 * MIB),
            "copy_part_size": setting("CAS_S3_COPY_PART_SIZE", 512 * MIB),
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_clients": {}}

    @property
    def client(self) -> Any:
        """The one boto3 client of this process, shared by its threads.

        A forked child makes its own: connections must not be shared across a fork.
        """
        client = self._clients.get(os.getpid())
        if client is None:
            session = self._create_session()
            parsers = session._session.get_component("response_parser_factory")
            parsers.set_parser_defaults(timestamp_parser=read_time)
            client = session.client(
                "s3",
                region_name=self.region_name,
                use_ssl=self.use_ssl,
                endpoint_url=self.endpoint_url,
                config=self.client_config,
                verify=self.verify,
            )
            client.meta.events.register("before-sign.s3.DeleteObjects", send_content_md5)
            # Two threads may both get here; all then use the first one's.
            client = self._clients.setdefault(os.getpid(), client)
        return client

    @property
    def identity(self) -> str:
        return f"s3:{self.client.meta.endpoint_url}/{self.bucket_name}"

    @property
    def extra(self) -> dict[str, Any]:
        """Goes with every request that creates an object: encryption, storage class, ACL."""
        acl = {"ACL": self.default_acl} if self.default_acl else {}
        return {
            "ContentType": "application/octet-stream",
            **self.get_object_parameters(""),
            **acl,
        }

    def supports(self, capability: str) -> bool:
        """Whether the store was seen to support it. Sends nothing: what was not probed is not."""
        found = known(self)
        return found is not None and found.supports(capability)

    def request(self, operation: str, key: str = "", *, about: str = "", **params: Any) -> Any:
        """Send one request, about the object at `key` if it is given, and return the answer.

        Raises StoreError, with `about` in place of `key` where that is given.
        """
        named = {"Key": key} if key else {}
        with s3_errors(about or key):
            return getattr(self.client, operation)(Bucket=self.bucket_name, **named, **params)

    def head(self, key: str) -> BlobStat:
        """Raises Absent.

        The answer to a HEAD has no body that says why it is refused, so GET follows in that case.
        """
        _refuse_no_key(key)
        try:
            answer = self.request("head_object", key, **self._checksum_mode())
        except StoreError as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and code_of(cause) in ("400", "403"):
                with s3_errors(key), contextlib.suppress(BotoCoreError):
                    named = {"Bucket": self.bucket_name, "Key": key}
                    self.client.get_object(**named, Range="bytes=0-0")["Body"].close()
            raise
        return self._describe(key, answer, int(answer["ContentLength"]))

    def find(self, key: str) -> BlobStat | None:
        """What is at `key`, if anything is."""
        try:
            return self.head(key)
        except Absent:
            return None

    def read(self, key: str, byte_range: ByteRange | None = None) -> ObjectStream:
        """Raises Absent, and Corrupt if the object does not have these bytes."""
        _refuse_no_key(key)
        if byte_range is None:
            answer = self.request("get_object", key, **self._checksum_mode())
            length = size = int(answer["ContentLength"])
        else:
            text = f"bytes={byte_range.start}-{byte_range.stop - 1}"
            answer = self.request("get_object", key, Range=text)
            length = byte_range.stop - byte_range.start
            # RFC 9110, 14.4. There is none if the range was ignored.
            total = str(answer.get("ContentRange", "")).partition("/")[2]
            size = int(total) if total.isdecimal() else 0
            if int(answer["ContentLength"]) != length or byte_range.stop > size:
                answer["Body"].close()
                raise Corrupt(f"the object has {size} bytes, not the range", key=key)
        return ObjectStream(answer["Body"], length, self._describe(key, answer, size))

    def begin_upload(self, key: str, **params: Any) -> str:
        """The id of a new multipart upload."""
        answer = self.request("create_multipart_upload", key, **params, **self.extra)
        return str(answer["UploadId"])

    def abort_upload(self, key: str, upload_id: str) -> None:
        """One that is not there any more has left nothing, and is no error."""
        with contextlib.suppress(Absent, Resent):
            self.request("abort_multipart_upload", key, UploadId=upload_id)

    def give_up_upload(self, key: str, upload_id: str) -> None:
        """Abort a multipart upload; one that cannot be aborted is logged."""
        try:
            self.abort_upload(key, upload_id)
        except StoreError as error:
            log.warning("an unfinished upload of %s stays for the collector: %s", key, error)

    def _checksum_mode(self) -> dict[str, str]:
        return {"ChecksumMode": "ENABLED"} if self.supports("stored_checksum") else {}

    def _describe(self, key: str, answer: Mapping[str, Any], size: int) -> BlobStat:
        etag = str(answer["ETag"]).strip('"')
        stated = str(answer.get("ChecksumSHA256", ""))
        # That of an object of parts is one of checksums, not of the object's bytes.
        of_parts = "-" in stated or "-" in etag or answer.get("ChecksumType") == "COMPOSITE"
        of_bytes = stated and not of_parts and self.supports("stored_checksum")
        sha256 = sha256_of(stated) if of_bytes else None
        return BlobStat(key, size, answer["LastModified"], etag, sha256, md5_of(answer))


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


def md5_of(answer: Mapping[str, Any]) -> bytes | None:
    """The MD5 that an answer's ETag is, or None where an ETag is something else.

    It is for objects that were written in one request and are not encrypted with a key of
    their own.
    """
    etag = str(answer.get("ETag", "")).strip('"')
    encryption = str(answer.get("ServerSideEncryption", ""))
    if encryption.startswith("aws:kms") or answer.get("SSECustomerAlgorithm"):
        return None
    return bytes.fromhex(etag) if re.fullmatch("[0-9a-f]{32}", etag) else None


def sha256_of(stated: str) -> Digest | None:
    """The digest that a header states in base64, if it is one."""
    try:
        return Digest(base64.b64decode(stated, validate=True).hex())
    except (binascii.Error, ValueError):
        return None


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _refuse_no_key(key: str) -> None:
    if not 0 < len(key.encode(errors="surrogateescape")) <= 1024 or "\0" in key:
        raise Absent("this can be no key of an object", key=key)


def read_time(value: Any) -> datetime:
    """A time as S3 writes it, in a listing (ISO 8601) or a header (RFC 9110, 5.6.7).

    Botocore's own parser tries many formats, and takes as long as all else about a listed object.
    It is left what is written otherwise.
    """
    if isinstance(value, str):
        for parse in (datetime.fromisoformat, parsedate_to_datetime):
            with contextlib.suppress(ValueError):
                found = parse(value)
                if found.tzinfo is not None:
                    return found
    found = parse_timestamp(value)
    return found  # noqa: RET504 - botocore has no types


def send_content_md5(request: Any, **_: Any) -> None:
    """Give a batch delete the checksum that every store knows, in place of a newer one."""
    for name in list(request.headers):
        if name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-checksum-")):
            del request.headers[name]
    if "Content-MD5" not in request.headers:
        digest = hashlib.md5(request.body, usedforsecurity=False).digest()
        request.headers["Content-MD5"] = to_base64(digest)


class Conflict(Unreachable):
    """Another write of the same key was under way. Worth an immediate retry."""


class Resent(Changed):
    """Refused, perhaps because an earlier sending of the same request was carried out."""


_MEANINGS: Final = {
    Absent: "404 KeyTooLongError NoSuchKey NoSuchVersion NotFound",
    Unsupported: "405 501 MethodNotAllowed NotImplemented",
    # A bucket that is not there is a mistake in the configuration, not an absent object: an empty
    # listing must never be taken from it.
    Denied: """
        301 401 403 AccessDenied AccountProblem AllAccessDisabled AuthorizationHeaderMalformed
        ExpiredToken ExpiredTokenException IllegalLocationConstraintException InvalidAccessKeyId
        InvalidToken NoSuchBucket PermanentRedirect RequestTimeTooSkewed SignatureDoesNotMatch
        TokenRefreshRequired
    """,
    Changed: "412 PreconditionFailed",
    # Of an upload's completion: it was completed already, by a request whose answer got lost.
    Resent: "NoSuchUpload",
    # The range is one that an object of the expected size has.
    Corrupt: """
        416 BadDigest IncompleteBody InvalidDigest InvalidRange XAmzContentChecksumMismatch
        XAmzContentSHA256Mismatch
    """,
    StoreFull: """
        507 EntityTooLarge QuotaExceeded XMinioAdminBucketQuotaExceeded XMinioStorageFull
    """,
    Conflict: "409 ConditionalRequestConflict OperationAborted",
    Unreachable: """
        408 429 InternalError RequestTimeout ServiceUnavailable SlowDown Throttling
        ThrottlingException TooManyRequests
    """,
}
"""Error codes of S3, and statuses, by the error that they amount to."""

_KINDS: Final[dict[str, type[StoreError]]] = {
    code: kind for kind, codes in _MEANINGS.items() for code in codes.split()
}

_EXCEPTIONS: Final[dict[type[Exception], type[StoreError]]] = {
    botocore.CredentialRetrievalError: Denied,
    botocore.LoginError: Denied,
    botocore.MetadataRetrievalError: Denied,
    botocore.NoAuthTokenError: Denied,
    botocore.NoCredentialsError: Denied,
    botocore.PartialCredentialsError: Denied,
    botocore.SSOError: Denied,
    botocore.TokenRetrievalError: Denied,
    botocore.FlexibleChecksumError: Corrupt,
    botocore.ConnectionError: Unreachable,
    botocore.HTTPClientError: Unreachable,
    HTTPError: Unreachable,
    OSError: Unreachable,
    botocore.ParamValidationError: Absent,
}
"""What other exceptions mean, the first that fits."""


@contextlib.contextmanager
def s3_errors(key: str = "") -> Iterator[None]:
    """Raise what goes wrong between us and S3 as a StoreError about `key`."""
    try:
        yield
    except (ClientError, BotoCoreError, HTTPError) as error:
        raise translate(error, key) from error


def translate(error: Exception, key: str) -> StoreError:
    """The StoreError that an exception of botocore's amounts to."""
    if isinstance(error, ClientError):
        meant = meaning(code_of(error), status_of(error))
        if meant is Changed and error.response.get("ResponseMetadata", {}).get("RetryAttempts"):
            meant = Resent
        cure = _cure(error)
        return meant(f"{error}. {cure}" if cure else str(error), key=key, cure=cure)
    fitting = (kind for one, kind in _EXCEPTIONS.items() if isinstance(error, one))
    kind = CutShort if _ended_early(error) else next(fitting, StoreError)
    message = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in message:
        message += (
            ". If its certificate is of an authority of your own, name that in CAS_S3_CA_BUNDLE"
        )
    return kind(message, key=key)


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def meaning(code: str, status: int = 0) -> type[StoreError]:
    """The kind of error behind an S3 error code, or failing that behind its HTTP status."""
    # A HEAD has no body, so botocore puts the bare status in place of the code.
    status = int(code) if code.isdecimal() else status
    kind = _KINDS.get(code) or _KINDS.get(str(status))
    return kind or (Unreachable if status >= 500 else StoreError)


def _ended_early(error: Exception) -> bool:
    """Whether the body was closed before its announced end, in order and not by a reset."""
    if isinstance(error, botocore.IncompleteReadError):
        return True
    if not isinstance(error, botocore.ResponseStreamingError):
        return False
    reasons = getattr(error.__context__, "args", ())
    return any(isinstance(reason, IncompleteRead) for reason in reasons)


_CURES: Final = {
    "NoSuchBucket": "Correct CAS_S3_BUCKET or CAS_S3_ENDPOINT_URL, or create the bucket",
    "InvalidAccessKeyId": "The store does not know this access key: correct CAS_S3_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "The secret is not the access key's: correct CAS_S3_SECRET_ACCESS_KEY",
    "ExpiredToken": "The credentials have expired: renew them",
    "ExpiredTokenException": "The credentials have expired: renew them",
}

_WRONG_REGION: Final = (
    *("301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
    "PermanentRedirect",
)

_READ: Final = "s3:GetObject, and s3:ListBucket, without which what is absent is denied too"
_COPY: Final = "s3:GetObject and s3:PutObject"
_RIGHTS: Final = {
    "CompleteMultipartUpload": "s3:PutObject",
    "CopyObject": _COPY,
    "CreateMultipartUpload": "s3:PutObject",
    "DeleteObjects": "s3:DeleteObject",
    "GetObject": _READ,
    "GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration",
    "HeadBucket": "s3:ListBucket",
    "HeadObject": _READ,
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListObjectVersions": "s3:ListBucketVersions",
    "ListObjectsV2": "s3:ListBucket",
    "ListParts": "s3:ListMultipartUploadParts",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": _COPY,
}
"""What a policy calls the right to an operation, where that is not the operation's name."""

MOST_SKEW: Final = timedelta(minutes=10)
"""Less than the 15 minutes from which S3 refuses a request for its time."""


def _cure(error: ClientError) -> str:
    """What an operator can do about a refusal; empty where that is not known."""
    code, status = code_of(error), status_of(error)
    skew = clock_ahead(error.response) or timedelta()
    if code == "RequestTimeTooSkewed" or (status == 403 and abs(skew) > MOST_SKEW):
        way = "behind" if skew > timedelta() else "ahead of"
        by = f"{abs(skew).total_seconds() / 60:.0f} minutes {way}" if skew else "not"
        return f"This machine's clock is {by} the store's: set it right"
    if code in _CURES:
        return _CURES[code]
    stated = error.response.get("Error", {}).get("Region")
    region = str(stated or _headers(error.response).get("x-amz-bucket-region", ""))
    if code in _WRONG_REGION or (code == "400" and region):
        return f"The bucket is in another region: set CAS_S3_REGION to {region or 'its own'}"
    if status == 403:
        right = _RIGHTS.get(error.operation_name, f"s3:{error.operation_name}")
        return f"These credentials lack a right that is needed: {right}"
    return ""


def bucket_missing(name: str) -> Denied:
    """The error where only a status says that there is no bucket."""
    cure = _CURES["NoSuchBucket"]
    return Denied(f"there is no bucket {name}. {cure}", cure=cure)


def clock_ahead(answer: Mapping[str, Any]) -> timedelta | None:
    """How far the clock that dated an answer is ahead of this machine's; None without a date."""
    try:
        dated = parsedate_to_datetime(_headers(answer).get("date", ""))
    except ValueError:
        return None
    return dated - datetime.now(UTC) if dated.tzinfo else None


def _headers(answer: Mapping[str, Any]) -> Mapping[str, str]:
    headers: Mapping[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers
