"""The distinct pictures of an image that a common viewer may show: all that must be looked at.

A picture can be shown on white or on black, at any window that its file offers, with and without
its overlays. What is released must have been looked at in each of these ways, or a name can stand
in the one that nobody looked at. The first look, the second look and the reading of text take
their pictures from here.

A way of showing a frame that shows nothing new costs no look: it is left out, frame by frame, if
no stroke in it is plain that is faint in all pictures that are looked at. Where that can be told
from the greys of the values alone, no picture is made for it.

Left open: contrast that no window of the file and no range of values shows, such as one step of
a 16-bit scale in the middle of what the frame uses.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from engine.formats.images import (
    displayed,
    from_upright,
    looked_at,
    orientation,
    showings,
    study_facts,
    to_upright,
    upright,
)
from engine.formats.tones import AS_SHOWN, Showing, contrast
from engine.records import Detection, Image, Region

#: Contrast, in grey levels of 255 within 3 x 3 px, up to which a stroke may be missed. On flat
#: ground, the networks find text of 16 px from 6 levels on; in noise of 4 levels, from 12.
_FAINT = 8
#: Contrast from which a stroke counts as one that a person can read.
_PLAIN = 16
#: A stroke counts as faint too where another window shows it so many times as plainly, but not
#: from this contrast on; and where pixels are shown that were not there before, whose noise is
#: another, from so many times on, whatever its contrast.
_TIMES, _SEEN, _TIMES_OF_OTHER_PIXELS = 4, 16, 2
#: The smallest mark that can be a letter: its border in 3 x 3 px has this many pixels, and is
#: this long. A hot pixel has 9, and is 3 px long.
_MARK_PX, _MARK_LENGTH_PX = 18, 7
#: Marks are looked for in strips of so many pixels. One that is longer than two strips overlap has
#: at least a third as many pixels there, and so more than count.
_STRIP_PX, _STRIP_OVERLAP_PX = 4 << 20, 64
#: Storage classes (PS3.4 B.5) of sections of a patient, by modality (PS3.3 C.7.3.1.1.1). Any other
#: class, private ones and Secondary Capture among them, may show anything.
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "CT": (_STORAGE + "2", _STORAGE + "2.1"),
    "MR": (_STORAGE + "4", _STORAGE + "4.1"),
    "PT": (_STORAGE + "128", _STORAGE + "130"),
    "NM": (_STORAGE + "20",),
}
_JOINED_PX = 3  # marks this close are one: a line of text counts, letter by letter or not


@dataclass(frozen=True)
class View:
    """Some frames of an image shown in one way, upright.

    What is found on them has places of its own: :meth:`found` gives those of the image.

    Args:
        name: Short: which way.
        numbers: Of the frames of the image, ascending, at least one.
    """

    image: Image = field(repr=False)
    name: str
    numbers: tuple[int, ...]

    @property
    def frames(self) -> int:
        return len(self.numbers)

    @property
    def scene(self) -> bool:
        """May it show a scene, with small faces in it? Not where it is a section of a patient by
        the file's class and modality."""
        study = study_facts(self.image)
        return study.get("sop_class") not in _SECTIONS.get(str(study.get("modality")), ())

    @property
    def _turned(self) -> int:
        return orientation(self.image)

    def picture(self, place: int) -> np.ndarray:
        """Its ``place``-th frame: shape (height, width, 3), uint8, RGB.

        Raises:
            CorruptImage: What the file says about its display makes no sense.
        """
        frame = self.numbers[place]
        if self.name == AS_SHOWN:
            return displayed(self.image, frame)
        [showing] = [s for s in showings(self.image, frame) if s.name == self.name][:1]
        return upright(showing.picture(), self._turned)

    def placed(self, regions: Iterable[Region]) -> list[Region]:
        """Regions of the image as they lie in this view; those on none of its frames are left
        out."""
        inside = []
        for region in regions:
            first = bisect_left(self.numbers, region.frame)
            end = bisect_left(self.numbers, region.frame_end)
            if first < end:
                turned = to_upright(region, self._turned, self.image.width, self.image.height)
                inside.append(turned.on_frames(first, end))
        return inside

    def found(self, detections: Iterable[Detection]) -> list[Detection]:
        """What was found in this view, in stored pixels and frames of the image."""
        back = []
        for d in detections:
            first, last = self.numbers[d.region.frame], self.numbers[d.region.frame_end - 1]
            size = self.image.width, self.image.height
            region = from_upright(d.region, self._turned, *size).on_frames(first, last + 1)
            back.append(replace(d, region=region))
        return back


