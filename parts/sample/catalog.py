"""The words the sample collection is described in: packages, families and what one can order.

Lengths are in millimetres. Everything here is frozen, so that a whole collection can be planned,
compared and hashed before a single picture is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

E6: Final = (10, 15, 22, 33, 47, 68)
E12: Final = (10, 12, 15, 18, 22, 27, 33, 39, 47, 56, 68, 82)
E24: Final = (
    *(10, 11, 12, 13, 15, 16, 18, 20, 22, 24, 27, 30),
    *(33, 36, 39, 43, 47, 51, 56, 62, 68, 75, 82, 91),
)
"""Preferred values by IEC 60063, as two digits."""

THROUGH: Final = "through-hole"
SURFACE: Final = "surface-mount"
PANEL: Final = "panel-mount"


TERMINALS: Final = ("Terminal 1", "Terminal 2")


class Shape(StrEnum):
    """How a package looks from above; `parts.sample.bodies` draws each."""

    CHIP = "chip"
    RESISTOR_AXIAL = "axial resistor"
    DIODE_AXIAL = "axial diode"
    CAN = "radial can"
    BOX = "box"
    DUAL = "dual in line"
    GULL = "dual gull wing"
    QUAD = "quad flat"
    QFN = "quad no lead"
    TAB = "tab"
    TO92 = "TO-92"
    LED = "LED"
    HEADER = "pin header"
    WIRE = "wire-to-board"
    TERMINAL = "terminal block"
    CRYSTAL = "crystal"
    MODULE = "module"
    TACT = "tactile switch"
    TRIMMER = "trimmer"
    POWER_INDUCTOR = "power inductor"


@dataclass(frozen=True, slots=True)
class Package:
    """A housing: its pins, the pitch between them, and the body's length, width and height."""

    name: str
    shape: Shape
    pins: int
    pitch: float
    length: float
    width: float
    height: float
    mounting: str

    @property
    def dimensions(self) -> str:
        return f"{self.length:g} × {self.width:g} × {self.height:g} mm"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that can be ordered.

    `marking` is what is printed on it (colour names of the bands for an axial resistor), `colour`
    the body's where the shape alone does not say.
    """

    code: str
    description: str
    package: Package
    marking: tuple[str, ...] = ()
    colour: str = ""
    voltage_rating: str = ""
    input_voltage: str = ""
    output_voltage: str = ""
    tags: tuple[str, ...] = ()


class Sheet(StrEnum):
    """Which tables and graphs a datasheet has; `parts.sample.figures` holds them."""

    RESISTOR = "resistor"
    CAPACITOR = "capacitor"
    INDUCTOR = "inductor"
    DIODE = "diode"
    TRANSISTOR = "transistor"
    REGULATOR = "regulator"
    CIRCUIT = "integrated circuit"
    CONNECTOR = "connector"


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Items that share a maker, a series and therefore a datasheet.

    `page` is the product page with `{code}` in it. `share` is how often the family occurs in a
    collection, relative to the others. `pins` names the pins from 1 on. There is one object of
    each, so that identity is equality and a family is cheap to look up by.
    """

    type: str
    manufacturer: str
    series: str
    summary: str
    page: str
    sheet: Sheet
    share: int
    features: tuple[str, ...]
    pins: tuple[str, ...]
    tags: tuple[str, ...]
    items: tuple[Item, ...]


def _dual(name: str, pins: int, length: float) -> Package:
    return Package(name, Shape.DUAL, pins, 2.54, length, 6.35, 3.3, THROUGH)


def _gull(name: str, pins: int, pitch: float, length: float, width: float, high: float) -> Package:
    return Package(name, Shape.GULL, pins, pitch, length, width, high, SURFACE)


def _tab(name: str, pins: int, pitch: float, size: tuple[float, float, float]) -> Package:
    mounting = THROUGH if name.startswith("TO-220") else SURFACE
    return Package(name, Shape.TAB, pins, pitch, *size, mounting)


