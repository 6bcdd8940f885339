"""JPEG XL (ISO/IEC 18181): the header that says size and colours, and decoding.

libjxl turns pictures upright and undoes its own colour transform; what it returns is in the space
that the header names, and is made sRGB here. Animations give all their frames.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import imagecodecs
import numpy as np

from engine.errors import CorruptImage, UnsupportedFormat
from engine.formats import converted, isobmff
from engine.formats.converted import Read
from engine.formats.limits import check_size

_DAMAGED = "This JPEG XL file is damaged: its header is not valid. Export it again."
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_PRIMARIES = {1: 1, 9: 9, 11: 12}  # to the code points that other formats use
#: For how many bytes of frames there has to be room, where an animation comes in.
_ANIMATED_BYTES = 256 << 20
_GAMMA = {0.45455: 4, 0.35714: 5}


@dataclass(frozen=True)
class Header:
    """What the codestream says before its frames.

    Args:
        bits: Per sample; 0 for floats.
        channels: Of colour, 1 or 3, and of other kinds.
        premultiplied: Colours are stored multiplied with their opacity.
        lossy: Coded in the space that only lossy files use.
        primaries, transfer: Code points of ISO/IEC 23091-2; 2 where a profile says it.
    """

    width: int
    height: int
    bits: int
    extra: int
    animated: bool
    premultiplied: bool
    lossy: bool
    primaries: int
    transfer: int


class Bits:
    """Fields of a codestream, least significant bit first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data[:4096], "little")
        self._left = 8 * min(len(data), 4096)

    def u(self, count: int) -> int:
        if count > self._left:
            raise CorruptImage("This JPEG XL file ends too early: send the complete file.")
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        self._left -= count
        return value

    def u32(self, *choices: tuple[int, int]) -> int:
        """One of four pairs of a start and a number of bits that are added to it."""
        start, count = choices[self.u(2)]
        return start + self.u(count)

    def enum(self) -> int:
        return self.u32((0, 0), (1, 0), (2, 4), (18, 6))


def _codestream(data: bytes) -> bytes:
    """The first bytes of the codestream, in its container or not."""
    if data[:2] == b"\xff\x0a":
        return data[2:4098]
    parts = b""
    for kind, at, end in isobmff.boxes(data, 0, len(data)):
        if kind in (b"jxlc", b"jxlp"):
            parts += data[at + (4 if kind == b"jxlp" else 0) : end][:4098]
        if len(parts) >= 4098 or kind == b"jxlc":
            break
    if parts[:2] != b"\xff\x0a":
        raise CorruptImage(_DAMAGED)
    return parts[2:4098]


def parse(data: bytes) -> Header:
    """Read the header.

    Raises:
        CorruptImage: Cut off, or not valid.
    """
    bits = Bits(_codestream(data))
    width, height = read_size(bits)
    sample_bits, extra, lossy = 8, 0, True
    animated = premultiplied = False
    primaries, transfer = 1, 13
    if not bits.u(1):
        if bits.u(1):
            bits.u(3)  # the orientation, which the decoder applies
            if bits.u(1):
                read_size(bits)
            if bits.u(1):
                _preview(bits)
            if bits.u(1):
                animated = True
                bits.u32((100, 0), (1000, 0), (1, 10), (1, 30))
                bits.u32((1, 0), (1001, 0), (1, 8), (1, 10))
                bits.u32((0, 0), (0, 3), (0, 16), (0, 32))
                bits.u(1)
        sample_bits, extra, premultiplied, lossy, primaries, transfer = read_samples(bits)
    return Header(
        width, height, sample_bits, extra, animated, premultiplied, lossy, primaries, transfer
    )


def read_samples(bits: Bits) -> tuple[int, int, bool, bool, int, int]:
    """Depth, extra channels, premultiplied, lossy, primaries and transfer: see Header."""
    depth = _depth(bits)
    bits.u(1)
    extra = bits.u32((0, 0), (1, 0), (2, 4), (1, 12))
    premultiplied = False
    for _ in range(extra):
        premultiplied |= _extra(bits)
    lossy = bool(bits.u(1))
    return depth, extra, premultiplied, lossy, *_colours(bits)


