"""What the API shows of an attachment, and what it accepts. The object key never leaves."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import NotFound

from attachments.models import Attachment


class AttachmentSerializer(serializers.ModelSerializer[Attachment]):
    """An attachment. Only the title can be written; everything else follows from the bytes."""

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
        ]
        read_only_fields = [name for name in fields if name != "title"]
        extra_kwargs = {"title": {"allow_blank": False}}

    def update(self, instance: Attachment, validated_data: dict[str, Any]) -> Attachment:
        """Raises NotFound if the attachment was deleted meanwhile."""
        title = validated_data.get("title", instance.title)
        if not instance.rename(title):
            raise NotFound("This attachment was deleted meanwhile.")
        return instance

    def to_representation(self, instance: Attachment) -> dict[str, Any]:
        shown: dict[str, Any] = super().to_representation(instance)
        found = instance.links()
        shown["download_url"] = found.download
        shown["view_url"] = found.view
        shown["thumbnail_url"] = found.thumbnail
        return shown


class UploadInput(serializers.Serializer[Any]):
    """Either a `file` (multipart) or a `url` (JSON), each with an optional `title`."""

    file = serializers.FileField(
        required=False, allow_empty_file=True, max_length=None, use_url=False
    )
    url = serializers.URLField(required=False, max_length=2000)
    title = serializers.CharField(required=False, allow_blank=True, default="", max_length=255)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("file" in attrs) == ("url" in attrs):
            raise serializers.ValidationError("Send either a file or a url.", code="file_or_url")
        if "url" in attrs and not attrs["url"].lower().startswith(("http://", "https://")):
            raise serializers.ValidationError(
                {"url": "Only http and https links are accepted."}, code="unsafe_url"
            )
        return attrs
