"""Capacitors, inductors and crystals of the sample collection."""

from __future__ import annotations

from typing import Final

from parts.sample.catalog import (
    CHIP_0603,
    CHIP_0805,
    CHIP_1206,
    E6,
    E12,
    HC_49,
    SURFACE,
    TERMINALS,
    THROUGH,
    Family,
    Item,
    Package,
    Shape,
    Sheet,
    decimal,
    infix,
    three_digits,
)

_POLAR: Final = ("Anode (+)", "Cathode (-)")
_MURATA: Final = "https://www.murata.com/en-global/products/productdetail?partno={code}"
_PANASONIC: Final = "https://industrial.panasonic.com/ww/search?q={code}"
_KEMET: Final = "https://search.kemet.com/component-edge/download/{code}"
_CERAMIC: Final = (
    "Multilayer ceramic with nickel barrier terminations",
    "Low equivalent series resistance and inductance",
    "Suitable for reflow and flow soldering",
    "Operating temperature -55 °C to +125 °C",
)
_ELECTROLYTIC: Final = (
    "High ripple current, long life",
    "Endurance 5,000 hours at 105 °C",
    "Vent on cases of 6.3 mm diameter and more",
    "Halogen-free sleeve",
)
_FILM: Final = (
    "Metallised polyester, self-healing",
    "Plastic case, flame retardant to UL 94 V-0",
    "Lead spacing 5 mm",
    "Operating temperature -55 °C to +105 °C",
)
_X7R: Final = (*(float(d * 10**e) for e in (1, 2, 3, 4) for d in E12), 1e6, 2.2e6, 4.7e6)
_C0G: Final = (*(float(d * 10**e) for e in (0, 1) for d in E12), 1000.0)


def _farad_text(picofarads: float) -> str:
    for factor, unit in ((1e6, "µF"), (1e3, "nF")):
        if picofarads >= factor:
            return f"{decimal(picofarads / factor)} {unit}"
    return f"{decimal(picofarads)} pF"


def _ceramics(
    code: str, package: Package, dielectric: str, values: tuple[float, ...]
) -> tuple[Item, ...]:
    return tuple(
        Item(
            code=code.format(three_digits(value)),
            description=f"Capacitor {_farad_text(value)} 50 V {dielectric} {package.name} MLCC",
            package=package,
            colour="#b08a63" if dielectric == "X7R" else "#d9c9ae",
            voltage_rating="50 V",
            tags=("decoupling",) if value == 100_000 else (),
        )
        for value in values
    )


def _electrolytics(code: str, colour: str, volts: dict[str, str]) -> tuple[Item, ...]:
    items = []
    for letter, rating in volts.items():
        for exponent in (0, 1, 2):
            for digits in E6[::2]:
                farads = digits * 10**exponent
                length, width = (20.0, 10.0) if exponent == 2 else (11.0, 5.0 + 1.5 * exponent)
                name = f"Radial, Ø {width:g} × {length:g} mm"
                pitch = width / 2
                items.append(
                    Item(
                        code=code.format(letter, three_digits(farads)),
                        description=f"Capacitor {farads} µF {rating} aluminium electrolytic",
                        package=Package(name, Shape.CAN, 2, pitch, length, width, width, THROUGH),
                        marking=(f"{farads}uF", rating.replace(" ", "")),
                        colour=colour,
                        voltage_rating=rating,
                        tags=("bulk", "power"),
                    )
                )
    return tuple(items)


def _film() -> tuple[Item, ...]:
    box = Package("Radial box, P5", Shape.BOX, 2, 5.0, 7.2, 3.5, 8.5, THROUGH)
    return tuple(
        Item(
            code=f"R82EC{exponent - 1}{digits}0AA50K",
            description=f"Capacitor {_farad_text(digits * 10**exponent)} 100 V polyester film",
            package=box,
            marking=(_farad_text(digits * 10**exponent).replace(" ", ""), "100-"),
            colour="#b7312c",
            voltage_rating="100 V",
            tags=("audio",),
        )
        for exponent in (2, 3, 4)
        for digits in E6
    )


