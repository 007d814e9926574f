"""The BlobStore contract on an S3 bucket.

Works on stores that support none of the conditions and checksums of S3, only slower:
`cas.storage.capabilities` finds out which ones to rely on, once per bucket.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

import boto3
from botocore.config import Config
from django.core.exceptions import ImproperlyConfigured
from storages.backends.s3 import S3Storage
from storages.utils import setting

from cas.digest import CAS_PREFIX, Digest
from cas.storage.base import (
    NO_PROOFS,
    Absent,
    BlobStat,
    BlobStream,
    ByteRange,
    Changed,
    Denied,
    Ingested,
    KeepBlobs,
    OnBytes,
    OnDigest,
    Outcome,
    Proofs,
    Staged,
    StoreError,
    Unsupported,
    Versioning,
    file_errors,
    refuse_blob_key,
)
from cas.storage.capabilities import (
    NO_CAPABILITIES,
    PROBE_PREFIX,
    Capabilities,
    known,
    probe_or_assume_none,
)
from cas.storage.preflight import Preflight
from cas.storage.s3 import listing, objects
from cas.storage.s3.capabilities import FALLBACKS, CapabilityProbes
from cas.storage.s3.client import (
    Bucket,
    Sizes,
    bucket_missing,
    read_time,
    send_content_md5,
)
from cas.storage.s3.preflight import BucketPreflight
from cas.storage.staging import remove_old_files, staging_dir

log = logging.getLogger(__name__)

USER_AGENT: Final = f"cas Boto3/{boto3.__version__}"
"""Botocore's own is put together anew for each request, an eighth of all a small one costs."""


