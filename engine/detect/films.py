"""Films: all frames are looked at together, then each by a glance, and closely where needed.

What stands still while anatomy moves is plainest in the mean of all frames. Their darkest and
brightest values show more of it, a bright name over a beating heart for instance; but they show
streaks of all that moves, too, so only what a cheap network sees there and what stands in the mean
is looked at closely.

After that, the cheap network glances at what changed on each frame: on every ``FULLY``-th one and
the first of each scene at all of it, on the others where there are more fine strokes than usual,
or fewer (:mod:`engine.detect.strokes`). What it sees that is not known yet is looked at by all
networks, so a name on one frame alone is found on that frame.

Networks for which nobody can glance, such as those for faces, look at the first frame of each
scene and at every ``SAMPLE``-th frame that changed. What they see is taken to be there from the
sample before to the sample after.

Where nobody can glance at all, each changed area is looked at by all networks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from engine.detect.frame_tracking import (
    BLOCK_PX,
    CONTEXT_PX,
    SAME,
    Tracks,
    Watch,
    blocks_of,
    grouped,
)
from engine.detect.strokes import Strokes
from engine.geometry import Region
from engine.records import Detection

FULLY = 10  # frames, a third of a second of most films
SAMPLE = 3  # frames, an eighth of a second
SCENE_PX = 24  # side to which a frame is shrunk to compare scenes
OTHER_SCENE = 12  # grey levels of 255 by which another scene differs from this one on average
STANDS = 0.5  # share of its contrast that what is there on most frames has in their mean
RING_PX = 4  # around a box, whose contrast with it counts too
BESIDE = 0.25  # how far a line may reach out of a known box, in its heights
EDGE_PX = 4  # from the edge of what was glanced at: a line that comes so near may go on beyond

Frame = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Eyes:
    """How a film is looked at. Pictures are of shape (H, W, 3), uint8, RGB.

    Args:
        look: What all networks find in an area of a frame.
        sample: What networks find for which nobody glances: on a whole frame, but those that need
            strokes, such as bars, in some areas of it.
        glance: Boxes in an area that may be text; None where nobody can glance.
        certain: Is a detection sealed without asking?
        fresh: Frames from which on ``sample`` may find something new, beside the first of each
            scene; None leaves it to the film.
    """

    look: Callable[[np.ndarray, Region, int], list[Detection]]
    sample: Callable[[np.ndarray, Sequence[Region], int], list[Detection]]
    glance: Callable[[np.ndarray, Region], list[Region]] | None
    certain: Callable[[Detection], bool]
    fresh: Collection[int] | None = None


def search_film(
    frame: Frame, frames: int, eyes: Eyes, iou: float, tell: Callable[[float], None]
) -> list[Detection]:
    """Everything on all frames, as :meth:`engine.detect.detector.Detector.detect` says.

    Args:
        frame: Gives frame ``i``; asked twice for each.
        iou: From which a box continues an earlier one of its label.
        tell: The share done, 0 to 1.
    """
    watch, tracks, strokes = Watch(), Tracks(iou), Strokes(frames)
    mean, *extremes = _stills(frame, frames, strokes, tell)
    [whole] = watch.news(mean)
    stands = eyes.look(mean, whole, 0)
    known = [d.region for d in stands if d.label == "text" and eyes.certain(d)]
    for extreme in extremes:
        found = _standing_in(extreme, mean, watch, known, eyes)
        stands += found
        known += [d.region for d in found]
    for d in stands:
        tracks.add(replace(d, region=d.region.on_frames(0, frames)))
    strokes.know(known)
    samples, fully, due = _Samples(mean, eyes.fresh), -1, 0
    # The second look sees whole frames that the first one saw in part.
    after_cut = FULLY if eyes.fresh is None else FULLY // 2
    closely, since_sample = Watch(), list[Region]()
    closely.news(mean)
    for i in range(frames):
        tell((1 + i / frames) / 2)
        picture = frame(i)
        since = None
        if eyes.glance is None:
            close = watch.news(picture, tracks.standing)
        else:
            cut, risen = samples.cut(i, picture), strokes.risen(picture)
            everywhere = cut or i >= due
            where = None if everywhere else risen | _standing_blocks(tracks, picture)
            if everywhere and not cut:
                since = _unnoticed(risen, fully + 1, i)
            areas = watch.news(picture, tracks.standing, where)
            lines, areas = _glanced(picture, areas, whole, known, eyes.glance)
            doubted = _doubtful(lines, areas, known, tracks.found, eyes)
            close = _around(picture, doubted, tracks.found, closely)
            closely.mark(picture, close)
            if everywhere:
                fully, due = i, i + (after_cut if cut else FULLY)
            since_sample += areas
            if samples.due(i):
                changed = grouped(since_sample, [], whole.width, whole.height)
                samples.take(i, eyes.sample(picture, changed, i))
                since_sample = []
        seen = [d for area in close for d in eyes.look(picture, area, i)]
        tracks.advance(i, close, seen, since)
    for d in samples.over(frames):
        tracks.add(d)
    tell(1.0)
    return tracks.close()


def _unnoticed(risen: np.ndarray, first: int, now: int) -> Callable[[Region], int]:
    """Since when a box may have been there that is found where no strokes had pointed."""

    def since(box: Region) -> int:
        return now if risen[blocks_of(box)].any() else max(0, first)

    return since


def _standing_in(
    extreme: np.ndarray, mean: np.ndarray, watch: Watch, known: Sequence[Region], eyes: Eyes
) -> list[Detection]:
    """Certain lines that an extreme shows, and that stand on most frames.

    What only the extremes show is else anatomy that moves, or not on most frames.
    """
    height, width = mean.shape[:2]
    close = []
    for area in grouped(watch.changed(extreme), list(known), width, height):
        if eyes.glance is None:
            close.append(area)
            continue
        lines = eyes.glance(extreme, area)
        new = [line for line in lines if not _held(line, known) and _stands(line, mean, extreme)]
        around = (line.padded(0.0, CONTEXT_PX).clipped(width, height) for line in new)
        close += [part for part in around if part]
    return [
        d
        for area in grouped(close, list(known), width, height)
        for d in eyes.look(extreme, area, 0)
        if d.label == "text" and eyes.certain(d) and _stands(d.region, mean, extreme)
    ]


def _glanced(
    picture: np.ndarray,
    areas: list[Region],
    whole: Region,
    known: Sequence[Region],
    glance: Callable[[np.ndarray, Region], list[Region]],
) -> tuple[list[Region], list[Region]]:
    """What a glance sees in areas of a frame, and what it was shown."""
    lines: list[Region] = []
    for area in areas:
        seen = glance(picture, area)
        if any(_cut_off(line, area, whole) and not _held(line, known) for line in seen):
            return glance(picture, whole), [whole]
        lines += seen
    return lines, areas


def _cut_off(line: Region, area: Region, whole: Region) -> bool:
    """Does a line come to an edge of an area that is none of the picture?"""
    return any(
        edge != end and abs(side - edge) < EDGE_PX
        for side, edge, end in zip(line.xyxy, area.xyxy, whole.xyxy, strict=True)
    )


def _standing_blocks(tracks: Tracks, picture: np.ndarray) -> np.ndarray:
    """Blocks in which something stands that was found on a frame: it may be gone.

    Returns:
        Shape (rows, columns), bool.
    """
    height, width = picture.shape[:2]
    blocks = np.zeros((-(-height // BLOCK_PX), -(-width // BLOCK_PX)), bool)
    for box in tracks.standing:
        blocks[blocks_of(box)] = True
    return blocks


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
    frame: Frame, frames: int, strokes: Strokes, tell: Callable[[float], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean of all frames, their darkest and their brightest values; strokes are taken in."""
    tell(0.0)
    darkest = brightest = frame(0)
    total = darkest.astype(np.float32)
    strokes.add(0, darkest)
    for i in range(1, frames):
        tell(i / frames / 2)
        picture = frame(i)
        cv2.accumulate(picture, total)
        darkest, brightest = cv2.min(darkest, picture), cv2.max(brightest, picture)
        strokes.add(i, picture)
    return np.round(total / frames).astype(np.uint8), darkest, brightest


