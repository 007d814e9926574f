"""Pictures to make thumbnails of."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards: every corner has its own colour."""
    red = Image.linear_gradient("L").rotate(90).resize((width, height))
    green = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (red, green, Image.new("L", (width, height), 40)))


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, file_format, **options)
    return sink.getvalue()


def jpeg(width: int, height: int, **options: Any) -> bytes:
    return encode(gradient(width, height), "JPEG", quality=92, **options)


def png(width: int, height: int) -> bytes:
    return encode(gradient(width, height), "PNG")