def views_of(image: Image, hidden: Sequence[Region] = ()) -> list[View]:
    """All pictures of an image that must be looked at, on each frame at least one.

    First those as people are shown them, unless another one shows as much and more.

    Args:
        hidden: Of a masked image, its masks: what they show is nothing new.

    Raises:
        CorruptImage: What the file says about its display makes no sense.
    """
    chosen: dict[str, list[int]] = {AS_SHOWN: []}
    for frame in looked_at(image):
        first, *others = showings(image, frame)
        told = _telling(first, others, _free(image, frame, hidden)) if others else [first]
        for showing in told:
            chosen.setdefault(showing.name, []).append(frame)
    return [View(image, name, tuple(numbers)) for name, numbers in chosen.items() if numbers]


def _free(image: Image, frame: int, hidden: Sequence[Region]) -> np.ndarray:
    """Pixels whose surroundings of 3 x 3 px hold no pixel of a mask: shape (H, W), bool."""
    free = np.ones((image.height, image.width), bool)
    for region in hidden:
        if region.frame <= frame < region.frame_end:
            free[max(0, region.y1 - 1) : region.y2 + 1, max(0, region.x1 - 1) : region.x2 + 1] = 0
    return free


def _telling(first: Showing, others: Sequence[Showing], free: np.ndarray) -> list[Showing]:
    """Showings of a frame that show something that the others of them do not."""
    chosen = [first]
    plain: np.ndarray | None = None
    for showing in others:
        if _tells_nothing(showing, chosen):
            continue
        if plain is None:
            plain = contrast(first.picture())
        own = contrast(showing.picture())
        if showing.tonal:
            faint = np.clip(own // _TIMES, _FAINT, _SEEN)
        else:
            faint = np.maximum(own // _TIMES_OF_OTHER_PIXELS, _FAINT)
        if _has_marks((own >= _PLAIN) & free & (plain < faint)):
            chosen.append(showing)
            plain = np.maximum(plain, own)
    for showing in chosen[:-1]:
        if _tells_nothing(showing, [other for other in chosen if other is not showing]):
            chosen.remove(showing)
    return chosen


def _tells_nothing(showing: Showing, others: Sequence[Showing]) -> bool:
    return showing.tonal and any(_is_within(showing.table, other.table) for other in others)


def _is_within(table: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Is every contrast of a table of greys plain in another one of the same values too?

    Only said of tables that rise or fall all the way.
    """
    if table is None or other is None or len(table) != len(other):
        return False
    new, old = _rising(table), _rising(other)
    if new is None or old is None:
        return False
    for faint, seen_as in ((_FAINT, _PLAIN), (_SEEN, _SEEN * _TIMES)):
        # From each value, the last one that the other table hardly tells from it.
        last = np.searchsorted(old, old + faint, side="left") - 1
        if ((new[last] - new) >= seen_as).any():
            return False
    return True


def _rising(table: np.ndarray) -> np.ndarray | None:
    wide = table.astype(np.int16)
    wide = wide if wide[-1] >= wide[0] else 255 - wide
    return wide if bool((np.diff(wide) >= 0).all()) else None


def _has_marks(news: np.ndarray) -> bool:
    """Do these pixels hold a mark that can be a letter?

    Looked for strip by strip, so that memory does not grow with the picture. Strips overlap by more
    than a mark that counts is long: one that is cut still counts in one of its parts.
    """
    high, wide = news.shape
    rows = max(_STRIP_OVERLAP_PX, _STRIP_PX // wide)
    return any(
        _strip_has_marks(news[at : at + rows + _STRIP_OVERLAP_PX]) for at in range(0, high, rows)
    )


def _strip_has_marks(news: np.ndarray) -> bool:
    if int(np.count_nonzero(news)) < _MARK_PX:
        return False
    joined = cv2.dilate(news.astype(np.uint8), np.ones((_JOINED_PX, _JOINED_PX), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    sizes = np.bincount(labels[news], minlength=len(stats))
    grown = _JOINED_PX - 1
    lengths = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1) - grown
    return bool(((sizes >= _MARK_PX) & (lengths >= _MARK_LENGTH_PX))[1:].any())
