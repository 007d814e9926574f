"""How each package looks from above, in millimetres."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from parts.sample.canvas import LASER, SILKSCREEN, TIN, Colour, Sheet, Stops, shade
from parts.sample.catalog import Item, Package, Shape

EPOXY: Final[Stops] = ("#44454a", "#36373b", "#2f3034", "#2b2c30", "#232427")
EPOXY_EDGE: Final = "#1b1c1f"
MARGIN: Final = 0.4
RESISTOR_BANDS: Final = {
    "black": "#17181a",
    "brown": "#6b3a1a",
    "red": "#b6201f",
    "orange": "#e0731d",
    "yellow": "#e6c51e",
    "green": "#2b7f3b",
    "blue": "#2450a4",
    "violet": "#6f3a94",
    "grey": "#7d8084",
    "white": "#eeeeea",
    "gold": "#b8923a",
}


def _round_shade(colour: Colour) -> Stops:
    """A cylinder lit from above: bright near the top, dark at the lower edge."""
    factors = (0.55, 0.9, 1.25, 1.5, 1.1, 0.95, 0.8, 0.62, 0.45)
    return tuple(shade(colour, factor) for factor in factors)


def _body(sheet: Sheet, box: tuple[float, float, float, float], radius: float = 0.12) -> None:
    """Black epoxy with bevelled edges."""
    x, y, width, height = box
    sheet.rect(x, y, width, height, EPOXY_EDGE, radius)
    bevel = min(width, height) * 0.045
    inner = (x + bevel, y + bevel, width - 2 * bevel, height - 2 * bevel)
    sheet.blend(*inner, EPOXY, radius=radius)
    sheet.line([(inner[0] + radius, inner[1]), (inner[0] + inner[2], inner[1])], 0.05, "#5a5b60")


def _print(
    sheet: Sheet, centre: tuple[float, float], lines: tuple[str, ...], size: tuple[float, float]
) -> None:
    """Laser marking: `lines` one below the other within `size`."""
    if not lines:
        return
    width, height = size
    step = height / len(lines)
    for number, line in enumerate(lines):
        y = centre[1] + (number - (len(lines) - 1) / 2) * step
        sheet.text(centre[0], y, line, min(step * 0.62, height * 0.3), LASER, fit=width)


def chip(item: Item, scale: float) -> Sheet:
    body = item.package
    sheet = Sheet(body.length + 2 * MARGIN, body.width + 2 * MARGIN, scale)
    end = body.length * 0.18
    colour = item.colour or "#222226"
    sheet.blend(MARGIN, MARGIN, body.length, body.width, TIN, radius=0.06)
    stops = tuple(shade(colour, factor) for factor in (1.22, 1.08, 1.0, 0.92, 0.75))
    sheet.blend(MARGIN + end, MARGIN, body.length - 2 * end, body.width, stops)
    middle = sheet.width / 2
    if body.length > 4:
        # A diode: the ring that marks its cathode.
        sheet.rect(MARGIN + end * 1.15, MARGIN, body.length * 0.07, body.width, "#b8b8b4")
        middle += body.length * 0.07
    for line in item.marking:
        size = body.width * (0.42 if len(line) < 5 else 0.26)
        sheet.text(middle, sheet.height / 2, line, size, "#dcdcd8", fit=body.length * 0.46)
    return sheet


def axial(item: Item, scale: float) -> Sheet:
    """A cylinder with two wires, painted with the resistor's bands or a diode's ring."""
    body = item.package
    wire = 10.0
    sheet = Sheet(body.length + 2 * wire, body.width + 2 * MARGIN, scale)
    middle = sheet.height / 2
    sheet.blend(0, middle - 0.3, sheet.width, 0.6, TIN, radius=0.25)
    paint = _round_shade(item.colour)
    if body.shape is Shape.DIODE_AXIAL:
        sheet.blend(wire, MARGIN, body.length, body.width, paint, radius=body.width * 0.25)
        ring = _round_shade("#c9c9c6" if item.colour < "#2" else "#1a1a1a")
        sheet.blend(wire + body.length * 0.78, MARGIN, body.length * 0.12, body.width, ring)
        for line in item.marking:
            at = wire + body.length * 0.4
            sheet.text(at, middle, line, body.width * 0.25, "#d5d5d2", fit=body.length * 0.6)
        return sheet
    bulge = body.length * 0.24
    waist = body.width * 0.82
    sheet.blend(wire + bulge / 2, middle - waist / 2, body.length - bulge, waist, paint)
    for left in (wire, wire + body.length - bulge):
        sheet.blend(left, MARGIN, bulge, body.width, paint, radius=body.width * 0.35)
    places = (0.1, 0.3, 0.43, 0.56, 0.82)
    for place, name in zip(places, item.marking, strict=True):
        high = body.width if place in (places[0], places[-1]) else waist
        colours = _round_shade(RESISTOR_BANDS[name])
        sheet.blend(
            wire + place * body.length, middle - high / 2, body.length * 0.075, high, colours
        )
    return sheet


def can(item: Item, scale: float) -> Sheet:
    """An electrolytic capacitor lying on its side."""
    body = item.package
    wire = 9.0
    sheet = Sheet(body.length + wire, body.width + 2 * MARGIN, scale)
    for offset, length in ((-body.pitch / 2, wire), (body.pitch / 2, wire * 0.8)):
        y = sheet.height / 2 + offset - 0.3
        sheet.blend(wire - length, y, length + 1, 0.6, TIN, radius=0.25)
    sheet.blend(wire, MARGIN, body.length, body.width, _round_shade(item.colour), radius=0.7)
    stripe = _round_shade("#b9c0cc")[4:]
    sheet.blend(wire, MARGIN + body.width * 0.72, body.length, body.width * 0.22, stripe)
    for position in (0.2, 0.45, 0.7):
        bar = (wire + body.length * position, MARGIN + body.width * 0.81)
        sheet.rect(*bar, body.length * 0.1, body.width * 0.035, "#20232a")
    sheet.rect(wire + body.length * 0.12, MARGIN, 0.22, body.width, shade(item.colour, 0.5))
    sheet.blend(wire + body.length - 0.5, MARGIN + 0.4, 0.5, body.width - 0.8, TIN)
    middle = wire + body.length * 0.55
    for line, y in zip(item.marking, (0.3, 0.53), strict=True):
        sheet.text(middle, MARGIN + body.width * y, line, body.width * 0.19, "#d9d9d2")
    return sheet


def box(item: Item, scale: float) -> Sheet:
    """A plastic box: a film capacitor or a relay, seen from its printed side."""
    body = item.package
    width, height = body.length, max(body.width, body.height)
    wire = 3.5
    sheet = Sheet(width + 2 * MARGIN, height + wire + MARGIN, scale)
    for x in (sheet.width / 2 - body.pitch / 2, sheet.width / 2 + body.pitch / 2):
        sheet.blend(x - 0.3, height, 0.6, wire, TIN, across=True, radius=0.25)
    stops = tuple(shade(item.colour, factor) for factor in (1.3, 1.08, 1.0, 0.95, 0.82))
    sheet.blend(MARGIN, MARGIN, width, height, stops, radius=0.5)
    edge = shade(item.colour, 0.7)
    sheet.line(
        [(MARGIN + 0.4, MARGIN + height * 0.93), (width, MARGIN + height * 0.93)], 0.12, edge
    )
    step = height * 0.7 / max(1, len(item.marking))
    for number, line in enumerate(item.marking):
        y = MARGIN + height * 0.2 + step * (number + 0.3)
        sheet.text(
            sheet.width / 2, y, line, min(step * 0.5, height * 0.2), SILKSCREEN, fit=width * 0.8
        )
    return sheet


def _leads(sheet: Sheet, body: Package, top: float, length: float, wide: float) -> None:
    """Two rows of leads, above and below a body that starts `top` mm down."""
    row = (body.pins + 1) // 2
    for number in range(body.pins):
        below = number < row
        count = row if below else body.pins - row
        place = number if below else number - row
        step = body.pitch if count == row else body.pitch * (row - 1) / max(1, count - 1)
        x = sheet.width / 2 + (place - (count - 1) / 2) * (step if count > 1 else 0)
        y = top + body.width - 0.1 if below else top - length
        sheet.blend(x - wide / 2, y, wide, length + 0.1, TIN, across=True)
        sheet.rect(x - wide / 2, y + (0 if below else length - 0.15), wide, 0.25, "#5c5d60")


def dual(item: Item, scale: float) -> Sheet:
    body = item.package
    through = body.shape is Shape.DUAL
    reach = 1.1 if through else max(0.7, body.width * 0.27)
    sheet = Sheet(body.length + 2 * MARGIN, body.width + 2 * (reach + MARGIN), scale)
    top = reach + MARGIN
    _leads(sheet, body, top, reach, 1.45 if through else body.pitch * 0.42)
    _body(sheet, (MARGIN, top, body.length, body.width))
    middle = top + body.width / 2
    if through:
        notch = body.width * 0.13
        sheet.rect(MARGIN, middle - notch, notch * 1.2, 2 * notch, "#17181a", notch * 0.9)
    dot = max(0.25, body.width * 0.11)
    if body.pins > 6:
        sheet.disc(MARGIN + dot * 1.7, top + body.width - dot * 1.7, dot, "#1b1c1f")
    _print(
        sheet,
        (MARGIN + body.length * 0.52, middle),
        item.marking,
        (body.length * 0.72, body.width * 0.75),
    )
    return sheet


def quad(item: Item, scale: float) -> Sheet:
    """Leads, or the pads' edges, on all four sides."""
    body = item.package
    reach = 1.0 if body.shape is Shape.QUAD else 0.12
    outer = body.length + 2 * (reach + MARGIN)
    sheet = Sheet(outer, outer, scale)
    start = reach + MARGIN
    side = body.pins // 4
    for number in range(side):
        at = outer / 2 + (number - (side - 1) / 2) * body.pitch - body.pitch * 0.22
        wide = body.pitch * 0.44
        for far in (MARGIN, start + body.length - 0.1):
            sheet.blend(at, far, wide, reach + 0.1, TIN, across=True)
            sheet.blend(far, at, reach + 0.1, wide, TIN)
    if item.package.name.startswith("LGA"):
        sheet.blend(start, start, body.length, body.length, TIN, radius=0.15)
        sheet.disc(start + 0.5, start + 0.5, 0.28, "#2b2b2d")
        for number, line in enumerate(item.marking):
            sheet.text(outer / 2, outer / 2 + number * 0.6 - 0.1, line, 0.35, "#4a4a4c")
        return sheet
    _body(sheet, (start, start, body.length, body.length))
    sheet.disc(start + 0.9, start + body.length - 0.9, 0.6, "#1b1c1f")
    _print(sheet, (outer / 2, outer / 2), item.marking, (body.length * 0.74, body.length * 0.62))
    return sheet


