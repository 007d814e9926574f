"""Figures for the datasheets of semiconductors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from parts.sample.graphs import AMBIENT, RATED_CURRENT, Axis, Figures, Graph, derating


def _saturating(level: float, slope: float) -> Callable[[float], float]:
    return lambda x: level * math.tanh(x * slope) * (1 + 0.012 * x)


DIODE: Final = Figures(
    limits=(
        ("Repetitive peak reverse voltage", "see ordering table", "V"),
        ("Average forward current", "1", "A"),
        ("Non-repetitive surge, 8.3 ms", "30", "A"),
        ("Junction temperature", "-55 to +150", "°C"),
    ),
    rows=(
        ("Forward voltage", "IF = 10 mA", "", "0.72", "1.0", "V"),
        ("Forward voltage", "IF = 1 A", "", "0.93", "1.1", "V"),
        ("Reverse current", "VR rated, 25 °C", "", "0.05", "5", "µA"),
        ("Reverse current", "VR rated, 100 °C", "", "", "50", "µA"),
        ("Junction capacitance", "4 V, 1 MHz", "", "15", "", "pF"),
        ("Reverse recovery time", "IF = 10 mA", "", "4", "", "ns"),
        ("Thermal resistance", "junction to ambient", "", "100", "", "K/W"),
    ),
    graphs=(
        Graph(
            "Forward current against voltage",
            Axis("Forward voltage (V)", 0, 2),
            Axis("Forward current (mA)", 0.1, 1000, True),
            (
                ("100 °C", lambda v: 0.001 * math.exp(min(v / 0.078, 20)) / 1.2),
                ("25 °C", lambda v: 0.0001 * math.exp(min(v / 0.075, 22)) / 1.6),
                ("-40 °C", lambda v: 0.00001 * math.exp(min(v / 0.073, 24)) / 1.9),
            ),
        ),
        Graph("Current derating", AMBIENT, RATED_CURRENT, (("half sine", derating(75, 150)),)),
    ),
)
TRANSISTOR: Final = Figures(
    limits=(
        ("Drain-source or collector-emitter voltage", "see ordering table", "V"),
        ("Gate-source or emitter-base voltage", "±20 / 6", "V"),
        ("Power dissipation at 25 °C", "0.5 to 130", "W"),
        ("Junction temperature", "-55 to +150", "°C"),
    ),
    rows=(
        ("Leakage current", "rated voltage, 25 °C", "", "0.01", "1", "µA"),
        ("Threshold voltage", "ID = 250 µA", "1.0", "1.7", "2.5", "V"),
        ("Current gain", "5 V, 2 mA", "200", "290", "450", ""),
        ("On-resistance", "10 V, 25 °C", "", "22", "44", "mΩ"),
        ("Saturation voltage", "100 mA, 5 mA", "", "0.2", "0.6", "V"),
        ("Total gate charge", "10 V", "", "48", "71", "nC"),
        ("Turn-on delay", "resistive load", "", "11", "", "ns"),
        ("Turn-off delay", "resistive load", "", "39", "", "ns"),
    ),
    graphs=(
        Graph(
            "Output characteristics",
            Axis("Voltage (V)", 0, 10),
            Axis("Current (A)", 0, 25),
            (
                ("6 V", _saturating(19, 0.9)),
                ("5 V", _saturating(11.5, 1.1)),
                ("4.5 V", _saturating(7, 1.4)),
                ("4 V", _saturating(3.4, 1.8)),
            ),
        ),
        Graph(
            "On-resistance against temperature",
            Axis("Junction temperature (°C)", -50, 150),
            Axis("Normalised", 0, 2.5),
            (("VGS = 10 V", lambda t: 0.86 + 0.0052 * (t + 5) + 1.1e-5 * (t + 5) ** 2),),
        ),
    ),
)
REGULATOR: Final = Figures(
    limits=(
        ("Input voltage", "see ordering table", "V"),
        ("Power dissipation", "internally limited", ""),
        ("Storage temperature", "-65 to +150", "°C"),
        ("Junction temperature", "-40 to +125", "°C"),
    ),
    rows=(
        ("Output voltage", "IO = 10 mA, 25 °C", "-1", "", "+1", "%"),
        ("Line regulation", "over input range", "", "1", "6", "mV"),
        ("Load regulation", "0 to rated current", "", "5", "12", "mV"),
        ("Dropout voltage", "rated current", "", "1.1", "1.25", "V"),
        ("Quiescent current", "no load", "", "5", "10", "mA"),
        ("Ripple rejection", "120 Hz", "60", "75", "", "dB"),
        ("Output noise", "10 Hz to 10 kHz", "", "100", "", "µV"),
    ),
    graphs=(
        Graph(
            "Dropout voltage",
            Axis("Output current (mA)", 0, 1000),
            Axis("Dropout (V)", 0, 1.5),
            (
                ("125 °C", lambda i: 0.78 + 0.00036 * i),
                ("25 °C", lambda i: 0.88 + 0.00028 * i),
                ("-40 °C", lambda i: 1.0 + 0.00022 * i),
            ),
        ),
        Graph(
            "Ripple rejection",
            Axis("Frequency (kHz)", 0.01, 1000, True),
            Axis("Rejection (dB)", 0, 100),
            (
                ("100 mA", lambda f: 78 - 22 * math.log10(1 + f / 2)),
                ("500 mA", lambda f: 72 - 23 * math.log10(1 + f / 1.4)),
            ),
        ),
    ),
)
CIRCUIT: Final = Figures(
    limits=(
        ("Supply voltage", "-0.3 to +6", "V"),
        ("Voltage on any pin", "-0.3 to VCC + 0.3", "V"),
        ("Current into any pin", "±20", "mA"),
        ("Electrostatic discharge, human body", "2,000", "V"),
        ("Storage temperature", "-65 to +150", "°C"),
    ),
    rows=(
        ("Supply current", "no load, 25 °C", "", "4.2", "6", "mA"),
        ("Standby current", "3.3 V", "", "0.9", "4", "µA"),
        ("Input high level", "", "0.7 VCC", "", "", "V"),
        ("Input low level", "", "", "", "0.3 VCC", "V"),
        ("Output high level", "IO = -4 mA", "VCC - 0.4", "", "", "V"),
        ("Output low level", "IO = 4 mA", "", "0.15", "0.4", "V"),
        ("Input leakage", "0 to VCC", "-1", "±0.1", "+1", "µA"),
        ("Start-up time", "", "", "65", "", "µs"),
    ),
    graphs=(
        Graph(
            "Supply current against frequency",
            Axis("Clock frequency (MHz)", 0, 20),
            Axis("Supply current (mA)", 0, 15),
            (
                ("5.0 V", lambda f: 0.5 + 0.58 * f),
                ("3.3 V", lambda f: 0.3 + 0.34 * f),
                ("1.8 V", lambda f: 0.15 + 0.16 * f),
            ),
        ),
        Graph(
            "Output low level against current",
            Axis("Sink current (mA)", 0, 20),
            Axis("Output voltage (V)", 0, 1),
            (
                ("85 °C", lambda i: 0.034 * i + 0.0004 * i**2),
                ("25 °C", lambda i: 0.027 * i + 0.0003 * i**2),
                ("-40 °C", lambda i: 0.021 * i + 0.0002 * i**2),
            ),
        ),
    ),
)
