"""Width and height of a JPEG XL image, from its first bytes, before anything is decoded.

Source: ISO/IEC 18181-1 (SizeHeader) and 18181-2 (boxes ``jxlc`` and ``jxlp``).
"""

from __future__ import annotations

_BOXES = b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a"
_STREAM = b"\xff\x0a"
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_LENGTHS = (9, 13, 18, 30)  # bits of a side, by its selector


def looks_like(data: bytes) -> bool:
    """Whether this begins as JPEG XL does, bare or in boxes."""
    return data.startswith((_STREAM, _BOXES))


def size_px(data: bytes) -> tuple[int, int] | None:
    """Width and height; None where the head makes no sense."""
    stream = _codestream(data)
    if not stream.startswith(_STREAM):
        return None
    bits, at = int.from_bytes(stream[2:16], "little"), 0

    def take(count: int) -> int:
        nonlocal at
        value = bits >> at & ((1 << count) - 1)
        at += count
        return value

    small = take(1)
    height = (take(5) + 1) * 8 if small else take(_LENGTHS[take(2)]) + 1
    ratio = take(3)
    if ratio:
        across, down = _RATIOS[ratio - 1]
        return height * across // down, height
    width = (take(5) + 1) * 8 if small else take(_LENGTHS[take(2)]) + 1
    return width, height


def _codestream(data: bytes) -> bytes:
    """The first bytes of the codestream, out of its boxes where it is in any."""
    if not data.startswith(_BOXES):
        return data[:16]
    at = 0
    while at + 8 <= len(data):
        length, kind, head = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16]), 16
        if kind == b"jxlc":
            return data[at + head : at + head + 16]
        if kind == b"jxlp":
            return data[at + head + 4 : at + head + 20]
        if length < head:
            return b""
        at += length
    return b""
