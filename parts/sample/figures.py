"""Which tables and graphs go with which kind of datasheet."""

from __future__ import annotations

from typing import Final

from parts.sample.active_figures import CIRCUIT, DIODE, REGULATOR, TRANSISTOR
from parts.sample.catalog import Sheet
from parts.sample.passive_figures import CAPACITOR, CONNECTOR, INDUCTOR, RESISTOR

FIGURES: Final = {
    Sheet.RESISTOR: RESISTOR,
    Sheet.CAPACITOR: CAPACITOR,
    Sheet.INDUCTOR: INDUCTOR,
    Sheet.DIODE: DIODE,
    Sheet.TRANSISTOR: TRANSISTOR,
    Sheet.REGULATOR: REGULATOR,
    Sheet.CIRCUIT: CIRCUIT,
    Sheet.CONNECTOR: CONNECTOR,
}
