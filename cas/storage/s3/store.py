"""The BlobStore contract on an S3 bucket.

Works on stores that honour none of S3's guards, only slower: `cas.storage.guards` finds out
which ones to rely on, once per bucket.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import boto3
from botocore.config import Config
from django.core.exceptions import ImproperlyConfigured, SuspiciousFileOperation
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
    OnBytes,
    OnDigest,
    Outcome,
    Proofs,
    Staged,
    StoreError,
    Unsupported,
    Versioning,
)
from cas.storage.disk_files import remove_old_files
from cas.storage.disk_files import translated as file_errors
from cas.storage.guards import NO_GUARDS, PROBE_PREFIX, Guards, known, probe_or_assume_none
from cas.storage.places import staging_dir
from cas.storage.preflight import Preflight
from cas.storage.quarantine import examine
from cas.storage.s3 import listing, transfer, writing
from cas.storage.s3.bucket import Bucket, Sizes, read_whole
from cas.storage.s3.client import read_time, send_content_md5
from cas.storage.s3.errors import Resent, bucket_missing, translated
from cas.storage.s3.rights import RightsTrial
from cas.storage.s3.trials import FALLBACKS, Trials

log = logging.getLogger(__name__)

MIB: Final = 1024 * 1024

USER_AGENT: Final = f"cas Boto3/{boto3.__version__}"
"""Botocore's own is put together anew for each request, an eighth of all a small one costs."""


