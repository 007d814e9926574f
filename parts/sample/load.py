"""What the sample collection consists of, from the catalogue and a seed alone, and loading it."""

from __future__ import annotations

import csv
import itertools
import string
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from django.db import transaction

from attachments.models import LEGACY_PREFIX, Attachment
from attachments.uploads import ReceivedFile, StagedUpload, stage
from cas.digest import Digest, hash_stream
from cas.storage import attachment_store
from cas.storage.base import BlobStore, Staged
from parts.covers import attach, attach_url, first_image_becomes_cover
from parts.models import Part, Tag, Type
from parts.sample.files import Datasheet, Photo, seeded

SAMPLE_DATA: Final = Path(__file__).resolve().parents[2] / "sample_data"

DELIVERY: Final = 30
"""Parts that arrived together. They share datasheets and photos of the packets they came in, which
makes about a third of all files identical to another part's, in a collection of any size."""

OF_ONE_SERIES: Final = 3
"""The most parts of one series in a delivery."""

Layout = Literal["legacy", "cas"]
"""Where the files' bytes go: under the older installation's keys, or content-addressed."""

Row = dict[str, str]
Media = Photo | Datasheet
Made = dict[Media, "Future[StagedUpload]"]
Progress = Callable[["LoadSummary"], None]


class SampleAttachment(NamedTuple):
    """A file, or a link to a URL."""

    title: str
    content: Media | str


@dataclass(frozen=True, slots=True)
class SamplePart:
    """A part by its columns (`type` by name, `tags` separated by spaces), and its attachments."""

    seed: int
    number: int
    columns: Row
    attachments: tuple[SampleAttachment, ...]

    def candidate_keys(self) -> Iterator[str]:
        """Keys without end: the first is the part's own, the others are for when it is taken."""
        rng = seeded(self.seed, self.number, "key")
        while True:
            yield "".join(rng.choices(string.ascii_uppercase, k=4))


@dataclass(slots=True)
class LoadSummary:
    """What a load did. Sizes in bytes; `contents` are the digests of the files it attached."""

    parts_added: int = 0
    parts_present: int = 0
    files: int = 0
    links: int = 0
    size: int = 0
    contents: set[Digest] = field(default_factory=set)

    @property
    def duplicates(self) -> int:
        """Files whose bytes another attached file has too."""
        return self.files - len(self.contents)


@cache
def catalogue() -> tuple[Row, ...]:
    with (SAMPLE_DATA / "parts.csv").open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def collection(parts: int, seed: int) -> Iterator[SamplePart]:
    """The first `parts` parts of the collection that `seed` describes.

    Part number n is the same however many there are, so a larger one only adds to a smaller one.
    """
    rng = seeded(seed, "catalogue")
    series: dict[str, list[Row]] = defaultdict(list)
    for item in catalogue():
        series[item["series"]].append(item)
    # Each series in its turn gives the next few of its items.
    decks = [
        (itertools.cycle(rng.sample(items, len(items))), min(len(items), OF_ONE_SERIES))
        for items in series.values()
    ]
    rng.shuffle(decks)
    supply = (next(deck) for deck, several in itertools.cycle(decks) for _ in range(several))
    for first in range(0, parts, DELIVERY):
        delivery = rng.sample(list(itertools.islice(supply, DELIVERY)), DELIVERY)
        for number, item in enumerate(delivery[: parts - first], first):
            yield _part(seed, number, item)


def _part(seed: int, number: int, item: Row) -> SamplePart:
    rng = seeded(seed, number)
    columns = dict(item)
    photos = [SAMPLE_DATA / "photos" / name for name in columns.pop("photos").split()]
    packet = SAMPLE_DATA / "photos" / columns.pop("packet")
    datasheet = SAMPLE_DATA / "datasheets" / columns.pop("datasheet")
    series, code = item["series"], item["manufacturer_code"]
    delivery = number // DELIVERY
    day = f"20{15 + delivery % 10}:{1 + delivery * 5 % 12:02d}:{1 + delivery * 7 % 28:02d}"

    def photo(title: str, stem: str) -> SampleAttachment:
        extension = rng.choices(("jpg", "png", "webp"), (85, 7, 8))[0]
        picture = Photo(
            name=f"{stem}.{extension}",
            source=rng.choice(photos),
            seed=f"{seed}/{number}/{title}",
            lines=(code,),
            ratio=rng.choice((0.7, 0.85, 1.0, 1.0, 1.3)),
            orientation=rng.choices((1, 6, 8, 3), (75, 12, 8, 5))[0],
            taken=f"{day} {rng.randint(8, 20):02d}:{rng.randint(0, 59):02d}:00",
        )
        return SampleAttachment(title, picture)

    attachments = []
    if rng.random() < 0.95:
        words = " ".join(item["description"].split()[:4]).rstrip(",")
        attachments += [photo("Photo", rng.choice((code, words, f"IMG_{rng.randrange(10**4)}")))]
    if rng.random() < 0.12:
        attachments += [photo("Another photo", f"{code} – 2")]
    if rng.random() < 0.5:
        lines = (item["manufacturer"], series, "QTY 100", f"LOT {day.replace(':', '')}")
        taken = f"{day} 18:30:00"
        label = Photo(f"{series} packet.jpg", packet, f"{seed}/{delivery}/{series}", lines, taken)
        attachments += [SampleAttachment("Packet as delivered", label)]
    if rng.random() < 0.88:
        title = f"{series} datasheet"
        sheet = Datasheet(f"{title}.pdf", datasheet, f"{seed}/{delivery}")
        attachments += [SampleAttachment(title, sheet)]
    if rng.random() < 0.3:
        attachments += [SampleAttachment("Product page", item["product_page"])]
    return SamplePart(seed, number, columns, tuple(attachments))


