"""Load the sample collection into the database and the attachment store."""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from django.db import transaction

from attachments import references
from attachments.models import LEGACY_PREFIX, Attachment
from attachments.uploads import ReceivedFile, StagedUpload, stage
from cas.digest import Digest, hash_stream
from cas.storage import attachment_store
from cas.storage.base import BlobStore, Staged
from parts.models import Part, Tag, Type
from parts.sample.photos import MEGAPIXELS
from parts.sample.plan import DELIVERY, Media, SampleAttachment, SamplePart, collection


class Layout(StrEnum):
    """Where the files' bytes go: under the older installation's keys, or content-addressed."""

    LEGACY = "legacy"
    CAS = "cas"


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """`megapixels` is the photos' average size, `workers` how many files are drawn at a time."""

    layout: Layout
    parts: int
    seed: int
    megapixels: float = MEGAPIXELS
    workers: int = 2


@dataclass(slots=True)
class LoadSummary:
    """What a load did. Sizes in bytes; `contents` are the digests of the files it attached."""

    parts_added: int = 0
    parts_present: int = 0
    files: int = 0
    links: int = 0
    size: int = 0
    contents: dict[Digest, int] = field(default_factory=dict)

    @property
    def duplicates(self) -> int:
        """Files whose bytes another attached file has too."""
        return self.files - len(self.contents)


Progress = Callable[[LoadSummary], None]
Rendered = dict[Media, "Future[Staged]"]


def load(options: LoadOptions, progress: Progress) -> LoadSummary:
    """Add what is missing of the collection, one transaction a part; `progress` hears of each.

    A part that is there already, recognised by its key and its manufacturer's code, is left as it
    is, and so is everything that is not of the sample. Raises StoreError, UploadRefused; the part
    that met it is not added, those before it are.
    """
    store = attachment_store()
    summary = LoadSummary()
    plan = collection(options.parts, options.seed)
    with ThreadPoolExecutor(options.workers, "sample") as pool:
        # One delivery at a time: only its parts share files, so no more is kept than its own.
        while delivery := list(itertools.islice(plan, DELIVERY)):
            missing = _missing(delivery)
            summary.parts_present += len(delivery) - len(missing)
            with _rendered(list(missing.values()), store, pool, options) as files:
                for key, part in missing.items():
                    _add(part, key, files, store, options.layout, summary)
                    progress(summary)
    return summary


def _missing(delivery: list[SamplePart]) -> dict[str, SamplePart]:
    """Those of the parts that are not there yet, by the keys they will get."""
    found: dict[str, SamplePart] = {}
    for part in delivery:
        keys = part.candidate_keys()
        key = next(keys)
        # Somebody else's part, or an earlier one of the sample, may have the key.
        while (holder := _holder(key, found)) not in (None, part.item.code):
            key = next(keys)
        if holder is None:
            found[key] = part
    return found


def _holder(key: str, found: dict[str, SamplePart]) -> str | None:
    """The manufacturer's code of the part that has this key or is about to get it."""
    if key in found:
        return found[key].item.code
    return Part.objects.filter(key=key).values_list("manufacturer_code", flat=True).first()


@contextlib.contextmanager
def _rendered(
    parts: list[SamplePart], store: BlobStore, pool: ThreadPoolExecutor, options: LoadOptions
) -> Iterator[Rendered]:
    """Each distinct file of these parts, drawn once, in staging until the block ends."""
    media = dict.fromkeys(file.media for part in parts for file in part.attachments if file.media)
    paths = {item: store.staging_dir / f"sample-{uuid.uuid4().hex}" for item in media}
    futures = {item: pool.submit(_draw, item, path, options) for item, path in paths.items()}
    try:
        yield futures
    finally:
        for future in futures.values():
            future.cancel()
        for item, path in paths.items():
            if not futures[item].cancelled():
                futures[item].exception()  # Waits: a file still being drawn would come back.
            path.unlink(missing_ok=True)


def _draw(media: Media, path: Path, options: LoadOptions) -> Staged:
    media.write(path, options.megapixels)
    with path.open("rb") as stream:
        hasher = hash_stream(stream)
    return Staged(path, hasher.digest, hasher.md5, hasher.size)


def _add(
    part: SamplePart,
    key: str,
    files: Rendered,
    store: BlobStore,
    layout: Layout,
    summary: LoadSummary,
) -> None:
    # Drawn before the transaction begins: on SQLite it keeps every other writer out.
    uploads = [(file, _upload(file, files)) for file in part.attachments]
    with transaction.atomic():
        row = _part_row(part, key)
        for file, upload in uploads:
            if upload is None:
                references.attach_url(row, file.url, file.title)
            elif layout is Layout.CAS:
                references.attach(row, upload, file.title)
            else:
                _attach_legacy(row, file, upload, store)
    summary.parts_added += 1
    for _, upload in uploads:
        if upload is None:
            summary.links += 1
            continue
        summary.files += 1
        summary.size += upload.staged.size
        summary.contents[upload.staged.digest] = upload.staged.size


def _upload(file: SampleAttachment, files: Rendered) -> StagedUpload | None:
    """The file as the product itself would judge it on upload; None for a link."""
    if file.media is None:
        return None
    staged = files[file.media].result()
    with staged.path.open("rb") as stream:
        return stage(ReceivedFile(stream, file.filename, staged, None))


def _attach_legacy(
    row: Part, file: SampleAttachment, upload: StagedUpload, store: BlobStore
) -> None:
    """As the older installation left its files. Row, then bytes, then the caller's commit."""
    extension = upload.filename.rpartition(".")[2]
    old_key = f"{LEGACY_PREFIX}{row.pk}/attachments/{file.uuid}.{extension}"
    Attachment.objects.create(
        part=row,
        attachment_type=upload.kind,
        title=file.title,
        s3_key=old_key,
        filename=upload.filename,
        content_type=upload.content_type,
        file_size=upload.staged.size,
    )
    store.put_legacy(old_key, upload.staged.path)


def _part_row(part: SamplePart, key: str) -> Part:
    item, package = part.item, part.item.package
    row = Part.objects.create(
        key=key,
        description=item.description,
        manufacturer=part.family.manufacturer,
        manufacturer_code=item.code,
        type=Type.objects.get_or_create(name=part.family.type)[0],
        product_page=part.product_page,
        seller=part.seller,
        seller_link=part.seller_link,
        package=package.name,
        pin_count=package.pins,
        pin_pitch=f"{package.pitch:g} mm" if package.pitch else "",
        voltage_rating=item.voltage_rating,
        input_voltage=item.input_voltage,
        output_voltage=item.output_voltage,
        mounting_type=package.mounting,
        series=part.family.series,
        dimensions=package.dimensions,
    )
    row.tags.set([Tag.objects.get_or_create(name=name)[0] for name in part.tags])
    return row