def tab(item: Item, scale: float) -> Sheet:
    """A body with a metal tab above it and leads below."""
    body = item.package
    through = body.name.startswith("TO-220")
    small = body.name.startswith("SOT")
    width = body.length if small else body.width
    tall = body.width if small else body.length * (0.58 if through else 0.95)
    metal = body.length * 0.42 if through else 1.6
    leads = 13.0 if through else 1.7 if small else 4.5
    sheet = Sheet(width + 2 * MARGIN, metal + tall + leads + 2 * MARGIN, scale)
    top = MARGIN + metal
    if small:
        sheet.blend(sheet.width / 2 - 1.5, MARGIN, 3, metal + 0.3, TIN)
    else:
        sheet.blend(MARGIN, MARGIN, width, metal + 0.6, TIN, radius=0.3)
    if through:
        sheet.disc(sheet.width / 2, MARGIN + metal * 0.46, 3.6, "#2a2a2c")
        sheet.disc(sheet.width / 2 + 0.12, MARGIN + metal * 0.46 + 0.15, 3.2, "#55524c")
    wide = 0.8
    for number in range(body.pins):
        x = sheet.width / 2 + (number - (body.pins - 1) / 2) * body.pitch
        if through:
            sheet.blend(x - 0.65, top + tall - 0.2, 1.3, 4.0, TIN, across=True, radius=0.2)
        sheet.blend(x - wide / 2, top + tall - 0.2, wide, leads, TIN, across=True)
    _body(sheet, (MARGIN, top, width, tall), 0.2)
    _print(sheet, (sheet.width / 2, top + tall / 2), item.marking, (width * 0.8, tall * 0.66))
    return sheet


