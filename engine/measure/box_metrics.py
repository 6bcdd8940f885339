"""Boxes against boxes: IoU, average precision, coverage, needless masking.

A box is ``(x1, y1, x2, y2)``, half-open, in pixels, integer or not; its area is
``(x2 - x1) * (y2 - y1)``. Nothing is rasterised: areas of unions are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_RECALLS = np.linspace(0.0, 1.0, 101)


def _boxes(boxes: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
    array = np.asarray(boxes, np.float64)
    if array.size == 0:
        return np.empty((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"expected boxes of shape (N, 4), found {array.shape}")
    if not np.isfinite(array).all() or (array[:, :2] > array[:, 2:]).any():
        raise ValueError("boxes must be finite with x1 <= x2 and y1 <= y2")
    return array


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
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
    first, second = _boxes(a)[:, None], _boxes(b)[None]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(
        first[..., :2], second[..., :2]
    )
    shared = np.maximum(sides, 0).prod(axis=-1)
    area_a = (first[..., 2:] - first[..., :2]).prod(axis=-1)
    area_b = (second[..., 2:] - second[..., :2]).prod(axis=-1)
    union = area_a + area_b - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def union_area_px(boxes: np.ndarray | Sequence[Sequence[float]]) -> float:
    """Area covered by at least one box, overlaps counted once; exact.

    Args:
        boxes: Shape (N, 4).
    """
    array = _boxes(boxes)
    heights, widths, covered = _cut(array, array)
    return float(heights @ covered @ widths)


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


def coverage(true_box: np.ndarray | Sequence[float], boxes: np.ndarray) -> float:
    """Share of one box that lies under the union of others.

    Args:
        true_box: Shape (4,), with area.
        boxes: Shape (N, 4), overlapping or not.

    Returns:
        0 to 1; 1 only where every part is covered.

    Raises:
        ValueError: The box has no area.
    """
    true = _boxes(np.asarray(true_box, np.float64)[None])
    area = float((true[0, 2:] - true[0, :2]).prod())
    if area == 0:
        raise ValueError("a box without area cannot be covered")
    others = _boxes(boxes)
    low, high = true[0, :2], true[0, 2:]
    inside = np.hstack([np.clip(others[:, :2], low, high), np.clip(others[:, 2:], low, high)])
    heights, widths, covered = _cut(np.vstack([true, inside]), inside)
    # By what is open, so that rounding never makes a whole cover look broken.
    return 1 - float(heights @ ~covered @ widths) / area


def false_mask_area_px(boxes: np.ndarray, true: np.ndarray) -> float:
    """Area under the boxes that no true box asks for: what was hidden needlessly.

    Args:
        boxes: Shape (N, 4), what was masked.
        true: Shape (M, 4), what had to be.
    """
    wanted = _boxes(true)
    return union_area_px(np.vstack([_boxes(boxes), wanted])) - union_area_px(wanted)


def _matches(
    found: np.ndarray, confidences: np.ndarray, true: np.ndarray, iou_threshold: float
) -> np.ndarray:
    """Which found boxes of one image are right: shape (N,), bool.

    In order of confidence each takes the unclaimed true box that it overlaps most, if
    the IoU reaches the threshold; of equal ones the last, as pycocotools does.
    """
    found, true = _boxes(found), _boxes(true)
    if np.shape(confidences) != (len(found),):
        raise ValueError(f"{len(found)} boxes, but confidences of shape {np.shape(confidences)}")
    overlaps = iou(found, true)
    right = np.zeros(len(found), bool)
    for i in np.argsort(-np.asarray(confidences), kind="stable"):
        if not len(true):
            break
        best = len(true) - 1 - int(np.argmax(overlaps[i, ::-1]))
        if overlaps[i, best] >= min(iou_threshold, 1 - 1e-10):
            right[i] = True
            overlaps[:, best] = -1.0
    return right


def average_precision(
    found: Sequence[np.ndarray],
    confidences: Sequence[np.ndarray],
    true: Sequence[np.ndarray],
    iou_threshold: float = 0.5,
) -> float:
    """COCO average precision of one class over a set of images.

    Precision is made non-increasing from the right and read at 101 recalls (0, 0.01 ...
    1). Differs from COCO in nothing but the lack of its limit of 100 boxes per image and
    of its "crowd" and size ranges.

    Args:
        found: Per image shape (N, 4).
        confidences: Per image shape (N,).
        true: Per image shape (M, 4).
        iou_threshold: Least overlap of a hit. mAP@0.5:0.95 is the mean over 0.5, 0.55 ...
            0.95 and over the classes.

    Returns:
        0 to 1; NaN where no image has a true box (COCO writes -1 there).

    Raises:
        ValueError: Lists of different length, or boxes of a wrong shape.

    Source: cocodataset.org/#detection-eval; pycocotools ``cocoeval.py``.
    """
    total = sum(len(_boxes(t)) for t in true)
    right = np.concatenate(
        [
            np.zeros(0, bool),
            *(
                _matches(f, c, t, iou_threshold)
                for f, c, t in zip(found, confidences, true, strict=True)
            ),
        ]
    )
    if total == 0:
        return math.nan
    if not right.size:
        return 0.0
    order = np.argsort(-np.concatenate(confidences), kind="stable")
    hits = np.cumsum(right[order])
    precision = hits / np.arange(1, hits.size + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / total, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[at].mean())


class PrecisionRecall(NamedTuple):
    """Counts over all images, and what follows from them; NaN for 0 of 0."""

    precision: float
    recall: float
    right: int
    wrong: int
    missed: int


def precision_recall(
    found: Sequence[np.ndarray],
    confidences: Sequence[np.ndarray],
    true: Sequence[np.ndarray],
    confidence: float = 0.25,
    iou_threshold: float = 0.5,
) -> PrecisionRecall:
    """Precision and recall of one class at one confidence, over a set of images.

    Args:
        found: Per image shape (N, 4).
        confidences: Per image shape (N,).
        true: Per image shape (M, 4).
        confidence: Boxes of less are left out.
        iou_threshold: Least overlap of a hit; each true box is hit once at most.

    Raises:
        ValueError: Lists of different length, or boxes of a wrong shape.
    """
    right = kept = total = 0
    for boxes, scores, wanted in zip(found, confidences, true, strict=True):
        keep = np.asarray(scores) >= confidence
        hits = _matches(_boxes(boxes)[keep], np.asarray(scores)[keep], wanted, iou_threshold)
        right += int(hits.sum())
        kept += int(keep.sum())
        total += len(_boxes(wanted))
    return PrecisionRecall(
        precision=right / kept if kept else math.nan,
        recall=right / total if total else math.nan,
        right=right,
        wrong=kept - right,
        missed=total - right,
    )