def load(
    layout: Layout, parts: int, seed: int, megapixels: float, workers: int, progress: Progress
) -> LoadSummary:
    """Add what is missing of the collection, one transaction a part; `progress` is told of each.

    A part that is there already, recognised by its key and its manufacturer's code, is left as it
    is, and so is everything that is not of the sample. `megapixels` is the photos' average size,
    `workers` how many files are made at a time. Raises OSError, StoreError, UploadRefused; the
    part that met it is not added, those before it are.
    """
    store = attachment_store()
    summary = LoadSummary()
    plan = collection(parts, seed)
    with ThreadPoolExecutor(workers, "sample") as pool:
        # One delivery at a time: only its parts share files, so no more is kept than its own.
        while delivery := list(itertools.islice(plan, DELIVERY)):
            missing = _missing(delivery)
            summary.parts_present += len(delivery) - len(missing)
            with _made(list(missing.values()), store, pool, megapixels) as made:
                for key, part in missing.items():
                    _add(part, key, made, store, layout, summary)
                    progress(summary)
    return summary


def _missing(delivery: list[SamplePart]) -> dict[str, SamplePart]:
    """Those of the parts that are not there yet, by the keys they will get."""
    found: dict[str, SamplePart] = {}
    for part in delivery:
        for key in part.candidate_keys():
            # Somebody else's part, or an earlier one of the sample, may have the key.
            stored = Part.objects.filter(key=key).values_list("manufacturer_code", flat=True)
            code = found[key].columns["manufacturer_code"] if key in found else stored.first()
            if code is None:
                found[key] = part
            if code in (None, part.columns["manufacturer_code"]):
                break
    return found


@contextmanager
def _made(
    parts: list[SamplePart], store: BlobStore, pool: ThreadPoolExecutor, megapixels: float
) -> Iterator[Made]:
    """Each distinct file of these parts, made once, in staging until the block ends."""
    contents = (content for part in parts for _, content in part.attachments)
    media = dict.fromkeys(content for content in contents if not isinstance(content, str))
    paths = {file: store.staging_dir / f"sample-{uuid.uuid4().hex}" for file in media}
    made = {file: pool.submit(_make, file, path, megapixels) for file, path in paths.items()}
    try:
        yield made
    finally:
        for future in made.values():
            future.cancel()
        for file, path in paths.items():
            if not made[file].cancelled():
                made[file].exception()  # Waits: a file still being written would come back.
            path.unlink(missing_ok=True)


def _make(file: Media, path: Path, megapixels: float) -> StagedUpload:
    """The file as the product itself judges it on upload."""
    file.write(path, megapixels)
    with path.open("rb") as stream:
        hasher = hash_stream(stream)
        staged = Staged(path, hasher.digest, hasher.md5, hasher.size)
        return stage(ReceivedFile(stream, file.name.replace("/", "-"), staged, None))


def _add(
    part: SamplePart, key: str, made: Made, store: BlobStore, layout: Layout, summary: LoadSummary
) -> None:
    # Made before the transaction begins: on SQLite it keeps every other writer out.
    attachments = [
        (title, content if isinstance(content, str) else made[content].result())
        for title, content in part.attachments
    ]
    columns: dict[str, Any] = {**part.columns, "pin_count": part.columns["pin_count"] or None}
    kind, tags = columns.pop("type"), columns.pop("tags").split()
    with transaction.atomic():
        type_of_part, _ = Type.named(kind)
        row = Part.objects.create(key=key, type=type_of_part, **columns)
        row.tags.set([Tag.named(name)[0] for name in tags])
        names = seeded(part.seed, part.number, "names")
        for title, content in attachments:
            if isinstance(content, str):
                attach_url(row, content, title)
            elif layout == "cas":
                attach(row, content, title)
            else:
                name = uuid.UUID(int=names.getrandbits(128), version=4)
                _attach_legacy(row, content, title, name, store)
    summary.parts_added += 1
    staged = [content.staged for _, content in attachments if not isinstance(content, str)]
    summary.links += len(attachments) - len(staged)
    summary.files += len(staged)
    summary.size += sum(file.size for file in staged)
    summary.contents.update(file.digest for file in staged)


def _attach_legacy(
    row: Part, upload: StagedUpload, title: str, name: uuid.UUID, store: BlobStore
) -> None:
    """As the older installation left its files. Row, then bytes, then the caller's commit."""
    old_key = f"{LEGACY_PREFIX}{row.pk}/attachments/{name}.{upload.filename.rpartition('.')[2]}"
    attachment = Attachment.objects.create(
        part=row,
        attachment_type=upload.kind,
        title=title,
        s3_key=old_key,
        filename=upload.filename,
        content_type=upload.content_type,
        file_size=upload.staged.size,
    )
    store.put_legacy(old_key, upload.staged.path)
    first_image_becomes_cover(attachment)
