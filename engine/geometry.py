"""Boxes: one region of an image, and sums over many boxes at once.

A box is ``x1, y1, x2, y2`` in pixels, half-open: ``x2`` and ``y2`` are the first column and row
outside it, its area is ``(x2 - x1) * (y2 - y1)``. One box on whole pixels with its frames is a
:class:`Region`. Many boxes are an array of shape (N, 4) in that order of corners, whole pixels
or not. Nothing is rasterised: areas of unions are exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

#: Corners of a box in the order of its array, by the names that files, rows and pages use.
CORNERS = ("x1", "y1", "x2", "y2")
#: All fields of a region, by the same names.
FIELDS = (*CORNERS, "frame", "frame_end")


# --- many boxes --------------------------------------------------------------------------------


def as_boxes(boxes: ArrayLike) -> np.ndarray:
    """Boxes as an array that can be trusted.

    Args:
        boxes: Shape (N, 4); an empty list is no boxes.

    Returns:
        Shape (N, 4), float64.

    Raises:
        ValueError: Wrong shape, inverted or not finite. A box without area is allowed.
    """
    array = np.asarray(boxes, np.float64)
    if array.size == 0:
        return np.empty((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"expected boxes of shape (N, 4), found {array.shape}")
    right = np.isfinite(array).all(axis=1) & (array[:, :2] <= array[:, 2:]).all(axis=1)
    if not right.all():
        wrong = array[~right][0].tolist()
        raise ValueError(f"expected finite boxes with x1 <= x2 and y1 <= y2, found {wrong}")
    return array


def _corners(boxes: ArrayLike) -> np.ndarray:
    """One box or many, with nothing checked but the shape."""
    array = np.asarray(boxes, np.float64)
    if array.ndim == 0 or array.shape[-1] != 4:
        raise ValueError(f"expected boxes of shape (..., 4), found {array.shape}")
    return array


def areas_px(boxes: ArrayLike) -> np.ndarray:
    """Area of each box.

    Args:
        boxes: Shape (..., 4), such as (4,) for one box and (N, 4) for many.

    Returns:
        Shape (...), float64.
    """
    array = _corners(boxes)
    return np.asarray((array[..., 2:] - array[..., :2]).prod(axis=-1))


def shared_sides_px(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Width and height of what two boxes share; a negative number is the gap between them.

    Args:
        a: Shape (..., 4).
        b: Shape (..., 4), broadcast against ``a``: (4,) with (N, 4) is one box with each of
            many, (N, 1, 4) with (M, 4) is each with each.

    Returns:
        Shape (..., 2), float64: along x, along y.
    """
    first, second = _corners(a), _corners(b)
    return np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])


