"""The one place where what botocore raises becomes a StoreError."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import IncompleteRead
from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    LoginError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ResponseStreamingError,
    SSOError,
    TokenRetrievalError,
)
from urllib3.exceptions import HTTPError

from cas.storage.base import (
    Absent,
    Changed,
    Corrupt,
    CutShort,
    Denied,
    StoreError,
    StoreFull,
    Unreachable,
    Unsupported,
)


class Conflict(Unreachable):
    """Another write of the same key was under way. Worth an immediate retry."""


class Resent(Changed):
    """Refused, perhaps because an earlier sending of the same request was carried out."""


_CODES: Final[dict[str, type[StoreError]]] = {
    "NoSuchKey": Absent,
    "NotFound": Absent,
    "NotImplemented": Unsupported,
    "MethodNotAllowed": Unsupported,
    "KeyTooLongError": Absent,
    "NoSuchVersion": Absent,
    # A bucket that is not there is a mistake in the configuration, not an absent object: the
    # difference keeps a cleanup from taking an empty listing for the truth.
    "NoSuchBucket": Denied,
    "AccessDenied": Denied,
    "AuthorizationHeaderMalformed": Denied,
    "IllegalLocationConstraintException": Denied,
    "PermanentRedirect": Denied,
    "AllAccessDisabled": Denied,
    "AccountProblem": Denied,
    "ExpiredToken": Denied,
    "ExpiredTokenException": Denied,
    "InvalidAccessKeyId": Denied,
    "InvalidToken": Denied,
    "RequestTimeTooSkewed": Denied,
    "SignatureDoesNotMatch": Denied,
    "TokenRefreshRequired": Denied,
    "PreconditionFailed": Changed,
    # Of an upload's completion: it was completed already, by a request whose answer got lost.
    "NoSuchUpload": Resent,
    "BadDigest": Corrupt,
    "IncompleteBody": Corrupt,
    "InvalidDigest": Corrupt,
    "XAmzContentChecksumMismatch": Corrupt,
    "XAmzContentSHA256Mismatch": Corrupt,
    # Asked for bytes that a stored object of the expected size would have.
    "InvalidRange": Corrupt,
    "EntityTooLarge": StoreFull,
    "QuotaExceeded": StoreFull,
    "XMinioAdminBucketQuotaExceeded": StoreFull,
    "XMinioStorageFull": StoreFull,
    "ConditionalRequestConflict": Conflict,
    "InternalError": Unreachable,
    "OperationAborted": Conflict,
    "RequestTimeout": Unreachable,
    "ServiceUnavailable": Unreachable,
    "SlowDown": Unreachable,
    "Throttling": Unreachable,
    "ThrottlingException": Unreachable,
    "TooManyRequests": Unreachable,
}

_STATUSES: Final[dict[int, type[StoreError]]] = {
    301: Denied,
    401: Denied,
    403: Denied,
    404: Absent,
    408: Unreachable,
    409: Conflict,
    412: Changed,
    416: Corrupt,
    429: Unreachable,
    405: Unsupported,
    501: Unsupported,
    507: StoreFull,
}

_CREDENTIALS: Final = (
    CredentialRetrievalError,
    LoginError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def meaning(code: str, status: int = 0) -> type[StoreError]:
    """The kind of error behind an S3 error code, or failing that behind its HTTP status."""
    if code in _CODES:
        return _CODES[code]
    # A HEAD has no body, so botocore puts the bare status in place of the code.
    status = int(code) if code.isdecimal() else status
    if status in _STATUSES:
        return _STATUSES[status]
    return Unreachable if status >= 500 else StoreError


def translate(error: Exception, key: str) -> StoreError:
    """The StoreError that an exception of botocore's amounts to."""
    if isinstance(error, ClientError):
        meant = meaning(code_of(error), status_of(error))
        if meant is Changed and error.response.get("ResponseMetadata", {}).get("RetryAttempts"):
            meant = Resent
        cure = _cure(error)
        return meant(f"{error}. {cure}" if cure else str(error), key=key, cure=cure)
    kind: type[StoreError] = StoreError
    if isinstance(error, _CREDENTIALS):
        kind = Denied
    elif isinstance(error, FlexibleChecksumError):
        kind = Corrupt
    elif _ended_early(error):
        kind = CutShort
    elif isinstance(error, (ConnectionError, HTTPClientError, HTTPError, OSError)):
        kind = Unreachable
    elif isinstance(error, ParamValidationError):
        kind = Absent
    message = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in message:
        message += (
            ". If its certificate is of an authority of your own, name that in CAS_S3_CA_BUNDLE"
        )
    return kind(message, key=key)


