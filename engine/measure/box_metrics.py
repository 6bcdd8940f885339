"""How good found boxes are: precision, recall, average precision, needless masking.

Boxes are those of :mod:`engine.geometry`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.geometry import as_boxes, iou, union_area_px

_RECALLS = np.linspace(0.0, 1.0, 101)


def false_mask_area_px(boxes: np.ndarray, true: np.ndarray) -> float:
    """Area under the boxes that no true box asks for: what was hidden needlessly.

    Args:
        boxes: Shape (N, 4), what was masked.
        true: Shape (M, 4), what had to be.
    """
    wanted = as_boxes(true)
    return union_area_px(np.vstack([as_boxes(boxes), wanted])) - union_area_px(wanted)


def _matches(
    found: np.ndarray, confidences: np.ndarray, true: np.ndarray, iou_threshold: float
) -> np.ndarray:
    """Which found boxes of one image are right: shape (N,), bool.

    In order of confidence each takes the unclaimed true box that it overlaps most, if
    the IoU reaches the threshold; of equal ones the last, as pycocotools does.
    """
    found, true = as_boxes(found), as_boxes(true)
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
    total = sum(len(as_boxes(t)) for t in true)
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
        hits = _matches(as_boxes(boxes)[keep], np.asarray(scores)[keep], wanted, iou_threshold)
        right += int(hits.sum())
        kept += int(keep.sum())
        total += len(as_boxes(wanted))
    return PrecisionRecall(
        precision=right / kept if kept else math.nan,
        recall=right / total if total else math.nan,
        right=right,
        wrong=kept - right,
        missed=total - right,
    )
