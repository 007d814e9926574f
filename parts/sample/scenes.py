"""The surfaces that components lie on, and the light on them, in millimetres.

Each surface is drawn at the working resolution of a photo: `scale` pixels per millimetre.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from parts.sample.canvas import Colour, font, noise, rgb, shade

Size = tuple[int, int]


class Surface(StrEnum):
    MAT = "cutting mat"
    WOOD = "wood"
    PAPER = "paper"
    FOAM = "conductive foam"
    BOARD = "circuit board"
    STEEL = "brushed steel"


def _mottled(
    size: Size, rng: random.Random, colour: Colour, cell: int, depth: float
) -> Image.Image:
    """An even colour with soft blotches about `cell` pixels across."""
    coarse = (max(2, size[0] // cell), max(2, size[1] // cell))
    blotches = noise(coarse, rng, 1.0).resize(size, Image.Resampling.BICUBIC)
    dark, light = shade(colour, 1 - depth), shade(colour, 1 + depth)
    return ImageOps.colorize(blotches, dark, light)


def _mat(size: Size, scale: float, rng: random.Random) -> Image.Image:
    colour = rng.choice(("#1f5b4a", "#23456b", "#2c3a3f", "#5b2a3a"))
    image = _mottled(size, rng, colour, max(8, size[0] // 60), 0.10)
    draw = ImageDraw.Draw(image)
    ink = shade(colour, 1.42)
    step = scale * (10 if scale * 10 < size[0] / 2.5 else 5)
    offset = rng.random() * step
    for axis in (0, 1):
        at, count = offset, 0
        while at < size[axis]:
            width = max(1, round(scale * (0.28 if count % 5 == 0 else 0.14)))
            ends = ((at, 0), (at, size[1])) if axis == 0 else ((0, at), (size[0], at))
            draw.line(ends, ink, width)
            at, count = at + step, count + 1
    for _ in range(rng.randint(3, 8)):
        start = (rng.random() * size[0], rng.random() * size[1])
        end = (start[0] + rng.gauss(0, size[0] * 0.2), start[1] + rng.gauss(0, size[0] * 0.2))
        draw.line((start, end), shade(colour, rng.choice((0.8, 1.15))), max(1, size[0] // 1100))
    return image


def _wood(size: Size, scale: float, rng: random.Random) -> Image.Image:
    dark, light = rng.choice(
        (("#6f4a2a", "#b98a57"), ("#8d6b45", "#d3b387"), ("#4b3222", "#8a6242"))
    )
    long = noise((max(2, size[0] // 400), max(2, size[1] // 5)), rng, 1.0)
    fine = noise((max(2, size[0] // 90), max(2, size[1] // 2)), rng, 1.0)
    grain = ImageChops.add(
        long.resize(size, Image.Resampling.BICUBIC),
        fine.resize(size, Image.Resampling.BILINEAR),
        scale=2,
    )
    return ImageOps.colorize(ImageOps.autocontrast(grain, 1), dark, light)


def _paper(size: Size, scale: float, rng: random.Random) -> Image.Image:
    return _mottled(size, rng, rng.choice(("#d8d6cf", "#cfd3d6", "#dcd5c6")), size[0] // 40, 0.05)


def _foam(size: Size, scale: float, rng: random.Random) -> Image.Image:
    colour = rng.choice(("#2b2c2f", "#b06a86", "#3a3d42"))
    pores = noise((size[0] // 3, size[1] // 3), rng, 1.0).filter(ImageFilter.GaussianBlur(1))
    pores = ImageOps.autocontrast(pores, 0.5).resize(size, Image.Resampling.BICUBIC)
    return ImageOps.colorize(pores, shade(colour, 0.7), shade(colour, 1.13))


def _steel(size: Size, scale: float, rng: random.Random) -> Image.Image:
    streaks = noise((max(2, size[0] // 500), size[1]), rng, 1.0)
    streaks = ImageOps.autocontrast(streaks.resize(size, Image.Resampling.BICUBIC), 1)
    return ImageOps.colorize(streaks, "#85898d", "#b3b7bb")


def _board(size: Size, scale: float, rng: random.Random) -> Image.Image:
    """A solder-masked board with traces, vias, pads and reference designators."""
    mask = rng.choice(("#14532f", "#1b2f6b", "#16181a", "#7a1620", "#1d5c3c"))
    image = _mottled(size, rng, mask, max(8, size[0] // 50), 0.06)
    draw = ImageDraw.Draw(image)
    trace = shade(mask, 1.16)
    pitch = min(scale * 1.27, size[0] / 18)
    for _ in range(46):
        x, y = (round(rng.random() * side / pitch) * pitch for side in size)
        along, down = rng.choice(((1, 0), (-1, 0), (0, 1), (0, -1)))
        length, bend = rng.uniform(4, 16) * pitch, rng.uniform(1, 4) * pitch * rng.choice((1, -1))
        corner = (x + along * length, y + down * length)
        after = (corner[0] + bend, corner[1] + abs(bend) * (1 if along == 0 and down > 0 else -1))
        draw.line(((x, y), corner, after), trace, max(2, round(pitch * rng.choice((0.2, 0.34)))))
        for hole in ((x, y), after):
            _ring(draw, hole, pitch * 0.36, "#c9a44c", "#1a1712")
    for _ in range(9):
        x, y = (rng.random() * side for side in size)
        for shift in (0, pitch * 1.7):
            box = (x + shift, y, x + shift + pitch * 0.8, y + pitch * 1.05)
            draw.rounded_rectangle(box, pitch * 0.1, "#c4c6c6")
        name = f"{rng.choice('RCLDQU')}{rng.randint(1, 99)}"
        draw.text((x, y - pitch * 0.9), name, "#e5e8e2", font(round(pitch * 0.8)))
    return image


def _ring(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], radius: float, copper: Colour, hole: Colour
) -> None:
    for size, colour in ((radius, copper), (radius * 0.5, hole)):
        draw.ellipse((at[0] - size, at[1] - size, at[0] + size, at[1] + size), colour)


_SURFACES: Final[dict[Surface, Callable[[Size, float, random.Random], Image.Image]]] = {
    Surface.MAT: _mat,
    Surface.WOOD: _wood,
    Surface.PAPER: _paper,
    Surface.FOAM: _foam,
    Surface.BOARD: _board,
    Surface.STEEL: _steel,
}


def surface(kind: Surface, size: Size, scale: float, rng: random.Random) -> Image.Image:
    """An empty bench of this kind, `size` in pixels."""
    return _SURFACES[kind](size, scale, rng).filter(ImageFilter.BoxBlur(0.7))


def lay(scene: Image.Image, sprite: Image.Image, centre: tuple[float, float], lift: float) -> None:
    """Put `sprite` on the scene with its shadow, cast by a body `lift` pixels high."""
    left, top = round(centre[0] - sprite.width / 2), round(centre[1] - sprite.height / 2)
    alpha = sprite.getchannel("A")
    for spread, offset, strength in ((0.9, 0.55, 0.42), (0.25, 0.12, 0.5)):
        _shadow(scene, alpha, (left, top), lift * spread, lift * offset, strength)
    scene.paste(sprite, (left, top), sprite)


def _shadow(
    scene: Image.Image,
    alpha: Image.Image,
    corner: tuple[int, int],
    spread: float,
    offset: float,
    strength: float,
) -> None:
    # Shadows are soft: blurring at a quarter of the size looks the same and is far cheaper.
    room = round(spread * 2) + 4
    padded = Image.new("L", (alpha.width + 2 * room, alpha.height + 2 * room))
    padded.paste(alpha, (room, room))
    small = padded.reduce(4).filter(ImageFilter.GaussianBlur(max(0.5, spread / 4)))
    soft = small.resize(padded.size, Image.Resampling.BILINEAR)
    soft = soft.point([round(value * strength) for value in range(256)])
    place = (corner[0] - room + round(offset), corner[1] - room + round(offset))
    scene.paste((8, 8, 12), (*place, place[0] + soft.width, place[1] + soft.height), soft)


def light(scene: Image.Image, rng: random.Random) -> Image.Image:
    """A desk lamp from one side, darker corners, a slight cast, and a distant edge out of focus."""
    width, height = 48, 36
    lamp = (rng.uniform(0.15, 0.85), rng.uniform(0.05, 0.45))
    values = []
    for y in range(height):
        for x in range(width):
            u, v = x / (width - 1), y / (height - 1)
            falloff = ((u - lamp[0]) ** 2 + (v - lamp[1]) ** 2) ** 0.5
            vignette = (u - 0.5) ** 2 + (v - 0.5) ** 2
            values.append(round(255 * max(0.3, 1.0 - 0.32 * falloff - 0.28 * vignette)))
    glow = Image.new("L", (width, height))
    glow.putdata(values)
    glow = glow.resize(scene.size, Image.Resampling.BICUBIC)
    warm, cool = rng.uniform(0.96, 1.0), rng.uniform(0.88, 1.0)
    tints = [glow.point([round(v * factor) for v in range(256)]) for factor in (1.0, warm, cool)]
    lit = ImageChops.multiply(scene, Image.merge("RGB", tints))
    soft = lit.reduce(4).filter(ImageFilter.GaussianBlur(scene.width / 700))
    depth = Image.new("L", (1, 5))
    depth.putdata([210, 60, 0, 0, 70])
    lit.paste(
        soft.resize(scene.size, Image.Resampling.BILINEAR),
        (0, 0),
        depth.resize(scene.size, Image.Resampling.BICUBIC),
    )
    return lit.point([min(255, round(255 * (v / 255) ** 0.8 * 1.06)) for v in range(256)] * 3)


def label(size: Size, lines: tuple[str, ...], rng: random.Random) -> Image.Image:
    """A supplier's printed label: four lines, of which the second is large, and a barcode.

    `size` is in pixels. The font has ASCII letters only.
    """
    image = Image.new("RGBA", size, (*rgb("#f0efea"), 255))
    draw = ImageDraw.Draw(image)
    width, height = size
    draw.rounded_rectangle((4, 4, width - 5, height - 5), height // 30, None, "#b9b8b2", 3)
    edge = width * 0.06
    for line, y, high in zip(
        lines, (0.07, 0.17, 0.35, 0.45), (0.075, 0.13, 0.075, 0.075), strict=True
    ):
        face = font(round(height * high))
        room = width * (0.68 if y < 0.3 else 0.88) / face.getlength(line)
        draw.text((edge, height * y), line, "#17181a", font(int(height * high * min(1.0, room))))
    x, end = edge, width - edge
    while x < end:
        bar = rng.choice((1, 1, 2, 3)) * width / 320
        draw.rectangle((x, height * 0.6, min(end, x + bar), height * 0.8), "#111214")
        x += bar + rng.choice((1, 2, 3)) * width / 320
    draw.text(
        (edge, height * 0.84), f"*{rng.randrange(10**11, 10**12)}*", "#222", font(height // 14)
    )
    for column in range(14):
        for row in range(14):
            if rng.random() < 0.5 or column == 0 or row == 13:
                cell = width * 0.011
                left, top = end - (14 - column) * cell, height * 0.08 + row * cell
                draw.rectangle((left, top, left + cell, top + cell), "#141517")
    return image
