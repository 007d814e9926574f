"""Voltage regulators, amplifiers and logic of the sample collection."""

from __future__ import annotations

from typing import Final

from parts.sample.catalog import (
    DIP_8,
    DIP_14,
    DIP_16,
    SOIC_8,
    SOIC_14,
    SOIC_16,
    SOT_23_5,
    SOT_223,
    TO_220,
    TO_263_5,
    Family,
    Item,
    Package,
    Sheet,
    names,
)

_TI: Final = "https://www.ti.com/product/{code}"
_ST: Final = "https://www.st.com/en/search.html#q={code}"
_AMPLIFIER_PINS: Final = names("OUT1 IN1- IN1+ V- IN2+ IN2- OUT2 V+")


def _logic(number: str, what: str, pins: int) -> tuple[Item, ...]:
    """One function of the 74HC series in both packages."""
    dip, soic = (DIP_14, SOIC_14) if pins == 14 else (DIP_16, SOIC_16)
    return tuple(
        Item(
            code=f"SN74HC{number}{suffix}",
            description=f"74HC{number} {what}, {package.name}",
            package=package,
            marking=(f"SN74HC{number}{suffix}" if suffix == "N" else f"HC{number}",),
            input_voltage="2 V – 6 V",
            tags=("breadboard",) if suffix == "N" else ("smd",),
        )
        for suffix, package in (("N", dip), ("DR", soic))
    )


def _positive(volts: int) -> Item:
    return Item(
        code=f"L78{volts:02d}CV",
        description=f"Linear regulator +{volts} V 1.5 A TO-220",
        package=TO_220,
        marking=(f"L78{volts:02d}CV", "CC0FJ", "CHN"),
        input_voltage=f"{volts + 2} V – 35 V",
        output_voltage=f"{volts} V",
    )


def _low_drop(code: str, mark: str, volts: str, limit: str, package: Package) -> Item:
    fixed = "adjustable" if volts == "ADJ" else f"{volts} V"
    return Item(
        code=code,
        description=f"Low-dropout regulator {fixed}, {package.name}",
        package=package,
        marking=(mark,),
        input_voltage=f"up to {limit}",
        output_voltage="1.25 V – 13.8 V" if volts == "ADJ" else fixed,
        tags=("ldo",),
    )


def _amplifier(code: str, what: str, volts: str, package: Package) -> Item:
    return Item(
        code=code,
        description=f"{what} {code}, {package.name}",
        package=package,
        marking=(code,),
        input_voltage=volts,
        tags=("breadboard",) if package is DIP_8 else ("smd",),
    )


