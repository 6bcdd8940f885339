"""Kinds of JPEG that are masked as pixels: CMYK and YCCK, more than 8 bits, arithmetic, lossless.

What is shown of them is masked as PNG (:mod:`engine.formats.converted`).
"""

from __future__ import annotations

import imagecodecs
import numpy as np

from engine.errors import CorruptImage, UnsupportedFormat
from engine.formats import colours, converted
from engine.formats.converted import Read
from engine.formats.jpeg_file import APP2, Header
from engine.formats.limits import check_size
from engine.formats.pictures import upright

_ICC = b"ICC_PROFILE\0"


def decode(data: bytes, header: Header, max_side_px: int, max_bytes: int) -> Read:
    """Read the picture upright and in sRGB.

    Args:
        header: From :func:`engine.formats.jpeg_file.parse` with ``rare``.

    Raises:
        CorruptImage, ImageTooLarge, UnsupportedFormat: With what is wrong and what to do.
    """
    channels = len(header.components)
    size = channels * (2 if header.precision > 8 else 1)
    check_size(header.width, header.height, 1, size, max_side_px, max_bytes)
    try:
        samples = np.asarray(imagecodecs.jpeg8_decode(data[: header.end]))
    except (RuntimeError, ValueError) as err:
        raise CorruptImage("This JPEG file is damaged: its picture cannot be decoded.") from err
    if samples.shape[:2] != (header.height, header.width):
        raise CorruptImage("This JPEG file is damaged: its header does not fit its picture.")
    icc = profile(data, header)
    if channels == 4:
        if header.precision != 8:
            raise UnsupportedFormat("CMYK of more than 8 bits is not supported. Save it as RGB.")
        # Programs that write CMYK store what is left of white, as Adobe's do.
        pixels = colours.from_cmyk(255 - samples, icc)
    else:
        pixels = converted.in_srgb(converted.full_range(samples, header.precision), icc)
    pixels = upright(pixels, header.orientation)
    return converted.reading([pixels], lossy=header.sof != 0xC3)


def profile(data: bytes, header: Header) -> bytes:
    """The colour profile, put together from its segments; empty where it is not complete."""
    parts: dict[int, bytes] = {}
    count = 0
    for segment in header.segments:
        body = data[segment.start : segment.end]
        if segment.marker == APP2 and body.startswith(_ICC) and len(body) > 14:
            parts[body[12]], count = body[14:], body[13]
    if sorted(parts) != list(range(1, count + 1)):
        return b""
    return b"".join(parts[i] for i in sorted(parts))
