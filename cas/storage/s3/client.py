"""What our boto3 client does otherwise than others: reads times and sends checksums."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.utils import parse_timestamp


def read_time(value: Any) -> datetime:
    """A time as S3 writes it, in a listing (ISO 8601) or a header (RFC 9110, 5.6.7).

    Botocore's own parser guesses at the format, for as long as all else about a listed object
    takes. It is left what is written otherwise.
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
        request.headers["Content-MD5"] = base64.b64encode(digest).decode()
