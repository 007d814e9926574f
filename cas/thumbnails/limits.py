"""What one picture may cost, and why one may be refused."""

from __future__ import annotations

from typing import Final

CPU_SECONDS: Final = 5
"""Processor time for one picture, all threads together."""

MEMORY: Final = 512 * 1024 * 1024
"""Resident bytes of the process that decodes one picture, its libraries included."""

IDLE_SECONDS: Final = 60
"""After so long without a picture a decoder process ends."""

LONGEST_SIDE: Final = 1_000_000
"""Pixels of a side. Browsers show no PNG that is longer."""


class Unrenderable(Exception):
    """The blob has no picture that could be shown."""

    code = "unrenderable"


class NotAnImage(Unrenderable):
    """Not a picture of a type we accept, or damaged before its first row."""

    code = "not_an_image"


class TooManyPixels(Unrenderable):
    """The picture says that it has more pixels than its format may."""

    code = "too_many_pixels"


class TooExpensive(Unrenderable):
    """Decoding took more time or memory than a picture may, or crashed the decoder."""

    code = "too_expensive"
