"""A second opinion on a line of text: its letters at one size, and what lies around them.

A line is laid flat and brought to a fixed height, so that a letter of 5 px and one of 200 px look
alike. Long lines are seen in several windows. Each window is shown twice: close, and at a third of
that scale, because a rib looks like an I only close up.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from engine.detect.verifier import Verifier
from engine.settings import Settings

HEIGHT_PX, WIDTH_PX = 48, 160  # of a window
LINE_PX = 26.0  # height of a line in the close view
WIDER = 3.0  # how much more of the picture the second view shows
MOST_WINDOWS = 3  # of one line
FAINT = 6.0  # grey levels of deviation below which a view is not stretched
TINGE = 16  # levels by which channels differ in a picture of colours
#: Red letters on blue can be as dark as it. A channel in which a line has so many times the
#: deviation that it has in grey is looked at too.
COLOURED = 1.5
BLANK = 2.0  # levels of deviation in a line's box below which the network cannot say anything:
UNSEEN = 0.5  # then it is as sure as not


class Levels:
    """A grey picture at its own size, and at halves of it, made when they are needed.

    Args:
        grey: Shape (H, W), uint8.
    """

    def __init__(self, grey: np.ndarray) -> None:
        self._levels = [grey]

    def spread(self, corners: np.ndarray) -> float:
        """Standard deviation in the upright box around a line, in levels."""
        height, width = self._levels[0].shape
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        part = self._levels[0][
            max(0, int(top)) : max(1, min(height, int(bottom) + 1)),
            max(0, int(left)) : max(1, min(width, int(right) + 1)),
        ]
        return float(part.std()) if part.size else 0.0

    def at(self, shrink: float) -> tuple[np.ndarray, int]:
        """The picture for a view that shrinks it so much, and by how much it is shrunk already."""
        wanted = 0
        while 2 ** (wanted + 1) <= shrink and min(self._levels[0].shape) >> (wanted + 1) >= 8:
            wanted += 1
        while len(self._levels) <= wanted:
            last = self._levels[-1]
            size = (max(1, last.shape[1] // 2), max(1, last.shape[0] // 2))
            self._levels.append(cv2.resize(last, size, interpolation=cv2.INTER_AREA))
        return self._levels[wanted], 2**wanted


def windows(levels: Levels, corners: np.ndarray) -> np.ndarray:
    """Views of one line.

    Args:
        levels: Of the whole picture.
        corners: Of the line's turned box, shape (4, 2), in order around it, in px; it may reach
            beyond the picture, whose border is then continued.

    Returns:
        Shape (N, 2, HEIGHT_PX, WIDTH_PX), float32, N from 1 to ``MOST_WINDOWS``; mean 0 and
        deviation 1 each.
    """
    a, b, _, d = corners.astype(np.float64)
    along, down = b - a, d - a
    if np.hypot(*along) < np.hypot(*down):
        along, down = down, -along
    if along[0] < 0 or (along[0] == 0 and along[1] < 0):
        along, down = -along, -down
    length, height = max(1.0, float(np.hypot(*along))), max(1.0, float(np.hypot(*down)))
    unit = along / length
    middle = corners.astype(np.float64).mean(axis=0)
    shrink = height / LINE_PX
    span = WIDTH_PX * shrink  # of the picture in one window
    count = int(np.clip(np.ceil(length / span), 1, MOST_WINDOWS))
    reach = max(0.0, length - span) / 2
    seen = []
    for place in np.linspace(-reach, reach, count):
        centre = middle + unit * place
        seen.append(
            np.stack(
                [_view(levels, centre, unit, shrink), _view(levels, centre, unit, shrink * WIDER)]
            )
        )
    return np.stack(seen)


def _view(levels: Levels, centre: np.ndarray, unit: np.ndarray, shrink: float) -> np.ndarray:
    """A window laid along a direction, at a scale; see :func:`windows`."""
    picture, halved = levels.at(shrink)
    step = shrink / halved
    at = (centre + 0.5) / halved - 0.5
    x, y = unit * step
    matrix = np.array(
        [
            [x, -y, at[0] - x * (WIDTH_PX - 1) / 2 + y * (HEIGHT_PX - 1) / 2],
            [y, x, at[1] - y * (WIDTH_PX - 1) / 2 - x * (HEIGHT_PX - 1) / 2],
        ]
    )
    shown = cv2.warpAffine(
        picture,
        matrix,
        (WIDTH_PX, HEIGHT_PX),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.float32)
    return (shown - shown.mean()) / np.float32(max(float(shown.std()), FAINT))


class LineVerifier(Verifier):
    """Says of a line whether it shows writing: printed, by hand, or pressed.

    Raises:
        DetectorError: Missing or altered.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, "text")

    def lines(self, picture: np.ndarray, corners: Sequence[np.ndarray]) -> np.ndarray:
        """How sure the network is of each line: as sure as of its surest window.

        Args:
            picture: Shape (H, W, 3), uint8, RGB.
            corners: Of turned boxes, each of shape (4, 2), in order around the box, in px.

        Returns:
            Shape (N,), float32, 0 to 1.
        """
        if not corners:
            return np.empty(0, np.float32)
        grey = Levels(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
        colours = [Levels(channel) for channel in _channels(picture)]
        seen, blank = [], []
        for line in corners:
            spread = grey.spread(line)
            views = [windows(grey, line)]
            spreads = [channel.spread(line) for channel in colours]
            if max(spreads, default=0.0) > COLOURED * spread:
                spread = max(spreads)
                views.append(windows(colours[spreads.index(spread)], line))
            seen.append(np.concatenate(views))
            blank.append(spread < BLANK)
        starts = np.cumsum([0, *(len(s) for s in seen[:-1])])
        said = self._said([view for shown in seen for view in shown])
        shares = np.maximum.reduceat(said, starts)
        return np.where(blank, np.maximum(shares, UNSEEN), shares).astype(np.float32)


def _channels(picture: np.ndarray) -> list[np.ndarray]:
    """Red, green and blue of a picture in which they differ; none of a grey one."""
    red, green, blue = cv2.split(picture)
    if max(int(cv2.absdiff(red, other).max()) for other in (green, blue)) < TINGE:
        return []
    return [red, green, blue]
