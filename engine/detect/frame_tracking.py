"""Which areas of which frames the networks must process, and tracking of boxes over frames.

Why nothing on a single frame is missed: a pixel of a frame is left out only where it differs
by at most ``SAME`` grey levels from pixels that the networks have looked at in that very place.
Text so faint against what was there before is below what they find in a still image. Slow
changes add up, since a frame is compared with what was looked at, not with its neighbour.

What it costs: at most one look at each whole frame, and memory for two frames whatever their
number. A still overlay over a still background is looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import cv2
import numpy as np

from engine.records import Detection, Region

SAME = 8  # grey levels of 255, in any channel
CHANGED_PX = 4  # so many in a block are news; the thinnest digit of 7 px has more
BLOCK_PX = 16
CONTEXT_PX = 48  # around what changed, so that a line is seen whole
WHOLE_SHARE = 0.5  # from here on one look at the frame is cheaper than many at its parts


class Watch:
    """Keeps the last processed value of each pixel and finds changed areas of a frame."""

    def __init__(self) -> None:
        self._seen: np.ndarray | None = None

    def news(
        self,
        picture: np.ndarray,
        standing: Iterable[Region] = (),
        where: np.ndarray | None = None,
    ) -> list[Region]:
        """Changed areas to process; marks them as processed.

        Args:
            picture: Shape (H, W, 3), uint8.
            standing: Boxes of what was found before. An area that touches one takes it in
                whole, so that a look never sees half of it.
            where: Blocks of ``BLOCK_PX`` to which this is limited, shape (rows, columns), bool;
                what changed elsewhere is news the next time.

        Returns:
            Boxes that do not overlap; the whole frame for the first.
        """
        height, width = picture.shape[:2]
        whole = Region(0, 0, width, height)
        if self._seen is None or self._seen.shape != picture.shape:
            self._seen = picture.copy()
            return [whole]
        areas = grouped(self.changed(picture, where), list(standing), width, height)
        if sum(area.area_px for area in areas) > WHOLE_SHARE * width * height:
            areas = [whole]
        self.mark(picture, areas)
        return areas

    def mark(self, picture: np.ndarray, areas: Iterable[Region]) -> None:
        """Some areas of a frame are processed. Before any, the frame is to be given to ``news``."""
        if self._seen is None:
            raise ValueError("nothing was processed yet")
        for area in areas:
            self._seen[area.slices[1:]] = picture[area.slices[1:]]

    def same(self, picture: np.ndarray, area: Region) -> bool:
        """Was this processed as it is, but for less than a stroke?"""
        if self._seen is None:
            return False
        apart = cv2.absdiff(picture[area.slices[1:]], self._seen[area.slices[1:]])
        return int((apart > SAME).any(axis=2).sum()) < CHANGED_PX

    def changed(self, picture: np.ndarray, where: np.ndarray | None = None) -> list[Region]:
        """Boxes, which may overlap, around what changed; marks nothing. See :meth:`news`."""
        if self._seen is None:
            raise ValueError("nothing was processed yet")
        red, green, blue = cv2.split(cv2.absdiff(picture, self._seen))
        return _blocks(cv2.max(cv2.max(red, green), blue) > SAME, where)


def _blocks(changed: np.ndarray, where: np.ndarray | None) -> list[Region]:
    """Boxes around groups of adjacent changed blocks.

    Args:
        changed: Shape (H, W), bool.
    """
    height, width = changed.shape
    rows, columns = -(-height // BLOCK_PX), -(-width // BLOCK_PX)
    padded = np.zeros((rows * BLOCK_PX, columns * BLOCK_PX), dtype=np.uint8)
    padded[:height, :width] = changed
    counts = padded.reshape(rows, BLOCK_PX, columns, BLOCK_PX).sum(axis=(1, 3), dtype=np.int32)
    # A stroke on the seam of four blocks leaves a quarter of its pixels in each.
    near = cv2.filter2D(counts.astype(np.float32), -1, np.ones((2, 2), np.float32), anchor=(0, 0))
    news = ((near >= CHANGED_PX) | (counts >= CHANGED_PX)).astype(np.uint8)
    if where is not None:  # of a stroke on a seam either block may be meant
        news = cv2.dilate(news, np.ones((3, 3), np.uint8)) & where
    count, _, stats, _ = cv2.connectedComponentsWithStats(news, connectivity=8)
    areas = []
    for x, y, w, h, _ in stats[1:count].tolist():
        # One block more to the right and below: that of the other half of a stroke on a seam.
        x2, y2 = (x + w + 1) * BLOCK_PX, (y + h + 1) * BLOCK_PX
        area = Region(x * BLOCK_PX, y * BLOCK_PX, x2, y2).padded(0.0, CONTEXT_PX)
        if (inside := area.clipped(width, height)) is not None:
            areas.append(inside)
    return areas


def grouped(areas: list[Region], standing: list[Region], width: int, height: int) -> list[Region]:
    """Areas joined until none overlap, each holding whole what of ``standing`` it touches."""
    joined: list[Region] = []
    waiting = list(areas)
    while waiting:
        area = waiting.pop()
        grown = area
        for box in standing:
            flat = box.on_frames(0)
            if 0 < grown.intersection_px(flat) < flat.area_px:
                around = flat.padded(0.0, CONTEXT_PX).clipped(width, height)
                grown = grown.hull(around or flat)
        overlapping = [other for other in joined if other.intersection_px(grown)]
        if not overlapping and grown == area:
            joined.append(area)
            continue
        for other in overlapping:
            joined.remove(other)
            grown = grown.hull(other)
        waiting.append(grown)
    return sorted(joined)


def blocks_of(box: Region) -> tuple[slice, slice]:
    """Rows and columns of the blocks that a box touches; it may reach out of the picture."""
    return (
        slice(max(0, box.y1) // BLOCK_PX, -(-box.y2 // BLOCK_PX)),
        slice(max(0, box.x1) // BLOCK_PX, -(-box.x2 // BLOCK_PX)),
    )


class Tracks:
    """Boxes through time: what stays in place is one detection with a range of frames.

    Args:
        threshold: IoU from which a box continues an earlier one of its label.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._standing: list[Detection] = []
        self._ended: list[Detection] = []

    @property
    def standing(self) -> list[Region]:
        """Boxes on the previous frame."""
        return [d.region for d in self._standing]

    @property
    def found(self) -> list[Detection]:
        """What was found on the previous frame, or before it and not looked for since."""
        return list(self._standing)

    def advance(
        self,
        frame: int,
        areas: Sequence[Region],
        found: Iterable[Detection],
        since: Callable[[Region], int] | None = None,
    ) -> None:
        """Advance by one frame.

        Args:
            areas: What was looked at on this frame; elsewhere all stays as it was.
            found: What was seen there, on this frame.
            since: The first frame on which a new box may have been there; by default this one.
        """
        fresh = list(found)
        still: list[Detection] = []
        for d in self._standing:
            here = replace(d, region=d.region.on_frames(frame))
            if not any(here.region.intersection_px(area.on_frames(frame)) for area in areas):
                still.append(replace(d, region=d.region.hull(here.region)))
                continue
            again = next((f for f in fresh if self._same(here, f)), None)
            if again is None:
                self._ended.append(d)
            else:
                fresh.remove(again)
                best = max(d, again, key=lambda d: d.confidence)
                still.append(replace(best, region=d.region.hull(again.region)))
        if since is not None:
            fresh = [
                replace(d, region=d.region.on_frames(since(d.region), frame + 1)) for d in fresh
            ]
        self._standing = still + fresh

    def add(self, d: Detection) -> None:
        """Take in what was found otherwise, with its own range of frames."""
        self._ended.append(d)

    def close(self) -> list[Detection]:
        """All detections, most certain first.

        Where something comes back in its old place, it counts as having been there all the
        time: a name that a network missed on some frames is sealed on these too.
        """
        joined: list[Detection] = []
        for d in sorted(self._ended + self._standing, key=lambda d: d.region.frame):
            for i, known in enumerate(joined):
                here = d.region.on_frames(known.region.frame, known.region.frame_end)
                if self._same(replace(d, region=here), known):
                    best = max(known, d, key=lambda d: d.confidence)
                    joined[i] = replace(best, region=known.region.hull(d.region))
                    break
            else:
                joined.append(d)
        return sorted(joined, key=lambda d: (-d.confidence, d.label, d.region))

    def _same(self, a: Detection, b: Detection) -> bool:
        return a.label == b.label and a.region.iou(b.region) > self._threshold
