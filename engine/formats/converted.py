"""Pictures whose masked file is of another format than the original.

Photographs of telephones (HEIC, AVIF, JPEG XL), JPEG 2000, GIF and rare kinds of JPEG have no
coder without loss that all programs can read. What viewers show of them, upright and in sRGB, is
masked as PNG, which all programs can read; several pictures in one file become the pages of a
TIFF. The whole original is sealed, so it comes back byte for byte, and nothing else of the file
(other pictures, maps, metadata, profiles) is in the masked one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.errors import CorruptImage, UnsupportedFormat
from engine.formats import colours, unseen

#: Decoded samples, shape (frames, height, width[, channels]), with block grid and facts.
Read = tuple[np.ndarray, tuple[int, int], dict[str, Any]]
_COLOURS = {1: "grey", 2: "grey+alpha", 3: "rgb", 4: "rgba"}
_LOSSY_GRID = (16, 16)  # a coder with loss spreads a letter over the block that holds it


def reading(frames: Sequence[np.ndarray], *, lossy: bool) -> Read:
    """What is passed on of decoded pictures that are upright and in sRGB.

    Args:
        frames: Each of one shape (height, width[, channels]), uint8 or uint16 of full range.
    """
    stack = np.ascontiguousarray(frames[0])[None] if len(frames) == 1 else np.stack(frames)
    if stack.ndim == 4 and stack.shape[3] == 1:
        stack = np.ascontiguousarray(stack[..., 0])
    channels = stack.shape[3] if stack.ndim == 4 else 1
    if channels in (2, 4) and stack.dtype.kind == "u":
        stack = unseen.opaque_enough(stack)
    if channels not in _COLOURS or stack.dtype not in (np.uint8, np.uint16):
        raise UnsupportedFormat(
            "This picture has channels that are not colours. Save it as PNG or TIFF."
        )
    if len(frames) > 1 and channels == 2:  # no TIFF that all programs can read
        stack = np.concatenate([np.repeat(stack[..., :1], 3, axis=3), stack[..., 1:]], axis=3)
        channels = 4
    facts: dict[str, Any] = {
        "bits": 8 * stack.dtype.itemsize,
        "colour": _COLOURS[channels],
        "lossy": lossy,
        "converted": True,
    }
    return stack, _LOSSY_GRID if lossy else (1, 1), facts


def full_range(samples: np.ndarray, bits: int) -> np.ndarray:
    """Samples of 1 to 16 bits over the full range of 8 or 16; the way back is exact.

    Args:
        samples: Unsigned, or floats of 0 to 1 (bits is then not asked).
    """
    if samples.dtype.kind == "f":
        clean = np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
        return np.round(np.clip(clean, 0.0, 1.0) * 65535).astype(np.uint16)
    if bits in (8, 16):
        return samples.astype(np.uint8 if bits == 8 else np.uint16, copy=False)
    if not 1 <= bits < 16:
        raise UnsupportedFormat("This picture has too many bits. Save it as PNG or TIFF.")
    kind, top = (np.uint8, 255) if bits < 8 else (np.uint16, 65535)
    most = (1 << bits) - 1
    table = (np.arange(most + 1, dtype=np.uint32) * top + most // 2) // most
    return table.astype(kind)[np.minimum(samples, most)]


def in_srgb(pixels: np.ndarray, icc: bytes, primaries: int = 2, transfer: int = 2) -> np.ndarray:
    """Colours of a decoded picture; code points count where there is no profile."""
    if icc:
        return colours.from_profile(pixels, icc)
    return colours.from_code_points(pixels, primaries, transfer)


def plain_alpha(pixels: np.ndarray) -> np.ndarray:
    """Colours that were stored multiplied with their opacity, shape (height, width, 4)."""
    top = np.iinfo(pixels.dtype).max
    alpha = pixels[..., 3:].astype(np.uint32)
    colour = (pixels[..., :3].astype(np.uint32) * top + alpha // 2) // np.maximum(alpha, 1)
    out = pixels.copy()
    out[..., :3] = np.where(alpha > 0, np.minimum(colour, top), 0)
    return out


def damaged(err: Exception) -> CorruptImage:
    """What is said where a decoder gives up."""
    refused = CorruptImage("This file is damaged: its picture cannot be decoded. Export it again.")
    refused.__cause__ = err
    return refused
