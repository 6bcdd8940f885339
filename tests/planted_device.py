"""A device that burns names in as dots far apart: nobody's font, and the detector misses it."""

from __future__ import annotations

from random import Random

import cv2
import numpy as np

from engine.records import Region
from tests import builders

PITCH_PX, CONTRAST = 7, 110
WIDTH, HEIGHT = 480, 360
LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"


def screen(number: int) -> tuple[np.ndarray, Region]:
    """A picture with a name and a number on it, somewhere at its top or bottom.

    Returns:
        Shape (H, W, 3), uint8, RGB, and where the text is.
    """
    r = Random(number)
    grey = builders.radiograph(WIDTH, HEIGHT, seed=number)
    pixels = np.repeat(grey[..., None], 3, 2)
    text = "".join(r.choice(LETTERS) for _ in range(r.randint(3, 4))) + str(r.randint(100, 999))
    dots = _dots(text)
    tall, wide = (side * PITCH_PX for side in dots.shape)
    x, y = r.randint(4, WIDTH - wide - 4), r.choice((r.randint(4, 60), r.randint(260, 306)))
    for row, column in zip(*np.nonzero(dots), strict=True):
        at = (y + int(row) * PITCH_PX, x + int(column) * PITCH_PX)
        pixels[at] = np.clip(pixels[at].astype(int) + CONTRAST, 0, 255)
    return pixels, Region(x, y, x + wide - PITCH_PX, y + tall)


def _dots(text: str) -> np.ndarray:
    """Shape (7, 6 per letter), bool: each letter as five by seven dots."""
    dots = np.zeros((7, 6 * len(text)), bool)
    for place, letter in enumerate(text):
        cell = np.zeros((40, 30), np.uint8)
        cv2.putText(cell, letter, (2, 34), cv2.FONT_HERSHEY_SIMPLEX, 1.25, 255, 4)
        small = cv2.resize(cell, (5, 7), interpolation=cv2.INTER_AREA)
        dots[:, 6 * place : 6 * place + 5] = small > 90
    return dots
