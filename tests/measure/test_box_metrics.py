"""How good found boxes are, by raster and against pycocotools."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import metrics

corner = st.integers(0, 30)
box = st.tuples(corner, corner, corner, corner).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]) + 1, max(c[1], c[3]) + 1)
)
boxes = st.lists(box, max_size=6)


def raster(found: list[tuple[int, int, int, int]]) -> np.ndarray:
    plane = np.zeros((40, 40), bool)
    for x1, y1, x2, y2 in found:
        plane[y1:y2, x1:x2] = True
    return plane


@given(boxes, boxes)
def test_false_mask_area_is_what_the_raster_leaves_over(found, true):
    expected = (raster(found) & ~raster(true)).sum()
    assert metrics.false_mask_area_px(np.array(found), np.array(true)) == expected


# Random boxes of eight images; the expected values are pycocotools 2.0.11's
# precision[:, :, class, all areas, 100 detections].mean(axis=1) at IoU 0.5, 0.55 ... 0.95.
FOUND = [
    [[53, 57, 84, 79], [60, 70, 77, 75], [24, 22, 63, 62], [3, 38, 38, 51]],
    [[77, 37, 110, 74]],
    [[38, 24, 61, 43], [18, 80, 30, 91]],
    [[75, 67, 105, 95]],
    [[6, 15, 28, 51], [39, 47, 72, 77], [32, 30, 58, 69], [31, 47, 53, 74]],
    [],
    [[21, -2, 43, 9], [49, 38, 61, 76], [70, 39, 106, 61], [78, 32, 92, 47]],
    [[21, 34, 61, 40], [3, 53, 21, 89], [54, 27, 63, 53], [22, 54, 57, 73]],
]  # fmt: skip
CONFIDENCES = [
    [0.16, 0.61, 0.04, 0.04], [0.63], [0.27, 0.88], [0.74], [0.64, 0.68, 0.15, 0.44], [],
    [0.04, 0.88, 0.47, 0.55], [0.52, 0.77, 0.91, 0.15],
]  # fmt: skip
TRUE = [
    [[50, 54, 86, 80], [62, 66, 77, 75], [24, 22, 59, 59], [0, 39, 34, 51]],
    [],
    [[41, 21, 64, 41], [19, 79, 27, 90]],
    [],
    [[7, 19, 32, 50], [40, 49, 75, 78]],
    [[19, 4, 39, 38]],
    [[17, 0, 46, 8], [24, 39, 59, 49], [52, 42, 64, 77], [67, 38, 105, 65]],
    [[25, 35, 57, 44], [2, 57, 21, 90]],
]  # fmt: skip
COCO = (
    0.531706742, 0.350777935, 0.226680563, 0.183949974, 0.183949974,
    0.073302067, 0.057755776, 0.0, 0.0, 0.0,
)  # fmt: skip


@pytest.mark.parametrize(("step", "expected"), list(enumerate(COCO)))
def test_average_precision_is_pycocotools(step, expected):
    found = [np.array(f) for f in FOUND]
    scores = [np.array(c) for c in CONFIDENCES]
    true = [np.array(t) for t in TRUE]
    threshold = 0.5 + 0.05 * step
    assert metrics.average_precision(found, scores, true, threshold) == pytest.approx(
        expected, abs=1e-8
    )


def test_average_precision_by_hand():
    a, b, far = [0, 0, 10, 10], [20, 20, 30, 30], [70, 70, 80, 80]
    true = [np.array([a, b])]
    # hit, miss, hit: precision 1 up to recall 0.5 (51 of 101 points), then 2/3
    found = [np.array([a, far, b])]
    assert metrics.average_precision(found, [np.array([0.9, 0.8, 0.7])], true) == pytest.approx(
        (51 + 50 * 2 / 3) / 101
    )
    # the same object twice: the second is wrong; recall ends at 0.5
    twice = [np.array([a, a])]
    assert metrics.average_precision(twice, [np.array([0.9, 0.8])], true) == pytest.approx(51 / 101)


def test_average_precision_without_truth_is_nothing_and_without_boxes_zero():
    none = np.zeros((0, 4))
    one = np.array([[0, 0, 1, 1]])
    assert math.isnan(metrics.average_precision([one], [np.array([0.5])], [none]))
    assert math.isnan(metrics.average_precision([], [], []))
    assert metrics.average_precision([none], [np.zeros(0)], [one]) == 0


def test_precision_and_recall_by_hand():
    a, b, far = [0, 0, 10, 10], [20, 20, 30, 30], [70, 70, 80, 80]
    found = [np.array([a, far, b]), np.zeros((0, 4))]
    scores = [np.array([0.9, 0.3, 0.1]), np.zeros(0)]
    true = [np.array([a, b]), np.array([a])]
    assert metrics.precision_recall(found, scores, true) == (1 / 2, 1 / 3, 1, 1, 2)
    assert metrics.precision_recall(found, scores, true, confidence=0.1) == (
        2 / 3,
        2 / 3,
        2,
        1,
        1,
    )
    nothing = metrics.precision_recall(found, scores, true, confidence=0.95)
    assert math.isnan(nothing.precision)
    assert nothing.recall == 0


def test_scores_and_boxes_must_fit():
    with pytest.raises(ValueError, match="confidences"):
        metrics.average_precision([np.zeros((2, 4))], [np.zeros(1)], [np.zeros((0, 4))])
    with pytest.raises(ValueError, match="shorter"):
        metrics.average_precision([np.zeros((0, 4))], [], [])