def intersections_px(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Area that two boxes share; 0 where they only touch.

    Args:
        a, b: As in :func:`shared_sides_px`.

    Returns:
        Shape (...), float64.
    """
    return np.asarray(np.maximum(shared_sides_px(a, b), 0.0).prod(axis=-1))


def iou(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Intersection over union of every box of one set with every box of the other.

    Args:
        a: Shape (N, 4).
        b: Shape (M, 4).

    Returns:
        Shape (N, M), float64, 0 to 1; 0 for two boxes without area.

    Raises:
        ValueError: Wrong shape, inverted or not finite.

    Source: Jaccard 1912.
    """
    first, second = as_boxes(a)[:, None], as_boxes(b)[None]
    shared = intersections_px(first, second)
    union = areas_px(first) + areas_px(second) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def hull(boxes: ArrayLike) -> np.ndarray:
    """The smallest box that holds all of some boxes.

    Args:
        boxes: Shape (N, 4), at least one.

    Returns:
        Shape (4,), float64.

    Raises:
        ValueError: There is none.
    """
    array = _corners(boxes)
    if array.ndim != 2 or not len(array):
        raise ValueError(f"expected at least one box of shape (N, 4), found {array.shape}")
    return np.concatenate([array[:, :2].min(axis=0), array[:, 2:].max(axis=0)])


def union_area_px(boxes: ArrayLike) -> float:
    """Area covered by at least one box, overlaps counted once; exact.

    Args:
        boxes: Shape (N, 4).

    Raises:
        ValueError: Wrong shape, inverted or not finite.
    """
    array = as_boxes(boxes)
    heights, widths, covered = _cut(array, array)
    return float(heights @ covered @ widths)


def coverage(box: ArrayLike, boxes: ArrayLike) -> float:
    """Share of one box that lies under the union of others.

    Args:
        box: Shape (4,), with area.
        boxes: Shape (N, 4), overlapping or not.

    Returns:
        0 to 1; 1 only where every part is covered.

    Raises:
        ValueError: Wrong shape, inverted or not finite, or the one box has no area.
    """
    one = as_boxes(np.asarray(box, np.float64)[None])
    area = float(areas_px(one[0]))
    if area == 0:
        raise ValueError("a box without area cannot be covered")
    others = as_boxes(boxes)
    low, high = one[0, :2], one[0, 2:]
    inside = np.hstack([np.clip(others[:, :2], low, high), np.clip(others[:, 2:], low, high)])
    heights, widths, covered = _cut(np.vstack([one, inside]), inside)
    # By what is open, so that rounding never makes a whole cover look broken.
    return 1 - float(heights @ ~covered @ widths) / area


def _cut(plane: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a plane at the edges of its boxes, at most (2N - 1)^2 cells, and say which lie
    under ``boxes``, whose edges are among them: cell heights (R,), widths (C,), covered (R, C)."""
    xs, ys = np.unique(plane[:, [0, 2]]), np.unique(plane[:, [1, 3]])
    covered = np.zeros((max(ys.size - 1, 0), max(xs.size - 1, 0)), bool)
    left, right = np.searchsorted(xs, boxes[:, 0]), np.searchsorted(xs, boxes[:, 2])
    top, bottom = np.searchsorted(ys, boxes[:, 1]), np.searchsorted(ys, boxes[:, 3])
    for x1, x2, y1, y2 in zip(left, right, top, bottom, strict=True):
        covered[y1:y2, x1:x2] = True
    return np.diff(ys), np.diff(xs), covered


# --- one region --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """Half-open pixel box on a half-open range of frames.

    Args:
        x1, y1: Left and top pixel, inclusive.
        x2, y2: Right and bottom pixel, exclusive.
        frame: First frame, inclusive, counted from 0.
        frame_end: Last frame, exclusive; by default one frame.

    Raises:
        ValueError: Empty, inverted or negative.
    """

    x1: int
    y1: int
    x2: int
    y2: int
    frame: int = 0
    frame_end: int = -1

    def __post_init__(self) -> None:
        if self.frame_end == -1:
            object.__setattr__(self, "frame_end", self.frame + 1)
        if not (0 <= self.x1 < self.x2 and 0 <= self.y1 < self.y2):
            raise ValueError(f"not a box: {self.xyxy}")
        if not 0 <= self.frame < self.frame_end:
            raise ValueError(f"not a range of frames: {self.frame}..{self.frame_end}")

    @classmethod
    def around(
        cls, box: Sequence[float] | np.ndarray, width: int, height: int, frame: int = 0
    ) -> Region | None:
        """A box between pixels, rounded outward and clipped to an image.

        Args:
            box: Shape (4,): x1, y1, x2, y2 in px.

        Returns:
            None where nothing of it is inside.

        Raises:
            ValueError, OverflowError: A corner is not finite.
        """
        x1, y1 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
        x2, y2 = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
        if x1 >= x2 or y1 >= y2:
            return None
        return cls(x1, y1, x2, y2, frame)

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Region:
        """The inverse of :meth:`to_json`; other keys may be there.

        Raises:
            KeyError: A field is missing.
            ValueError: It is no region.
        """
        return cls(*(item[name] for name in FIELDS))

    def to_json(self) -> dict[str, int]:
        """Its fields by name, as files, rows and pages hold them."""
        return {name: getattr(self, name) for name in FIELDS}

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        return (self.x1, self.y1, self.x2, self.y2)

    @property
    def width(self) -> int:
        return self.x2 - self.x1

    @property
    def height(self) -> int:
        return self.y2 - self.y1

    @property
    def frame_count(self) -> int:
        return self.frame_end - self.frame

    @property
    def area_px(self) -> int:
        """Pixels on one frame."""
        return self.width * self.height

    @property
    def volume_px(self) -> int:
        """Pixels on all its frames."""
        return self.area_px * self.frame_count

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index into an array of shape (frames, height, width, ...)."""
        return (
            slice(self.frame, self.frame_end),
            slice(self.y1, self.y2),
            slice(self.x1, self.x2),
        )

    def slices_within(self, outer: Region) -> tuple[slice, slice, slice]:
        """Index of the part that lies in another region, into what that one cut out.

        Args:
            outer: Cut out an array of shape (frames, height, width, ...) by its ``slices``.
        """
        return (
            slice(max(0, self.frame - outer.frame), max(0, self.frame_end - outer.frame)),
            slice(max(0, self.y1 - outer.y1), max(0, self.y2 - outer.y1)),
            slice(max(0, self.x1 - outer.x1), max(0, self.x2 - outer.x1)),
        )

    def on_frames(self, frame: int, frame_end: int = -1) -> Region:
        """The same box on other frames; by default on one."""
        return replace(self, frame=frame, frame_end=frame_end)

    def grown(self, across_px: float, down_px: float) -> Region:
        """Grown to the left and right and up and down, rounded outward, not clipped at the right
        and bottom."""
        return replace(
            self,
            x1=max(0, math.floor(self.x1 - across_px)),
            y1=max(0, math.floor(self.y1 - down_px)),
            x2=math.ceil(self.x2 + across_px),
            y2=math.ceil(self.y2 + down_px),
        )

    def padded(self, fraction: float, min_px: int) -> Region:
        """Grown on all sides by ``max(min_px, ceil(fraction * longer side))`` pixels, not clipped
        at the right and bottom."""
        pad = max(min_px, math.ceil(fraction * max(self.width, self.height)))
        return self.grown(pad, pad)

    def aligned(self, grid: tuple[int, int]) -> Region:
        """Rounded outward to a block grid of ``(width, height)`` pixels."""
        gx, gy = grid
        return replace(
            self,
            x1=self.x1 // gx * gx,
            y1=self.y1 // gy * gy,
            x2=-(-self.x2 // gx) * gx,
            y2=-(-self.y2 // gy) * gy,
        )

    def clipped(self, width: int, height: int, frames: int = 1) -> Region | None:
        """The part inside the image, or None where nothing of it is inside."""
        x1, y1 = min(self.x1, width), min(self.y1, height)
        x2, y2 = min(self.x2, width), min(self.y2, height)
        f1, f2 = min(self.frame, frames), min(self.frame_end, frames)
        if x1 >= x2 or y1 >= y2 or f1 >= f2:
            return None
        return Region(x1, y1, x2, y2, f1, f2)

    def hull(self, other: Region) -> Region:
        """The smallest region that holds both, in space and in time."""
        return Region(
            min(self.x1, other.x1), min(self.y1, other.y1),
            max(self.x2, other.x2), max(self.y2, other.y2),
            min(self.frame, other.frame), max(self.frame_end, other.frame_end),
        )  # fmt: skip

    def intersection_px(self, other: Region) -> int:
        """Shared pixels on one frame; 0 where they share no frame."""
        if self.frame_end <= other.frame or other.frame_end <= self.frame:
            return 0
        w = min(self.x2, other.x2) - max(self.x1, other.x1)
        h = min(self.y2, other.y2) - max(self.y1, other.y1)
        return max(0, w) * max(0, h)

    def iou(self, other: Region) -> float:
        """Shared area over common area on one frame, 0 to 1; 0 where they share no frame."""
        shared = self.intersection_px(other)
        return shared / (self.area_px + other.area_px - shared)

    def lasts_for(self, other: Region) -> bool:
        """Is it on every frame that another region is on?"""
        return self.frame <= other.frame and other.frame_end <= self.frame_end

    def holds(self, x: float, y: float, frame: int) -> bool:
        """Does a point of a frame lie in it?"""
        inside = self.x1 <= x < self.x2 and self.y1 <= y < self.y2
        return inside and self.frame <= frame < self.frame_end

    def hidden_share(self, masks: Sequence[Region]) -> float:
        """Share that lies under masks, 0 to 1. A mask counts if it is on all frames of it."""
        return coverage(self.xyxy, [m.xyxy for m in masks if m.lasts_for(self)])


def union_volume_px(regions: Sequence[Region]) -> float:
    """Pixels in at least one region, over all frames; overlaps counted once; exact."""
    cuts = sorted({cut for r in regions for cut in (r.frame, r.frame_end)})
    return sum(
        (end - start) * union_area_px([r.xyxy for r in regions if r.frame <= start < r.frame_end])
        for start, end in itertools.pairwise(cuts)
    )


def line_steps(line: Region) -> tuple[int, int]:
    """Steps in px for the corners of a line of text: along it the next power of two of its height,
    across it a quarter of that. SECURITY.md has what is told then, measured."""
    along = 1 << (min(line.width, line.height) - 1).bit_length()
    across = max(1, along // 4)
    return (along, across) if line.width >= line.height else (across, along)