def _power_inductors() -> tuple[Item, ...]:
    body = Package("SRR1260", Shape.POWER_INDUCTOR, 2, 10.0, 12.5, 12.5, 6.0, SURFACE)
    return tuple(
        Item(
            code=f"SRR1260-{infix(henries, 'R') if henries < 10 else three_digits(henries)}M",
            description=f"Inductor {henries:g} µH shielded, 12.5 mm square",
            package=body,
            marking=(three_digits(henries),),
            colour="#1d1d20",
            tags=("power", "smps"),
        )
        for henries in (1.5, 2.2, 3.3, 4.7, 6.8, 10, 15, 22, 33, 47, 68, 100, 150, 220, 330, 470)
    )


def _crystals() -> tuple[Item, ...]:
    megahertz = (
        *("3.579545", "4.000", "6.000", "7.3728", "8.000", "10.000", "11.0592", "12.000"),
        *("14.31818", "14.7456", "16.000", "18.432", "20.000", "22.1184", "24.000", "25.000"),
    )
    return tuple(
        Item(
            code=f"ABLS-{frequency}MHZ-B4-T",
            description=f"Crystal {frequency} MHz 18 pF ±30 ppm HC-49/US",
            package=HC_49,
            marking=("ABRACON", frequency),
            tags=("clock",),
        )
        for frequency in megahertz
    )


def _capacitors(
    maker: str, series: str, page: str, share: int, kind: str, items: tuple[Item, ...]
) -> Family:
    features = {"ceramic": _CERAMIC, "electrolytic": _ELECTROLYTIC, "film": _FILM}
    return Family(
        type="Capacitor",
        manufacturer=maker,
        series=series,
        summary=f"{kind.capitalize()} capacitors, {items[0].package.name}",
        page=page,
        sheet=Sheet.CAPACITOR,
        share=share,
        features=features[kind],
        pins=_POLAR if kind == "electrolytic" else TERMINALS,
        tags=("passive", kind, "smd" if kind == "ceramic" else "leaded"),
        items=items,
    )


REACTIVE: Final = (
    _capacitors(
        *("Murata", "GRM188", _MURATA, 6, "ceramic"),
        _ceramics("GRM188R71H{}KA93D", CHIP_0603, "X7R", _X7R),
    ),
    _capacitors(
        *("Murata", "GRM18 C0G", _MURATA, 3, "ceramic"),
        _ceramics("GRM1885C1H{}JA01D", CHIP_0603, "C0G", _C0G),
    ),
    _capacitors(
        *("Samsung Electro-Mechanics", "CL21", "https://product.samsungsem.com/mlcc/{code}.do"),
        *(4, "ceramic", _ceramics("CL21B{}KBANNNC", CHIP_0805, "X7R", _X7R)),
    ),
    _capacitors(
        *("KEMET", "C1206C", _KEMET, 2, "ceramic"),
        _ceramics("C1206C{}K5RACTU", CHIP_1206, "X7R", _X7R),
    ),
    _capacitors(
        *("Panasonic", "FR", _PANASONIC, 4, "electrolytic"),
        _electrolytics("EEU-FR1{}{}", "#15151c", {"C": "16 V", "E": "25 V", "V": "35 V"}),
    ),
    _capacitors(
        *("Nichicon", "VR", "https://www.nichicon.co.jp/english/series_items/?q={code}"),
        *(3, "electrolytic"),
        _electrolytics("UVR1{}{}MPD", "#22324f", {"A": "10 V", "E": "25 V", "H": "50 V"}),
    ),
    _capacitors("KEMET", "R82", _KEMET, 2, "film", _film()),
    Family(
        type="Inductor",
        manufacturer="Bourns",
        series="SRR1260",
        summary="Shielded power inductors, 12.5 mm square",
        page="https://www.bourns.com/products/magnetic-products/{code}",
        sheet=Sheet.INDUCTOR,
        share=3,
        features=(
            "Magnetic shielding keeps stray fields low",
            "Saturation current up to 22 A",
            "For step-down and step-up converters",
        ),
        pins=TERMINALS,
        tags=("passive", "smd"),
        items=_power_inductors(),
    ),
    Family(
        type="Crystal",
        manufacturer="Abracon",
        series="ABLS",
        summary="Low-profile microprocessor crystals, HC-49/US",
        page="https://abracon.com/parametric/crystals/{code}",
        sheet=Sheet.INDUCTOR,
        share=2,
        features=(
            "Hermetically sealed metal case",
            "Fundamental mode up to 40 MHz",
            "Ageing at most ±5 ppm a year",
        ),
        pins=("Crystal", "Crystal"),
        tags=("timing", "leaded"),
        items=_crystals(),
    ),
)