class S3BlobStorage(KeepBlobs, S3Storage):  # type: ignore[misc]
    """The BlobStore contract on S3 and on stores that speak its protocol.

    Takes django-storages' options (except `location` and `gzip`: a key is the whole key, and
    the bytes are the bytes) and those of `get_default_settings`, each of which is also a Django
    setting `CAS_S3_<OPTION>`. Times are in seconds, sizes in bytes.
    """

    client_config: Config
    connect_timeout: float
    read_timeout: float
    max_attempts: int
    pool_size: int
    multipart_threshold: int
    part_size: int
    copy_threshold: int
    copy_part_size: int

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for forbidden in ("location", "gzip"):
            if getattr(self, forbidden):
                raise ImproperlyConfigured(f"a blob store cannot be used with {forbidden!r}")
        own = Config(user_agent=USER_AGENT).merge(self.client_config)
        self.client_config = own.merge(
            Config(
                connect_timeout=self.connect_timeout,
                read_timeout=self.read_timeout,
                retries={"mode": "standard", "total_max_attempts": self.max_attempts},
                max_pool_connections=self.pool_size,
                tcp_keepalive=True,
                # Some stores refuse the checksums that newer botocore adds. Those that the
                # store was seen to check are sent with each request.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
        )
        self._clients: dict[int, Any] = {}
        # Whether the object ingested last had a checksum: one program mostly wrote all of them.
        self._checksums_found = False
        self._bucket_seen = False

    def get_default_settings(self) -> dict[str, Any]:
        sizes = Sizes()
        return {
            **super().get_default_settings(),
            # By itself boto3 still presigns with version 2, which newer services refuse.
            "signature_version": setting("AWS_S3_SIGNATURE_VERSION", "s3v4"),
            "connect_timeout": setting("CAS_S3_CONNECT_TIMEOUT", 5),
            "read_timeout": setting("CAS_S3_READ_TIMEOUT", 60),
            "max_attempts": setting("CAS_S3_MAX_ATTEMPTS", 4),
            "pool_size": setting("CAS_S3_POOL_SIZE", 64),
            "multipart_threshold": setting("CAS_S3_MULTIPART_THRESHOLD", sizes.multipart_threshold),
            "part_size": setting("CAS_S3_PART_SIZE", sizes.part_size),
            "copy_threshold": setting("CAS_S3_COPY_THRESHOLD", sizes.copy_threshold),
            "copy_part_size": setting("CAS_S3_COPY_PART_SIZE", sizes.copy_part_size),
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_clients": {}}

    @property
    def client(self) -> Any:
        """The one boto3 client of this process, shared by its threads.

        A forked child makes its own: connections must not be shared across a fork.
        """
        client = self._clients.get(os.getpid())
        if client is None:
            session = self._create_session()
            parsers = session._session.get_component("response_parser_factory")
            parsers.set_parser_defaults(timestamp_parser=read_time)
            client = session.client(
                "s3",
                region_name=self.region_name,
                use_ssl=self.use_ssl,
                endpoint_url=self.endpoint_url,
                config=self.client_config,
                verify=self.verify,
            )
            client.meta.events.register("before-sign.s3.DeleteObjects", send_content_md5)
            # Two threads may both get here; all then use the first one's.
            client = self._clients.setdefault(os.getpid(), client)
        return client

    @property
    def staging_dir(self) -> Path:
        return staging_dir()

    def read(self, key: str, byte_range: ByteRange | None = None) -> BlobStream:
        return cast(BlobStream, self._bucket_to_read().get(key, byte_range))

    def stat(self, key: str) -> BlobStat:
        try:
            return self._bucket_to_read().head(key)
        except Absent:
            self._refuse_absent_bucket()
            raise

    def _refuse_absent_bucket(self) -> None:
        """Raises Denied if it is the bucket that is not there, which a HEAD of a key does not say.

        One request in the life of the process.
        """
        if self._bucket_seen:
            return
        try:
            self._bucket_to_read().request("head_bucket")
        except Absent as error:
            raise bucket_missing(self.bucket_name) from error
        except (Denied, Unsupported) as error:
            log.debug("whether %s exists is not known: %s", self.bucket_name, error)
        self._bucket_seen = True

    def scan(self, prefix: str, *, after: str = "") -> Iterator[BlobStat]:
        return listing.scan(self._bucket_to_read(), prefix, after)

    def create(self, staged: Staged, proofs: Proofs = NO_PROOFS) -> Outcome:
        return objects.create(self, self._bucket_to_write(), staged, proofs)

    def digest_of(self, key: str, on_bytes: OnBytes | None = None) -> tuple[Digest, BlobStat]:
        with self._bucket_to_read().get(key) as stream:
            return objects.read_whole(stream, on_bytes, with_md5=False).digest, stream.blob

    def ingest(
        self,
        source: str,
        on_bytes: OnBytes | None = None,
        on_digest: OnDigest | None = None,
        *,
        expected_size: int | None = None,
        proofs: Proofs = NO_PROOFS,
    ) -> Ingested:
        found = objects.ingest(
            self,
            self._bucket_to_write(),
            source,
            on_bytes,
            on_digest,
            expected_size=expected_size,
            proofs=proofs,
            head_first=self._checksums_found,
        )
        self._checksums_found = found.source.sha256 is not None
        return found

    def remove(self, key: str) -> None:
        with contextlib.suppress(Absent):
            self._bucket_to_read().request("delete_object", key)

    def remove_many(
        self, keys: Iterable[str], *, versions: bool = False
    ) -> Iterator[tuple[str, StoreError | None]]:
        return listing.remove_many(self._bucket_to_read(), keys, versions=versions)

    def versioning(self) -> Versioning:
        return listing.versioning(self._bucket_to_read())

    def put_legacy(self, key: str, source: Path) -> None:
        refuse_blob_key(key)
        bucket = self._bucket_to_read()
        with file_errors(key), source.open("rb") as body:
            bucket.request("put_object", key, Body=body, **bucket.extra)

    def copy(self, source: str, target: str, *, etag: str = "") -> None:
        refuse_blob_key(target)
        bucket = self._bucket_to_read()
        blob = bucket.head(source)
        if etag and blob.etag != etag:
            raise Changed("another version is there by now", key=source)
        objects.copy(bucket, blob, target, replaced=bucket.find(target))

    def remove_abandoned(self, older_than: datetime, *, dry_run: bool = False) -> Iterator[str]:
        """Uploads to keys of ours only, as others may use the bucket; and this machine's files."""
        try:
            for prefix in (CAS_PREFIX, PROBE_PREFIX):
                yield from self._remove_uploads(prefix, older_than, dry_run=dry_run)
        except (Denied, Unsupported) as error:
            log.warning("unfinished uploads to %s are not cleared: %s", self.bucket_name, error)
        yield from remove_old_files(self.staging_dir, older_than, dry_run=dry_run)

    def _remove_uploads(self, prefix: str, older_than: datetime, *, dry_run: bool) -> Iterator[str]:
        bucket = self._bucket_to_read()
        for found in listing.abandoned_uploads(bucket, prefix, older_than):
            key, upload_id = found["Key"], found["UploadId"]
            if not dry_run:
                bucket.abort_upload(key, upload_id)
            yield f"unfinished upload of {key}, begun {found['Initiated']:%Y-%m-%d %H:%M}"

    @property
    def identity(self) -> str:
        return f"s3:{self.client.meta.endpoint_url}/{self.bucket_name}"

    @property
    def fallbacks(self) -> Mapping[str, str]:
        return FALLBACKS

    def probe_capabilities(self, prefix: str) -> Mapping[str, bool]:
        return CapabilityProbes(self._bucket_with(NO_CAPABILITIES), prefix).run()

    def preflight(self) -> Preflight:
        return BucketPreflight(self._bucket_with(NO_CAPABILITIES)).run()

    def _bucket_to_read(self) -> Bucket:
        """Only capabilities that were probed before are relied on."""
        return self._bucket_with(known(self) or NO_CAPABILITIES)

    def _bucket_to_write(self) -> Bucket:
        """Capabilities are probed first if they never were."""
        return self._bucket_with(probe_or_assume_none(self))

    def _bucket_with(self, capabilities: Capabilities) -> Bucket:
        # Encryption, storage class, ACL: what the operator wants every object to have.
        extra = {"ContentType": "application/octet-stream", **self.get_object_parameters("")}
        if self.default_acl:
            extra["ACL"] = self.default_acl
        sizes = Sizes(
            self.multipart_threshold, self.part_size, self.copy_threshold, self.copy_part_size
        )
        return Bucket(self.client, self.bucket_name, extra, sizes, capabilities)
