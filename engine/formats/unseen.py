"""Stored values that no viewer shows, in the form in which a masked file holds them.

Colours under full transparency, entries of a palette that look the same, and finer steps of a
colour than its opacity lets through can spell a name that nobody sees, neither a person nor a
detector. A masked file holds one value for all that look alike; what stood there is sealed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.errors import SealBroken
from engine.formats import mask, patches
from engine.records import Region


def opaque_enough(pixels: np.ndarray) -> np.ndarray:
    """Colours to the step that their opacity shows, and none where nothing is shown.

    Args:
        pixels: Shape (..., 2) or (..., 4), uint8 or uint16; the last channel is the opacity.

    Returns:
        A copy of the same shape and type, which looks the same in 8 bits over black, and within
        one level over any other ground. Applied again, it changes nothing.
    """
    top = np.iinfo(pixels.dtype).max
    unit = top // 255  # of a level on a display
    out = pixels.copy()
    veiled = np.flatnonzero(pixels[..., -1].reshape(-1) < top)
    if not len(veiled):
        return out
    some = pixels.reshape(-1, pixels.shape[-1])[veiled].astype(np.int64)
    colours, alpha = some[:, :-1], some[:, -1:]
    levels = (2 * colours * alpha + top * unit) // (2 * top * unit)
    alpha = np.where((2 * alpha + unit) // (2 * unit) == 0, 0, alpha)
    share = np.maximum(alpha, 1)
    shown = np.minimum((2 * levels * unit * top + share) // (2 * share), top)
    made = np.concatenate([np.where(alpha == 0, 0, shown), alpha], axis=1)
    out.reshape(-1, pixels.shape[-1])[veiled] = made.astype(pixels.dtype)
    return out


def one_of_each(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A palette in which what looks the same is the same entry.

    Args:
        table: Shape (entries, channels), uint8; with opacity where it has 4 channels.

    Returns:
        For each entry the first one that looks like it, shape (entries,), and the table as
        :func:`opaque_enough` makes it.
    """
    plain = opaque_enough(table) if table.shape[1] == 4 else table.copy()
    _, first, which = np.unique(plain, axis=0, return_index=True, return_inverse=True)
    return first[which.reshape(-1)], plain


def difference(before: np.ndarray, after: np.ndarray, regions: Sequence[Region]) -> bytes:
    """What :func:`put_back` needs to make the first of the second; empty where they are equal.

    Args:
        before, after: Shape (frames, height, width[, channels]), unsigned.
        regions: Nothing under them is told: patches hold it.
    """
    parts = {}
    for frame in range(len(before)):
        change = before[frame] ^ after[frame]
        change[~mask.outside(before.shape[1:3], regions, frame)] = 0
        if change.any():
            parts[str(frame)] = patches.encode(change[None])
    return patches.pack(parts) if parts else b""


def put_back(pixels: np.ndarray, packed: bytes) -> None:
    """Undo, in place.

    Raises:
        SealBroken: Not a difference of this picture.
    """
    for name, change in patches.unpack(packed).items() if packed else ():
        difference_ = patches.decode(change)[0]
        target = pixels[int(name)]
        if difference_.shape != target.shape or difference_.dtype != target.dtype:
            raise SealBroken(
                "A sealed part does not match its image. Restore the image from a backup."
            )
        target ^= difference_
