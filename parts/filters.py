"""What a request for a list of parts can say: search, filters, order."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from rest_framework import serializers

from parts.models import Part, Type
from parts.search import TooLong, matching, tagged_with, words_of

ORDERINGS = {
    "key": "key",
    "description": "description_sorted",
    "manufacturer": "manufacturer_sorted",
    "manufacturer_code": "manufacturer_code_sorted",
    "created_at": "created_at",
    "updated_at": "updated_at",
}
"""What a list can be sorted by, and the column that does it."""

LONGEST = 5000
"""Characters of a name that is asked for. How long it may be is decided once it is folded."""


class PartQuery(serializers.Serializer[Any]):
    """The query string of a list of parts. A value that makes no sense is an error, not ignored.

    `type` and `tag` are names; `tag` may be repeated, and then all of them must be on the part.
    `ordering` is a field, descending with a leading `-`; a search puts an exact key first.
    """

    search = serializers.CharField(required=False, allow_blank=True, default="", max_length=LONGEST)
    type = serializers.CharField(required=False, max_length=LONGEST)
    tag = serializers.ListField(
        child=serializers.CharField(max_length=LONGEST), required=False, max_length=20
    )
    has_cover = serializers.BooleanField(required=False, allow_null=True, default=None)
    ordering = serializers.ChoiceField(
        choices=[sign + name for name in ORDERINGS for sign in ("", "-")], required=False
    )

    def validate_search(self, query: str) -> str:
        try:
            words_of(query)
        except TooLong as error:
            raise serializers.ValidationError(str(error)) from error
        return query


def filtered(parts: QuerySet[Part], query: dict[str, Any]) -> QuerySet[Part]:
    """The parts that a validated PartQuery selects, in its order."""
    asked = query.get("ordering", "key")
    column = ORDERINGS[asked.removeprefix("-")]
    # One direction, so that the index serves either.
    order = [f"-{column}", "-pk"] if asked.startswith("-") else [column, "pk"]
    if query["search"].strip():
        parts = matching(parts, query["search"])
        order.insert(0, "not_exact")
    if "type" in query:
        parts = parts.filter(type__folded=Type.folded_name(query["type"]))
    if "tag" in query:
        parts = tagged_with(parts, query["tag"])
    if query["has_cover"] is not None:
        parts = parts.filter(cover_attachment__isnull=not query["has_cover"])
    return parts.order_by(*order)
