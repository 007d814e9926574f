"""Photographs of components on a bench, drawn with Pillow.

A scene is drawn at 60 % of the final resolution, seen through a slightly tilted camera onto the
full one, and given its sensor noise there: as sharp as a telephone's pictures are, in half the
time. The bytes depend on the description alone (and on Pillow's version).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from PIL import Image, ImageChops

from parts.sample import scenes
from parts.sample.canvas import noise
from parts.sample.catalog import Item
from parts.sample.hardware import drawn

MEGAPIXELS: Final = 6.0
"""Millions of pixels of a photo, on average; single photos have 0.7 to 1.3 times as many."""

_WORKING: Final = 0.6
_UPRIGHT: Final = {
    1: None,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
"""For each EXIF orientation, what turns an upright picture into the one that is stored."""

_ORIENTATION: Final = 0x0112
_MODEL: Final = 0x0110
_TAKEN: Final = 0x0132


class View(StrEnum):
    SINGLE = "single"
    HANDFUL = "handful"
    LABEL = "label"


@dataclass(frozen=True, slots=True)
class Photo:
    """One picture: what is on it, and how the camera saw it.

    `ratio` is its number of pixels relative to the average, `format` Pillow's name of the file
    format, `orientation` the EXIF value (1 is upright), `lines` what a label says.
    """

    item: Item
    view: View
    surface: scenes.Surface
    seed: str
    ratio: float = 1.0
    format: str = "JPEG"
    orientation: int = 1
    taken: str = ""
    lines: tuple[str, ...] = ()

    def write(self, target: Path, megapixels: float = MEGAPIXELS) -> None:
        """Render to `target`. Raises OSError."""
        rng = random.Random(self.seed)  # noqa: S311 - pictures, not secrets
        pixels = megapixels * 1e6 * self.ratio
        if self.format == "PNG":
            pixels /= 3  # As a photo a PNG is several times larger; people keep such ones small.
        width = max(64, round((pixels * 4 / 3) ** 0.5))
        size = (width, round(width * 3 / 4))
        picture = _exposed(_scene(self, size, rng), size, rng, self.format)
        _save(self, picture, target)


def _scene(photo: Photo, final: tuple[int, int], rng: random.Random) -> Image.Image:
    size = (round(final[0] * _WORKING), round(final[1] * _WORKING))
    if photo.view is View.LABEL:
        return scenes.light(_labelled(photo, size, rng), rng)
    body = photo.item.package
    longest = max(body.length, body.width, body.height, 2.0)
    if photo.view is View.SINGLE:
        # With long wires the picture is as wide as they are, and not filled by the body alone.
        scale = size[0] / (max(longest, 0.62 * _span(photo.item)) * rng.uniform(2.0, 2.7))
        places = [(rng.uniform(0.44, 0.56), rng.uniform(0.46, 0.56))]
    else:
        scale = size[0] / (_span(photo.item) * rng.uniform(3.6, 4.4))
        places = _spread(rng)
    scene = scenes.surface(photo.surface, size, scale, rng)
    for x, y in places:
        angle = rng.gauss(0, 9) if photo.view is View.SINGLE else rng.uniform(0, 360)
        sprite = drawn(photo.item, scale).finish(rng, angle)
        lift = min(body.height, longest * 0.4) * scale * 0.4
        scenes.lay(scene, sprite, (x * size[0], y * size[1]), max(2.0, lift))
    return scenes.light(scene, rng)


def _span(item: Item) -> float:
    """How wide a picture must at least be to hold the item with its leads, in millimetres."""
    sheet = drawn(item, 1.0)
    return max(sheet.width, sheet.height * 4 / 3)


def _spread(rng: random.Random) -> list[tuple[float, float]]:
    """Some of the cells of a loose three-by-three grid, so that parts rarely lie on each other."""
    cells = [(x, y) for x in (0.2, 0.5, 0.8) for y in (0.2, 0.5, 0.8)]
    chosen = rng.sample(cells, rng.randint(4, 7))
    return [(x + rng.uniform(-0.06, 0.06), y + rng.uniform(-0.06, 0.06)) for x, y in chosen]


def _labelled(photo: Photo, size: tuple[int, int], rng: random.Random) -> Image.Image:
    """A delivery's label, with two of what it was on."""
    scale = size[0] / 90
    scene = scenes.surface(photo.surface, size, scale, rng)
    paper = scenes.label((round(size[0] * 0.66), round(size[1] * 0.56)), photo.lines, rng)
    paper = paper.rotate(rng.gauss(0, 4), Image.Resampling.BICUBIC, expand=True)
    scenes.lay(scene, paper, (size[0] * 0.47, size[1] * 0.4), size[0] / 170)
    body = photo.item.package
    scale = size[0] / (max(body.length, body.width, body.height, 2.0) * 6)
    for x in (0.66, 0.85):
        sprite = drawn(photo.item, scale).finish(rng, rng.uniform(-40, 40))
        at = (x * size[0], rng.uniform(0.76, 0.84) * size[1])
        scenes.lay(scene, sprite, at, max(2.0, body.height * scale * 0.3))
    return scene


def _exposed(
    scene: Image.Image, size: tuple[int, int], rng: random.Random, file_format: str
) -> Image.Image:
    """The scene as a tilted camera takes it, at full resolution, with the sensor's noise."""
    width, height = scene.size
    lean = [rng.uniform(0.005, 0.045) for _ in range(8)]
    corners = (
        *(lean[0] * width, lean[1] * height),
        *(lean[2] * width * 0.3, height - lean[3] * height),
        *(width - lean[4] * width * 0.3, height - lean[5] * height),
        *(width - lean[6] * width, lean[7] * height),
    )
    # Tilted first and enlarged after: one general transform of the large picture costs four times
    # as much as both.
    tilted = scene.transform(scene.size, Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)
    picture = tilted.resize(size, Image.Resampling.BILINEAR)
    strength = rng.uniform(0.05, 0.085) * (0.5 if file_format == "PNG" else 1.0)
    grain = Image.merge("RGB", [noise(size, rng, strength) for _ in range(3)])
    return ImageChops.add(picture, grain, offset=-128)


def _save(photo: Photo, picture: Image.Image, target: Path) -> None:
    turn = _UPRIGHT[photo.orientation]
    if turn is not None:
        picture = picture.transpose(turn)
    exif = Image.Exif()
    exif[_ORIENTATION] = photo.orientation
    exif[_MODEL] = "Bench camera"
    exif[_TAKEN] = photo.taken
    options: dict[str, int] = {
        "JPEG": {"quality": 85},
        "PNG": {"compress_level": 3},
        "WEBP": {"quality": 80, "method": 1},
    }[photo.format]
    picture.save(target, photo.format, exif=exif, **options)
