"""Which parts and attachments the sample collection has: pure data, from the seed alone.

Part number n is the same however many parts are asked for, so a larger collection only adds to a
smaller one.
"""

from __future__ import annotations

import itertools
import random
import string
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from parts.sample.analog import POWER_AND_LOGIC
from parts.sample.catalog import Family, Item, Shape
from parts.sample.circuits import CIRCUITS
from parts.sample.datasheets import Datasheet
from parts.sample.discretes import DISCRETES
from parts.sample.electromechanical import ELECTROMECHANICAL
from parts.sample.photos import Photo, View
from parts.sample.reactive import REACTIVE
from parts.sample.resistors import RESISTORS
from parts.sample.scenes import Surface

FAMILIES: Final = (
    *RESISTORS,
    *REACTIVE,
    *DISCRETES,
    *POWER_AND_LOGIC,
    *CIRCUITS,
    *ELECTROMECHANICAL,
)

DELIVERY: Final = 30
"""Parts that arrived together. They share datasheets and the pictures of the packets they came in,
which makes about a third of all files identical to another part's, in a collection of any size."""

_FAMILIES_PER_DELIVERY: Final = 10
_SELLERS: Final = (
    ("Mouser", "https://www.mouser.com/c/?q={code}"),
    ("DigiKey", "https://www.digikey.com/en/products/result?keywords={code}"),
    ("LCSC", "https://www.lcsc.com/search?q={code}"),
    ("Farnell", "https://uk.farnell.com/search?st={code}"),
    ("Reichelt", "https://www.reichelt.com/index.html?ACTION=446&SEARCH={code}"),
    ("TME", "https://www.tme.eu/en/katalog/?search={code}"),
    ("RS", "https://uk.rs-online.com/web/c/?searchTerm={code}"),
)
_LINKS: Final = (
    ("Product page", "{page}"),
    ("Footprint and 3D model", "https://www.snapeda.com/search/?q={code}"),
    ("Alternatives", "https://octopart.com/search?q={code}"),
)
_EXTENSIONS: Final = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_ASCII: Final = str.maketrans(
    {"Ω": " Ohm", "µ": "u", "±": "+/-", "°": "", "Ø": "", "×": "x", "²": "2", "–": "-", "ü": "u"}
)

Media = Photo | Datasheet


@dataclass(frozen=True, slots=True)
class SampleAttachment:
    """A file, described by `media`, or a link to `url`. `uuid` names it in the older layout."""

    title: str
    uuid: uuid.UUID
    filename: str = ""
    media: Media | None = None
    url: str = ""


@dataclass(frozen=True, slots=True)
class SamplePart:
    """One part: something of a family, bought somewhere, with its attachments in order."""

    number: int
    seed: int
    family: Family
    item: Item
    seller: str
    seller_link: str
    product_page: str
    tags: tuple[str, ...]
    attachments: tuple[SampleAttachment, ...]

    def candidate_keys(self) -> Iterator[str]:
        """Keys for this part without end: the first is its own, the others are for when another
        part has it."""
        rng = _rng(self.seed, "key", self.number)
        while True:
            yield "".join(rng.choice(string.ascii_uppercase) for _ in range(4))


def collection(parts: int, seed: int) -> Iterator[SamplePart]:
    """The first `parts` parts of the collection that `seed` describes."""
    numbers = itertools.count()
    decks = {family: _deck(family, seed) for family in FAMILIES}
    deliveries = (_Delivery(seed, number, decks) for number in itertools.count())
    endless = (delivery.part(next(numbers)) for delivery in deliveries for _ in range(DELIVERY))
    return itertools.islice(endless, parts)


def _rng(*names: object) -> random.Random:
    return random.Random("/".join(map(str, names)))  # noqa: S311 - samples, not secrets


def _deck(family: Family, seed: int) -> Iterator[Item]:
    """The family's items in a random order, for ever."""
    rng = _rng(seed, family.manufacturer, family.series)
    return itertools.cycle(rng.sample(family.items, len(family.items)))


