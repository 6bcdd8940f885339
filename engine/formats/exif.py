"""The one part of EXIF that is needed to show a picture: which way up it is."""

from __future__ import annotations

import struct

_ORIENTATION, _SHORT = 0x0112, 3
_HEAD = b"Exif\0\0"


def orientation_of(block: bytes) -> int:
    """EXIF orientation 1 to 8; 1 where there is none or it makes no sense.

    Args:
        block: A TIFF structure, with or without the head that JPEG puts before it.

    Source: TIFF 6.0, tag 274; CIPA DC-008, 4.6.5.1.
    """
    tiff = block.removeprefix(_HEAD)
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        (offset,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, offset)
        for i in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, offset + 2 + 12 * i)
            if tag == _ORIENTATION and kind == _SHORT and 1 <= value <= 8:
                return int(value)
    except (KeyError, struct.error):
        pass
    return 1


def block_of(orientation: int) -> bytes:
    """A TIFF structure that says which way up a picture is, and nothing else."""
    tiff = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHI", _ORIENTATION, _SHORT, 1)
    return tiff + struct.pack(">HHI", orientation, 0, 0)
