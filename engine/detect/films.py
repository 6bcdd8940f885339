"""Films: all frames are looked at together, then each by a glance, and closely where needed.

What stands still while anatomy moves is plainest in the mean of all frames, and in their darkest
and brightest values: a bright name over a beating heart is found in the darkest ones. After that,
a cheap network glances at what changed on each frame. What it sees there that is not known yet is
looked at by all networks, so a name on one frame alone is found on that frame.

Networks for which nobody can glance, such as those for faces, look at the first frame of each
scene and at every ``SAMPLE``-th frame that changed. What they see is taken to be there from the
sample before to the sample after.

Where nobody can glance at all, each changed area is looked at by all networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from engine.detect.frame_tracking import CONTEXT_PX, Tracks, Watch, grouped
from engine.geometry import Region
from engine.records import Detection

SAMPLE = 3  # frames, an eighth of a second of most films
SCENE_PX = 24  # side to which a frame is shrunk to compare scenes
OTHER_SCENE = 12  # grey levels of 255 by which another scene differs from this one on average
STANDS = 0.5  # share of its contrast that what is there on most frames has in their mean
RING_PX = 4  # around a box, whose contrast with it counts too
BESIDE = 0.25  # how far a line may reach out of a known box, in its heights

Frame = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Eyes:
    """How a film is looked at. Pictures are of shape (H, W, 3), uint8, RGB.

    Args:
        look: What all networks find in an area of a frame.
        sample: What networks find for which nobody glances.
        glance: Boxes in an area that may be text or a code; None where nobody can glance.
        certain: Is a detection sealed without asking?
    """

    look: Callable[[np.ndarray, Region, int], list[Detection]]
    sample: Callable[[np.ndarray, Region, int], list[Detection]]
    glance: Callable[[np.ndarray, Region], list[Region] | None]
    certain: Callable[[Detection], bool]


def search_film(
    frame: Frame, frames: int, eyes: Eyes, iou: float, tell: Callable[[float], None]
) -> list[Detection]:
    """Everything on all frames, as :meth:`engine.detect.detector.Detector.detect` says.

    Args:
        frame: Gives frame ``i``; asked twice for each.
        iou: From which a box continues an earlier one of its label.
        tell: The share done, 0 to 1.
    """
    watch, tracks = Watch(), Tracks(iou)
    known: list[Region] = []
    mean, *extremes = _stills(frame, frames, tell)
    for still in (mean, *extremes):
        for d in [d for area in watch.news(still) for d in eyes.look(still, area, 0)]:
            line = d.label == "text" and eyes.certain(d)
            # What only the extremes show is else anatomy that moves, or not on most frames.
            if still is mean or (line and _stands(d.region, mean, still)):
                tracks.add(replace(d, region=d.region.on_frames(0, frames)))
                if line:
                    known.append(d.region)
    samples = _Samples()
    for i in range(frames):
        tell((1 + i / frames) / 2)
        picture = frame(i)
        areas = watch.news(picture, tracks.standing)
        seen = [eyes.glance(picture, area) for area in areas]
        if None in seen:
            close = areas
        else:
            lines = [line for some in seen for line in some or ()]
            close = _doubtful(lines, areas, known, tracks.found, eyes, picture.shape)
            if areas and samples.due(i, picture):
                samples.take(i, eyes.sample(picture, _whole(picture), i))
        tracks.advance(i, close, [d for area in close for d in eyes.look(picture, area, i)])
    for d in samples.over(frames):
        tracks.add(d)
    tell(1.0)
    return tracks.close()


def _whole(picture: np.ndarray) -> Region:
    return Region(0, 0, picture.shape[1], picture.shape[0])


def _stands(box: Region, mean: np.ndarray, extreme: np.ndarray) -> bool:
    """Is what an extreme shows in a box there on most frames?

    A stroke that is there on each frame has in the mean about the contrast that it has in an
    extreme; one that is there on a tenth of them has a tenth of it.
    """
    height, width = mean.shape[:2]
    part = (box.padded(0.0, RING_PX).clipped(width, height) or box).slices[1:]
    ours, shown = mean[part].astype(np.float32), extreme[part].astype(np.float32)
    ours, shown = ours - ours.mean(axis=(0, 1)), shown - shown.mean(axis=(0, 1))
    strength = float((shown * shown).sum())
    return strength > 0.0 and float((ours * shown).sum()) >= STANDS * strength


def _stills(
    frame: Frame, frames: int, tell: Callable[[float], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean of all frames, their darkest and their brightest values."""
    tell(0.0)
    darkest = brightest = frame(0)
    total = darkest.astype(np.float32)
    for i in range(1, frames):
        tell(i / frames / 2)
        picture = frame(i)
        total += picture
        darkest, brightest = np.minimum(darkest, picture), np.maximum(brightest, picture)
    return np.round(total / frames).astype(np.uint8), darkest, brightest


def _doubtful(
    lines: Sequence[Region],
    areas: Sequence[Region],
    known: Sequence[Region],
    standing: Sequence[Detection],
    eyes: Eyes,
    shape: Sequence[int],
) -> list[Region]:
    """Areas of a frame to look at closely: new lines, and known ones that the glance misses.

    Args:
        lines: What the glance saw.
        areas: What it was shown.
        known: Text that is sealed on all frames.
        standing: What was found on the frame before.
    """
    texts = [d.region.on_frames(0) for d in standing if d.label == "text"]
    sealed = [d.region.on_frames(0) for d in standing if d.label == "text" and eyes.certain(d)]
    close = [line for line in lines if not _held(line, [*known, *sealed])]
    for text in texts:
        touched = any(text.intersection_px(area) for area in areas)
        if touched and not any(text.intersection_px(line) for line in lines):
            close.append(text)
    height, width = shape[:2]
    around = (line.padded(0.0, CONTEXT_PX).clipped(width, height) for line in close)
    return grouped([area for area in around if area], texts, width, height)


def _held(line: Region, boxes: Sequence[Region]) -> bool:
    """Does a line lie in one of the boxes, but for a part of a letter?"""
    beside = max(2, round(BESIDE * min(line.width, line.height)))
    return any(
        box.x1 - beside <= line.x1
        and box.y1 - beside <= line.y1
        and line.x2 <= box.x2 + beside
        and line.y2 <= box.y2 + beside
        for box in boxes
    )


class _Samples:
    """Which frames stand for those around them, and what was found on them."""

    def __init__(self) -> None:
        self._shown: np.ndarray | None = None
        self._taken: list[tuple[int, list[Detection]]] = []

    def due(self, i: int, picture: np.ndarray) -> bool:
        """Is frame ``i`` of another scene than the last sample, or far from it?"""
        small = cv2.resize(picture, (SCENE_PX, SCENE_PX), interpolation=cv2.INTER_AREA)
        if self._shown is not None and i - self._taken[-1][0] < SAMPLE:
            apart = float(cv2.absdiff(small, self._shown).mean())
            if apart <= OTHER_SCENE:
                return False
        self._shown = small
        return True

    def take(self, i: int, found: list[Detection]) -> None:
        self._taken.append((i, found))

    def over(self, frames: int) -> list[Detection]:
        """What was found, each from the sample before to the sample after."""
        at = [-1, *(i for i, _ in self._taken), frames]
        return [
            replace(d, region=d.region.on_frames(before + 1, after))
            for (_, found), before, after in zip(self._taken, at, at[2:], strict=False)
            for d in found
        ]
