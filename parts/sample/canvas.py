"""Drawing in millimetres on a transparent sheet, at twice the resolution it is used at.

No randomness of Pillow's own is used anywhere (`Image.effect_noise` cannot be seeded): a photo's
bytes depend on its description alone.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Final

from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFont

OVERSAMPLING: Final = 2
NOISE_TILE: Final = 1024

Colour = str | tuple[int, int, int]
Stops = tuple[Colour, ...]

TIN: Final[Stops] = ("#6f7174", "#dfe1e3", "#f4f5f6", "#b9bbbe", "#8b8d90", "#c4c6c8", "#77797c")
GOLD: Final[Stops] = ("#7d5a1d", "#e8c872", "#f7e3a0", "#c79a3c", "#8a6422")
SILKSCREEN: Final = "#e9ebe6"
LASER: Final = "#a9aaa6"


@cache
def font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(4, pixels))


@cache
def noise_tile() -> Image.Image:
    """Grey noise around 128, the same in every process: the sum of two even distributions."""
    source = random.Random("grain")  # noqa: S311 - pictures, not secrets
    size = (NOISE_TILE, NOISE_TILE)
    first, second = (
        Image.frombytes("L", size, source.randbytes(NOISE_TILE * NOISE_TILE)) for _ in range(2)
    )
    return ImageChops.add(first, second, scale=2)


def noise(size: tuple[int, int], rng: random.Random, strength: float) -> Image.Image:
    """Grey noise of `size`, at most `strength` times 128 either side of 128."""
    tile = noise_tile().point([round(128 + (value - 128) * strength) for value in range(256)])
    left, top = rng.randrange(NOISE_TILE), rng.randrange(NOISE_TILE)
    whole = Image.new("L", size)
    for x in range(-left, size[0], NOISE_TILE):
        for y in range(-top, size[1], NOISE_TILE):
            whole.paste(tile, (x, y))
    return whole


def rgb(colour: Colour) -> tuple[int, int, int]:
    if isinstance(colour, tuple):
        return colour
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return red, green, blue


def shade(colour: Colour, factor: float) -> tuple[int, int, int]:
    """Darker below 1, lighter (towards white) above."""
    channels = rgb(colour)
    if factor <= 1:
        red, green, blue = (round(c * factor) for c in channels)
    else:
        red, green, blue = (round(c + (255 - c) * (factor - 1)) for c in channels)
    return red, green, blue


class Sheet:
    """A transparent sheet of `width` by `height` mm, drawn on at `scale` final pixels per mm."""

    def __init__(self, width: float, height: float, scale: float) -> None:
        self.width, self.height = width, height
        self.scale = scale * OVERSAMPLING
        size = (max(2, round(width * self.scale)), max(2, round(height * self.scale)))
        self.image = Image.new("RGBA", size, (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.image)

    def _px(self, *millimetres: float) -> list[float]:
        return [value * self.scale for value in millimetres]

    def rect(
        self, x: float, y: float, width: float, height: float, fill: Colour, radius: float = 0
    ) -> None:
        box = self._px(x, y, x + width, y + height)
        self.draw.rounded_rectangle(box, radius * self.scale, fill)

    def disc(self, x: float, y: float, diameter: float, fill: Colour) -> None:
        radius = diameter / 2
        self.draw.ellipse(self._px(x - radius, y - radius, x + radius, y + radius), fill)

    def polygon(self, points: list[tuple[float, float]], fill: Colour) -> None:
        self.draw.polygon([(x * self.scale, y * self.scale) for x, y in points], fill)

    def line(self, points: list[tuple[float, float]], width: float, fill: Colour) -> None:
        scaled = [(x * self.scale, y * self.scale) for x, y in points]
        self.draw.line(scaled, fill, max(1, round(width * self.scale)), joint="curve")

    def blend(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        stops: Stops,
        *,
        across: bool = False,
        radius: float = 0,
    ) -> None:
        """A rectangle shaded through `stops` from top to bottom, or `across` from the left."""
        left, top, right, bottom = (round(v) for v in self._px(x, y, x + width, y + height))
        size = (max(1, right - left), max(1, bottom - top))
        ramp = Image.new("RGB", (len(stops), 1) if across else (1, len(stops)))
        ramp.putdata([rgb(stop) for stop in stops])
        filled = ramp.resize(size, Image.Resampling.BILINEAR)
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).rounded_rectangle(
            (0, 0, size[0] - 1, size[1] - 1), radius * self.scale, 255
        )
        self.image.paste(filled, (left, top), mask)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        height: float,
        fill: Colour,
        *,
        fit: float = 0,
        upright: bool = False,
    ) -> None:
        """Text centred on (x, y), `height` mm high, made smaller until it fits into `fit` mm."""
        face = font(round(height * self.scale * 1.35))
        width = face.getlength(text)
        if fit and width > fit * self.scale:
            face = font(int(height * self.scale * 1.35 * fit * self.scale / width))
        if not upright:
            self.draw.text((x * self.scale, y * self.scale), text, fill, face, anchor="mm")
            return
        turned = Image.new("L", (round(face.getlength(text)) + 8, round(height * self.scale * 2)))
        middle = (turned.width / 2, turned.height / 2)
        ImageDraw.Draw(turned).text(middle, text, 255, face, anchor="mm")
        turned = turned.transpose(Image.Transpose.ROTATE_90)
        corner = (
            round(x * self.scale - turned.width / 2),
            round(y * self.scale - turned.height / 2),
        )
        self.image.paste(rgb(fill), corner, turned)

    def finish(self, rng: random.Random, angle: float = 0, grain: float = 0.07) -> Image.Image:
        """The sheet with a fine surface grain, turned by `angle` degrees, at final resolution."""
        fine = self.image.reduce(OVERSAMPLING)
        surface = noise(fine.size, rng, grain)
        lit = ImageChops.add(fine.convert("RGB"), Image.merge("RGB", [surface] * 3), offset=-128)
        lit.putalpha(fine.getchannel("A"))
        if angle % 360:
            lit = lit.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        return lit
