"""Boxes and sizes of pictures that are stored turned: pages show them upright, as cameras ask.

The engine's boxes are in stored pixels; viewer and editor have upright ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine import ImageRecord, Region, from_upright, to_upright


def size(record: ImageRecord, orientation: int) -> dict[str, int]:
    """Width and height as shown."""
    wide, high = record.width, record.height
    return {"width": high, "height": wide} if orientation >= 5 else {"width": wide, "height": high}


def shown(region: Region, record: ImageRecord, orientation: int) -> Region:
    """A region as it lies in the picture that is shown."""
    return to_upright(region, orientation, record.width, record.height)


def stored(region: Region, record: ImageRecord, orientation: int) -> Region:
    """The inverse of :func:`shown`."""
    return from_upright(region, orientation, record.width, record.height)


def blocks(grid: tuple[int, int], record: ImageRecord, orientation: int) -> list[int]:
    """Width and height of the file's blocks as shown, and where the first whole one begins."""
    wide, high = grid if orientation < 5 else (grid[1], grid[0])
    around = size(record, orientation)
    left = around["width"] % wide if orientation in (2, 3, 6, 7) else 0
    top = around["height"] % high if orientation in (3, 4, 7, 8) else 0
    return [wide, high, left, top]


def box(item: Mapping[str, Any], change: Any, record: ImageRecord, orientation: int) -> Any:
    """A box of the editor with its place changed by :func:`shown` or :func:`stored`."""
    return {**item, **change(Region.from_json(item), record, orientation).to_json()}
