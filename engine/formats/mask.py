"""The fill of masked regions: flat, hatched, with a lock symbol.

It depends only on the size of the box and on two tones, which depend only on pixels outside all
boxes (or on the bit depth). So it reveals nothing about the hidden content. There is no
blur and no pixelation here, because both can be undone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.records import Region

STROKE_PX = 4  # strokes are made of squares of this side: rows repeat, so masked files stay small
LOCK_FROM_PX = 20  # a smaller box has the hatch alone


def pattern(height: int, width: int) -> np.ndarray:
    """Which pixels of a box take the lighter tone.

    Returns:
        Shape (height, width), bool. It cannot be mistaken for anatomy: diagonal strokes, and on a
        cleared plate in the middle a padlock.
    """
    y, x = np.ogrid[:height, :width]
    light = (x // STROKE_PX + y // STROKE_PX) % 4 == 0
    if min(height, width) >= LOCK_FROM_PX:
        side = min(height, width, 96) * 3 // 5
        top, left = (height - side) // 2, (width - side) // 2
        light[top : top + side, left : left + side] = lock(side)
    return light


def lock(side: int) -> np.ndarray:
    """A padlock on a plain plate, shape (side, side), bool."""
    y, x = np.mgrid[:side, :side] / (side - 1)
    body = (abs(x - 0.5) < 0.32) & (y > 0.46) & (y < 0.92)
    ring = np.hypot(x - 0.5, np.minimum(y - 0.38, 0.0))
    shackle = (ring > 0.14) & (ring < 0.25) & (y < 0.50) & (y > 0.08)
    keyhole = (np.hypot(x - 0.5, y - 0.64) < 0.06) | (
        (abs(x - 0.5) < 0.025) & (y > 0.64) & (y < 0.8)
    )
    return np.asarray((body | shackle) & ~keyhole)


def tones(low: float, high: float) -> tuple[float, float]:
    """The darker and the lighter tone for values that are shown from ``low`` to ``high``."""
    return low + 0.30 * (high - low), low + 0.60 * (high - low)


def outside(shape: tuple[int, ...], regions: Sequence[Region], frame: int) -> np.ndarray:
    """Which pixels of one frame lie under no box: shape (height, width), bool."""
    free = np.ones(shape[:2], dtype=bool)
    for region in regions:
        if region.frame <= frame < region.frame_end:
            free[region.slices[1:]] = False
    return free


def own(regions: Sequence[Region], index: int) -> np.ndarray | None:
    """Which pixels of a region are its own: those that no earlier region holds.

    Returns:
        Shape (frames, height, width), bool; None where all of them are.
    """
    region = regions[index]
    overlapping = [other for other in regions[:index] if region.intersection_px(other)]
    if not overlapping:
        return None
    mine = np.ones((region.frame_count, region.height, region.width), dtype=bool)
    for other in overlapping:
        mine[other.slices_within(region)] = False
    return mine


def lift(pixels: np.ndarray, regions: Sequence[Region], index: int) -> np.ndarray:
    """What is under one region: a copy, zero where an earlier region owns the pixel.

    Args:
        pixels: Shape (frames, height, width) or (frames, height, width, channels).
    """
    part = pixels[regions[index].slices].copy()
    mine = own(regions, index)
    if mine is not None:
        part[~mine] = 0
    return part


def lay(pixels: np.ndarray, regions: Sequence[Region], index: int, part: np.ndarray) -> None:
    """Put back in place what :func:`lift` took; pixels of earlier regions stay as they are."""
    target = pixels[regions[index].slices]
    mine = own(regions, index)
    if mine is None:
        target[...] = part
    else:
        target[mine] = part[mine]