CHIP_0603: Final = Package("0603", Shape.CHIP, 2, 0, 1.6, 0.8, 0.45, SURFACE)
CHIP_0805: Final = Package("0805", Shape.CHIP, 2, 0, 2.0, 1.25, 0.5, SURFACE)
CHIP_1206: Final = Package("1206", Shape.CHIP, 2, 0, 3.2, 1.6, 0.55, SURFACE)
SMA: Final = Package("SMA (DO-214AC)", Shape.CHIP, 2, 0, 4.3, 2.6, 2.2, SURFACE)
AXIAL: Final = Package("Axial, 0.25 W", Shape.RESISTOR_AXIAL, 2, 10.16, 6.3, 2.4, 2.4, THROUGH)
DO_35: Final = Package("DO-35", Shape.DIODE_AXIAL, 2, 7.62, 3.9, 1.8, 1.8, THROUGH)
DO_41: Final = Package("DO-41", Shape.DIODE_AXIAL, 2, 10.16, 5.2, 2.7, 2.7, THROUGH)
DIP_8: Final = _dual("DIP-8", 8, 9.6)
DIP_14: Final = _dual("DIP-14", 14, 19.2)
DIP_16: Final = _dual("DIP-16", 16, 19.3)
DIP_28: Final = _dual("DIP-28 (300 mil)", 28, 35.5)
SOIC_8: Final = _gull("SOIC-8", 8, 1.27, 4.9, 3.9, 1.75)
SOIC_14: Final = _gull("SOIC-14", 14, 1.27, 8.65, 3.9, 1.75)
SOIC_16: Final = _gull("SOIC-16", 16, 1.27, 9.9, 3.9, 1.75)
SOIC_16W: Final = _gull("SOIC-16W", 16, 1.27, 10.3, 7.5, 2.65)
TSSOP_20: Final = _gull("TSSOP-20", 20, 0.65, 6.5, 4.4, 1.2)
SOT_23: Final = _gull("SOT-23", 3, 0.95, 2.9, 1.3, 1.1)
SOT_23_5: Final = _gull("SOT-23-5", 5, 0.95, 2.9, 1.6, 1.3)
LQFP_48: Final = Package("LQFP-48", Shape.QUAD, 48, 0.5, 7.0, 7.0, 1.4, SURFACE)
TQFP_32: Final = Package("TQFP-32", Shape.QUAD, 32, 0.8, 7.0, 7.0, 1.0, SURFACE)
TQFP_44: Final = Package("TQFP-44", Shape.QUAD, 44, 0.8, 10.0, 10.0, 1.0, SURFACE)
QFN_56: Final = Package("QFN-56", Shape.QFN, 56, 0.4, 7.0, 7.0, 0.9, SURFACE)
LGA_8: Final = Package("LGA-8", Shape.QFN, 8, 0.65, 2.5, 2.5, 0.93, SURFACE)
TO_92: Final = Package("TO-92", Shape.TO92, 3, 1.27, 4.8, 3.7, 4.8, THROUGH)
TO_220: Final = _tab("TO-220-3", 3, 2.54, (15.6, 10.2, 4.5))
TO_263_5: Final = _tab("TO-263-5", 5, 1.7, (9.2, 10.2, 4.5))
SOT_223: Final = _tab("SOT-223", 3, 2.3, (6.5, 3.5, 1.6))
HC_49: Final = Package("HC-49/US", Shape.CRYSTAL, 2, 4.88, 11.5, 4.7, 4.2, THROUGH)
LED_5MM: Final = Package("T-1 3/4 (5 mm)", Shape.LED, 2, 2.54, 5.0, 5.0, 8.6, THROUGH)


def decimal(value: float) -> str:
    """A number the way parts lists write it: at most three digits, no trailing zeros."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def infix(value: float, letter: str) -> str:
    """4.7 with `K` is `4K7`: the marking code of IEC 60062, safe against a lost decimal point."""
    whole, _, fraction = decimal(value).partition(".")
    return f"{whole}{letter}{fraction}"


def three_digits(value: float) -> str:
    """Two significant digits and a power of ten: 100 nF in picofarads is `104`."""
    if value < 10:
        return infix(value, "R")
    exponent = len(str(round(value))) - 2
    return f"{round(value / 10**exponent)}{exponent}"


def names(text: str) -> tuple[str, ...]:
    """Pin names, or other short codes, as one readable line."""
    return tuple(text.split())
