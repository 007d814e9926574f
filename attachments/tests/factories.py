"""Files and rows that tests are made of."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from django.core.files.uploadedfile import SimpleUploadedFile
from PIL import Image

from attachments.models import Attachment
from cas.digest import Digest, Hasher
from cas.storage import attachment_store
from cas.storage.base import Staged
from parts.covers import first_image_becomes_cover
from parts.models import Part

PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"


def picture(color: str = "red", size: tuple[int, int] = (40, 30), codec: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, codec)
    return buffer.getvalue()


def named(data: bytes, name: str = "photo.png") -> SimpleUploadedFile:
    """A file as a test client sends it."""
    return SimpleUploadedFile(name, data, "application/octet-stream")


def staged(data: bytes, path: Path) -> Staged:
    path.write_bytes(data)
    hasher = Hasher()
    hasher.update(data)
    return Staged(path, hasher.digest, hasher.md5, hasher.size)


def attached(part: Part, **fields: Any) -> Attachment:
    """A row as it is once it is attached, whatever its object is."""
    row = Attachment.objects.create(part=part, **fields)
    first_image_becomes_cover(row)
    return row


def stored_row(part: Part, data: bytes, path: Path, **fields: Any) -> Attachment:
    """A row on a stored blob, as an image unless `fields` say otherwise."""
    attachment_store().create(staged(data, path))
    return attached(part, **file_fields(data) | fields)


def legacy_row(part: Part, data: bytes, path: Path, **fields: Any) -> Attachment:
    """A row of the older layout with its object."""
    key = f"parts/{part.pk}/attachments/{hashlib.md5(data).hexdigest()}.png"  # noqa: S324
    path.write_bytes(data)
    attachment_store().put_legacy(key, path)
    return attached(part, **file_fields(data) | {"s3_key": key} | fields)


def file_fields(data: bytes) -> dict[str, Any]:
    return {
        "attachment_type": Attachment.Kind.IMAGE,
        "title": "Photo",
        "s3_key": Digest.of(data).key,
        "filename": "photo.png",
        "content_type": "image/png",
        "file_size": len(data),
    }
