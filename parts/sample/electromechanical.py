"""Connectors, switches and trimmers of the sample collection."""

from __future__ import annotations

from typing import Final

from parts.sample.catalog import (
    PANEL,
    SURFACE,
    THROUGH,
    Family,
    Item,
    Package,
    Shape,
    Sheet,
    three_digits,
)

_JST: Final = "https://www.jst-mfg.com/product/index.php?keyword={code}"
_WURTH: Final = "https://www.we-online.com/en/components/products/{code}"


def _wire_to_board(series: str, code: str, pitch: float, size: tuple[float, float]) -> Family:
    """`size` is how far the housing reaches past the outer pins, and its width."""
    overhang, width = size
    items = tuple(
        Item(
            code=code.format(ways),
            description=f"JST {series} header, {ways} way, {pitch:g} mm, vertical",
            package=Package(
                *(f"{series} header {ways} way", Shape.WIRE, ways, pitch),
                *(round((ways - 1) * pitch + overhang, 2), width, 7.0, THROUGH),
            ),
            colour="#ece5d3",
            voltage_rating="250 V" if pitch > 2 else "100 V",
        )
        for ways in range(2, 13)
    )
    return Family(
        type="Connector",
        manufacturer="JST",
        series=series,
        summary=f"{series} series, {pitch:g} mm wire-to-board headers",
        page=_JST,
        sheet=Sheet.CONNECTOR,
        share=3,
        features=("Disconnectable crimp style", "Fully shrouded header", "Polarised housing"),
        pins=tuple(f"Circuit {number}" for number in range(1, 5)),
        tags=("wire-to-board",),
        items=items,
    )


def _pin_headers() -> tuple[Item, ...]:
    return tuple(
        Item(
            code=f"613{ways:03d}{rows}1121",
            description=f"Pin header {rows}×{ways} way 2.54 mm, straight, gold plated",
            package=Package(
                *(f"Header {rows}×{ways}", Shape.HEADER, rows * ways, 2.54),
                *(round(ways * 2.54, 2), rows * 2.54, 11.5, THROUGH),
            ),
            colour="#141416",
            voltage_rating="250 V",
            tags=("breadboard",) if rows == 1 else (),
        )
        for rows in (1, 2)
        for ways in (2, 3, 4, 5, 6, 8, 10, 12, 16, 20)
    )


def _terminals() -> tuple[Item, ...]:
    return tuple(
        Item(
            code=f"MKDS 1,5/{ways:2d}-5,08",
            description=f"Terminal block {ways} way 5.08 mm, screw, 1.5 mm²",
            package=Package(
                *(f"PCB terminal {ways} way", Shape.TERMINAL, ways, 5.08),
                *(round(ways * 5.08 + 0.5, 2), 8.1, 13.5, THROUGH),
            ),
            colour="#2f8f46",
            voltage_rating="250 V",
            tags=("mains", "power"),
        )
        for ways in range(2, 11)
    )


def _trimmers() -> tuple[Item, ...]:
    body = Package("3296W", Shape.TRIMMER, 3, 2.54, 9.53, 4.83, 10.0, THROUGH)
    return tuple(
        Item(
            code=f"3296W-1-{three_digits(ohms)}LF",
            description=f"Trimmer {ohms:,} Ω 25 turns, top adjust".replace(",000 Ω", " kΩ"),
            package=body,
            marking=(f"W{three_digits(ohms)}", "BOURNS"),
            colour="#2c61b5",
            voltage_rating="300 V",
        )
        for ohms in (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 500_000)
    )


