"""Diodes, LEDs and transistors of the sample collection."""

from __future__ import annotations

from typing import Final

from parts.sample.catalog import (
    DO_35,
    DO_41,
    LED_5MM,
    SMA,
    SOT_23,
    TO_92,
    TO_220,
    Family,
    Item,
    Package,
    Sheet,
    names,
)

_ONSEMI: Final = "https://www.onsemi.com/products/search?q={code}"


def _diode(code: str, what: str, volts: str, package: Package, colour: str) -> Item:
    mark = (code.removesuffix("-13-F"),)
    return Item(code, f"Diode {code}, {what}", package, mark, colour, voltage_rating=volts)


def _zener(volts: str) -> Item:
    return Item(
        code=f"BZX55C{volts}",
        description=f"Zener diode {volts.replace('V', '.')} V 500 mW DO-35",
        package=DO_35,
        marking=(f"C{volts}",),
        colour="#b5532b",
        voltage_rating=f"{volts.replace('V', '.')} V",
    )


def _led(code: str, colour_name: str, colour: str, volts: str) -> Item:
    return Item(
        code=code,
        description=f"LED 5 mm {colour_name}, diffused",
        package=LED_5MM,
        colour=colour,
        input_voltage=volts,
        tags=("display", "breadboard"),
    )


def _transistor(code: str, what: str, volts: str, package: Package, mark: str = "") -> Item:
    return Item(
        code=code,
        description=f"{what} {code}, {package.name}",
        package=package,
        marking=(mark or code.split(",", maxsplit=1)[0],),
        voltage_rating=volts,
    )


