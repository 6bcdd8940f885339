"""What stands in all pictures of a series is told from what looks like it in their mean."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from engine.detect.standing import FEWEST, standing_in
from engine.geometry import Region
from engine.records import Detection

SIDE = 160
BOX = Region(20, 60, 140, 90)
NOISE, FAINT = 20.0, 14.0  # grey levels: fainter in a picture than its noise


def written(text: str = "DOE JANE") -> np.ndarray:
    """A line in ``BOX``, 0 to 1."""
    drawn = np.zeros((SIDE, SIDE), np.uint8)
    cv2.putText(drawn, text, (22, 84), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 1, cv2.LINE_AA)
    return drawn / 255.0


def series(
    shows: Callable[[int], np.ndarray], count: int = 16, colour: bool = False, seed: int = 5
) -> list[np.ndarray]:
    noise = np.random.default_rng(seed)
    shape = (SIDE, SIDE, 3) if colour else (SIDE, SIDE)
    pictures = []
    for i in range(count):
        clean = 90.0 + FAINT * shows(i)
        clean = np.repeat(clean[..., None], 3, axis=2) if colour else clean
        pictures.append(np.clip(clean + noise.normal(0, NOISE, shape), 0, 255).astype(np.uint8))
    return pictures


def found(picture: np.ndarray) -> list[Detection]:
    assert picture.shape == (SIDE, SIDE, 3)
    assert picture.flags["C_CONTIGUOUS"]
    return [Detection(BOX, "text", 0.9, "net")]


@pytest.mark.parametrize("colour", [False, True])
def test_a_name_fainter_than_the_noise_of_each_picture_stands(colour: bool) -> None:
    pictures = series(lambda _: written(), colour=colour)
    [line] = standing_in(pictures, found)
    assert line.detection == found(np.zeros((SIDE, SIDE, 3), np.uint8))[0]
    assert all(line.in_picture(picture) for picture in pictures)
    [without] = series(lambda _: np.zeros((SIDE, SIDE)), count=1, seed=6)
    assert not line.in_picture(without)


def test_noise_does_not_stand() -> None:
    assert standing_in(series(lambda _: np.zeros((SIDE, SIDE))), found) == ()


def test_strokes_that_move_or_fade_do_not_stand() -> None:
    """As anatomy does from slice to slice: the mean shows it all the same."""
    assert standing_in(series(lambda i: np.roll(written(), 2 * i, axis=0)), found) == ()
    assert standing_in(series(lambda i: 4 * written() * (i / 16) ** 2), found) == ()


def test_what_most_pictures_do_not_have_does_not_stand() -> None:
    assert standing_in(series(lambda i: 3 * written() * (i % 2)), found) == ()


def test_a_few_pictures_say_nothing() -> None:
    assert standing_in(series(lambda _: written(), count=FEWEST - 1), found) == ()
    assert len(standing_in(series(lambda _: written(), count=FEWEST), found)) == 1
