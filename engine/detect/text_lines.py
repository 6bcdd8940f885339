"""Lines of text as boxes: the same line found twice, in pieces, or by two networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.geometry import areas_px, hull, intersections_px, shared_sides_px

#: Gap between two pieces of one line, in heights of its letters: a space is half of one.
GAP = 1.0
#: Two boxes are of one line if their heights differ by no more, and they share so much of it.
ALIKE = 2.0
LEVEL = 0.6


@dataclass(frozen=True, slots=True)
class Line:
    """A line in a picture: corners of its turned box, and how sure the finder was.

    Args:
        corners: Shape (4, 2), float32, x and y in pixels, in order around the box.
        confidence: 0 to 1.
        parts: What it was joined from, where it was found more than once.
    """

    corners: np.ndarray
    confidence: float
    parts: tuple[Line, ...] = ()

    @classmethod
    def upright(cls, box: Sequence[float] | np.ndarray, confidence: float) -> Line:
        """A line that fills an upright box: x1, y1, x2, y2."""
        x1, y1, x2, y2 = box
        return cls(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32), confidence)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The upright box around it: x1, y1, x2, y2."""
        x1, y1 = (float(v) for v in self.corners.min(axis=0))
        x2, y2 = (float(v) for v in self.corners.max(axis=0))
        return x1, y1, x2, y2

    @property
    def thickness_px(self) -> float:
        """Its shorter side."""
        return min(self._sides_px)

    @property
    def length(self) -> float:
        """Longer side over shorter side."""
        return max(self._sides_px) / min(self._sides_px)

    @property
    def _sides_px(self) -> tuple[float, float]:
        a, b, c, _ = self.corners
        return max(1.0, float(np.hypot(*(b - a)))), max(1.0, float(np.hypot(*(c - b))))


def table(lines: Sequence[Line]) -> np.ndarray:
    """Their upright boxes, shape (N, 4), float64."""
    return np.array([line.box for line in lines], np.float64).reshape(-1, 4)


def joined(found: Sequence[Line]) -> list[Line]:
    """Lines that were found more than once, as one.

    From the most certain on, a line that mostly covers another of about its thickness, or is
    mostly covered by it, takes it in and grows to hold both: at one size the network may see an
    end that it cuts off at the other.
    """
    order = sorted(found, key=lambda line: -line.confidence)
    boxes, thickness = table(order), np.array([line.thickness_px for line in order])
    kept: list[Line] = []
    parts: list[list[Line]] = []
    held = np.empty((len(order), 4))
    thick = np.empty(len(order))
    for line, box, own in zip(order, boxes, thickness, strict=True):
        n = len(kept)
        shared = intersections_px(box, held[:n])
        alike = (own <= 2.0 * thick[:n]) & (thick[:n] <= 2.0 * own)
        least = np.minimum(areas_px(box), areas_px(held[:n]))
        hits = np.flatnonzero(alike & (shared > 0.7 * least))
        if not len(hits):
            held[n], thick[n] = box, own
            kept.append(line)
            parts.append([line])
            continue
        i = int(hits[0])
        parts[i].append(line)
        grown = hull([held[i], box])
        if (grown != held[i]).any():
            held[i] = grown
            kept[i] = Line.upright(grown, kept[i].confidence)
            thick[i] = kept[i].thickness_px
    return [
        line if len(members) == 1 else replace(line, parts=tuple(members))
        for line, members in zip(kept, parts, strict=True)
    ]


def support(boxes: np.ndarray, seen: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """How far another network agrees with each box: 0 where it saw nothing there.

    Agreement needs about the same height, or width for upright lines: a line of dots in which
    one dot looks like a letter, or a letter in whose stroke something was seen, is none.

    Args:
        boxes: Shape (N, 4).
        seen: What the other saw, shape (M, 4); several pieces may make up one line.
        confidences: Shape (M,).

    Returns:
        Shape (N,): the highest confidence among the pieces that lie in the box, if together
        they cover half of it, else 0.
    """
    agreed = np.zeros(len(boxes))
    sizes, areas = seen[:, 2:] - seen[:, :2], areas_px(seen)
    for i, box in enumerate(boxes):
        shared, area = intersections_px(box, seen), areas_px(box)
        ratio = sizes / (box[2:] - box[:2])
        alike = ((ratio > 0.5) & (ratio < 2.0)).any(axis=1)
        pieces = alike & (shared > 0.5 * np.minimum(areas, area))
        if shared[pieces].sum() > 0.5 * area:
            agreed[i] = confidences[pieces].max()
    return agreed


def united(boxes: np.ndarray) -> list[list[int]]:
    """Which boxes are pieces of one line: the same, or side by side with at most a space between.

    Args:
        boxes: Shape (N, 4).

    Returns:
        Groups of indices; a line in one piece is a group of its own.
    """
    sizes = np.maximum(boxes[:, 2:] - boxes[:, :2], 1)  # a rounded box can be empty
    group = list(range(len(boxes)))

    def root(i: int) -> int:
        while group[i] != i:
            group[i] = group[group[i]]
            i = group[i]
        return i

    areas = areas_px(boxes)
    for i in range(len(boxes)):
        later = np.arange(i + 1, len(boxes))
        ratio = sizes[i] / sizes[later]
        same = ((ratio > 1 / ALIKE) & (ratio < ALIKE)).any(axis=1)
        same &= intersections_px(boxes[i], boxes[later]) > 0.7 * np.minimum(areas[i], areas[later])
        for j in later[same]:
            group[root(int(j))] = root(i)
    for across in (0, 1):  # lines that run across, lines that run down
        down = 1 - across
        tall, wide = sizes[:, down], sizes[:, across]
        for i in range(len(boxes)):
            later = np.arange(i + 1, len(boxes))
            low = np.minimum(tall[i], tall[later])
            shared = shared_sides_px(boxes[i], boxes[later])
            level, gap = shared[:, down], -shared[:, across]
            pieces = (
                (level > LEVEL * low)
                & (np.maximum(tall[i], tall[later]) < ALIKE * low)
                & (gap < GAP * low)
                # One of them is longer than a letter, so that the line has a direction.
                & (np.maximum(wide[i] / tall[i], wide[later] / tall[later]) > 1.5)
            )
            for j in later[pieces]:
                group[root(int(j))] = root(i)
    groups: dict[int, list[int]] = {}
    for i in range(len(boxes)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())
