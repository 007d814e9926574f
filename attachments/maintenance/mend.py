"""One row whose object is not what the row says: shown, and mended as a person decides."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

from django.db import transaction

from attachments import references
from attachments.locks import LEGACY_LAYOUT, SharedLock, lock_rows, run_lock
from attachments.maintenance.report import RunSummary
from attachments.maintenance.retry import Retry
from attachments.maintenance.runner import Output, Run, maintenance_run
from attachments.models import LEGACY_PREFIX, Attachment
from attachments.uploads import ReceivedFile, StagedUpload, UploadRefused, stage
from cas.digest import CHUNK, Hasher, is_cas_key
from cas.exit_status import ExitStatus, RunAborted
from cas.storage import attachment_store
from cas.storage.base import Absent, BlobStore, Changed, Corrupt, Staged

logger = logging.getLogger(__name__)

ANOTHER_KEY: Final = {"point_at": "KEY"}
ANOTHER_FILE: Final = {"replace_with": "FILE"}
"""What is to be typed in place of a value that was refused."""


class Mend(StrEnum):
    """What can be done about a row."""

    ACCEPT_SIZE = "accept_size"
    POINT_AT = "point_at"
    REPLACE = "replace_with"
    DELETE = "delete_row"


@dataclass(frozen=True, slots=True)
class MendOptions:
    """`target` is the key to point at, `file` the file that replaces the object."""

    row: int
    mend: Mend | None = None
    target: str = ""
    file: Path | None = None
    dry_run: bool = False


@dataclass
class MendSummary(RunSummary):
    """The row, its object, what is the matter, and whether it was mended. Sizes in bytes."""

    row: int = 0
    part: str = ""
    title: str = ""
    key: str = ""
    row_bytes: int | None = None
    object_bytes: int | None = None
    object_digest: str = ""
    fault: str = ""
    mend: Mend | None = None
    mended: bool = False

    def counts(self) -> dict[str, Any]:
        return {**super().counts(), "mend": str(self.mend or "")}


def mend(options: MendOptions, output: Output) -> MendSummary:
    """Examine the row and, unless it is a dry run, apply the chosen cure by compare-and-set.

    A row that has come to be another meanwhile is left as it is.
    """
    store = attachment_store()
    summary = MendSummary(dry_run=options.dry_run, row=options.row, mend=options.mend)
    with (
        maintenance_run(summary, output) as run,
        # A cleanup must not delete the old object that the row is about to name.
        run_lock(LEGACY_LAYOUT, shared=True, retry=run.query),
    ):
        row = run.query(_row(options.row).first)
        if row is None or row.s3_key is None:
            raise RunAborted(
                ExitStatus.REFUSED,
                f"there is no row {options.row} that names an object",
                command="manage.py migration_status --check-objects",
            )
        _examine(store, row, summary, run)
        if options.mend is None:
            return summary
        if not summary.fault:
            raise RunAborted(
                ExitStatus.REFUSED,
                "the row and its object agree; there is nothing to mend",
                command="manage.py migration_status",
            )
        _mend(store, row, options, summary, run)
    return summary


def _row(pk: int) -> Any:
    return Attachment.objects.select_related("part").filter(pk=pk)


def _examine(store: BlobStore, row: Attachment, summary: MendSummary, run: Run) -> None:
    """Note what the row says, what is there, and what of it does not fit."""
    key = row.s3_key or ""
    summary.part, summary.title, summary.key = row.part.key, row.title, key
    summary.row_bytes = row.file_size
    try:
        digest, stat = Retry(run.cancel, store).call(partial(store.digest_of, key))
    except Absent:
        summary.fault = "absent"
    except (Corrupt, Changed) as error:
        summary.fault = error.code
    else:
        summary.object_bytes, summary.object_digest = stat.size, digest.hex
        if is_cas_key(key) and digest.key != key:
            summary.fault = "corrupt"
        elif row.file_size not in (None, stat.size):
            summary.fault = "size_mismatch"
    if not is_cas_key(key) and not key.startswith(LEGACY_PREFIX):
        summary.fault = "unknown_key"


def _mend(
    store: BlobStore, row: Attachment, options: MendOptions, summary: MendSummary, run: Run
) -> None:
    match options.mend:
        case Mend.ACCEPT_SIZE:
            _accept_size(row, summary)
        case Mend.POINT_AT:
            _point_at(store, row, options.target, summary, run)
        case Mend.REPLACE:
            _replace(store, row, options.file or Path(), summary)
        case Mend.DELETE:
            _delete(row, summary)
    record = {**summary.counts(), "dry_run": summary.dry_run, "target": options.target or None}
    run.report.write(record)
    logger.info("row %d (%s): %s", row.pk, summary.key, summary.mend)


def _accept_size(row: Attachment, summary: MendSummary) -> None:
    if summary.fault != "size_mismatch" or summary.object_bytes is None:
        raise _does_not_fit(summary)
    if not summary.dry_run:
        _done(
            references.set_size(row.pk, summary.key, row.file_size, summary.object_bytes), summary
        )


def _point_at(
    store: BlobStore, row: Attachment, target: str, summary: MendSummary, run: Run
) -> None:
    if not is_cas_key(target) and not target.startswith(LEGACY_PREFIX):
        raise RunAborted(
            ExitStatus.REFUSED,
            f"{target} is neither below {LEGACY_PREFIX} nor cas/<digest>",
            first="Choose a key of an object that the store lists",
            changed=ANOTHER_KEY,
        )
    try:
        digest, stat = Retry(run.cancel, store).call(partial(store.digest_of, target))
    except (Absent, Corrupt) as error:
        raise _unusable(target, str(error), ANOTHER_KEY) from error
    if is_cas_key(target) and digest.key != target:
        raise _unusable(target, "its bytes do not hash to it", ANOTHER_KEY)
    if summary.dry_run:
        return
    if is_cas_key(target):
        head = references.head_of(store, digest, stat.size)
        moved = references.repoint(row.pk, summary.key, digest, stat.size, SharedLock(), head)
    else:
        moved = references.point_at_legacy(row.pk, summary.key, target, stat.size)
    _done(moved, summary)


def _replace(store: BlobStore, row: Attachment, file: Path, summary: MendSummary) -> None:
    with _staged(store, file) as upload:
        wanted = row.attachment_type if row.is_file else Attachment.Kind.IMAGE
        if upload.kind != wanted:
            why = f"it is of the kind {upload.kind}, the row of {wanted}"
            raise _unusable(str(file), why, ANOTHER_FILE)
        if not summary.dry_run:
            _done(references.replace(row.pk, summary.key, upload), summary)


@contextmanager
def _staged(store: BlobStore, file: Path) -> Iterator[StagedUpload]:
    """The file copied, hashed and accepted like an upload. Raises RunAborted, OSError."""
    path = store.staging_dir / f"mend-{uuid.uuid4().hex}"
    hasher = Hasher()
    try:
        source = file.open("rb")
    except OSError as error:
        raise _unusable(str(file), error.strerror or str(error), ANOTHER_FILE) from error
    try:
        with source, path.open("xb") as sink:
            while chunk := source.read(CHUNK):
                hasher.update(chunk)
                sink.write(chunk)
        staged = Staged(path, hasher.digest, hasher.md5, hasher.size)
        with path.open("rb") as again:
            try:
                yield stage(ReceivedFile(again, file.name, staged, None))
            except UploadRefused as refusal:
                raise _unusable(str(file), str(refusal), ANOTHER_FILE) from refusal
    finally:
        path.unlink(missing_ok=True)


def _delete(row: Attachment, summary: MendSummary) -> None:
    if summary.dry_run:
        return
    with transaction.atomic():
        # Deleting locks the part, and a part is locked before its attachments.
        lock_rows(type(row.part), [row.part_id])
        still = Attachment.objects.select_for_update().filter(pk=row.pk, s3_key=summary.key).first()
        if still is not None:
            still.delete()
    _done(still is not None, summary)


def _done(changed: bool, summary: MendSummary) -> None:
    if not changed:
        raise RunAborted(ExitStatus.REFUSED, "the row has come to be another meanwhile; look again")
    summary.mended = True


def _does_not_fit(summary: MendSummary) -> RunAborted:
    return RunAborted(
        ExitStatus.REFUSED,
        f"the row's fault is {summary.fault}, which another size does not mend",
        command=f"manage.py mend_row {summary.row}",
    )


def _unusable(what: str, why: str, changed: dict[str, str]) -> RunAborted:
    return RunAborted(
        ExitStatus.REFUSED,
        f"{what} cannot be used: {why}",
        first="Choose another key or file",
        changed=changed,
    )
