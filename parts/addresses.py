"""Product pages and seller links: free text from older installations, addresses when written here.

What is not changed is never refused: a part that came with `see catalogue, p. 5` stays editable.
"""

from __future__ import annotations

from typing import Final

EXECUTED: Final = ("javascript:", "data:", "vbscript:")
"""How addresses begin that a browser runs instead of fetching them."""


def is_executed(text: str) -> bool:
    """Whether a browser that is given this as an address would run it.

    Browsers drop control characters and spaces before and line breaks and tabs inside.
    """
    return _bare(text).lower().startswith(EXECUTED)


def is_same(given: str, stored: str) -> bool:
    """Whether this is what is stored, sent back by a form that keeps no line breaks."""
    return _bare(given) == _bare(stored)


def _bare(text: str) -> str:
    return "".join(character for character in text if character > " ")
