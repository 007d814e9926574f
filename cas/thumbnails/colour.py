"""Colours that are described by code points (ITU-T H.273) instead of an ICC profile.

AVIF and PNG (`cICP`) name them so; a PNG's `gAMA` and `cHRM` come to the same. High dynamic range
is mapped to sRGB as browsers do: with the reference white tone mapping of SMPTE ST 2094-50.
"""

from __future__ import annotations

import array
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyvips

Chromaticities = tuple[float, float, float, float, float, float, float, float]
"""x and y of white, red, green and blue."""

Matrix = list[list[float]]

_D65: Final = (0.3127, 0.3290)
_C: Final = (0.310, 0.316)
_DCI: Final = (0.314, 0.351)
_E: Final = (1 / 3, 1 / 3)

BT709: Final = 1
BT2020: Final = 9
SRGB: Final = 13
PQ: Final = 16
HLG: Final = 18

_PRIMARIES: Final[dict[int, Chromaticities]] = {
    BT709: (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    4: (*_C, 0.670, 0.330, 0.210, 0.710, 0.140, 0.080),
    5: (*_D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    BT2020: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    10: (*_E, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    11: (*_DCI, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}

_WHITE_NITS: Final = 203.0
"""Luminance of diffuse white in high dynamic range (ITU-R BT.2408), which is 1.0 here."""

_DEFAULT_PEAK_NITS: Final = 1000.0
_STEPS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Encoding:
    """How numbers stand for colours. `peak_nits` is the brightest, for PQ; None if not known.

    `gamma` above 0 replaces the transfer function, and `chromaticities` the primaries.
    """

    primaries: int = BT709
    transfer: int = SRGB
    peak_nits: float | None = None
    gamma: float = 0.0
    chromaticities: Chromaticities | None = None


def by_code_points(
    primaries: int, transfer: int, peak_nits: float | None = None
) -> Encoding | None:
    """The encoding with these numbers; None if that is sRGB, or one that browsers take for it."""
    known = primaries in _PRIMARIES and primaries != BT709
    if not known and transfer not in _TO_LINEAR:
        return None
    return Encoding(primaries, transfer, peak_nits)


def to_srgb(image: Any, encoding: Encoding) -> Any:
    """An RGB libvips image of 8 or 16 bits a band in 8-bit sRGB. Not clipped colours stay exact.

    Raises ValueError if the encoding makes no sense, such as primaries on one line.
    """
    hdr = encoding.gamma == 0.0 and encoding.transfer in (PQ, HLG)
    working = _PRIMARIES[BT2020 if hdr else BT709]
    source = encoding.chromaticities or _PRIMARIES.get(encoding.primaries, _PRIMARIES[BT709])
    linear = image.maplut(_lut(_decoder(encoding), 256 if image.format == "uchar" else 65_536))
    linear = linear.recomb(_between(source, working))
    if encoding.transfer == HLG and hdr:
        linear = _as_displayed(linear)
    if hdr:
        peak = encoding.peak_nits or _DEFAULT_PEAK_NITS
        linear = _tone_mapped(linear, max(peak, _WHITE_NITS) / _WHITE_NITS)
        linear = linear.recomb(_between(working, _PRIMARIES[BT709]))
    steps = (linear * (_STEPS - 1) + 0.5).cast("ushort")
    return steps.maplut(_lut(lambda x: 255 * _srgb(x) + 0.5, _STEPS).cast("uchar")).copy(
        interpretation="srgb"
    )


def _lut(function: Callable[[float], float], entries: int) -> Any:
    values = array.array("f", (function(i / (entries - 1)) for i in range(entries)))
    return pyvips.Image.new_from_memory(values.tobytes(), entries, 1, 1, "float")


def _srgb(x: float) -> float:
    return 12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055


def _srgb_inverse(x: float) -> float:
    return x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4


def _pq(x: float) -> float:
    """SMPTE ST 2084, relative to diffuse white."""
    power = x ** (32 / 2523)
    above = max(power - 3424 / 4096, 0.0) / (2413 / 128 - 2392 / 128 * power)
    return 10_000 / _WHITE_NITS * float(above ** (16384 / 2610))


def _hlg(x: float) -> float:
    """ITU-R BT.2100: light of the scene, of which 1.0 is the brightest."""
    return x * x / 3 if x <= 0.5 else (math.exp((x - 0.55991073) / 0.17883277) + 0.28466892) / 12


def _smpte240(x: float) -> float:
    return x / 4 if x <= 0.0913 else ((x + 0.1115) / 1.1115) ** (1 / 0.45)


_TO_LINEAR: Final[dict[int, Callable[[float], float]]] = {
    4: lambda x: x**2.2,
    5: lambda x: x**2.8,
    7: _smpte240,
    8: lambda x: x,
    PQ: _pq,
    17: lambda x: x**2.6 * 52.37 / 48,
    HLG: _hlg,
}
"""By transfer characteristics. Browsers take all others for sRGB's, and so BT.709's too."""


def _decoder(encoding: Encoding) -> Callable[[float], float]:
    if encoding.gamma > 0.0:
        return lambda x: float(x ** (1 / encoding.gamma))
    return _TO_LINEAR.get(encoding.transfer, _srgb_inverse)


def _as_displayed(scene: Any) -> Any:
    """HLG's light as a display of 1,000 nits shows it, whose gamma of 1.2 is on the luminance."""
    luminance = scene.recomb([[0.2627, 0.6780, 0.0593]])
    gains = _lut(lambda y: _DEFAULT_PEAK_NITS / _WHITE_NITS * float(y**0.2), _STEPS)
    return scene * (luminance * (_STEPS - 1) + 0.5).cast("ushort").maplut(gains)


def _tone_mapped(linear: Any, peak: float) -> Any:
    """Scale each pixel by what the curve gives for its largest component."""
    largest = linear[0].bandrank([linear[1], linear[2]], index=2)
    brightest = 10_000 / _WHITE_NITS
    curve = _tone_curve(peak)
    gains = _lut(lambda x: curve(x * brightest) / (x * brightest) if x else curve(1.0), _STEPS)
    steps = (largest * ((_STEPS - 1) / brightest) + 0.5).cast("ushort")
    return linear * steps.maplut(gains)


def _tone_curve(peak: float) -> Callable[[float], float]:
    """SMPTE ST 2094-50, annex C: straight up to diffuse white, then a parabola to the peak."""
    headroom = math.log2(peak) / math.log2(_DEFAULT_PEAK_NITS / _WHITE_NITS)
    white = 1 - 0.5 * min(headroom, 1.0)
    bend = 0.65
    middle_x, middle_y = (1 - bend) + bend / white, (1 - bend) * white + bend
    a, b = 1 - 2 * middle_x + peak, 2 * (middle_x - 1)

    def curve(x: float) -> float:
        if x <= 1.0:
            return x * white
        if x >= peak:
            return 1.0
        root = (-b + math.sqrt(b * b - 4 * a * (1 - x))) / (2 * a) if a > 1e-9 else (x - 1) / b
        return (1 - root) ** 2 * white + 2 * root * (1 - root) * middle_y + root * root

    return curve


def _between(source: Chromaticities, target: Chromaticities) -> Matrix:
    """From linear colours of one set of primaries to those of another, white to white."""
    if source == target:
        return [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    adapted = _product(_adaptation(source[:2], target[:2]), _to_xyz(source))
    return _product(_inverse(_to_xyz(target)), adapted)


def _to_xyz(primaries: Chromaticities) -> Matrix:
    white, *colours = ((x, y) for x, y in zip(primaries[::2], primaries[1::2], strict=True))
    if any(y == 0 for _, y in (white,)):
        raise ValueError("white has no luminance")
    columns = [(x, y, 1 - x - y) for x, y in colours]
    unscaled = [list(row) for row in zip(*columns, strict=True)]
    scale = _apply(_inverse(unscaled), _xyz_of(white))
    return [[value * scale[i] for i, value in enumerate(row)] for row in unscaled]


def _xyz_of(white: Sequence[float]) -> list[float]:
    return [white[0] / white[1], 1.0, (1 - white[0] - white[1]) / white[1]]


_BRADFORD: Final[Matrix] = [
    [0.8951, 0.2664, -0.1614],
    [-0.7502, 1.7135, 0.0367],
    [0.0389, -0.0685, 1.0296],
]


def _adaptation(source: Sequence[float], target: Sequence[float]) -> Matrix:
    cones = [_apply(_BRADFORD, _xyz_of(white)) for white in (source, target)]
    if 0.0 in cones[0]:
        raise ValueError("white has no luminance")
    scaled = [
        [value * cones[1][i] / cones[0][i] for value in row] for i, row in enumerate(_BRADFORD)
    ]
    return _product(_inverse(_BRADFORD), scaled)


def _apply(matrix: Matrix, vector: Sequence[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def _product(left: Matrix, right: Matrix) -> Matrix:
    columns = list(zip(*right, strict=True))
    return [[sum(a * b for a, b in zip(row, c, strict=True)) for c in columns] for row in left]


def _inverse(m: Matrix) -> Matrix:
    (a, b, c), (d, e, f), (g, h, i) = m
    minors = [
        [e * i - f * h, c * h - b * i, b * f - c * e],
        [f * g - d * i, a * i - c * g, c * d - a * f],
        [d * h - e * g, b * g - a * h, a * e - b * d],
    ]
    determinant = a * minors[0][0] + b * minors[1][0] + c * minors[2][0]
    if abs(determinant) < 1e-9:
        raise ValueError("these primaries span no colours")
    return [[value / determinant for value in row] for row in minors]
