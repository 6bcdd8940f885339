"""A cheap pass over a picture: where writing or a code cannot be excluded.

A small fully convolutional network of our own sees the whole picture once, at its own scale and
at quarters of it. It names nothing and seals nothing: where it sees nothing at all, the networks
that cost twenty times as much are not asked again at the second look. The first look is at
everything: of what today's networks find at the first look on drawn pages, this network would
leave out one line in fifty (model/CARD.md). :mod:`model.screen` trains it.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from engine.detect.frame_tracking import CONTEXT_PX
from engine.detect.networks import (
    CpuModel,
    ModelInfo,
    is_grey,
    read_weights,
    recorded,
    resized,
)
from engine.geometry import Region, areas_px
from engine.installation import MODEL
from engine.settings import Settings

WEIGHTS = "screen.onnx"
DOUBT = 0.2  # share from which a cell may show writing or a code
NEAR_CELLS = 3  # cells so close are looked at together
LOOK_PX = 80_000  # what a look costs beside its pixels, in pixels: networks are made ready anew
WHOLE_SHARE = 0.8  # of the cost of one look at everything, from which that is made
MOST_BOXES = 250  # from here on everything is doubtful

CELL_PX = 8  # of a level: what one value of the network stands for
SHRINK = 4  # from one level to the next
SMALL_PX = 420  # longer side up to which a picture is seen enlarged, too
LEAST_PX = 64  # shorter side of a level that is worth a look, but for the first
AROUND_PX = 31  # side of the square whose mean and deviation are taken out
FAINT = 6.0  # grey levels of deviation below which a place is not stretched


def normalised(picture: np.ndarray) -> np.ndarray:
    """A picture without what is slow in it: each pixel by the mean and deviation around it.

    Args:
        picture: Shape (H, W, 3), uint8.

    Returns:
        Shape (3, H, W), float32.
    """
    channels = cv2.split(picture)
    if is_grey(picture):
        return np.repeat(_normalised(channels[0])[None], 3, axis=0)
    return np.stack([_normalised(channel) for channel in channels])


def _normalised(channel: np.ndarray) -> np.ndarray:
    around = (AROUND_PX, AROUND_PX)
    mean = cv2.boxFilter(channel, cv2.CV_32F, around)
    deviation = cv2.sqrBoxFilter(channel, cv2.CV_32F, around)
    values = cv2.subtract(channel, mean, dtype=cv2.CV_32F)
    cv2.multiply(mean, mean, dst=mean)
    cv2.subtract(deviation, mean, dst=deviation)
    np.maximum(deviation, 0, out=deviation)
    cv2.sqrt(deviation, dst=deviation)
    cv2.add(deviation, np.full_like(deviation, FAINT), dst=deviation)
    return cv2.divide(values, deviation, dst=values)


def levels(width: int, height: int) -> list[float]:
    """Scales at which a picture is seen, the largest first."""
    first = 2.0 if max(width, height) <= SMALL_PX else 1.0
    scales = [first]
    while min(width, height) * scales[-1] / SHRINK >= LEAST_PX:
        scales.append(scales[-1] / SHRINK)
    return scales


class Screen:
    """Says where in a picture writing or a code cannot be excluded.

    Raises:
        DetectorError: Missing or altered.
    """

    def __init__(self, settings: Settings) -> None:
        sha256 = recorded(MODEL).get(WEIGHTS, "")
        # In f32 everywhere: its threshold was chosen there.
        self._model = CpuModel(
            read_weights(MODEL / WEIGHTS, sha256), settings.threads, precision="f32"
        )
        self.info = ModelInfo(
            name="MedSec screen",
            version="1",
            sha256=sha256,
            licence="AGPL-3.0",
            classes=("text", "barcode"),
            source="trained by this project, see model/CARD.md",
        )

    def shares(self, picture: np.ndarray) -> list[np.ndarray]:
        """How likely each cell shows writing or a code, at each of :func:`levels`.

        Args:
            picture: Shape (H, W, 3), uint8, RGB.

        Returns:
            Arrays of shape (rows, columns), float32, 0 to 1.
        """
        height, width = picture.shape[:2]
        seen = []
        for scale in levels(width, height):
            w, h = (max(CELL_PX, round(side * scale)) for side in (width, height))
            shown = normalised(resized(picture, w, h))
            if h % CELL_PX or w % CELL_PX:
                beyond = ((0, 0), (0, -h % CELL_PX), (0, -w % CELL_PX))
                shown = np.pad(shown, beyond, mode="edge")
            seen.append(self._model(shown[None])[0][0])
        return seen

    def areas(self, picture: np.ndarray) -> list[Region] | None:
        """Where more has to be asked; None is everywhere. See :func:`joined_areas`.

        Args:
            picture: Shape (H, W, 3), uint8, RGB.
        """
        height, width = picture.shape[:2]
        boxes: list[Sequence[float]] = []
        near = np.ones((2 * NEAR_CELLS + 1, 2 * NEAR_CELLS + 1), np.uint8)
        for scale, shares in zip(levels(width, height), self.shares(picture), strict=True):
            # Words of a line are one, and what is beside a cell belongs to it.
            doubtful = cv2.dilate((shares >= DOUBT).astype(np.uint8), near)
            count, _, stats, _ = cv2.connectedComponentsWithStats(doubtful, connectivity=8)
            around = (CONTEXT_PX - NEAR_CELLS * CELL_PX) / scale
            for x, y, w, h, _ in stats[1:count].tolist():
                x1, y1, x2, y2 = (v * CELL_PX / scale for v in (x, y, x + w, y + h))
                boxes.append((x1 - around, y1 - around, x2 + around, y2 + around))
        return joined_areas([], boxes, picture.shape)


def joined_areas(
    areas: Sequence[Region], boxes: Sequence[Sequence[float]], shape: tuple[int, ...]
) -> list[Region] | None:
    """Areas and boxes, joined wherever one look at the hull costs less than two looks.

    Args:
        boxes: x1, y1, x2, y2 in px; they may reach beyond the picture.
        shape: Of the picture.

    Returns:
        Areas that may overlap; None where one look at all of the picture costs less.
    """
    height, width = shape[:2]
    more = [area for box in boxes if (area := Region.around(box, width, height))]
    rows = np.array([area.xyxy for area in (*areas, *more)], np.float64).reshape(-1, 4)
    if len(rows) > MOST_BOXES:
        return None
    while len(rows) > 1:
        hulls = np.concatenate(
            [np.minimum(rows[:, None, :2], rows[None, :, :2]),
             np.maximum(rows[:, None, 2:], rows[None, :, 2:])], axis=2,
        )  # fmt: skip
        costs = areas_px(rows)
        saved = costs[:, None] + costs[None, :] + LOOK_PX - areas_px(hulls)
        np.fill_diagonal(saved, -1.0)
        i, j = np.unravel_index(int(saved.argmax()), saved.shape)
        if saved[i, j] < 0:
            break
        hull = hulls[i, j]
        inside = (rows[:, :2] >= hull[:2]).all(1) & (rows[:, 2:] <= hull[2:]).all(1)
        rows = np.vstack([rows[~inside], hull])
    if (areas_px(rows) + LOOK_PX).sum() > WHOLE_SHARE * (width * height + LOOK_PX):
        return None
    return sorted(Region(*row) for row in rows.astype(int).tolist())
