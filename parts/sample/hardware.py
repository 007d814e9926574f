"""How connectors, switches, lamps, crystals and modules look from above, in millimetres."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from parts.sample.bodies import BODIES, MARGIN
from parts.sample.canvas import GOLD, LASER, SILKSCREEN, TIN, Sheet, shade
from parts.sample.catalog import Item, Shape


def lamp(item: Item, scale: float) -> Sheet:
    """A light-emitting diode lying down: dome to the right, wires to the left."""
    body = item.package
    wire = 16.0
    sheet = Sheet(wire + body.height + 2 * MARGIN, body.width + 1.2, scale)
    middle = sheet.height / 2
    for offset, length in ((-1.27, wire), (1.27, wire * 0.88)):
        sheet.blend(wire - length, middle + offset - 0.25, length + 1, 0.5, TIN, radius=0.2)
    glow = tuple(shade(item.colour, f) for f in (0.6, 0.95, 1.35, 1.65, 1.25, 1.0, 0.85, 0.6))
    sheet.blend(wire, middle - 2.5, body.height, 5.0, glow, radius=2.45)
    sheet.blend(wire, middle - 2.5, body.height * 0.6, 5.0, glow, radius=0.2)
    sheet.blend(wire, middle - 2.9, 1.0, 5.8, glow, radius=0.15)
    frame = shade(item.colour, 0.55)
    sheet.polygon(
        [(wire + 1, middle - 1.7), (wire + 4.4, middle - 1.5), (wire + 4.4, middle - 0.1)], frame
    )
    sheet.rect(wire + 1, middle + 0.7, 3.4, 0.7, frame)
    sheet.blend(wire + 1.4, middle - 1.75, body.height * 0.62, 0.5, ("#ffffff", item.colour))
    return sheet


def header(item: Item, scale: float) -> Sheet:
    """Pin headers from above: an insulator of little squares, a gold pin in each."""
    body = item.package
    sheet = Sheet(body.length + 2 * MARGIN, body.width + 2 * MARGIN, scale)
    rows = round(body.width / body.pitch)
    for column in range(body.pins // rows):
        for row in range(rows):
            x, y = MARGIN + column * body.pitch, MARGIN + row * body.pitch
            stops = tuple(shade(item.colour, f) for f in (1.25, 1.1, 1.0, 0.8))
            sheet.blend(x + 0.04, y + 0.02, body.pitch - 0.08, body.pitch - 0.04, stops, radius=0.5)
            middle = (x + body.pitch / 2, y + body.pitch / 2)
            sheet.rect(middle[0] - 0.4, middle[1] - 0.4, 0.9, 0.9, "#0b0b0c")
            sheet.blend(middle[0] - 0.32, middle[1] - 0.32, 0.64, 0.64, GOLD, radius=0.1)
            sheet.rect(middle[0] - 0.15, middle[1] - 0.15, 0.3, 0.3, "#fbefc4")
    return sheet


def wire_to_board(item: Item, scale: float) -> Sheet:
    body = item.package
    sheet = Sheet(body.length + 2 * MARGIN, body.width + 2 * MARGIN, scale)
    sheet.rect(MARGIN, MARGIN, body.length, body.width, shade(item.colour, 0.72), 0.2)
    walls = tuple(shade(item.colour, f) for f in (1.35, 1.0, 0.97, 0.85))
    sheet.blend(MARGIN, MARGIN, body.length, body.width - 0.15, walls, radius=0.2)
    inside = tuple(shade(item.colour, f) for f in (0.45, 0.6, 0.68))
    sheet.blend(MARGIN + 0.7, MARGIN + 0.75, body.length - 1.4, body.width - 1.5, inside)
    for side in (0.24, 0.76):
        x = MARGIN + body.length * side - 0.5
        sheet.rect(x, MARGIN + body.width - 0.8, 1.0, 0.85, inside[1])
    for number in range(body.pins):
        x = sheet.width / 2 + (number - (body.pins - 1) / 2) * body.pitch
        sheet.rect(x - 0.38, sheet.height / 2 - 0.3, 0.95, 0.95, shade(item.colour, 0.35))
        sheet.blend(x - 0.32, sheet.height / 2 - 0.42, 0.64, 0.74, TIN)
    return sheet


def terminal(item: Item, scale: float) -> Sheet:
    body = item.package
    sheet = Sheet(body.length + 2 * MARGIN, body.width + 2 * MARGIN, scale)
    stops = tuple(shade(item.colour, f) for f in (1.3, 1.1, 1.0, 0.9, 0.75, 0.6))
    sheet.blend(MARGIN, MARGIN, body.length, body.width, stops, radius=0.25)
    for number in range(body.pins):
        x = MARGIN + 0.25 + (number + 0.5) * body.pitch
        y = MARGIN + body.width * 0.42
        sheet.disc(x, y, 4.2, shade(item.colour, 0.45))
        sheet.disc(x, y + 0.1, 3.7, "#8f9194")
        sheet.disc(x, y, 3.4, "#c9cbcd")
        slant = 1.1 - 0.5 * (number % 3)
        sheet.line([(x - 1.2, y - slant), (x + 1.2, y + slant)], 0.55, "#3f4042")
        sheet.rect(x - 1.5, MARGIN + body.width * 0.78, 3.0, 1.2, shade(item.colour, 0.35), 0.15)
        if number:
            sheet.rect(x - body.pitch / 2 - 0.06, MARGIN, 0.12, body.width, shade(item.colour, 0.6))
    return sheet


def crystal(item: Item, scale: float) -> Sheet:
    body = item.package
    wire = 7.0
    sheet = Sheet(body.length + 2 * MARGIN, body.width + wire + 2 * MARGIN, scale)
    for x in (sheet.width / 2 - body.pitch / 2, sheet.width / 2 + body.pitch / 2):
        sheet.blend(x - 0.22, body.width, 0.44, wire, TIN, across=True)
    rim = ("#8d8f92", "#d5d7d9", "#a5a7aa", "#6d6f72")
    sheet.blend(MARGIN, MARGIN, body.length, body.width, rim, radius=body.width / 2)
    face = ("#f1f2f3", "#d3d5d7", "#c2c4c7", "#d9dbdd", "#aeb0b3")
    edge = 0.45
    sheet.blend(
        *(MARGIN + edge, MARGIN + edge, body.length - 2 * edge, body.width - 2 * edge, face),
        radius=body.width / 2 - edge,
    )
    for number, line in enumerate(item.marking):
        y = MARGIN + body.width * (0.36 + 0.3 * number)
        sheet.text(sheet.width / 2, y, line, body.width * 0.19, "#4d4f52", fit=body.length * 0.7)
    return sheet


def module(item: Item, scale: float) -> Sheet:
    """A small circuit board: a radio module with its shield, or a sensor breakout."""
    body = item.package
    sheet = Sheet(body.width + 2 * MARGIN, body.length + 2 * MARGIN, scale)
    radio = body.pins > 20
    board = "#1c1f22" if radio else "#5a2a86"
    stops = tuple(shade(board, f) for f in (1.16, 1.06, 1.0, 0.92))
    sheet.blend(MARGIN, MARGIN, body.width, body.length, stops, radius=0.4)
    if radio:
        y = MARGIN + 1.2
        points = [(MARGIN + 1.2, y + 4)]
        for step in range(6):
            x = MARGIN + 1.2 + step * 2.6
            points += [(x, y), (x + 1.3, y), (x + 1.3, y + 3.4), (x + 2.6, y + 3.4)]
        sheet.line(points, 0.55, "#b99a52")
        for number in range(14):
            y = MARGIN + 7.4 + number * body.pitch
            for x in (MARGIN, MARGIN + body.width - 0.9):
                sheet.blend(x, y, 0.9, 0.85, GOLD, radius=0.2)
        can = (MARGIN + 1.3, MARGIN + 6.6, body.width - 2.6, body.length - 8.2)
        sheet.blend(*can, ("#e4e5e6", "#c9cbcd", "#bfc1c3", "#d4d6d8", "#a4a6a8"), radius=0.4)
        for number, line in enumerate(item.marking):
            y = can[1] + can[3] * (0.3 + 0.2 * number)
            sheet.text(sheet.width / 2, y, line, 1.3, "#55575a", fit=can[2] * 0.8)
        return sheet
    for number in range(4):
        x = sheet.width / 2 + (number - 1.5) * body.pitch
        sheet.disc(x, MARGIN + body.length - 1.8, 1.9, "#cfa84a")
        sheet.disc(x, MARGIN + body.length - 1.8, 1.0, "#17120a")
        sheet.text(
            x, MARGIN + body.length - 3.9, ("VIN", "GND", "SCL", "SDA")[number], 0.9, SILKSCREEN
        )
    for x in (MARGIN + 2.2, MARGIN + body.width - 2.2):
        sheet.disc(x, MARGIN + 2.2, 3.0, "#d9c489")
        sheet.disc(x, MARGIN + 2.2, 2.4, "#6b6455")
    sheet.blend(sheet.width / 2 - 1.25, MARGIN + 7, 2.5, 2.5, TIN, radius=0.15)
    sheet.disc(sheet.width / 2 - 0.7, MARGIN + 7.5, 0.4, "#222")
    for x in (4.2, 6.0, 12.0, 13.8):
        sheet.blend(x, MARGIN + 12, 1.0, 1.9, ("#d0d0d0", "#1d1d1f", "#1d1d1f", "#d0d0d0"))
    sheet.text(sheet.width / 2, MARGIN + 4.2, item.marking[0], 1.1, SILKSCREEN)
    return sheet


def tact(item: Item, scale: float) -> Sheet:
    body = item.package
    legs = 0.9
    sheet = Sheet(body.length + 2 * (legs + MARGIN), body.width + 2 * MARGIN, scale)
    left, top = legs + MARGIN, MARGIN
    for y in (top + body.width * 0.14, top + body.width * 0.86 - 0.7):
        for x in (MARGIN, left + body.length - 0.1):
            sheet.blend(x, y, legs + 0.1, 0.7, TIN)
    sheet.rect(left, top, body.length, body.width, "#17181a", 0.3)
    sheet.blend(left + 0.15, top + 0.15, body.length - 0.3, body.width - 0.3, TIN, radius=0.3)
    for x in (0.13, 0.87):
        for y in (0.13, 0.87):
            sheet.disc(left + body.length * x, top + body.width * y, body.length * 0.13, "#1d1e20")
    middle = (sheet.width / 2, sheet.height / 2)
    knob = body.length * 0.58
    sheet.disc(*middle, knob * 1.08, "#3c3d40")
    sheet.disc(*middle, knob, shade(item.colour, 0.8))
    sheet.disc(middle[0] - knob * 0.02, middle[1] - knob * 0.03, knob * 0.9, item.colour)
    light = (middle[0] - knob * 0.12, middle[1] - knob * 0.16)
    sheet.disc(*light, knob * 0.42, shade(item.colour, 1.12))
    return sheet


def trimmer(item: Item, scale: float) -> Sheet:
    body = item.package
    sheet = Sheet(body.length + 2 * MARGIN, body.height + 4 + MARGIN, scale)
    for number in (-1, 0, 1):
        x = sheet.width / 2 + number * body.pitch
        sheet.blend(x - 0.25, body.height, 0.5, 4, TIN, across=True)
    stops = tuple(shade(item.colour, f) for f in (1.25, 1.08, 1.0, 0.94, 0.8))
    sheet.blend(MARGIN, MARGIN + 1.4, body.length, body.height - 1.4, stops, radius=0.25)
    sheet.blend(MARGIN + 0.9, MARGIN, 2.4, 1.5, ("#8d6a22", "#ecd083", "#a37c2c"), across=True)
    sheet.rect(MARGIN + 1.9, MARGIN, 0.4, 0.9, "#4c3a13")
    for number, line in enumerate(item.marking):
        y = MARGIN + 4.2 + 2.4 * number
        sheet.text(sheet.width / 2, y, line, 1.5, SILKSCREEN, fit=body.length * 0.8)
    return sheet


def power_inductor(item: Item, scale: float) -> Sheet:
    body = item.package
    sheet = Sheet(body.length + 2 * MARGIN, body.width + 2 * MARGIN, scale)
    middle = sheet.width / 2
    for x in (MARGIN, MARGIN + body.length - 1.6):
        sheet.blend(x, middle - 2.6, 1.6, 5.2, TIN, across=True)
    stops = tuple(shade(item.colour, f) for f in (1.25, 1.1, 1.0, 0.85))
    sheet.blend(MARGIN + 0.5, MARGIN, body.length - 1, body.width, stops, radius=2.2)
    sheet.disc(middle, middle, body.length * 0.78, "#0f0f11")
    sheet.disc(middle, middle, body.length * 0.74, "#3a2a1c")
    sheet.disc(middle, middle, body.length * 0.68, "#2a2b2e")
    sheet.disc(middle - 0.2, middle - 0.25, body.length * 0.64, "#34353a")
    sheet.text(middle, middle, item.marking[0], 2.6, LASER)
    return sheet


_HARDWARE: Final[dict[Shape, Callable[[Item, float], Sheet]]] = {
    Shape.LED: lamp,
    Shape.HEADER: header,
    Shape.WIRE: wire_to_board,
    Shape.TERMINAL: terminal,
    Shape.CRYSTAL: crystal,
    Shape.MODULE: module,
    Shape.TACT: tact,
    Shape.TRIMMER: trimmer,
    Shape.POWER_INDUCTOR: power_inductor,
}


def drawn(item: Item, scale: float) -> Sheet:
    """The item from above, at `scale` pixels per millimetre."""
    return {**BODIES, **_HARDWARE}[item.package.shape](item, scale)
