"""The BlobStore contract on an S3 bucket.

Works on stores that support none of the conditions and checksums of S3, only slower:
`cas.storage.capabilities` finds out which ones to rely on, once per bucket.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from cas.digest import CAS_PREFIX, Digest, Hasher, hash_stream
from cas.storage.base import (
    NO_PROOFS,
    Absent,
    BlobStat,
    Changed,
    Corrupt,
    CutShort,
    Denied,
    Ingested,
    KeepBlobs,
    OnBytes,
    OnDigest,
    Outcome,
    Preflight,
    Proofs,
    Staged,
    StoreError,
    Unreachable,
    Unsupported,
    Versioning,
    compare,
    file_errors,
    refuse_blob_key,
    refuse_other_size,
)
from cas.storage.capabilities import PROBE_PREFIX, probe_if_permitted
from cas.storage.quarantine import ATTEMPTS, healed, is_sound
from cas.storage.s3 import listing, objects
from cas.storage.s3.client import Bucket, Conflict, ObjectStream, bucket_missing
from cas.storage.s3.probes import FALLBACKS, BucketPreflight, CapabilityProbes
from cas.storage.staging import copy_hashed, remove_old_files, staging_dir

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """A blob that is to be in the bucket, and how to tell whether it is.

    `md5` is of its bytes where it is known, `path` a file that has them where there is one.
    """

    digest: Digest
    size: int
    md5: bytes | None
    path: Path | None
    proofs: Proofs


class S3BlobStorage(KeepBlobs, Bucket):
    """The BlobStore contract on S3 and on stores that speak its protocol."""

    # Whether the object ingested last had a checksum: one program mostly wrote all of them.
    _checksums_found = False
    _bucket_seen = False

    @property
    def staging_dir(self) -> Path:
        return staging_dir()

    def stat(self, key: str) -> BlobStat:
        """Raises Denied if it is the bucket that is not there, which a HEAD of a key does not say.

        Finding that out takes one request in the life of the process.
        """
        try:
            return self.head(key)
        except Absent:
            try:
                if not self._bucket_seen:
                    self.request("head_bucket")
            except Absent as error:
                raise bucket_missing(self.bucket_name) from error
            except (Denied, Unsupported) as error:
                log.debug("whether %s exists is not known: %s", self.bucket_name, error)
            self._bucket_seen = True
            raise

    def scan(self, prefix: str, *, after: str = "") -> Iterator[BlobStat]:
        return listing.scan(self, prefix, after)

    def create(self, staged: Staged, proofs: Proofs = NO_PROOFS) -> Outcome:
        probe_if_permitted(self)
        return self._upload(staged, proofs)

    def _upload(self, staged: Staged, proofs: Proofs) -> Outcome:
        target = Target(staged.digest, staged.size, staged.md5, staged.path, proofs)
        return self._make_present(target, partial(objects.upload, self, staged))

    def digest_of(self, key: str, on_bytes: OnBytes | None = None) -> tuple[Digest, BlobStat]:
        with self.read(key) as stream:
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
        """One download to hash and one copy in the store.

        No download if the store holds a checksum that it is known to have checked; a HEAD finds
        that out before the GET if the last object had one. No copy if the store does not support
        copying one version alone: then the download is kept and uploaded.
        """
        probe_if_permitted(self)
        digest: Digest | None = None
        head: bytes | None = None
        if self._checksums_found:
            blob = self.head(source)
            refuse_other_size(blob, expected_size)
            if self._can_copy(blob):
                digest, md5 = blob.sha256, blob.md5
        if digest is None:
            with self.read(source) as stream:
                blob = stream.blob
                self._checksums_found = blob.sha256 is not None
                if expected_size not in (None, blob.size):
                    # An answer that was cut short on its way states too few bytes; the store knows.
                    refuse_other_size(self.head(source), expected_size)
                    raise Changed("the store gave another size with the bytes", key=source)
                if not self._can_copy(blob):
                    return self._download_and_upload(stream, on_bytes, on_digest, proofs)
                digest, md5 = blob.sha256, blob.md5
                if digest is None:
                    # SHA-256 alone if the store will state the copy's; otherwise MD5 is what the
                    # copy's ETag can be compared with.
                    with_md5 = not self.supports("copy_checksum")
                    hasher = read_whole(stream, on_bytes, with_md5=with_md5)
                    digest, md5 = hasher.digest, hasher.md5 if with_md5 else blob.md5
                    head = hasher.head
        if on_digest:
            on_digest(digest)
        # A store that refuses to copy over an object needs no HEAD before. Parts are refused only
        # when all have been copied.
        conditional = self.supports("copy_if_none_match")
        outcome = self._make_present(
            Target(digest, blob.size, md5, None, proofs),
            partial(objects.copy, self, blob, digest.key),
            source=blob,
            head_first=not conditional or blob.size > self.copy_threshold,
        )
        return Ingested(digest, blob.size, blob, outcome, head)

    def _can_copy(self, source: BlobStat) -> bool:
        one_request = source.size <= self.copy_threshold
        return self.supports("copy_if_match" if one_request else "part_copy_if_match")

    def _download_and_upload(
        self,
        stream: ObjectStream,
        on_bytes: OnBytes | None,
        on_digest: OnDigest | None,
        proofs: Proofs,
    ) -> Ingested:
        path = self.staging_dir / f"incoming-{uuid.uuid4().hex}"
        try:
            hasher = read_whole(stream, on_bytes, path=path)
            staged = Staged(path, hasher.digest, hasher.md5, hasher.size)
            if on_digest:
                on_digest(staged.digest)
            outcome = self._upload(staged, proofs)
        finally:
            with file_errors(stream.blob.key):
                path.unlink(missing_ok=True)
        return Ingested(staged.digest, staged.size, stream.blob, outcome, hasher.head)

    def _make_present(
        self,
        target: Target,
        put: Callable[[BlobStat | None], objects.Written],
        *,
        source: BlobStat | None = None,
        head_first: bool = True,
    ) -> Outcome:
        """Have `put` write the target in place of the object that is there, unless that is sound.

        `source` is the object that is copied, if one is. Without `head_first`, the first attempt
        relies on the store to refuse what is taken.
        """
        key = target.digest.key
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(0.02 * 2**attempt)
            blind = not head_first and attempt == 0
            there = None if blind else self.find(key)
            try:
                if there and self._is_sound(there, target):
                    return Outcome.PRESENT
                if self._is_right(target, put(there)):
                    return healed(key) if there else Outcome.STORED
            except Conflict:
                continue
            except Changed:
                # Another writer was first, so what it wrote counts; or the source has changed.
                if source and not blind and self.head(source.key).etag != source.etag:
                    raise
        raise Unreachable("others keep writing this key", key=key)

    def _is_sound(self, there: BlobStat, target: Target) -> bool:
        """Whether the object that is there has the blob's bytes. Wrong ones are copied aside."""
        proven = self._proven(there, target)
        try:
            return is_sound(self, target.digest, there, proven, target.proofs)
        except Absent:
            return False

    def _proven(self, there: BlobStat, target: Target) -> bool | None:
        """As `compare`; the checksums of an object of parts are compared with the file, if any."""
        proven = compare(there, target.digest, target.size, target.md5)
        if proven is None and target.path and objects.matches(self, there, target.path):
            return True
        return proven

    def _is_right(self, target: Target, written: objects.Written) -> bool:
        """Whether the target was written.

        False if the answer was unclear and other bytes are there. Raises Corrupt if what was
        written is known to be wrong; then it is deleted again.
        """
        if written.found is not None:
            proven = self._proven(written.found, target)
            return self._reads_right(target.digest) if proven is None else proven
        if written.sha256 is not None:
            right = written.sha256 == target.digest
        elif written.md5 is not None and target.md5 is not None:
            right = written.md5 == target.md5
        else:
            right = written.checked or self._reads_right(target.digest)
        if right:
            return True
        key = target.digest.key
        there = self.find(key)
        # Unless it was overwritten already.
        if there and there.etag == written.etag.strip('"'):
            log.error("what was stored at %s is not what was sent; it is removed", key)
            # If it was healed meanwhile, a store that supports the condition leaves it.
            with contextlib.suppress(Changed):
                self.request("delete_object", key, IfMatch=written.etag)
        raise Corrupt("the store kept other bytes than it was given", key=key)

    def _reads_right(self, digest: Digest) -> bool:
        return self.digest_of(digest.key)[0] == digest

    def remove(self, key: str) -> None:
        with contextlib.suppress(Absent):
            self.request("delete_object", key)

    def remove_many(
        self, keys: Iterable[str], *, versions: bool = False
    ) -> Iterator[tuple[str, StoreError | None]]:
        return listing.remove_many(self, keys, versions=versions)

    def versioning(self) -> Versioning:
        return listing.versioning(self)

    def put_legacy(self, key: str, source: Path) -> None:
        refuse_blob_key(key)
        with file_errors(key), source.open("rb") as body:
            self.request("put_object", key, Body=body, **self.extra)

    def copy(self, source: str, target: str, *, etag: str = "") -> None:
        refuse_blob_key(target)
        blob = self.head(source)
        if etag and blob.etag != etag:
            raise Changed("another version is there by now", key=source)
        objects.copy(self, blob, target, replaced=self.find(target))

    def remove_abandoned(self, older_than: datetime, *, dry_run: bool = False) -> Iterator[str]:
        """Uploads to keys of ours only, as others may use the bucket; and this machine's files."""
        try:
            for prefix in (CAS_PREFIX, PROBE_PREFIX):
                yield from listing.remove_uploads(self, prefix, older_than, dry_run=dry_run)
        except (Denied, Unsupported) as error:
            log.warning("unfinished uploads to %s are not cleared: %s", self.bucket_name, error)
        yield from remove_old_files(self.staging_dir, older_than, dry_run=dry_run)

    @property
    def fallbacks(self) -> Mapping[str, str]:
        return FALLBACKS

    def probe_capabilities(self, prefix: str) -> Mapping[str, bool]:
        return CapabilityProbes(self, prefix).run()

    def preflight(self) -> Preflight:
        return BucketPreflight(self).run()


def read_whole(
    stream: ObjectStream,
    on_bytes: OnBytes | None,
    *,
    with_md5: bool = True,
    path: Path | None = None,
) -> Hasher:
    """Hash the object behind `stream`, and write it to the new file `path` if that is given.

    Raises Unreachable if the answer ends early, which says nothing about the object, and Corrupt
    if the bytes are not those of the MD5 that the store states.
    """
    key = stream.blob.key
    try:
        with file_errors(key):
            if path:
                hasher = copy_hashed(stream, path, on_bytes, with_md5=with_md5)
            else:
                hasher = hash_stream(stream, on_bytes, with_md5=with_md5)
    except CutShort as error:
        raise Unreachable(str(error), key=key) from error
    if with_md5 and stream.blob.md5 not in (None, hasher.md5):
        raise Corrupt("the bytes read are not those of the ETag", key=key)
    return hasher
