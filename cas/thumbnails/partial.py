"""Pictures of which not everything is there, shown as browsers show them.

Pillow writes rows into the picture as it decodes them. Here it is filled before with what stands
for a row that never comes: white, or clear.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO, Final, cast

from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

DAMAGED: Final = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError,
                  RuntimeError, OverflowError, struct.error, zlib.error)  # fmt: skip
"""What Pillow raises for a file that it cannot read."""

_WHITE: Final = {
    "1": 255,
    "L": 255,
    "LA": (255, 0),
    "RGB": (255, 255, 255),
    "RGBA": (255, 255, 255, 0),
    "CMYK": (0, 0, 0, 0),
}


def load(image: ImageFile) -> bool:
    """Decode what can be; whether that is all.

    Raises OSError with an `errno` if the file cannot be read.
    """
    try:
        image.load()
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # Nothing is left to be decoded.
        image.tile = []
        return False
    return True


class PartialJpeg(JpegImageFile):
    """Rows that are missing are white."""

    _ended = False

    def load_read(self, read_bytes: int) -> bytes:
        data = cast(BinaryIO, self.fp).read(read_bytes)
        if data or self._ended or not self.info.get("progressive"):
            return data
        # A progressive picture has no row before its last scan: this one ends here.
        self._ended = True
        return b"\xff\xd9"

    def load_prepare(self) -> None:
        super().load_prepare()
        if self.mode in _WHITE:
            self.im.paste(_WHITE[self.mode], (0, 0, *self.size))


class PartialPng(PngImageFile):
    """Rows that are missing are clear, or white, or of the lightest colour in the palette."""

    def load_prepare(self) -> None:
        super().load_prepare()
        if self.mode in _WHITE:
            self.im.paste(_WHITE[self.mode], (0, 0, *self.size))
        elif self.mode == "P" and self.palette:
            colours = bytes(self.palette.palette)
            lightest = max(range(len(colours) // 3), key=lambda i: sum(colours[3 * i : 3 * i + 3]))
            self.im.paste(lightest, (0, 0, *self.size))


class PartialGif(GifImageFile):
    """Pixels that are missing have the number `fill`."""

    fill = 0

    def load_prepare(self) -> None:
        super().load_prepare()
        self.im.paste(self.fill, (0, 0, *self.size))
