"""JSON bodies of bounded size: parsing whatever is sent would let a client fill the memory."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from django.conf import settings
from rest_framework import status
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import JSONParser


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