def _switches() -> tuple[Item, ...]:
    small = Package("6 × 6 mm", Shape.TACT, 4, 6.5, 6.0, 6.0, 4.3, THROUGH)
    large = Package("12 × 12 mm", Shape.TACT, 4, 12.5, 12.0, 12.0, 7.3, THROUGH)
    surface = Package("6 × 6 mm gull wing", Shape.TACT, 4, 4.5, 6.0, 6.0, 4.3, SURFACE)
    panel = Package("Ø 16 mm panel", Shape.TACT, 4, 6.0, 16.0, 16.0, 28.0, PANEL)
    return tuple(
        Item(
            code=code,
            description=f"{'Push-button' if body is panel else 'Tactile switch'} {what}",
            package=body,
            colour=colour,
            voltage_rating="24 V DC",
        )
        for code, what, body, colour in (
            ("B3F-1000", "6 × 6 mm, 0.98 N", small, "#1b1b1d"),
            ("B3F-1022", "6 × 6 mm, 1.47 N, tall", small, "#b23a2e"),
            ("B3F-4055", "12 × 12 mm, projected plunger", large, "#e9e4d8"),
            ("B3F-5050", "12 × 12 mm, 1.27 N", large, "#d9a21c"),
            ("B3S-1000", "6 × 6 mm, sealed", surface, "#20201f"),
            ("A16-TWM-1", "Ø 16 mm, momentary, white", panel, "#ece9e1"),
        )
    )


def _relays() -> tuple[Item, ...]:
    body = Package("G5LE", Shape.BOX, 5, 10.0, 22.5, 16.5, 19.0, THROUGH)
    return tuple(
        Item(
            code=f"G5LE-1 DC{volts}",
            description=f"Relay {volts} V coil, 10 A changeover",
            package=body,
            marking=("OMRON", f"G5LE-1 {volts}VDC", "10A 250VAC"),
            colour="#23252b",
            voltage_rating="250 V AC",
            input_voltage=f"{volts} V",
            tags=("mains",),
        )
        for volts in (5, 6, 9, 12, 24, 48)
    )


ELECTROMECHANICAL: Final = (
    _wire_to_board("XH", "B{}B-XH-A(LF)(SN)", 2.5, (4.9, 5.75)),
    _wire_to_board("PH", "B{}B-PH-K-S(LF)(SN)", 2.0, (3.9, 4.5)),
    Family(
        type="Connector",
        manufacturer="Würth Elektronik",
        series="WR-PHD",
        summary="2.54 mm pin headers, straight",
        page=_WURTH,
        sheet=Sheet.CONNECTOR,
        share=3,
        features=("Rated current 3 A", "Insulator PBT, UL 94 V-0", "Gold plated contacts"),
        pins=tuple(f"Pin {number}" for number in range(1, 7)),
        tags=("board-to-board",),
        items=_pin_headers(),
    ),
    Family(
        type="Connector",
        manufacturer="Phoenix Contact",
        series="MKDS 1,5",
        summary="PCB terminal blocks with screw connection",
        page="https://www.phoenixcontact.com/en-us/search?query={code}",
        sheet=Sheet.CONNECTOR,
        share=3,
        features=("Nominal current 17.5 A", "Wires of 0.14 mm² to 1.5 mm²", "Can be aligned"),
        pins=tuple(f"Terminal {number}" for number in range(1, 5)),
        tags=("screw",),
        items=_terminals(),
    ),
    Family(
        type="Potentiometer",
        manufacturer="Bourns",
        series="3296",
        summary="9.5 mm square multiturn trimming potentiometers",
        page="https://www.bourns.com/products/trimpot/{code}",
        sheet=Sheet.RESISTOR,
        share=2,
        features=("25 turns", "Sealed against board washing", "±100 ppm/K"),
        pins=("CCW", "Wiper", "CW"),
        tags=("passive", "adjustable"),
        items=_trimmers(),
    ),
    Family(
        type="Switch",
        manufacturer="Omron",
        series="B3F / B3S",
        summary="Tactile switches and push-buttons",
        page="https://components.omron.com/eu-en/search?q={code}",
        sheet=Sheet.CONNECTOR,
        share=2,
        features=("Long life of a million operations", "Clear click", "Contact rating 50 mA"),
        pins=("Contact A", "Contact A", "Contact B", "Contact B"),
        tags=("input",),
        items=_switches(),
    ),
    Family(
        type="Relay",
        manufacturer="Omron",
        series="G5LE",
        summary="Cubic power relays, 10 A changeover",
        page="https://components.omron.com/eu-en/search?q={code}",
        sheet=Sheet.CONNECTOR,
        share=2,
        features=("UL class F coil insulation", "Contact rating 10 A at 250 V AC", "400 mW coil"),
        pins=("Coil", "Coil", "Common", "NC", "NO"),
        tags=("power",),
        items=_relays(),
    ),
)
