"""Photos and datasheets of the sample, made from those in `sample_data/`.

Each is varied and stamped, so that however many are made, no two have the same bytes. The bytes
depend on the description, the file it is made from and Pillow's version alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

MEGAPIXELS: Final = 6.0
"""Millions of pixels of a photo, on average; single photos have 0.7 to 1.3 times as many."""

_SAVED_AS: Final[dict[str, dict[str, Any]]] = {
    ".jpg": {"format": "JPEG", "quality": 85},
    ".png": {"format": "PNG", "compress_level": 3},
    ".webp": {"format": "WEBP", "quality": 80, "method": 1},
}
_DESCRIPTION, _MODEL, _ORIENTATION, _TAKEN = 0x010E, 0x0110, 0x0112, 0x0132  # EXIF tags
_STORED: Final = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
"""For each EXIF orientation, what turns an upright picture into the one that is stored."""


def seeded(*names: object) -> random.Random:
    return random.Random("/".join(map(str, names)))  # noqa: S311 - samples, not secrets


@dataclass(frozen=True, slots=True)
class Photo:
    """Another photo, called `name`, of what is on the picture `source`, with a label beside it.

    `lines` is what the label says, `ratio` the number of pixels relative to the average,
    `orientation` the EXIF value (1 is upright). The name's extension decides the format.
    """

    name: str
    source: Path
    seed: str
    lines: tuple[str, ...]
    taken: str
    ratio: float = 1.0
    orientation: int = 1

    def write(self, target: Path, megapixels: float) -> None:
        """Raises OSError."""
        rng = seeded(self.seed)
        with Image.open(self.source) as picture:
            # As a photo a PNG is several times larger; people keep such ones small.
            pixels = megapixels * 1e6 * self.ratio / (3 if self.name.endswith(".png") else 1)
            scale = (pixels / (picture.width * picture.height)) ** 0.5
            size = (max(64, round(picture.width * scale)), max(48, round(picture.height * scale)))
            # A JPEG can be decoded at a fraction of its size; some is cut off afterwards.
            picture.draft("RGB", (size[0] * 5 // 4, size[1] * 5 // 4))
            kept = rng.uniform(0.82, 1.0)
            left, top = (rng.random() * (1 - kept) * side for side in picture.size)
            box = (left, top, left + kept * picture.width, top + kept * picture.height)
            image = picture.convert("RGB").resize(size, Image.Resampling.BILINEAR, box)
        several = len(self.lines) > 1
        label = _label(self.lines, round(size[0] * (0.5 if several else 0.26)), rng)
        corner = (size[0] // 25, size[1] * 24 // 25 - label.height)
        middle = ((size[0] - label.width) // 2, (size[1] - label.height) // 2)
        image.paste(label, middle if several else corner, label)
        if self.orientation in _STORED:
            image = image.transpose(_STORED[self.orientation])
        exif = Image.Exif()
        exif[_DESCRIPTION], exif[_MODEL] = f"Sample {self.seed}", "Bench camera"
        exif[_ORIENTATION], exif[_TAKEN] = self.orientation, self.taken
        image.save(target, exif=exif, **_SAVED_AS[Path(self.name).suffix])


def _label(lines: tuple[str, ...], width: int, rng: random.Random) -> Image.Image:
    """A paper label, `width` pixels wide, lying a little askew."""
    step = max(8, width // 8)
    image = Image.new("RGBA", (width, step * len(lines) + step // 2), "#f0efea")
    for number, line in enumerate(lines):
        fitting = (width - step) / ImageFont.load_default(step).getlength(line)
        font = ImageFont.load_default(max(4, step * min(0.8, fitting)))
        at = (step / 2, step * (number + 0.75))
        ImageDraw.Draw(image).text(at, line, "#17181a", font, anchor="lm")
    return image.rotate(rng.gauss(0, 2), Image.Resampling.BICUBIC, expand=True)


@dataclass(frozen=True, slots=True)
class Datasheet:
    """The datasheet `source` as a file called `name`, in an `edition` of its own."""

    name: str
    source: Path
    edition: str

    def write(self, target: Path, megapixels: float) -> None:
        """Append a comment and, as the end of a PDF has to be, the end once more.

        A datasheet has no pixels to choose. Raises OSError.
        """
        data = self.source.read_bytes()
        end = data[data.rindex(b"startxref") :]
        target.write_bytes(data + f"\n% Sample {self.edition}\n".encode() + end)