def _doubtful(
    lines: Sequence[Region],
    areas: Sequence[Region],
    known: Sequence[Region],
    standing: Sequence[Detection],
    eyes: Eyes,
) -> list[Region]:
    """Lines of a frame that are new, and known ones that the glance misses.

    Args:
        lines: What the glance saw.
        areas: What it was shown.
        known: Text that is sealed on all frames.
        standing: What was found on the frame before.
    """
    texts = [d.region.on_frames(0) for d in standing if d.label == "text"]
    sealed = [d.region.on_frames(0) for d in standing if d.label == "text" and eyes.certain(d)]
    doubted = [line for line in lines if not _held(line, [*known, *sealed])]
    for text in texts:
        touched = any(text.intersection_px(area) for area in areas)
        if touched and not any(text.intersection_px(line) for line in lines):
            doubted.append(text)
    return doubted


def _around(
    picture: np.ndarray, lines: Sequence[Region], standing: Sequence[Detection], closely: Watch
) -> list[Region]:
    """Areas around lines, to look at closely.

    Args:
        standing: What was found on the frame before.
        closely: What was looked at closely before: what is as it was then is found already.
    """
    texts = [d.region.on_frames(0) for d in standing if d.label == "text"]
    height, width = picture.shape[:2]
    around = (
        line.padded(0.0, CONTEXT_PX).clipped(width, height)
        for line in lines
        if not closely.same(picture, line.padded(0.0, RING_PX).clipped(width, height) or line)
    )
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
    """Which frames stand for those around them, and what was found on them.

    Args:
        mean: Of all frames, which was looked at before them.
        only: Frames from which on there is something new to sample, beside scenes; None takes
            those that differ from the last sample.
    """

    def __init__(self, mean: np.ndarray, only: Collection[int] | None) -> None:
        self._only = only
        self._shown = _small(mean)  # the last sample
        self._here: np.ndarray | None = None  # the frame before
        self._last = -SAMPLE
        self._changed: int | None = None  # first frame that differs from the last sample
        self._scene = False
        self._taken: list[tuple[int, int, list[Detection]]] = []

    def cut(self, i: int, picture: np.ndarray) -> bool:
        """Look at the next frame: is it of another scene than the one before?"""
        before, self._here = self._here, _small(picture)
        apart = np.inf if before is None else cv2.absdiff(self._here, before).mean()
        self._scene = bool(apart > OTHER_SCENE)
        if self._changed is None and cv2.absdiff(self._here, self._shown).max() > SAME:
            self._changed = i
        return self._scene

    def due(self, i: int) -> bool:
        """Is this frame to be a sample?"""
        if self._scene and self._changed is not None:
            return True
        if self._only is None:
            changed = self._changed is not None
        else:
            changed = any(frame in self._only for frame in range(max(0, self._last + 1), i + 1))
        return changed and i >= self._last + SAMPLE

    def take(self, i: int, found: list[Detection]) -> None:
        since = i if self._changed is None else self._changed
        self._taken.append((since, i, found))
        self._last, self._changed = i, None
        if self._here is not None:
            self._shown = self._here

    def over(self, frames: int) -> list[Detection]:
        """What was found, each from where the film changed before it to the sample after."""
        after = [*(i for _, i, _ in self._taken), frames][1:]
        return [
            replace(d, region=d.region.on_frames(since, end))
            for (since, _, found), end in zip(self._taken, after, strict=True)
            for d in found
        ]


def _small(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (SCENE_PX, SCENE_PX), interpolation=cv2.INTER_AREA)
