"""JPEG 2000 pictures (ISO/IEC 15444-1): with boxes (JP2) or as a bare codestream."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field

import imagecodecs
import numpy as np
from PIL import Image as Pillow

from engine.errors import CorruptImage, UnsupportedFormat
from engine.formats import colours, converted, isobmff
from engine.formats.converted import Read
from engine.formats.limits import check_size

_DAMAGED = "This JPEG 2000 file is damaged: its header is not valid. Export it again."
_CMYK, _SYCC = 12, 18  # enumerated colour spaces


@dataclass(frozen=True)
class Header:
    """What the boxes and the codestream's first segments say.

    Args:
        depths: Bits of each component, negative where it is signed.
        even: All components have the picture's own grid.
        space: Enumerated colour space; 0 where nothing or a profile says it.
        table: Colours come from a palette.
    """

    width: int
    height: int
    depths: tuple[int, ...]
    even: bool
    lossy: bool
    space: int = 0
    table: bool = False
    icc: bytes = field(default=b"", repr=False)


def parse(data: bytes) -> Header:
    """Read the headers.

    Raises:
        CorruptImage: Cut off, or contradictory.
    """
    try:
        if data[:4] == b"\xff\x4f\xff\x51":
            return _codestream(data, 0)
        space, table, icc = 0, False, b""
        for kind, at, end in isobmff.boxes(data, 0, len(data)):
            if kind == b"jp2h":
                for inner, start, stop in isobmff.boxes(data, at, end):
                    if inner == b"pclr":
                        table = True
                    elif inner == b"colr" and not space and not icc:
                        if data[start] == 1:
                            (space,) = struct.unpack_from(">I", data, start + 3)
                        elif data[start] == 2:
                            icc = data[start + 3 : stop]
            elif kind == b"jp2c":
                return _codestream(data, at, space, table, icc)
    except (struct.error, IndexError) as err:
        raise CorruptImage(_DAMAGED) from err
    raise CorruptImage(_DAMAGED)


def _codestream(
    data: bytes, at: int, space: int = 0, table: bool = False, icc: bytes = b""
) -> Header:
    if data[at : at + 4] != b"\xff\x4f\xff\x51":
        raise CorruptImage(_DAMAGED)
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    (count,) = struct.unpack_from(">H", data, at + 40)
    depths, even = [], True
    for i in range(count):
        depth, across, down = data[at + 42 + 3 * i : at + 45 + 3 * i]
        bits = (depth & 0x7F) + 1
        depths.append(-bits if depth & 0x80 else bits)
        even &= (across, down) == (1, 1)
    place, lossy = at + 42 + 3 * count, True
    while data[place] == 0xFF and data[place + 1] != 0x90:  # up to the first tile
        if data[place + 1] == 0x52:
            lossy = data[place + 13] == 0
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return Header(right - left, bottom - top, tuple(depths), even, lossy, space, table, icc)


def decode(data: bytes, max_side_px: int, max_bytes: int) -> Read:
    """Read the picture.

    Raises:
        CorruptImage, ImageTooLarge, UnsupportedFormat: With what is wrong and what to do.
    """
    header = parse(data)
    count = len(header.depths)
    # The decoder works on 32 bits.
    check_size(header.width, header.height, 1, 4 * max(count, 1), max_side_px, max_bytes)
    if count > 4 or len(set(header.depths)) > 1:
        raise UnsupportedFormat(
            "This JPEG 2000 file has channels that are not colours. Export it as PNG or TIFF."
        )
    bits = abs(header.depths[0])
    try:
        if not header.even or header.space == _SYCC or header.table:
            pixels = _by_pillow(data, bits)
        else:
            samples = np.asarray(imagecodecs.jpeg2k_decode(data, numthreads=1))
            if header.depths[0] < 0:
                samples = (samples.astype(np.int32) + (1 << bits - 1)).clip(0, (1 << bits) - 1)
            pixels = converted.full_range(samples, bits)
    except (RuntimeError, ValueError, OSError, IndexError) as err:
        raise converted.damaged(err) from err
    if pixels.shape[:2] != (header.height, header.width):
        raise CorruptImage(_DAMAGED)
    if header.space == _CMYK and count == 4 and pixels.dtype == np.uint8:
        pixels = colours.from_cmyk(pixels, header.icc)
    else:
        pixels = converted.in_srgb(pixels, header.icc)
    return converted.reading([pixels], lossy=header.lossy)


def _by_pillow(data: bytes, bits: int) -> np.ndarray:
    """Coarser colour planes, luma and chroma, and palettes, as 8 bits."""
    if bits > 8:
        raise UnsupportedFormat(
            "This kind of JPEG 2000 is not supported. Export the picture as PNG or TIFF."
        )
    with Pillow.open(io.BytesIO(data), formats=("JPEG2000",)) as picture:
        mode = {"L": "L", "LA": "LA", "RGBA": "RGBA", "P": "RGB", "PA": "RGBA"}
        return np.asarray(picture.convert(mode.get(picture.mode, "RGB")))
