"""What the API shows of parts and types, and what it accepts."""

from __future__ import annotations

import logging
from typing import Any, Final

from django.core.exceptions import ValidationError as InvalidName
from django.db import transaction
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from attachments.addresses import LONGEST, web_address
from attachments.locks import retried
from attachments.models import folded_fields
from attachments.serializers import StrictSerializer
from parts.addresses import is_executed
from parts.models import TAG_LENGTH, Part, Type, check_shows
from parts.tags import names_in_order, set_tags

logger = logging.getLogger(__name__)

MOST_TAGS: Final = 50
"""Tags of one part."""


def name_that_shows(name: str) -> None:
    """Validator of a name. Raises ValidationError."""
    try:
        check_shows(name)
    except InvalidName as error:
        raise serializers.ValidationError(error.message, code=error.code) from error


class TypeSerializer(serializers.ModelSerializer[Type], StrictSerializer):
    class Meta:
        model = Type
        fields = ["id", "name", "version"]
        read_only_fields = ["version"]
        extra_kwargs = {"name": {"validators": [name_that_shows]}}

    def update(self, instance: Type, validated_data: dict[str, Any]) -> Type:
        if validated_data.get("name", instance.name) == instance.name:
            return instance
        instance.name = validated_data["name"]
        try:
            instance.clean()
        except InvalidName as error:
            fault = ErrorDetail(error.messages[0], code="unique")
            raise serializers.ValidationError({"name": [fault]}) from error
        instance.save()
        return instance


class TagNames(serializers.ListField):
    """A part's tags as a list of names; a name that is new becomes a tag."""

    child = serializers.CharField(max_length=TAG_LENGTH, validators=[name_that_shows])

    def to_representation(self, data: Any) -> list[str]:
        return names_in_order(data)


class TypeName(serializers.SlugRelatedField[Type]):
    """The name of a type, however it is written."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(slug_field="name", **kwargs)

    def to_internal_value(self, data: Any) -> Type:
        if not isinstance(data, str):
            self.fail("invalid")
        found = Type.objects.filter(folded=Type.folded_name(data)).first()
        if found is None:
            self.fail("does_not_exist", slug_name="name", value=data)
        return found


class Address(serializers.CharField):
    """The address of a page, or what an older installation had there; see `parts.addresses`."""

    default_validators = [web_address]

    def run_validation(self, data: Any = serializers.empty) -> Any:
        stored = getattr(self.parent.instance, self.field_name or "", None)
        return data if data and data == stored else super().run_validation(data)

    def to_representation(self, value: str) -> str:
        return "" if is_executed(value) else value


def _shown() -> list[str]:
    """A part's own columns in the model's order, its tags after its type."""
    hidden = {"cover_attachment", *(field.name for field in folded_fields(Part))}
    names = [field.name for field in Part._meta.fields if field.name not in hidden]
    names.insert(names.index("type") + 1, "tags")
    return names


SHOWN: Final = _shown()


class PartSerializer(serializers.ModelSerializer[Part], StrictSerializer):
    """A part. `type` and `tags` are names; `key` is generated and never changes."""

    COMPUTED = frozenset({"cover_url"})

    type = TypeName(queryset=Type.objects.all(), allow_null=True, required=False)
    tags = TagNames(required=False, max_length=MOST_TAGS)
    product_page = Address(required=False, allow_blank=True, max_length=LONGEST)
    seller_link = Address(required=False, allow_blank=True, max_length=LONGEST)

    class Meta:
        model = Part
        fields = SHOWN
        read_only_fields = ["id", "key", "created_at", "updated_at", "version"]
        extra_kwargs = {"pin_count": {"min_value": 1, "max_value": 2_147_483_647}}

    def to_representation(self, instance: Part) -> dict[str, Any]:
        shown: dict[str, Any] = super().to_representation(instance)
        shown["cover_url"] = cover_url(instance)
        return shown

    @retried
    def create(self, validated_data: dict[str, Any]) -> Part:
        validated_data = dict(validated_data)
        names = validated_data.pop("tags", [])
        with transaction.atomic():
            part = Part(**validated_data)
            part.save()
            set_tags(part, names)
        return part

    def update(self, instance: Part, validated_data: dict[str, Any]) -> Part:
        """Write what changes of a part that was read under its lock."""
        names = validated_data.pop("tags", None)
        changed = [
            name for name, value in validated_data.items() if getattr(instance, name) != value
        ]
        for name in changed:
            setattr(instance, name, validated_data[name])
        if changed:
            instance.save(update_fields=[*changed, "updated_at"])
        if names is not None:
            set_tags(instance, names)
        return instance


class CoverInput(StrictSerializer):
    attachment_id = serializers.IntegerField(min_value=1, max_value=2**63 - 1)


class CopyInput(StrictSerializer):
    attachment_id = serializers.IntegerField(min_value=1, max_value=2**63 - 1)
    target_part_key = serializers.CharField(max_length=10)
    set_as_cover = serializers.BooleanField(default=False)

    def validate_target_part_key(self, key: str) -> str:
        return key.upper()


def cover_url(part: Part) -> str | None:
    """The URL of the cover's thumbnail; None without a cover, or when it has no picture."""
    cover = part.cover_attachment
    if cover is None:
        return None
    if not cover.has_picture:
        logger.warning(
            "part %s has the cover attachment %s, which has no picture", part.key, cover.pk
        )
        return None
    # The cover is this part's own: setting it here saves a query for each part of a list.
    cover.part = part
    return cover.links().thumbnail
