"""Where a frame of a film has more fine strokes, or fewer, than that place mostly has.

Text is strokes: thin, and brighter or darker than both of their sides. Where a frame has no more of
them than the same place of most other frames, it has no text but what stands there, and that is
looked for in all frames together. This costs a hundredth of what a network costs.

A block of pixels has as many strokes as its strongest one has contrast. Noise and speckle have
strokes, too, but on each frame about the same; smooth anatomy has none, however it moves. At half
the size, noise is weaker, and what remains are the strokes of large letters.

Where strokes are usual, as in noise, a page or a box that covers them has fewer: its letters may be
weaker than the noise. So fewer strokes than usual, all in a block together, are news as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from engine.detect.frame_tracking import BLOCK_PX, blocks_of
from engine.detect.networks import is_grey
from engine.geometry import Region

WIDEST_PX = 6  # of a stroke: letters up to about 45 px, and twice that at half the size
#: At full and at half size: grey levels of contrast below which a stroke counts as none, and how
#: much more than usual is news. ``benchmarks/strokes.py``: of 192 lines on one frame alone of drawn
#: films, of those that a glance at the whole frame sees, these leave out none; of 138 in real films
#: of ultrasound three, where so much else is news that nearly all of each frame is glanced at.
LEAST = (12, 24)
MORE = (1.4, 1.6)
ALONE = 2.0  # times that much, from which a block without such a neighbour is news: noise is none
COVERED = 0.7  # share of the usual strokes of a block, on average, below which something covers it
USUAL = 0.25  # share of the frames that have less than usual: what most have stands there
MOST_KEPT = 128  # frames from which the usual is taken
NEAR = 5  # side of the square of blocks whose least is usual beside text that is known

_PER_LEVEL = 4  # a mean is kept in quarters of a grey level
_KERNEL = np.ones((WIDEST_PX + 1, WIDEST_PX + 1), np.uint8)


class Strokes:
    """What is usual in each block of a film.

    Args:
        frames: How many the film has.
    """

    def __init__(self, frames: int) -> None:
        self._every = -(-frames // MOST_KEPT)
        self._kept: list[np.ndarray] = []
        self._usual: np.ndarray | None = None
        self._known: tuple[Region, ...] = ()
        self._held = np.zeros((0, 0), bool)

    def add(self, i: int, picture: np.ndarray) -> None:
        """Take in frame ``i``, of shape (H, W, 3), uint8."""
        if i % self._every == 0:
            self._kept.append(_levels(picture, ()))

    def know(self, known: Sequence[Region]) -> None:
        """All frames are taken in, and this text is known on each of them."""
        self._known = tuple(known)
        usual = np.quantile(np.stack(self._kept), USUAL, axis=0, method="lower")
        self._kept = []
        held = np.zeros(usual.shape[1:], bool)
        for box in known:
            held[blocks_of(box.padded(0.0, WIDEST_PX))] = True
        # Strokes of what is known say nothing about those of what may come beside it.
        if held.any():
            near = np.ones((NEAR, NEAR), np.uint8)
            for level in usual:
                least = cv2.erode(np.where(held, 255, level).astype(np.uint8), near)
                level[held] = np.where(least == 255, 0, least)[held]
        self._usual, self._held = usual, held

    def risen(self, picture: np.ndarray) -> np.ndarray:
        """Blocks of a frame with more strokes than usual, outside of known text, and blocks with
        fewer, with those beside them.

        Returns:
            Shape (rows, columns), bool; the last row and column may reach beyond the picture.
        """
        if self._usual is None:
            raise ValueError("what is usual is not known before all frames are taken in")
        levels = _levels(picture, self._known)
        news = np.zeros(levels.shape[1:], bool)
        alone = news.copy()
        for level, usual, least, more in zip(levels[:2], self._usual[:2], LEAST, MORE, strict=True):
            most = np.maximum(least, more * usual)
            news |= level > most
            alone |= level > ALONE * most
        beside = cv2.blur(news.astype(np.float32), (3, 3), borderType=cv2.BORDER_CONSTANT)
        strongest, _, usual = self._usual
        fewer = (strongest > LEAST[0]) & (levels[2] < COVERED * usual) & ~self._held
        covered = cv2.dilate(fewer.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        return (news & (alone | (beside > 1.5 / 9))) | covered


def _levels(picture: np.ndarray, hidden: Sequence[Region]) -> np.ndarray:
    """The strongest stroke in each block at full and at half size, and their mean at full size.

    Args:
        picture: Shape (H, W, 3), uint8.
        hidden: Boxes whose strokes do not count.

    Returns:
        Shape (3, rows, columns), uint8: grey levels of contrast, of the mean ``_PER_LEVEL`` times.
    """
    height, width = picture.shape[:2]
    rows, columns = -(-height // BLOCK_PX), -(-width // BLOCK_PX)
    levels = np.empty((3, rows, columns), np.uint8)
    shown = _channels(picture)
    for k, block in enumerate((BLOCK_PX, BLOCK_PX // 2)):
        if k:  # an odd last row or column is averaged into its neighbours
            size = (max(1, -(-width // 2)), max(1, -(-height // 2)))
            shown = cv2.resize(shown, size, interpolation=cv2.INTER_AREA)
        strokes = _strokes(shown)
        if not k:  # a single pixel is noise
            strokes = cv2.blur(strokes, (2, 2))
        for box in hidden:  # and what looks like a stroke because it lies beside one
            y1, y2, x1, x2 = (v * block // BLOCK_PX for v in (box.y1, box.y2, box.x1, box.x2))
            beside = WIDEST_PX // 2 + 1
            strokes[max(0, y1 - beside) : y2 + beside, max(0, x1 - beside) : x2 + beside] = 0
        padded = np.zeros((rows * block, columns * block), np.uint8)
        padded[: strokes.shape[0], : strokes.shape[1]] = strokes
        blocks = padded.reshape(rows, block, columns, block)
        levels[k] = blocks.max(axis=(1, 3))
        if not k:
            mean = blocks.mean(axis=(1, 3), dtype=np.float32)
            levels[2] = np.minimum(_PER_LEVEL * mean, 255)
    return levels


def _strokes(shown: np.ndarray) -> np.ndarray:
    """What is thin and brighter or darker than its sides: shape (H, W), uint8, by how much.

    Args:
        shown: Shape (H, W) or (H, W, 3), uint8.
    """
    around = 2 * WIDEST_PX  # else a slope that runs out of the picture is a stroke at its border
    wide = cv2.copyMakeBorder(shown, *(around,) * 4, cv2.BORDER_REPLICATE)
    opened = cv2.morphologyEx(wide, cv2.MORPH_OPEN, _KERNEL)
    closed = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, _KERNEL)
    strokes = cv2.max(cv2.subtract(wide, opened), cv2.subtract(closed, wide))
    strokes = strokes[around:-around, around:-around]
    if strokes.ndim == 3:
        red, green, blue = cv2.split(strokes)
        strokes = cv2.max(cv2.max(red, green), blue)
    return strokes


def _channels(picture: np.ndarray) -> np.ndarray:
    """Shape (H, W, 3), or (H, W) where the picture is grey."""
    return cv2.extractChannel(picture, 0) if is_grey(picture) else picture