def read_size(bits: Bits) -> tuple[int, int]:
    """Width and height in px."""
    sides = ((1, 9), (1, 13), (1, 18), (1, 30))
    small = bits.u(1)
    height = 8 * (bits.u(5) + 1) if small else bits.u32(*sides)
    ratio = bits.u(3)
    if ratio:
        over, under = _RATIOS[ratio - 1]
        return height * over // under, height
    return (8 * (bits.u(5) + 1) if small else bits.u32(*sides)), height


def _preview(bits: Bits) -> None:
    eighths = ((16, 0), (32, 0), (1, 5), (33, 9))
    sides = ((1, 6), (65, 8), (321, 10), (1345, 12))
    choices = eighths if bits.u(1) else sides
    bits.u32(*choices)
    if not bits.u(3):
        bits.u32(*choices)


def _depth(bits: Bits) -> int:
    """Bits per sample; 0 for floats."""
    if not bits.u(1):
        return bits.u32((8, 0), (10, 0), (12, 0), (1, 6))
    bits.u32((32, 0), (16, 0), (24, 0), (1, 6))
    bits.u(4)
    return 0


def _extra(bits: Bits) -> bool:
    """An extra channel. Returns whether it is opacity that colours were multiplied with."""
    if bits.u(1):
        return False
    kind = bits.enum()
    _depth(bits)
    bits.u32((0, 0), (3, 0), (4, 0), (1, 3))
    bits.u(8 * bits.u32((0, 0), (0, 4), (16, 5), (48, 10)))
    if kind == 0:
        return bool(bits.u(1))
    if kind == 2:
        bits.u(64)
    if kind == 5:
        bits.u32((1, 0), (0, 2), (3, 4), (19, 8))
    return False


def _colours(bits: Bits) -> tuple[int, int]:
    """Code points of primaries and transfer function."""
    if bits.u(1):
        return 1, 13
    profile, space = bits.u(1), bits.enum()
    if profile or space in (2, 3):
        return 2, 2
    if bits.enum() == 2:
        _place(bits)
    primaries = 1
    if space != 1:
        primaries = bits.enum()
        if primaries == 2:
            for _ in range(3):
                _place(bits)
    if bits.u(1):
        gamma = bits.u(24) / 1e7
        transfer = next((code for g, code in _GAMMA.items() if abs(g - gamma) < 1e-3), 13)
    else:
        transfer = bits.enum()
    return _PRIMARIES.get(primaries, 2), transfer


def _place(bits: Bits) -> None:
    for _ in range(2):
        bits.u32((0, 19), (524288, 19), (1048576, 20), (2097152, 21))


def decode(data: bytes, max_side_px: int, max_bytes: int) -> Read:
    """Read the picture, or all frames of an animation.

    Raises:
        CorruptImage, ImageTooLarge, UnsupportedFormat: With what is wrong and what to do.
    """
    header = parse(data)
    size = (4 if header.bits == 0 else 2 if header.bits > 8 else 1) * 4
    most = 1
    if header.animated:  # how many frames there are is known when all are decoded
        most = min(max_bytes, _ANIMATED_BYTES) // max(1, header.width * header.height * size)
    check_size(header.width, header.height, max(1, most), size, max_side_px, max_bytes)
    if header.extra > 1:
        raise UnsupportedFormat(
            "This JPEG XL file has channels that are not colours. Export it as PNG or TIFF."
        )
    try:
        # Without an index, all frames of an animation, below each other.
        index = None if header.animated else 0
        samples = np.asarray(imagecodecs.jpegxl_decode(data, index, numthreads=1))
    except (RuntimeError, ValueError, IndexError, struct.error) as err:
        raise converted.damaged(err) from err
    several = header.animated and samples.shape[1:3] == (header.height, header.width)
    frames = samples if several else samples[None]
    check_size(header.width, header.height, len(frames), size, max_side_px, max_bytes)
    return converted.reading([_shown(frame, header) for frame in frames], lossy=header.lossy)


def _shown(samples: np.ndarray, header: Header) -> np.ndarray:
    pixels = converted.full_range(samples, header.bits or 16)
    if header.premultiplied and pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = converted.plain_alpha(pixels)
    return converted.in_srgb(pixels, b"", header.primaries, header.transfer)