class S3BlobStorage(S3Storage):  # type: ignore[misc]
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
                # What newer botocore adds by itself, some stores refuse. What we rely on we
                # send ourselves, once the store was seen to look at it.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
        )
        self._clients: dict[int, Any] = {}
        # Whether the object ingested last had a checksum: what one program wrote is mostly alike.
        self._checksums_found = False
        self._bucket_seen = False

    def get_default_settings(self) -> dict[str, Any]:
        return {
            **super().get_default_settings(),
            # By itself boto3 still presigns with version 2, which newer services refuse.
            "signature_version": setting("AWS_S3_SIGNATURE_VERSION", "s3v4"),
            "connect_timeout": setting("CAS_S3_CONNECT_TIMEOUT", 5),
            "read_timeout": setting("CAS_S3_READ_TIMEOUT", 60),
            "max_attempts": setting("CAS_S3_MAX_ATTEMPTS", 4),
            "pool_size": setting("CAS_S3_POOL_SIZE", 64),
            "multipart_threshold": setting("CAS_S3_MULTIPART_THRESHOLD", 64 * MIB),
            "part_size": setting("CAS_S3_PART_SIZE", 16 * MIB),
            "copy_threshold": setting("CAS_S3_COPY_THRESHOLD", 5 * 1024 * MIB),
            "copy_part_size": setting("CAS_S3_COPY_PART_SIZE", 512 * MIB),
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
        return cast(BlobStream, self._bucket_as_known().get(key, byte_range))

    def stat(self, key: str) -> BlobStat:
        try:
            return self._bucket_as_known().head(key)
        except Absent:
            self._refuse_absent_bucket()
            raise

    def _refuse_absent_bucket(self) -> None:
        """Raises Denied if it is the bucket that is not there, which a HEAD of a key does not say.

        Once it was seen it is not asked for again.
        """
        if self._bucket_seen:
            return
        try:
            with translated():
                self.client.head_bucket(Bucket=self.bucket_name)
        except Absent as error:
            raise bucket_missing(self.bucket_name) from error
        except (Denied, Unsupported) as error:
            log.debug("whether %s exists is not known: %s", self.bucket_name, error)
        self._bucket_seen = True

    def scan(self, prefix: str, *, after: str = "") -> Iterator[BlobStat]:
        return listing.scan(self.client, self.bucket_name, prefix, after)

    def create(self, staged: Staged, proofs: Proofs = NO_PROOFS) -> Outcome:
        return writing.create(self._bucket_as_tried(), staged, proofs, partial(examine, self))

    def digest_of(self, key: str, on_bytes: OnBytes | None = None) -> tuple[Digest, BlobStat]:
        with self._bucket_as_known().get(key) as stream:
            return read_whole(stream, on_bytes, with_md5=False).digest, stream.blob

    def ingest(
        self,
        source: str,
        on_bytes: OnBytes | None = None,
        on_digest: OnDigest | None = None,
        *,
        expected_size: int | None = None,
        proofs: Proofs = NO_PROOFS,
    ) -> Ingested:
        found = writing.ingest(
            self._bucket_as_tried(),
            source,
            self.staging_dir,
            on_bytes,
            on_digest,
            expected_size=expected_size,
            proofs=proofs,
            examine=partial(examine, self),
            look_first=self._checksums_found,
        )
        self._checksums_found = found.source.sha256 is not None
        return found

    def remove(self, key: str) -> None:
        with contextlib.suppress(Absent), translated(key):
            self.client.delete_object(Bucket=self.bucket_name, Key=key)

    def remove_many(
        self, keys: Iterable[str], *, versions: bool = False
    ) -> Iterator[tuple[str, StoreError | None]]:
        return listing.remove_many(self.client, self.bucket_name, keys, versions=versions)

    def versioning(self) -> Versioning:
        return listing.versioning(self.client, self.bucket_name)

    def put_legacy(self, key: str, source: Path) -> None:
        if key.startswith(CAS_PREFIX):
            raise StoreError("only bytes of known digest are written below cas/", key=key)
        with file_errors(key), source.open("rb") as body, translated(key):
            self.client.put_object(Bucket=self.bucket_name, Key=key, Body=body, **self._extra())

    def copy(self, source: str, target: str, *, etag: str = "") -> None:
        if target.startswith(CAS_PREFIX):
            raise StoreError("only bytes of known digest are written below cas/", key=target)
        bucket = self._bucket_as_known()
        blob = bucket.head(source)
        if etag and blob.etag != etag:
            raise Changed("another version is there by now", key=source)
        with translated(source):
            transfer.copy(bucket, blob, target, replaced=bucket.find(target))

    def remove_abandoned(self, older_than: datetime, *, dry_run: bool = False) -> Iterator[str]:
        """Uploads to keys of ours only, as others may use the bucket; and this machine's files."""
        try:
            for prefix in (CAS_PREFIX, PROBE_PREFIX):
                yield from self._remove_uploads(prefix, older_than, dry_run=dry_run)
        except (Denied, Unsupported) as error:
            log.warning("unfinished uploads to %s are not cleared: %s", self.bucket_name, error)
        yield from remove_old_files(self.staging_dir, older_than, dry_run=dry_run)

    def _remove_uploads(self, prefix: str, older_than: datetime, *, dry_run: bool) -> Iterator[str]:
        for found in listing.abandoned_uploads(self.client, self.bucket_name, prefix, older_than):
            key, upload_id = found["Key"], found["UploadId"]
            if not dry_run:
                # One that is gone by now is no error.
                with contextlib.suppress(Absent, Resent), translated(key):
                    self.client.abort_multipart_upload(
                        Bucket=self.bucket_name, Key=key, UploadId=upload_id
                    )
            yield f"unfinished upload of {key}, begun {found['Initiated']:%Y-%m-%d %H:%M}"

    @property
    def identity(self) -> str:
        return f"s3:{self.client.meta.endpoint_url}/{self.bucket_name}"

    @property
    def fallbacks(self) -> Mapping[str, str]:
        return FALLBACKS

    def try_guards(self, prefix: str) -> Mapping[str, bool]:
        return Trials(self.client, self.bucket_name, prefix, self._extra()).run()

    def preflight(self) -> Preflight:
        return RightsTrial(self.client, self.bucket_name, self._extra()).run()

    def _save(self, name: str, content: Any) -> str:
        """Django's own way to write a file; it follows no rule that holds below `cas/`."""
        if name.startswith(CAS_PREFIX):
            raise SuspiciousFileOperation("only bytes of known digest are written below cas/")
        saved: str = super()._save(name, content)
        return saved

    def _bucket_as_known(self) -> Bucket:
        """For reading: what nobody has tried yet is not relied on."""
        return self._describe_bucket(known(self) or NO_GUARDS)

    def _bucket_as_tried(self) -> Bucket:
        """For writing: guards are tried first if they never were."""
        return self._describe_bucket(probe_or_assume_none(self))

    def _describe_bucket(self, guards: Guards) -> Bucket:
        sizes = Sizes(
            upload_threshold=self.multipart_threshold,
            upload_part=self.part_size,
            copy_threshold=self.copy_threshold,
            copy_part=self.copy_part_size,
        )
        return Bucket(self.client, self.bucket_name, self._extra(), sizes, guards)

    def _extra(self) -> dict[str, Any]:
        """Encryption, storage class, ACL: what the operator wants every object to have."""
        extra = {"ContentType": "application/octet-stream", **self.get_object_parameters("")}
        if self.default_acl:
            extra["ACL"] = self.default_acl
        return extra
