"""Stores of blobs: on disk and on S3-compatible services."""

from cas.storage.base import attachment_store

__all__ = ["attachment_store"]
