"""Bodies of requests: JSON of bounded size, and multipart of which no part is left out in silence.

Django leaves a part out whose header it cannot read, and replaces what is not UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from django.conf import settings
from django.http import multipartparser
from django.http.multipartparser import RAW, MultiPartParserError
from rest_framework import status
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import JSONParser, MultiPartParser


class BodyTooLarge(APIException):
    """The JSON body is larger than any that the API has use for."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_code = "body_too_large"
    default_detail = "The body is too large."


class BoundedJSONParser(JSONParser):
    """JSON up to `DATA_UPLOAD_MAX_MEMORY_SIZE` bytes. Raises BodyTooLarge, ParseError."""

    def parse(
        self,
        stream: Any,
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0
        # Counted while reading: Content-Length may be missing or wrong.
        data = stream.read(limit + 1)
        if len(data) > limit:
            raise BodyTooLarge
        try:
            return super().parse(BytesIO(data), media_type, dict(parser_context or {}))
        except (RecursionError, LookupError) as error:
            # Nested too deep, or a charset that Python does not know.
            raise ParseError("The body is not JSON that can be read.") from error


class StrictMultiPartParser(MultiPartParser):
    """Multipart bodies (RFC 7578) whose names and values are UTF-8. Raises ParseError."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        parsed = super().parse(*args, **kwargs)
        for name, values in parsed.data.lists():
            if any("\ufffd" in text for text in (name, *values)):
                raise ParseError(f"The value of {name} is not UTF-8.")
        for name, files in parsed.files.lists():
            if any("\ufffd" in (file.name or "") for file in files):
                raise ParseError(f"The file name of {name} is not UTF-8.")
        return parsed


_read_part = multipartparser.parse_boundary_stream  # type: ignore[attr-defined]


def _read_named_part(stream: Any, max_header_size: int) -> Any:
    """A part as Django reads it. Raises MultiPartParserError where it would leave it out."""
    start = stream.read(max_header_size)
    stream.unget(start)
    header, end, _content = start.partition(b"\r\n\r\n")
    try:
        header.decode()
    except UnicodeDecodeError as error:
        if end:
            raise MultiPartParserError("A name in the body is not UTF-8.") from error
    part = _read_part(stream, max_header_size)
    if end and part[0] == RAW:
        raise MultiPartParserError("A part of the body has no name that can be read.")
    return part


# There is no other place to put this: the parser finds the function in its own module.
multipartparser.parse_boundary_stream = _read_named_part  # type: ignore[attr-defined]
