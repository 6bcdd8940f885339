"""From stored values to grey: windows, and the ranges of values that a frame really uses.

Every format that stores more than a screen shows takes its greys from here. A range can be set by
a few pixels (a hot pixel, padding around a scan, a type wider than its content); then the rest is
one grey. So there is more than one range, see :func:`ranges`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

#: Name of a frame's first showing: as people are shown it.
AS_SHOWN = "as shown"
#: Share of the pixels, in percent, beyond which a picture without a window is all black or white.
CONTENT = (0.5, 99.5)
#: The same for pixels that are no part of a picture: hot ones, dead ones.
_OUTLIERS = (0.05, 99.95)
#: Share of a range that no pixel uses, from which what lies on either side is a group of its own.
_GAP = 0.125
#: Pixels that a group needs to be looked at by itself: a digit of 7 px has more.
_GROUP_PX = 16
_MOST_GROUPS = 16
#: Share of a type's range below which what is shown on that range counts as hardly used. Above,
#: contrast that the range hides is contrast that no screen shows.
_LITTLE = 0.25
#: How far a lossy coder scatters values beside an edge, and in what is flat.
LOSSY_NOISE, _LOSSY_FLAT_SHARE = 32.0, 0.25


@dataclass(frozen=True)
class Showing:
    """One way in which a viewer may show a frame.

    Args:
        name: Short and the same for every frame that is shown this way.
        picture: Makes it: shape (height, width, 3), uint8, RGB.
        table: Shape (N,), uint8: the grey of each value that the frame may have, in ascending
            order of the values. None where the picture is more than such a table.
        tonal: Is it the same content as the first showing, at another window? Noise then grows
            and shrinks with all else.
    """

    name: str
    picture: Callable[[], np.ndarray] = field(repr=False)
    table: np.ndarray | None = field(default=None, repr=False)
    tonal: bool = False


def occurring(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
    """Values that may occur, how often each does, and where each pixel's is among them."""
    if stored.dtype.kind not in "ui":
        return stored, np.ones(stored.shape, np.int64), ...
    low, high = int(stored.min()), int(stored.max())
    if high - low >= stored.size:
        return stored, np.ones(stored.shape, np.int64), ...
    # A difference that overflows comes out right when its bits are read without a sign.
    places = (stored - stored.dtype.type(low)).view(f"u{stored.dtype.itemsize}")
    counts = np.bincount(places.reshape(-1), minlength=high - low + 1)
    return np.arange(low, high + 1).astype(stored.dtype), counts, places


def percentiles(
    values: np.ndarray, counts: np.ndarray, percents: Sequence[float]
) -> Iterator[float]:
    """As NumPy's ``percentile`` of every value repeated as often as it occurs."""
    order = np.argsort(values)
    ordered, last = values[order], np.cumsum(counts[order]) - 1
    for percent in percents:
        rank = last[-1] * percent / 100
        below, above = ordered[np.searchsorted(last, (np.floor(rank), np.ceil(rank)))]
        yield float(below + (above - below) * (rank - np.floor(rank)))


