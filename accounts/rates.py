"""What a rate is. Settings have some, so this needs no models."""

from __future__ import annotations

from typing import Final, NamedTuple

PERIODS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


class Rate(NamedTuple):
    """So many in a period; all of them may come at once, then they are let through evenly."""

    number: int
    seconds: int


def parse(text: str) -> Rate | None:
    """`30/minute`; None for `none`. Raises ValueError."""
    if text == "none":
        return None
    number, _, period = text.partition("/")
    if period not in PERIODS or not (number.isascii() and number.isdigit() and int(number[:9])):
        raise ValueError(text)
    return Rate(int(number[:9]), PERIODS[period])