def to92(item: Item, scale: float) -> Sheet:
    """The flat printed face, three wires below."""
    body = item.package
    wire = 13.0
    sheet = Sheet(body.length + 2 * MARGIN, body.height + wire + MARGIN, scale)
    for number in (-1, 0, 1):
        x = sheet.width / 2 + number * body.pitch
        sheet.blend(x - 0.24, body.height, 0.48, wire, TIN, across=True)
    face = ("#1d1e20", "#303135", "#38393d", "#303135", "#1d1e20")
    sheet.blend(MARGIN, MARGIN, body.length, body.height, face, across=True, radius=0.3)
    sheet.line(
        [(MARGIN + 0.3, MARGIN + 0.9), (MARGIN + body.length - 0.3, MARGIN + 0.9)], 0.07, "#4a4b4f"
    )
    _print(
        sheet,
        (sheet.width / 2, MARGIN + body.height * 0.58),
        item.marking,
        (body.length * 0.8, 3.2),
    )
    return sheet


BODIES: Final[dict[Shape, Callable[[Item, float], Sheet]]] = {
    Shape.CHIP: chip,
    Shape.RESISTOR_AXIAL: axial,
    Shape.DIODE_AXIAL: axial,
    Shape.CAN: can,
    Shape.BOX: box,
    Shape.DUAL: dual,
    Shape.GULL: dual,
    Shape.QUAD: quad,
    Shape.QFN: quad,
    Shape.TAB: tab,
    Shape.TO92: to92,
}
"""Semiconductors and passives; `parts.sample.hardware` draws the rest."""