POWER_AND_LOGIC: Final = (
    Family(
        type="Voltage regulator",
        manufacturer="STMicroelectronics",
        series="L78",
        summary="Positive voltage regulators, 1.5 A",
        page=_ST,
        sheet=Sheet.REGULATOR,
        share=3,
        features=("Thermal overload protection", "Short-circuit protection", "2 % tolerance"),
        pins=("INPUT", "GND", "OUTPUT"),
        tags=("power", "leaded"),
        items=tuple(_positive(volts) for volts in (5, 6, 8, 9, 12, 15, 18, 24)),
    ),
    Family(
        type="Voltage regulator",
        manufacturer="STMicroelectronics",
        series="LD1117",
        summary="Low-drop fixed and adjustable regulators, 800 mA",
        page=_ST,
        sheet=Sheet.REGULATOR,
        share=3,
        features=("Dropout 1 V typically", "Thermal shutdown", "1 % tolerance at 25 °C"),
        pins=("GND", "VOUT", "VIN"),
        tags=("power", "smd"),
        items=tuple(
            _low_drop(f"LD1117S{code}TR", f"LD1117{code}", volts, "15 V", SOT_223)
            for code, volts in (("18", "1.8"), ("25", "2.5"), ("33", "3.3"), ("50", "5"))
        ),
    ),
    Family(
        type="Voltage regulator",
        manufacturer="Diodes Incorporated",
        series="AP2112",
        summary="600 mA CMOS low-dropout regulators with enable",
        page="https://www.diodes.com/part/view/{code}",
        sheet=Sheet.REGULATOR,
        share=2,
        features=("Quiescent current 55 µA", "Auto discharge", "Stable with 1 µF ceramic"),
        pins=("VIN", "GND", "EN", "NC", "VOUT"),
        tags=("power", "smd"),
        items=tuple(
            _low_drop(f"AP2112K-{volts}TRG1", mark, volts, "6 V", SOT_23_5)
            for volts, mark in (("1.2", "G3J"), ("1.8", "G3K"), ("2.5", "G3L"), ("3.3", "G3P"))
        ),
    ),
    Family(
        type="Voltage regulator",
        manufacturer="Texas Instruments",
        series="LM2596",
        summary="150 kHz 3 A step-down regulators",
        page=_TI,
        sheet=Sheet.REGULATOR,
        share=2,
        features=("Four external components", "Standby 80 µA", "Thermal and current limit"),
        pins=("VIN", "OUTPUT", "GND", "FEEDBACK", "ON/OFF"),
        tags=("power", "smps", "smd"),
        items=tuple(
            Item(
                code=f"LM2596S-{volts}/NOPB",
                description=f"Step-down regulator {volts} V 3 A TO-263-5",
                package=TO_263_5,
                marking=("LM2596S", f"-{volts} P+"),
                input_voltage="4.5 V – 40 V",
                output_voltage="1.2 V – 37 V" if volts == "ADJ" else f"{volts} V",
            )
            for volts in ("3.3", "5.0", "12", "ADJ")
        ),
    ),
    Family(
        type="Operational amplifier",
        manufacturer="Texas Instruments",
        series="Dual operational amplifiers",
        summary="Dual operational amplifiers, DIP-8 and SOIC-8",
        page=_TI,
        sheet=Sheet.CIRCUIT,
        share=3,
        features=("Unity-gain stable", "Low noise", "Output short-circuit protection"),
        pins=_AMPLIFIER_PINS,
        tags=("analog",),
        items=(
            _amplifier("LM358P", "Dual operational amplifier", "3 V – 32 V", DIP_8),
            _amplifier("LM358DR", "Dual operational amplifier", "3 V – 32 V", SOIC_8),
            _amplifier("TL072CP", "Dual JFET-input amplifier", "7 V – 30 V", DIP_8),
            _amplifier("TL072CDR", "Dual JFET-input amplifier", "7 V – 30 V", SOIC_8),
            _amplifier("NE5532P", "Dual low-noise amplifier", "10 V – 30 V", DIP_8),
            _amplifier("NE5532DR", "Dual low-noise amplifier", "10 V – 30 V", SOIC_8),
            _amplifier("OPA2134PA", "Dual audio amplifier", "5 V – 36 V", DIP_8),
        ),
    ),
    Family(
        type="Logic",
        manufacturer="Texas Instruments",
        series="SN74HC",
        summary="High-speed CMOS logic, gates",
        page=_TI,
        sheet=Sheet.CIRCUIT,
        share=4,
        features=("Operates from 2 V to 6 V", "Balanced outputs ±4 mA", "Low input current 1 µA"),
        pins=names("1A 1B 1Y 2A 2B 2Y GND 3Y 3A 3B 4Y 4A 4B VCC"),
        tags=("digital",),
        items=(
            *_logic("00", "quad NAND gate", 14),
            *_logic("08", "quad AND gate", 14),
            *_logic("32", "quad OR gate", 14),
            *_logic("86", "quad XOR gate", 14),
        ),
    ),
    Family(
        type="Logic",
        manufacturer="Texas Instruments",
        series="SN74HC595",
        summary="8-bit shift register with output latch",
        page=_TI,
        sheet=Sheet.CIRCUIT,
        share=2,
        features=("Shift register has direct clear", "3-state outputs", "Drives up to 15 LSTTL"),
        pins=names("QB QC QD QE QF QG QH GND QH' /SRCLR SRCLK RCLK /OE SER QA VCC"),
        tags=("digital",),
        items=_logic("595", "shift register", 16),
    ),
)
