"""The one place where what botocore raises becomes a StoreError."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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
        return meant(str(error), key=key)
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
    return kind(str(error), key=key)


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
