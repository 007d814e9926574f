"""What the API shows of an attachment, and what it accepts. The object key never leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, NotFound

from attachments.addresses import LONGEST, web_address
from attachments.models import Attachment


def unknown(name: str, known: Iterable[str], *, code: str) -> ErrorDetail:
    """What is said of a name that is none, with the nearest that is one."""
    nearest = get_close_matches(name, known, 1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return ErrorDetail(f"There is no such name.{hint}", code)


class StrictSerializer(serializers.Serializer[Any]):
    """Takes what it can take in full, or refuses it with a reason.

    A name that it does not have is refused, and so is a single value that is given twice, and one
    that cannot be written, unless it is what is there already: an answer can be changed and sent
    back. Null clears an optional text or list.
    """

    COMPUTED: frozenset[str] = frozenset()
    """What answers have beside the fields."""

    def run_validation(self, data: Any = serializers.empty) -> Any:
        if isinstance(data, Mapping):
            if faults := {name: [fault] for name in data if (fault := self._fault(data, name))}:
                raise serializers.ValidationError(faults)
            data = self._cleared(data)
        return super().run_validation(data)

    def _fault(self, data: Mapping[str, Any], name: str) -> ErrorDetail | None:
        field = self.fields.get(name)
        if field is None and name not in self.COMPUTED:
            known = [each for each, found in self.fields.items() if not found.read_only]
            return unknown(name, known, code="unknown_field")
        given = data.getlist(name) if hasattr(data, "getlist") else [data[name]]
        if len(given) > 1 and not isinstance(field, serializers.ListField):
            return ErrorDetail("This is given more than once.", code="repeated")
        if (field is None or field.read_only) and not self._is_there(name, data[name]):
            return ErrorDetail("This cannot be written.", code="read_only")
        return None

    def _is_there(self, name: str, value: Any) -> bool:
        return (
            self.instance is not None and self.to_representation(self.instance).get(name) == value
        )

    def _cleared(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        empty: dict[str, Any] = {}
        for name, field in self.fields.items():
            if name in data and data[name] is None and not (field.allow_null or field.required):
                if isinstance(field, serializers.ListField):
                    empty[name] = []
                elif isinstance(field, serializers.CharField) and field.allow_blank:
                    empty[name] = ""
        return {**data, **empty} if empty else data


class AttachmentSerializer(serializers.ModelSerializer[Attachment], StrictSerializer):
    """An attachment. Only the title can be written; everything else follows from the bytes."""

    COMPUTED = frozenset({"download_url", "view_url", "thumbnail_url"})

    part_key = serializers.CharField(source="part.key", read_only=True)

    class Meta:
        model = Attachment
        fields = [
            "id",
            "part_key",
            "attachment_type",
            "title",
            "url",
            "filename",
            "content_type",
            "file_size",
            "created_at",
            "updated_at",
            "version",
        ]
        read_only_fields = [name for name in fields if name != "title"]
        extra_kwargs = {"title": {"allow_blank": False}}

    def update(self, instance: Attachment, validated_data: dict[str, Any]) -> Attachment:
        """Raises NotFound if the attachment was deleted meanwhile."""
        title = validated_data.get("title", instance.title)
        if title != instance.title and not instance.rename(title):
            raise NotFound("This attachment was deleted meanwhile.")
        return instance

    def to_representation(self, instance: Attachment) -> dict[str, Any]:
        shown: dict[str, Any] = super().to_representation(instance)
        found = instance.links()
        shown["download_url"] = found.download
        shown["view_url"] = found.view
        shown["thumbnail_url"] = found.thumbnail
        return shown


class UploadInput(StrictSerializer):
    """Either a `file` (multipart) or a `url` (JSON), each with an optional `title`."""

    file = serializers.FileField(
        required=False, allow_empty_file=True, max_length=None, use_url=False
    )
    url = serializers.CharField(required=False, max_length=LONGEST, validators=[web_address])
    title = serializers.CharField(required=False, allow_blank=True, default="", max_length=255)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("file" in attrs) == ("url" in attrs):
            raise serializers.ValidationError("Send either a file or a url.", code="file_or_url")
        return attrs