def content_range(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The range from black to white of a frame whose file names none.

    Args:
        values: Finite values, any order, shape (N,).
        counts: How often each occurs; 0 for not at all.
    """
    values, counts = values[counts > 0], counts[counts > 0]
    low, high = percentiles(values, counts, CONTENT)
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return low, high


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Greys, uint8, black at ``low`` and white at ``high``; all black where that is no range."""
    if not np.isfinite(low) or not np.isfinite(high) or high <= low:
        return np.full(values.shape, 0, np.uint8)
    with np.errstate(invalid="ignore"):
        unit = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
    return np.round(unit * 255).astype(np.uint8)


def windowed(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """The linear VOI function of PS3.3 C.11.2.1.2.1."""
    if width <= 1:
        return np.where(values <= centre - 0.5, 0, 255).astype(np.uint8)
    return scaled(values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


def ranges(
    values: np.ndarray, counts: np.ndarray, least: float = 0.0
) -> list[tuple[str, float, float]]:
    """The ranges at which all that a frame holds can be seen, each as name, black and white.

    All values; all but what hot and dead pixels have; the middle 99 %; and each group of values
    that is far from all others, as the anatomy is beside padding.

    Args:
        values: Any shape; values that are not finite are left out.
        counts: Of the same shape, how often each occurs.
        least: Groups narrower than this are left out, as the noise of a lossy coder; and other
            ranges of a quarter of it.
    """
    real = (counts > 0) & np.isfinite(values)
    held, often = values[real].astype(np.float64), counts[real]
    if not held.size:
        return []
    held, places = np.unique(held, return_inverse=True)
    often = np.bincount(places.reshape(-1), weights=often).astype(np.int64)
    found = [("full range", float(held[0]), float(held[-1]))]
    for name, percents in (("without outliers", _OUTLIERS), ("content", CONTENT)):
        low, high = percentiles(held, often, percents)
        found.append((name, low, high))
    groups = [(low, high) for low, high in _groups(held, often) if high - low >= least]
    found += [(f"group {i}", *ends) for i, ends in enumerate(groups, 1)]
    flat = least * _LOSSY_FLAT_SHARE
    return [(name, low, high) for name, low, high in found if high > low and high - low >= flat]


def _groups(values: np.ndarray, counts: np.ndarray) -> list[tuple[float, float]]:
    """Ranges of ascending values between wide gaps, and of what lies between gaps in these."""
    found: list[tuple[float, float]] = []
    waiting = [(0, len(values) - 1)]
    while waiting and len(found) < _MOST_GROUPS:
        first, last = waiting.pop(0)
        part = values[first : last + 1]
        span = part[-1] - part[0]
        cuts = first + np.flatnonzero(np.diff(part) >= _GAP * span)
        if not len(cuts):
            continue
        starts, ends = [first, *(cuts + 1).tolist()], [*cuts.tolist(), last]
        for start, end in zip(starts, ends, strict=True):
            if end > start and counts[start : end + 1].sum() >= _GROUP_PX:
                found.append((float(values[start]), float(values[end])))
                waiting.append((start, end))
    return found


def stretched(colours: np.ndarray, least: float = 0.0) -> Iterator[tuple[str, float, float]]:
    """The ranges of a frame whose channels have one scale, where it uses little of that.

    Args:
        colours: Shape (height, width) or (height, width, channels), unsigned.
        least: See :func:`ranges`.
    """
    most = np.iinfo(colours.dtype).max
    if colours.dtype == np.uint8:
        channels = cv2.split(colours) if colours.ndim == 3 else [colours]
        counts = sum(cv2.calcHist([c], [0], None, [256], [0, 256]).reshape(-1) for c in channels)
        values = np.arange(256)
    else:
        values, counts, _ = occurring(colours)
    for name, low, high in ranges(values, np.asarray(counts).astype(np.int64), least):
        if high - low < most * _LITTLE:
            yield name, low, high


def without_palette(
    stored: np.ndarray, colours_of: Callable[[np.ndarray], np.ndarray]
) -> Iterator[Showing]:
    """The numbers of a palette, where it gives one colour to several of them.

    Args:
        stored: Shape (height, width).
        colours_of: Colours of values, shape (N, channels) for (N,).
    """
    values, counts, places = occurring(stored)
    if values.ndim == 1:
        colours = colours_of(values[counts > 0])
        if len(np.unique(colours, axis=0)) == len(colours):
            return
    for name, low, high in ranges(values, counts):
        grey = scaled(values.astype(np.float64), low, high)
        yield Showing(
            f"without palette {name}",
            lambda grey=grey: cv2.cvtColor(grey[places], cv2.COLOR_GRAY2RGB),  # type: ignore[misc]
        )


def contrast(picture: np.ndarray) -> np.ndarray:
    """Difference of the lightest and the darkest pixel of 3 x 3: shape (H, W), uint8.

    Args:
        picture: Shape (H, W, 3), uint8; the channel that differs most counts.
    """
    around = np.ones((3, 3), np.uint8)
    wide = cv2.dilate(picture, around) - cv2.erode(picture, around)
    return np.asarray(wide.max(axis=2))
