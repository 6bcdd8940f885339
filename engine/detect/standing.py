"""Text that stands in the same place in all pictures of a series while the rest changes.

A name that a device burns into each slice is there 200 times. In one slice it may be fainter than
the noise; in the mean of 32 slices the noise is a sixth of what it was and anatomy is blurred, but
the name is as plain as ever. So the mean is looked at once, and what is found there is held against
each picture: what stands has about the same strokes in nearly all of them. Anatomy that looks like
writing has not, and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from engine.geometry import Region
from engine.records import Detection

#: Pictures below which nothing is said.
FEWEST = 8
#: Strength of the strokes in a picture, 1 as in most. Text that stands is within these in nearly
#: all pictures, whatever noise lies over it.
WEAKEST, STRONGEST = 0.6, 1.6
STEADY = 0.8  # share of the pictures
_AROUND_PX = 4  # around a box that count too
_COARSE_PX = 5  # least side of the square whose mean is no stroke
_OF_HEIGHT = 3  # and its part of the line's height: strokes are thinner, anatomy is not


@dataclass(frozen=True)
class Standing:
    """A line of text that stands in a series.

    Args:
        detection: As it was found in the mean, in px of the pictures.
        strokes: Of the mean in and around its box: shape (h, w), float32, grey levels above what
            lies around. They show what is written.
        usual: Their product with those of a picture, on average.
    """

    detection: Detection
    strokes: np.ndarray = field(repr=False)
    usual: float

    def in_picture(self, picture: np.ndarray) -> bool:
        """May it be in a picture of the series? Said of more than is counted as steady, and of one
        that is among those that were laid over one another, also where only its noise agrees; and
        of one that does not hold the line's place, as one that is turned.

        Args:
            picture: Shape (H, W, 3) or (H, W), uint8.
        """
        shown = _strokes(picture, self.detection.region)
        if shown.shape != self.strokes.shape:
            return True
        return float((shown * self.strokes).sum()) >= WEAKEST / 2 * self.usual


def standing_in(
    pictures: Sequence[np.ndarray], look: Callable[[np.ndarray], list[Detection]]
) -> tuple[Standing, ...]:
    """Text that stands in nearly all pictures of a series.

    Args:
        pictures: All of one size: shape (H, W, 3) or (H, W), uint8. Fewer than ``FEWEST`` say
            nothing.
        look: Gives the certain text in a picture of shape (H, W, 3).
    """
    if len(pictures) < FEWEST:
        return ()
    total = np.zeros(pictures[0].shape, np.float32)
    for picture in pictures:
        cv2.accumulate(picture, total)
    mean = np.round(total / len(pictures)).astype(np.uint8)
    shown = mean if mean.ndim == 3 else np.repeat(mean[..., None], 3, axis=2)
    found = (_held_against(d, pictures) for d in look(np.ascontiguousarray(shown)))
    return tuple(one for one in found if one is not None)


def _held_against(detection: Detection, pictures: Sequence[np.ndarray]) -> Standing | None:
    """A line of the mean, if it stands."""
    own = np.stack([_strokes(picture, detection.region) for picture in pictures])
    total = own.sum(axis=0)
    # Each against the others alone: with itself even noise agrees.
    products = (own * (total - own)).sum(axis=(1, 2)) / (len(pictures) - 1)
    usual = float(np.median(products))
    if usual <= 0.0:
        return None
    steady = (products >= WEAKEST * usual) & (products <= STRONGEST * usual)
    if steady.mean() < STEADY:
        return None
    return Standing(detection, total / len(pictures), usual)


def _strokes(picture: np.ndarray, box: Region) -> np.ndarray:
    """What is as fine as the strokes of a line, in and around its box: shape (h, w), float32."""
    height, width = picture.shape[:2]
    around = box.on_frames(0).padded(0.0, _AROUND_PX).clipped(width, height) or box
    part = picture[around.slices[1:]].astype(np.float32)
    grey = part if part.ndim == 2 else part.mean(axis=2)
    side = max(_COARSE_PX, min(box.width, box.height) // _OF_HEIGHT) | 1
    return grey - cv2.blur(grey, (side, side))