_CURES: Final = {
    "NoSuchBucket": "Correct CAS_S3_BUCKET or CAS_S3_ENDPOINT_URL, or create the bucket",
    "InvalidAccessKeyId": "The store does not know this access key: correct CAS_S3_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "The secret is not the access key's: correct CAS_S3_SECRET_ACCESS_KEY",
    "ExpiredToken": "The credentials have expired: renew them",
    "ExpiredTokenException": "The credentials have expired: renew them",
}

_WRONG_REGION: Final = frozenset(
    {"301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
    | {"PermanentRedirect"}
)

_RIGHTS: Final = {
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "CompleteMultipartUpload": "s3:PutObject",
    "CopyObject": "s3:GetObject and s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "GetBucketVersioning": "s3:GetBucketVersioning",
    "GetObject": "s3:GetObject, and s3:ListBucket, without which what is absent is denied too",
    "GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration",
    "HeadBucket": "s3:ListBucket",
    "HeadObject": "s3:GetObject, and s3:ListBucket, without which what is absent is denied too",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListObjectVersions": "s3:ListBucketVersions",
    "ListObjectsV2": "s3:ListBucket",
    "ListParts": "s3:ListMultipartUploadParts",
    "PutObject": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:GetObject and s3:PutObject",
}
"""What a policy calls the right to each operation."""

_MOST_SKEW: Final = timedelta(minutes=10)
"""Less than the 15 minutes from which S3 refuses a request for its time."""


def _cure(error: ClientError) -> str:
    """What an operator can do about a refusal; empty where that is not known."""
    code, status = code_of(error), status_of(error)
    skew = _skew(error)
    if code == "RequestTimeTooSkewed" or (status == 403 and abs(skew) > _MOST_SKEW):
        way = "behind" if skew > timedelta() else "ahead of"
        by = f"{abs(skew).total_seconds() / 60:.0f} minutes {way}" if skew else "not"
        return f"This machine's clock is {by} the store's: set it right"
    if code in _CURES:
        return _CURES[code]
    region = _region(error)
    if code in _WRONG_REGION or (code == "400" and region):
        return f"The bucket is in another region: set CAS_S3_REGION to {region or 'its own'}"
    if status == 403:
        right = _RIGHTS.get(error.operation_name, f"to {error.operation_name}")
        return f"These credentials lack a right that is needed: {right}"
    return ""


def bucket_missing(name: str) -> Denied:
    """What is said where only a status tells that there is no bucket."""
    cure = _CURES["NoSuchBucket"]
    return Denied(f"there is no bucket {name}. {cure}", cure=cure)


def _headers(error: ClientError) -> Mapping[str, str]:
    headers: Mapping[str, str] = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers


def _skew(error: ClientError) -> timedelta:
    """How far the store's clock is ahead of this machine's, by the answer's Date."""
    try:
        said = parsedate_to_datetime(_headers(error).get("date", ""))
    except ValueError:
        return timedelta()
    return said - datetime.now(UTC) if said.tzinfo else timedelta()


def _region(error: ClientError) -> str:
    said = error.response.get("Error", {}).get("Region")
    return str(said or _headers(error).get("x-amz-bucket-region", ""))


def _ended_early(error: Exception) -> bool:
    """Whether the body was closed before its announced end, in order and not by a reset."""
    if isinstance(error, IncompleteReadError):
        return True
    if not isinstance(error, ResponseStreamingError):
        return False
    reasons = getattr(error.__context__, "args", ())
    return any(isinstance(reason, IncompleteRead) for reason in reasons)


@contextlib.contextmanager
def translated(key: str = "") -> Iterator[None]:
    """Raise what goes wrong between us and S3 as a StoreError about `key`."""
    try:
        yield
    except (ClientError, BotoCoreError, HTTPError) as error:
        raise translate(error, key) from error