class _Delivery:
    """Parts bought together, from a few families."""

    def __init__(self, seed: int, number: int, decks: dict[Family, Iterator[Item]]) -> None:
        self.seed, self.number, self.decks = seed, number, decks
        self.rng = _rng(seed, "delivery", number)
        self.left: dict[Family, int] = {}
        while len(self.left) < _FAMILIES_PER_DELIVERY or sum(self.left.values()) < 2 * DELIVERY:
            (family,) = self.rng.choices(FAMILIES, [family.share for family in FAMILIES])
            self.left[family] = len(family.items)
        self.labels: dict[Family, Photo] = {}
        self.day = f"20{15 + number % 10}:{1 + number * 5 % 12:02d}:{1 + number * 7 % 28:02d}"

    def part(self, number: int) -> SamplePart:
        shares = [family.share if left else 0 for family, left in self.left.items()]
        (family,) = self.rng.choices(list(self.left), shares)
        self.left[family] -= 1
        item = next(self.decks[family])
        code = quote(item.code, safe="")
        seller, link = self.rng.choice(_SELLERS)
        page = family.page.format(code=code)
        return SamplePart(
            number=number,
            seed=self.seed,
            family=family,
            item=item,
            seller=seller,
            seller_link=link.format(code=code),
            product_page=page,
            tags=tuple(dict.fromkeys((*family.tags, *item.tags))),
            attachments=tuple(self._attachments(number, family, item, code, page)),
        )

    def _attachments(
        self, number: int, family: Family, item: Item, code: str, page: str
    ) -> Iterator[SampleAttachment]:
        rng = _rng(self.seed, "part", number)
        names = (uuid.UUID(int=rng.getrandbits(128), version=4) for _ in itertools.count())
        plain = "".join(c if c.isalnum() or c in "-." else "_" for c in item.code)
        if rng.random() < 0.95:
            photo = self._photo(item, rng, f"{number}/1")
            name = rng.choice((plain, _shown(item), f"IMG_{rng.randrange(1000, 9999)}"))
            yield _file("Photo", next(names), name, photo)
        if rng.random() < 0.12:
            photo = self._photo(item, rng, f"{number}/2")
            yield _file("Another photo", next(names), f"{plain} – 2", photo)
        if rng.random() < 0.42:
            label = self.labels.setdefault(family, self._label(family, item))
            yield _file("Packet as delivered", next(names), f"{family.series} packet", label)
        if rng.random() < 0.88:
            sheet = Datasheet(family, self.number + 1)
            title = f"{family.series} datasheet"
            yield SampleAttachment(title, next(names), f"{title}.pdf".replace("/", "-"), sheet)
        if rng.random() < 0.3:
            title, url = rng.choice(_LINKS)
            yield SampleAttachment(title, next(names), url=url.format(code=code, page=page))

    def _photo(self, item: Item, rng: random.Random, name: str) -> Photo:
        small = item.package.length < 4 or item.package.shape is Shape.RESISTOR_AXIAL
        view = View.HANDFUL if rng.random() < (0.45 if small else 0.25) else View.SINGLE
        return Photo(
            item=item,
            view=view,
            surface=rng.choice(tuple(Surface)),
            seed=f"{self.seed}/{name}",
            ratio=rng.choice((0.7, 0.85, 1.0, 1.0, 1.3)),
            format=rng.choices(("JPEG", "PNG", "WEBP"), (85, 7, 8))[0],
            orientation=rng.choices((1, 6, 8, 3), (75, 12, 8, 5))[0],
            taken=f"{self.day} {rng.randint(8, 20):02d}:{rng.randint(0, 59):02d}:00",
        )

    def _label(self, family: Family, item: Item) -> Photo:
        lot = self.day.replace(":", "")
        lines = (family.manufacturer, item.code, item.description, f"QTY 100   LOT {lot}")
        return Photo(
            item=item,
            view=View.LABEL,
            surface=self.rng.choice(tuple(Surface)),
            seed=f"{self.seed}/{self.number}/{family.series}",
            ratio=0.85,
            taken=f"{self.day} 18:30:00",
            lines=tuple(" ".join(line.translate(_ASCII).split()) for line in lines),
        )


def _shown(item: Item) -> str:
    """A file name as people give them: the first words of the description, as they stand."""
    return " ".join(item.description.replace("/", "-").split()[:4]).rstrip(",")


def _file(title: str, name: uuid.UUID, stem: str, photo: Photo) -> SampleAttachment:
    filename = f"{stem}.{_EXTENSIONS[photo.format]}".replace("/", "-")
    return SampleAttachment(title, name, filename, photo)
