"""Where a frame of a film has more strokes than usual."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from engine.detect.frame_tracking import BLOCK_PX
from engine.detect.strokes import Strokes
from engine.geometry import Region

H, W, FRAMES = 200, 320, 24
AT = (150, 100)


def smooth(i: int) -> np.ndarray:
    """Anatomy without strokes that moves by 5 px a frame."""
    rng = np.random.default_rng(1)
    wide = cv2.GaussianBlur(rng.integers(0, 255, (H, W + 5 * FRAMES), np.uint8), (0, 0), 12)
    wide = cv2.normalize(wide, None, 30, 170, cv2.NORM_MINMAX)
    return cv2.cvtColor(wide[:, 5 * i : 5 * i + W], cv2.COLOR_GRAY2RGB)


def noisy(i: int) -> np.ndarray:
    noise = np.random.default_rng(i).normal(0, 14, (H, W, 1))
    return np.clip(smooth(i) + noise, 0, 255).astype(np.uint8)


def known(film: list[np.ndarray], boxes: list[Region]) -> Strokes:
    strokes = Strokes(len(film))
    for i, picture in enumerate(film):
        strokes.add(i, picture)
    strokes.know(boxes)
    return strokes


def written(picture: np.ndarray, text: str, tone: tuple[int, int, int], scale: float) -> np.ndarray:
    picture = picture.copy()
    cv2.putText(picture, text, AT, cv2.FONT_HERSHEY_SIMPLEX, scale, tone, 1, cv2.LINE_AA)
    return picture


@pytest.mark.parametrize("anatomy", [smooth, noisy])
def test_moving_anatomy_and_noise_are_no_news(anatomy: object) -> None:
    film = [anatomy(i) for i in range(FRAMES)]  # type: ignore[operator]
    strokes = known(film, [])
    assert np.mean([strokes.risen(picture) for picture in film]) < 0.01


@pytest.mark.parametrize(
    ("anatomy", "tone", "scale"),
    [
        (smooth, (200, 200, 200), 0.4),
        (smooth, (10, 10, 10), 0.4),
        (noisy, (230, 230, 230), 0.4),
        (smooth, (150, 60, 110), 0.5),  # as bright as what is around, in another colour
        (noisy, (235, 235, 235), 1.5),
    ],
)
def test_a_line_on_one_frame_is_news(
    anatomy: object, tone: tuple[int, int, int], scale: float
) -> None:
    film = [anatomy(i) for i in range(FRAMES)]  # type: ignore[operator]
    film[9] = written(film[9], "EWA 1971", tone, scale)
    rows, columns = np.nonzero(known(film, []).risen(film[9]))
    near = (abs(rows * BLOCK_PX - AT[1]) <= 3 * BLOCK_PX) & (columns * BLOCK_PX >= AT[0] - BLOCK_PX)
    assert near.sum() >= 2


@pytest.mark.parametrize(
    "box", [(slice(60, 150), slice(100, 300)), (slice(82, 110), slice(140, 250))]
)
def test_a_box_over_noise_is_news_though_its_letters_are_weaker(
    box: tuple[slice, slice],
) -> None:
    film = [noisy(i) for i in range(FRAMES)]
    film[9][box] = 60
    film[9] = written(film[9], "EWA 1971", (95, 95, 95), 0.5)
    strokes = known(film, [])
    rows, columns = np.nonzero(strokes.risen(film[9]))
    near = (abs(rows * BLOCK_PX - AT[1]) <= BLOCK_PX) & (columns * BLOCK_PX >= AT[0] - BLOCK_PX)
    assert near.sum() >= 8
    assert strokes.risen(film[8]).mean() < 0.01


def test_what_stands_is_usual_and_what_comes_beside_it_is_not() -> None:
    film = [written(smooth(i), "NOWAK", (230, 230, 230), 0.5) for i in range(FRAMES)]
    name = Region(AT[0] - 2, AT[1] - 14, AT[0] + 52, AT[1] + 4)
    strokes = known(film, [name])
    assert not strokes.risen(film[9])[4:8, 8:13].any()
    longer = written(film[9], "NOWAK R", (230, 230, 230), 0.5)
    assert strokes.risen(longer)[4:8, 12:16].any()


def test_what_is_usual_is_known_only_after_all_frames() -> None:
    with pytest.raises(ValueError, match="not known"):
        Strokes(5).risen(smooth(0))
