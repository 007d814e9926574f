"""Figures for the datasheets of passives and of connectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from parts.sample.graphs import AMBIENT, RATED_CURRENT, Axis, Figures, Graph, derating


def _impedance(henries: float, farads: float, ohms: float) -> Callable[[float], float]:
    """Series resonance, frequency in megahertz."""

    def curve(megahertz: float) -> float:
        omega = 2 * math.pi * megahertz * 1e6
        return math.hypot(ohms, omega * henries - 1 / (omega * farads))

    return curve


RESISTOR: Final = Figures(
    limits=(
        ("Operating temperature", "-55 to +155", "°C"),
        ("Maximum overload voltage", "2.5 × rated, 5 s", "V"),
        ("Dielectric withstanding voltage", "100", "V"),
        ("Soldering temperature, 10 s", "260", "°C"),
    ),
    rows=(
        ("Rated dissipation", "70 °C ambient", "", "0.1", "0.25", "W"),
        ("Resistance tolerance", "25 °C", "-1", "", "+1", "%"),
        ("Temperature coefficient", "-55 °C to +125 °C", "-100", "±60", "+100", "ppm/K"),
        ("Load life drift", "1,000 h at 70 °C", "", "±0.3", "±1.0", "%"),
        ("Resistance to soldering heat", "260 °C, 10 s", "", "±0.1", "±0.5", "%"),
        ("Insulation resistance", "100 V, 1 min", "1", "10", "", "GΩ"),
        ("Current noise", "per decade", "", "-20", "-10", "dB"),
    ),
    graphs=(
        Graph(
            "Power derating",
            AMBIENT,
            Axis("Rated power (%)", 0, 125),
            (("P / P70", derating(70, 155)),),
        ),
        Graph(
            "Resistance against temperature",
            AMBIENT,
            Axis("Change (%)", -1, 1),
            (
                ("+100 ppm/K", lambda t: (t - 25) * 0.0065 + (t - 25) ** 2 * 1e-5),
                ("typical", lambda t: (t - 25) * 0.002 + (t - 25) ** 2 * 1e-5),
                ("-100 ppm/K", lambda t: (t - 25) * -0.0065 + (t - 25) ** 2 * 1e-5),
            ),
        ),
    ),
)
CAPACITOR: Final = Figures(
    limits=(
        ("Operating temperature", "-55 to +125", "°C"),
        ("Surge voltage", "1.15 × rated", "V"),
        ("Reverse voltage (polar types)", "1", "V"),
        ("Soldering temperature, 10 s", "260", "°C"),
    ),
    rows=(
        ("Capacitance tolerance", "1 kHz, 25 °C", "-10", "", "+10", "%"),
        ("Dissipation factor", "1 kHz, 1 V", "", "1.2", "2.5", "%"),
        ("Insulation resistance", "rated voltage, 1 min", "10", "", "", "GΩ"),
        ("Temperature characteristic", "-55 °C to +125 °C", "-15", "", "+15", "%"),
        ("Equivalent series resistance", "100 kHz", "", "18", "45", "mΩ"),
        ("Self-resonant frequency", "100 nF", "", "16", "", "MHz"),
        ("Ageing", "per decade hour", "", "1.0", "2.5", "%"),
    ),
    graphs=(
        Graph(
            "Impedance against frequency",
            Axis("Frequency (MHz)", 0.1, 1000, True),
            Axis("Impedance (ohm)", 0.01, 1000, True),
            (
                ("1 nF", _impedance(0.7e-9, 1e-9, 0.06)),
                ("10 nF", _impedance(0.7e-9, 10e-9, 0.035)),
                ("100 nF", _impedance(0.7e-9, 100e-9, 0.018)),
            ),
        ),
        Graph(
            "Capacitance against DC bias",
            Axis("DC bias (% of rated voltage)", 0, 100),
            Axis("Capacitance change (%)", -80, 20),
            (
                ("C0G", lambda v: 0.0),
                ("X7R 1206", lambda v: -38 * (v / 100) ** 1.7),
                ("X7R 0603", lambda v: -66 * (v / 100) ** 1.4),
            ),
        ),
    ),
)
INDUCTOR: Final = Figures(
    limits=(
        ("Operating temperature", "-40 to +125", "°C"),
        ("Storage temperature", "-40 to +125", "°C"),
        ("Soldering temperature, 30 s", "260", "°C"),
    ),
    rows=(
        ("Tolerance", "100 kHz, 0.25 V", "-20", "", "+20", "%"),
        ("Series resistance", "20 °C", "", "22", "31", "mΩ"),
        ("Rated current", "40 K rise", "", "5.6", "", "A"),
        ("Saturation current", "30 % drop", "", "6.8", "", "A"),
        ("Self-resonant frequency", "", "9", "14", "", "MHz"),
        ("Frequency tolerance (crystals)", "25 °C", "-30", "", "+30", "ppm"),
    ),
    graphs=(
        Graph(
            "Inductance against current",
            Axis("DC current (A)", 0, 10),
            Axis("Inductance (%)", 0, 120),
            (
                ("10 µH", lambda i: 100 / (1 + (i / 8.5) ** 6)),
                ("47 µH", lambda i: 100 / (1 + (i / 4.5) ** 6)),
            ),
        ),
        Graph(
            "Temperature rise",
            Axis("RMS current (A)", 0, 10),
            Axis("Rise (K)", 0, 100),
            (("10 µH", lambda i: 1.05 * i**2), ("47 µH", lambda i: 3.4 * i**2)),
        ),
    ),
)
CONNECTOR: Final = Figures(
    limits=(
        ("Rated voltage", "see ordering table", "V"),
        ("Operating temperature", "-25 to +85", "°C"),
        ("Hand soldering, 3 s", "350", "°C"),
    ),
    rows=(
        ("Contact resistance, initial", "10 mA", "", "8", "20", "mΩ"),
        ("Contact resistance, after test", "10 mA", "", "", "40", "mΩ"),
        ("Insulation resistance", "500 V DC", "1,000", "", "", "MΩ"),
        ("Withstanding voltage", "1 min AC", "1,000", "", "", "V"),
        ("Rated current", "AWG 22", "", "3", "", "A"),
        ("Mating cycles", "", "30", "", "", ""),
    ),
    graphs=(
        Graph(
            "Temperature rise",
            Axis("Current per contact (A)", 0, 5),
            Axis("Rise (K)", 0, 60),
            (
                ("2 contacts", lambda i: 1.5 * i**2),
                ("5 contacts", lambda i: 2.1 * i**2),
                ("10 contacts", lambda i: 2.7 * i**2),
            ),
        ),
        Graph("Current derating", AMBIENT, RATED_CURRENT, (("all", derating(55, 105)),)),
    ),
)
