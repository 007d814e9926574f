"""Blobs in an S3 bucket."""

from cas.storage.s3.store import S3BlobStorage

__all__ = ["S3BlobStorage"]