DISCRETES: Final = (
    Family(
        type="Diode",
        manufacturer="onsemi",
        series="1N400x / 1N58xx",
        summary="Axial rectifiers, standard and Schottky",
        page=_ONSEMI,
        sheet=Sheet.DIODE,
        share=3,
        features=("Low leakage", "High surge current", "Cathode marked by a band"),
        pins=("Anode", "Cathode"),
        tags=("leaded", "rectifier"),
        items=(
            *(
                _diode(f"1N400{n}", "rectifier 1 A", f"{volts} V", DO_41, "#1a1a1c")
                for n, volts in ((1, 50), (2, 100), (3, 200), (4, 400), (5, 600), (7, 1000))
            ),
            _diode("1N5817", "Schottky 1 A", "20 V", DO_41, "#1a1a1c"),
            _diode("1N5818", "Schottky 1 A", "30 V", DO_41, "#1a1a1c"),
            _diode("1N5819", "Schottky 1 A", "40 V", DO_41, "#1a1a1c"),
        ),
    ),
    Family(
        type="Diode",
        manufacturer="Vishay",
        series="1N4148 / BZX55",
        summary="Small-signal and Zener diodes in glass",
        page="https://www.vishay.com/en/search/?query={code}",
        sheet=Sheet.DIODE,
        share=3,
        features=("Hermetically sealed glass", "Very sharp breakdown", "Cathode marked by a band"),
        pins=("Anode", "Cathode"),
        tags=("leaded",),
        items=(
            _diode("1N4148", "small signal 200 mA", "100 V", DO_35, "#b5532b"),
            *(_zener(v) for v in names("2V4 2V7 3V3 3V9 4V7 5V1 5V6 6V2 6V8 8V2 9V1 10 12 15")),
        ),
    ),
    Family(
        type="Diode",
        manufacturer="Diodes Incorporated",
        series="SMA rectifiers",
        summary="Surface-mount Schottky and standard rectifiers",
        page="https://www.diodes.com/part/view/{code}",
        sheet=Sheet.DIODE,
        share=2,
        features=("Guard ring for overvoltage protection", "Low power loss", "Glass passivated"),
        pins=("Cathode", "Anode"),
        tags=("smd", "rectifier"),
        items=(
            _diode("B120-13-F", "Schottky 1 A SMA", "20 V", SMA, "#1c1c1e"),
            _diode("B140-13-F", "Schottky 1 A SMA", "40 V", SMA, "#1c1c1e"),
            _diode("B160-13-F", "Schottky 1 A SMA", "60 V", SMA, "#1c1c1e"),
            _diode("S1M-13-F", "rectifier 1 A SMA", "1000 V", SMA, "#1c1c1e"),
            _diode("SMAJ5.0A-13-F", "transient suppressor 400 W SMA", "5 V", SMA, "#1c1c1e"),
        ),
    ),
    Family(
        type="LED",
        manufacturer="Kingbright",
        series="WP7113",
        summary="5 mm solid state lamps",
        page="https://www.kingbrightusa.com/product.asp?catalog_name=LED&product_id={code}",
        sheet=Sheet.DIODE,
        share=4,
        features=("Low power consumption", "Wide viewing angle", "Reliable and rugged"),
        pins=("Anode", "Cathode"),
        tags=("leaded", "optoelectronics"),
        items=(
            _led("WP7113ID", "red", "#d8261c", "2.0 V"),
            _led("WP7113GD", "green", "#3fae49", "2.2 V"),
            _led("WP7113YD", "yellow", "#e8c21f", "2.1 V"),
            _led("WP7113ND", "orange", "#ef7f1a", "2.05 V"),
            _led("WP7113QBC/D", "blue", "#2f6fe0", "3.3 V"),
            _led("WP7113PBC/A", "blue, clear", "#a9c9f5", "3.3 V"),
            _led("WP7113SURDK", "super red", "#c4161c", "1.95 V"),
        ),
    ),
    Family(
        type="Transistor",
        manufacturer="onsemi",
        series="Small-signal TO-92",
        summary="General-purpose bipolar transistors",
        page=_ONSEMI,
        sheet=Sheet.TRANSISTOR,
        share=3,
        features=("High current gain", "Low saturation voltage", "Complementary pairs"),
        pins=("Collector", "Base", "Emitter"),
        tags=("leaded", "bipolar"),
        items=(
            _transistor("BC547B", "NPN transistor", "45 V", TO_92),
            _transistor("BC557B", "PNP transistor", "45 V", TO_92),
            _transistor("BC337-40", "NPN transistor", "45 V", TO_92),
            _transistor("BC327-40", "PNP transistor", "45 V", TO_92),
            _transistor("BC517", "NPN Darlington", "30 V", TO_92),
            _transistor("BC549C", "NPN low-noise transistor", "30 V", TO_92),
        ),
    ),
    Family(
        type="MOSFET",
        manufacturer="Infineon",
        series="IRF / IRL",
        summary="Power MOSFETs, TO-220",
        page="https://www.infineon.com/cms/en/search.html#!term={code}",
        sheet=Sheet.TRANSISTOR,
        share=3,
        features=("Ultra-low on-resistance", "Fast switching", "Fully avalanche rated"),
        pins=("Gate", "Drain", "Source"),
        tags=("leaded", "power"),
        items=(
            _transistor("IRF540NPBF", "N-channel MOSFET 33 A", "100 V", TO_220, "IRF540N"),
            _transistor("IRLZ44NPBF", "N-channel logic MOSFET 47 A", "55 V", TO_220, "IRLZ44N"),
            _transistor("IRF9540NPBF", "P-channel MOSFET 23 A", "100 V", TO_220, "IRF9540N"),
            _transistor("IRLB8721PBF", "N-channel logic MOSFET 62 A", "30 V", TO_220, "LB8721"),
            _transistor("IRF3205PBF", "N-channel MOSFET 110 A", "55 V", TO_220, "IRF3205"),
        ),
    ),
    Family(
        type="MOSFET",
        manufacturer="Nexperia",
        series="SOT-23 trench MOSFETs",
        summary="Small-signal MOSFETs and transistors, SOT-23",
        page="https://www.nexperia.com/product/{code}",
        sheet=Sheet.TRANSISTOR,
        share=3,
        features=("Logic-level threshold", "Trench technology", "ESD protected gate"),
        pins=("Gate", "Source", "Drain"),
        tags=("smd",),
        items=(
            _transistor("2N7002,215", "N-channel MOSFET 300 mA", "60 V", SOT_23, "12W"),
            _transistor("BSS138P,215", "N-channel MOSFET 360 mA", "60 V", SOT_23, "AN%"),
            _transistor("BSS84,215", "P-channel MOSFET 130 mA", "50 V", SOT_23, "13W"),
            _transistor("PMV65XP,215", "P-channel MOSFET 2.8 A", "20 V", SOT_23, "M5%"),
            _transistor("PMV20XNE", "N-channel MOSFET 5.7 A", "20 V", SOT_23, "EG%"),
        ),
    ),
)
