"""Boxes by hand, by raster and against shapely; one region and its fields."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from engine import geometry
from engine.geometry import Region
from engine.records import Detection

Box = tuple[int, int, int, int]

corner = st.integers(0, 30)
box = st.tuples(corner, corner, corner, corner).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]) + 1, max(c[1], c[3]) + 1)
)
boxes = st.lists(box, max_size=6)
regions = st.builds(
    lambda b, first, count: Region(*b, first, first + count),
    box, st.integers(0, 3), st.integers(1, 3),
)  # fmt: skip


def raster(found: list[Box]) -> np.ndarray:
    plane = np.zeros((40, 40), bool)
    for x1, y1, x2, y2 in found:
        plane[y1:y2, x1:x2] = True
    return plane


def volume(*found: Region) -> np.ndarray:
    space = np.zeros((8, 80, 80), bool)
    for region in found:
        space[region.slices] = True
    return space


# Many boxes


@pytest.mark.parametrize(
    ("a", "b", "sides", "shared", "iou"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), (10, 10), 100, 1.0),  # the same
        ((0, 0, 10, 10), (10, 0, 20, 10), (0, 10), 0, 0.0),  # edge to edge: half-open
        ((0, 0, 10, 10), (5, 0, 15, 10), (5, 10), 50, 1 / 3),  # half and half
        ((0, 0, 10, 10), (2, 2, 4, 4), (2, 2), 4, 0.04),  # inside
        ((0, 0, 10, 10), (13, 2, 20, 4), (-3, 2), 0, 0.0),  # a gap of 3 beside it
        ((0, 0, 10, 10), (50, 60, 60, 70), (-40, -50), 0, 0.0),  # apart in both: no area of gaps
        ((0, 0, 0.5, 1), (0.25, 0, 0.75, 1), (0.25, 1), 0.25, 1 / 3),  # fractions of pixels
        ((3, 3, 3, 3), (3, 3, 3, 3), (0, 0), 0, 0.0),  # no area at all
    ],
)
def test_two_boxes_by_hand(a, b, sides, shared, iou):
    for first, second in ((a, b), (b, a)):
        assert geometry.shared_sides_px(first, second).tolist() == list(sides)
        assert geometry.intersections_px(first, second) == shared
        assert geometry.iou([first], [second]) == pytest.approx(np.array([[iou]]))


@given(boxes, boxes)
def test_iou_and_intersections_are_what_shapely_says(first, second):
    found = geometry.iou(np.array(first), np.array(second))
    assert found.shape == (len(first), len(second))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            p, q = shapely.box(*a), shapely.box(*b)
            assert geometry.intersections_px(a, b) == p.intersection(q).area
            assert found[i, j] == pytest.approx(p.intersection(q).area / p.union(q).area)


@given(box, st.lists(box, min_size=1, max_size=6))
def test_boxes_broadcast_as_arrays_do(one, many):
    row = geometry.intersections_px(one, many)
    each = geometry.intersections_px(np.array(many)[:, None], np.array(many))
    assert row.shape == (len(many),)
    assert each.shape == (len(many), len(many))
    assert np.diagonal(each).tolist() == geometry.areas_px(many).tolist()
    assert row.tolist() == [float(geometry.intersections_px(one, b)) for b in many]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((2, 5)), r"shape \(N, 4\), found \(2, 5\)"),  # too many columns
        (np.array([1.0, 2, 3, 4]), r"shape \(N, 4\), found \(4,\)"),  # one box, not a list of them
        (np.zeros((1, 2, 4)), r"shape \(N, 4\), found \(1, 2, 4\)"),
        ([[0, 0, 1, 1], [5, 0, 4, 1]], r"boxes with x1 <= x2 .* found \[5.0, 0.0, 4.0, 1.0\]"),
        ([[0, 2, 1, 1]], "boxes with x1 <= x2 and y1 <= y2"),
        ([[0, 0, math.nan, 1]], "finite boxes"),
        ([[0, 0, math.inf, 1]], "finite boxes"),
    ],
)
def test_what_is_no_boxes_is_refused_with_what_was_expected(wrong, message):
    for ask in (geometry.as_boxes, geometry.union_area_px):
        with pytest.raises(ValueError, match=message):
            ask(wrong)
    with pytest.raises(ValueError, match=message):
        geometry.iou(np.zeros((0, 4)), wrong)
    with pytest.raises(ValueError, match=message):
        geometry.coverage((0, 0, 1, 1), wrong)


@pytest.mark.parametrize("wrong", [3.0, [1, 2, 3], np.zeros((2, 5))])
def test_the_wrong_number_of_corners_is_refused(wrong):
    for ask in (
        geometry.areas_px,
        geometry.hull,
        lambda b: geometry.shared_sides_px(b, (0, 0, 1, 1)),
        lambda b: geometry.intersections_px((0, 0, 1, 1), b),
    ):
        with pytest.raises(ValueError, match=r"expected boxes of shape \(\.\.\., 4\), found"):
            ask(wrong)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([(1, 2, 3, 4)], (1, 2, 3, 4)),  # one is its own
        ([(0, 0, 2, 2), (5, 7, 9, 8)], (0, 0, 9, 8)),  # what lies between belongs to it
        ([(0, 0, 9, 9), (2, 2, 3, 3)], (0, 0, 9, 9)),  # one inside adds nothing
        ([(-1.5, 0, 0, 1), (0, 0, 0.5, 1)], (-1.5, 0, 0.5, 1)),
    ],
)
def test_hull(given, expected):
    assert geometry.hull(given).tolist() == list(expected)


@pytest.mark.parametrize("none", [np.zeros((0, 4)), np.zeros(4)])
def test_there_is_no_hull_of_no_boxes(none):
    with pytest.raises(ValueError, match="at least one box"):
        geometry.hull(none)


@given(boxes)
def test_area_of_a_union_is_the_raster_count(found):
    assert geometry.union_area_px(found) == raster(found).sum()


@given(box, boxes)
def test_coverage_is_the_raster_share(true, found):
    wanted = raster([true])
    expected = (wanted & raster(found)).sum() / wanted.sum()
    assert geometry.coverage(np.array(true), np.array(found)) == pytest.approx(expected)


def test_coverage_is_one_only_where_nothing_stays_open():
    true = (0.1, 0.1, 0.7, 0.3)
    thirds = np.array([(0, 0, 0.3, 1), (0.3, 0, 0.6, 1), (0.6, 0, 1, 1)])
    assert geometry.coverage(true, thirds) == 1
    assert geometry.coverage(true, thirds[:2]) == pytest.approx(5 / 6)
    assert geometry.coverage(true, np.zeros((0, 4))) == 0
    assert geometry.coverage((0, 0, 1000, 1000), np.array([(0, 0, 1000, 999)])) == 0.999
    with pytest.raises(ValueError, match="without area"):
        geometry.coverage((1, 1, 1, 5), thirds)


# One region


@pytest.mark.parametrize(
    "wrong",
    [
        (5, 0, 5, 1),  # no width
        (0, 5, 1, 4),  # inverted
        (-1, 0, 1, 1),  # outside to the left
        (0, 0, 1, 1, 2, 2),  # no frames
        (0, 0, 1, 1, -1, 1),
    ],
)
def test_what_is_no_region_is_refused(wrong):
    with pytest.raises(ValueError, match="not a"):
        Region(*wrong)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((1.2, 2.7, 8.1, 9.9), (1, 2, 9, 10)),  # outward
        ((1.0, 2.0, 8.0, 9.0), (1, 2, 8, 9)),  # whole pixels stay
        ((-5.0, -5.0, 4.0, 4.0), (0, 0, 4, 4)),  # clipped
        ((90.0, 40.0, 130.0, 70.0), (90, 40, 100, 50)),
        ((100.0, 10.0, 120.0, 20.0), None),  # outside
        ((-9.0, 1.0, -1.0, 5.0), None),
        ((8.0, 1.0, 4.0, 5.0), None),  # inverted
    ],
)
def test_a_box_between_pixels_is_rounded_outward_and_clipped(box, expected):
    for kind in (tuple, np.array):
        region = Region.around(kind(box), 100, 50, 3)
        assert (region and region.xyxy) == expected
        assert region is None or (region.frame, region.frame_end) == (3, 4)
        assert region is None or all(type(v) is int for v in region.xyxy)  # json refuses others


@pytest.mark.parametrize(
    ("across", "down", "expected"),
    [
        (0, 0, (10, 20, 30, 40)),
        (3, 5, (7, 15, 33, 45)),
        (0.5, 0.1, (9, 19, 31, 41)),  # outward
        (90, 90, (0, 0, 120, 130)),  # stops at 0; the image's other edges are not known
    ],
)
def test_growing(across, down, expected):
    assert Region(10, 20, 30, 40, 2, 5).grown(across, down) == Region(*expected, 2, 5)


@pytest.mark.parametrize(
    ("fraction", "least", "expected"),
    [
        (0.0, 4, (96, 96, 144, 114)),  # the least
        (0.1, 4, (96, 96, 144, 114)),  # a tenth of the longer side
        (0.11, 4, (95, 95, 145, 115)),  # rounded up
    ],
)
def test_padding(fraction, least, expected):
    assert Region(100, 100, 140, 110).padded(fraction, least).xyxy == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((16, 16, 32, 24), (16, 16, 32, 24)),  # on the grid
        ((17, 15, 31, 25), (16, 8, 32, 32)),  # outward
        ((0, 0, 1, 1), (0, 0, 16, 8)),  # one pixel is a block
    ],
)
def test_rounding_outward_to_a_grid(given, expected):
    assert Region(*given).aligned((16, 8)).xyxy == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((1, 2, 5, 6, 0, 2), (1, 2, 5, 6, 0, 2)),  # inside
        ((1, 2, 50, 60, 0, 9), (1, 2, 20, 10, 0, 3)),  # over every edge
        ((20, 2, 50, 6), None),  # beside it
        ((1, 10, 5, 16), None),  # below it
        ((1, 2, 5, 6, 3, 4), None),  # after the last frame
    ],
)
def test_clipping(given, expected):
    clipped = Region(*given).clipped(20, 10, 3)
    assert clipped == (expected and Region(*expected))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),  # the same
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),  # half over
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),  # side by side
        ((0, 0, 10, 10), (2, 2, 4, 4), 0.04),  # inside
        ((0, 0, 10, 10, 0, 1), (0, 0, 10, 10, 1, 2), 0.0),  # another frame
        ((0, 0, 10, 10, 0, 2), (0, 0, 10, 10, 1, 9), 1.0),  # one frame shared is enough
    ],
)
def test_iou_of_regions(a, b, expected):
    assert Region(*a).iou(Region(*b)) == pytest.approx(expected)
    assert Region(*b).iou(Region(*a)) == pytest.approx(expected)


@given(regions, regions)
def test_regions_and_arrays_give_the_same_numbers(a, b):
    a, b = a.on_frames(0), b.on_frames(0)
    assert a.area_px == geometry.areas_px(a.xyxy)
    assert a.intersection_px(b) == geometry.intersections_px(a.xyxy, b.xyxy)
    assert a.iou(b) == geometry.iou([a.xyxy], [b.xyxy])[0, 0]
    assert a.hull(b).xyxy == tuple(geometry.hull([a.xyxy, b.xyxy]))


@given(regions, regions)
def test_a_hull_is_the_least_that_holds_both(a, b):
    hull, both = a.hull(b), volume(a, b)
    assert both.sum() == (both & volume(hull)).sum()
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        used = np.flatnonzero(both.any(axis=others))
        assert hull.slices[axis] == slice(used[0], used[-1] + 1)


@given(regions, regions)
def test_the_place_within_another_is_where_both_are(inner, outer):
    cut = np.zeros((8, 80, 80), bool)[outer.slices]
    cut[inner.slices_within(outer)] = True
    assert np.array_equal(cut, volume(inner)[outer.slices])


@given(regions, st.lists(regions, max_size=5))
def test_the_hidden_share_counts_masks_that_last(region, masks):
    there = [m for m in masks if m.frame <= region.frame and m.frame_end >= region.frame_end]
    own = volume(region)
    expected = (own & volume(*there)).sum() / own.sum()
    assert region.hidden_share(masks) == pytest.approx(expected)
    assert [m for m in masks if m.lasts_for(region)] == there


@given(st.lists(regions, max_size=5))
def test_volume_of_a_union_is_the_raster_count(found):
    assert geometry.union_volume_px(found) == volume(*found).sum()
    assert all(geometry.union_volume_px([r]) == r.volume_px for r in found)


@pytest.mark.parametrize(
    ("x", "y", "frame", "inside"),
    [
        (10, 20, 2, True),  # the first pixel
        (29.5, 39.5, 4, True),
        (30, 25, 2, False),  # half-open to the right
        (15, 40, 2, False),  # and below
        (15, 25, 1, False),  # the frame before
        (15, 25, 5, False),  # half-open in time
    ],
)
def test_a_point_lies_in_a_region(x, y, frame, inside):
    assert Region(10, 20, 30, 40, 2, 5).holds(x, y, frame) is inside


# Fields


HERE = Detection(Region(8, 9, 200, 40, 2, 5), "text", 0.93, "ppocr")


def test_the_fields_of_a_box_have_these_names_in_this_order() -> None:
    """Files, packages, catalogs and clients hold them: a change here opens none of these."""
    region = {"x1": 8, "y1": 9, "x2": 200, "y2": 40, "frame": 2, "frame_end": 5}
    assert json.dumps(HERE.region.to_json()) == json.dumps(region)
    assert json.dumps(HERE.to_json()) == json.dumps(
        {"class": "text", **region, "confidence": 0.93, "source": "ppocr"}
    )
    assert json.dumps(HERE.to_row()) == json.dumps(
        {"label": "text", "confidence": 0.93, "source": "ppocr", **region}
    )
    assert tuple(HERE.region.to_json()) == geometry.FIELDS
    assert HERE.region.xyxy == tuple(HERE.to_json()[name] for name in geometry.CORNERS)


@given(st.builds(Detection, regions, st.text(max_size=9), st.floats(0, 1), st.text(max_size=9)))
def test_fields_make_the_same_box_again(box):
    others: dict[str, Any] = {"region_id": "rg_1", "size_bytes": 9}  # a row holds more
    assert Region.from_json({**others, **box.region.to_json()}) == box.region
    assert Detection.from_row({**others, **box.to_row()}) == box
    assert Detection.from_json(json.loads(json.dumps({**others, **box.to_json()}))) == box


@pytest.mark.parametrize("name", [*geometry.FIELDS, "class", "confidence", "source"])
def test_a_field_that_is_missing_is_no_box(name):
    item = HERE.to_json()
    del item[name]
    with pytest.raises(KeyError, match=name):
        Detection.from_json(item)


@pytest.mark.parametrize(
    "change",
    [{"x2": 8}, {"x1": -1}, {"frame_end": 2}, {"confidence": 1.5}, {"confidence": math.nan}],
)
def test_fields_that_are_no_box_are_refused(change):
    with pytest.raises(ValueError, match="not"):
        Detection.from_json({**HERE.to_json(), **change})
