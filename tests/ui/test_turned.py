"""Boxes of pictures that are stored turned: where pages show them, and back."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

import pytest

from engine import Format, ImageRecord, ImageState, Region
from ui import box_editor, turned

RECORD = ImageRecord(
    "im_1", "pa_1", ImageState.DRAFT, Format.JPEG, "", "general", 101, 70, 1, 1, 1,
    datetime.fromisoformat("2026-01-01"), "t", None, (), None, 0, {},
)  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_is_shown_inside_the_picture_and_comes_back(orientation: int) -> None:
    region = Region(11, 5, 40, 33, 0, 1)
    shown = turned.shown(region, RECORD, orientation)
    around = turned.size(RECORD, orientation)
    assert shown.clipped(around["width"], around["height"]) == shown
    assert turned.stored(shown, RECORD, orientation) == region
    item = {**region.to_json(), "label": "text"}
    there = turned.box(item, turned.shown, RECORD, orientation)
    assert turned.box(there, turned.stored, RECORD, orientation) == item


def rounded(region: Region, grid: list[int], size: dict[str, int]) -> tuple[int, ...]:
    """As ``mask`` of editor.js."""
    w, h, left, top = grid
    return (
        max(0, (region.x1 - left) // w * w + left),
        max(0, (region.y1 - top) // h * h + top),
        min(size["width"], -((left - region.x2) // w) * w + left),
        min(size["height"], -((top - region.y2) // h) * h + top),
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "region", [Region(11, 5, 40, 33), Region(0, 0, 1, 1), Region(90, 60, 101, 70)]
)
def test_the_editor_shows_the_mask_that_the_engine_makes(orientation: int, region: Region) -> None:
    grid = (16, 8)
    made = region.aligned(grid).clipped(RECORD.width, RECORD.height)
    assert made is not None
    shown = rounded(
        turned.shown(region, RECORD, orientation),
        turned.blocks(grid, RECORD, orientation),
        turned.size(RECORD, orientation),
    )
    assert shown == turned.shown(made, RECORD, orientation).xyxy


def test_a_box_that_nobody_changed_stays_the_networks_own() -> None:
    @dataclasses.dataclass
    class View:
        record: ImageRecord
        orientation: int
        detections: tuple[Any, ...]
        masks: tuple[Any, ...]
        suggestions: tuple[Any, ...] = (None,)
        left: Any = dataclasses.field(default_factory=dict)

    from engine import Detection

    found = Detection(Region(11, 5, 40, 33), "text", 0.7, "ppocr")
    view: Any = View(RECORD, 6, (found,), (found.region.padded(0, 4),))
    [box] = box_editor._boxes(view)
    assert (box["x1"], box["y1"]) != (11, 5)
    assert box_editor._detection(box, view) is found
    moved = box_editor._detection({**box, "x1": box["x1"] + 1}, view)
    assert (moved.source, moved.region) == ("person", Region(11, 5, 40, 32))
