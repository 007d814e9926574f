"""Resistors of the sample collection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from parts.sample.catalog import (
    AXIAL,
    CHIP_0603,
    CHIP_0805,
    CHIP_1206,
    E24,
    TERMINALS,
    Family,
    Item,
    Package,
    Sheet,
    decimal,
    infix,
    three_digits,
)

_BANDS: Final = ("black", "brown", "red", "orange", "yellow", "green", "blue", "violet", "grey")
_CHIP_RATINGS: Final = {
    "0603": ("0.1 W", "75 V"),
    "0805": ("0.125 W", "150 V"),
    "1206": ("0.25 W", "200 V"),
}
_YAGEO: Final = "https://www.yageo.com/en/ProductSearch/PartNumberSearch?part_number={code}"
_PANASONIC: Final = "https://industrial.panasonic.com/ww/search?q={code}"
_CHIP_RESISTOR: Final = (
    "Thick film on high-grade alumina",
    "Tolerance ±1 %, temperature coefficient ±100 ppm/K",
    "Lead-free terminations, compatible with reflow soldering",
    "Category temperature -55 °C to +155 °C",
)
_METAL_FILM: Final = (
    "Metal film on a ceramic rod, five colour bands",
    "Tolerance ±1 %, temperature coefficient ±50 ppm/K",
    "Low noise, good long-term stability",
    "Category temperature -55 °C to +155 °C",
)


def _ohms(value: float) -> tuple[float, str]:
    """The value scaled, with the letter of its unit."""
    for factor, letter in ((1e6, "M"), (1e3, "K")):
        if value >= factor:
            return value / factor, letter
    return value, "R"


def _resistances(first: int, last: int) -> Iterator[float]:
    """E24 values of the decades 10^first to 10^last ohm."""
    for exponent in range(first, last + 1):
        for digits in E24:
            yield round(digits * 10.0 ** (exponent - 1), 3)


def _ohm_text(value: float) -> str:
    scaled, letter = _ohms(value)
    return f"{decimal(scaled)} {letter.replace('R', '').replace('K', 'k')}Ω"


def _bands(value: float) -> tuple[str, ...]:
    """Five colour bands of a 1 % resistor (IEC 60062)."""
    digits = f"{value:.2e}"
    mantissa, exponent = digits.replace(".", "").split("e")
    colours = [(*_BANDS, "white")[int(digit)] for digit in mantissa]
    multiplier = int(exponent) - 2
    return (*colours, _BANDS[multiplier] if multiplier >= 0 else "gold", "brown")


def _yageo(size: str) -> Callable[[float], str]:
    return lambda value: f"RC{size}FR-07{infix(*_ohms(value))}L"


def _vishay(value: float) -> str:
    scaled, letter = _ohms(value)
    whole, _, fraction = decimal(scaled).partition(".")
    return f"CRCW1206{whole}{letter}{fraction.ljust(3 - len(whole), '0')}FKEA"


def _panasonic(value: float) -> str:
    exponent = len(str(round(value))) - 3
    return f"ERJ-3EKF{round(value / 10**exponent)}{exponent}V"


def _chip_resistors(code: Callable[[float], str], package: Package) -> tuple[Item, ...]:
    power, volts = _CHIP_RATINGS[package.name]
    return tuple(
        Item(
            code=code(value),
            description=f"Resistor {_ohm_text(value)} ±1 % {power} {package.name} thick film",
            package=package,
            marking=(three_digits(value),),
            colour="#16161a",
            voltage_rating=volts,
        )
        for value in _resistances(2, 6)
    )


def _axial_resistors() -> tuple[Item, ...]:
    return tuple(
        Item(
            code=f"MFR-25FBF52-{infix(*_ohms(value))}",
            description=f"Resistor {_ohm_text(value)} ±1 % 0.25 W metal film, axial",
            package=AXIAL,
            marking=_bands(value),
            colour="#7fb4d8",
            voltage_rating="250 V",
            tags=("breadboard",),
        )
        for value in _resistances(1, 5)
    )


def _resistors(maker: str, series: str, page: str, share: int, items: tuple[Item, ...]) -> Family:
    axial = items[0].package is AXIAL
    return Family(
        type="Resistor",
        manufacturer=maker,
        series=series,
        summary=f"{items[0].package.name} resistors, 1 %, E24 values",
        page=page,
        sheet=Sheet.RESISTOR,
        share=share,
        features=_METAL_FILM if axial else _CHIP_RESISTOR,
        pins=TERMINALS,
        tags=("passive", "leaded" if axial else "smd"),
        items=items,
    )


RESISTORS: Final = (
    _resistors("Yageo", "RC0603", _YAGEO, 7, _chip_resistors(_yageo("0603"), CHIP_0603)),
    _resistors("Yageo", "RC0805", _YAGEO, 6, _chip_resistors(_yageo("0805"), CHIP_0805)),
    _resistors(
        *("Vishay", "CRCW1206", "https://www.vishay.com/en/product/20035/?q={code}", 3),
        _chip_resistors(_vishay, CHIP_1206),
    ),
    _resistors("Panasonic", "ERJ-3EKF", _PANASONIC, 3, _chip_resistors(_panasonic, CHIP_0603)),
    _resistors("Yageo", "MFR-25", _YAGEO, 6, _axial_resistors()),
)
