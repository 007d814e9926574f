"""JSON bodies of bounded size: parsing whatever is sent would let a client fill the memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from rest_framework import status
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import JSONParser
from rest_framework.utils.json import strict_constant


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
            return json.loads(
                data.decode(), object_pairs_hook=_each_once, parse_constant=strict_constant
            )
        except (ValueError, RecursionError) as error:
            # No UTF-8, no JSON, or nested too deep.
            raise ParseError(f"The body is not JSON that can be read: {error}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON (RFC 8259, 4), whose names are unique. Raises ParseError."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = Counter(name for name, _value in pairs)
        raise ParseError(f"{names.most_common(1)[0][0]} is given more than once.")
    return found
