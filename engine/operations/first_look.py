"""What the first look at a draft saw, so that the second one need not look at the same again.

Kept with the draft's facts: which pictures of the image were looked at, and by what. Where the
masked image shows the very same pixels in the very same way, another look by the same networks
would see the same things; what changed, by masks above all, is looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.formats.views import View
from engine.records import Image

Frame = Callable[[int], np.ndarray | None]


@dataclass(frozen=True)
class FirstLook:
    """A look at all pictures of an image that was finished without a failure.

    Args:
        by: See :meth:`engine.detection.Detector.digest`.
        frames: For each way of showing, by its name, the frames that were looked at, as ranges
            (first, end).
    """

    by: str
    frames: Mapping[str, tuple[tuple[int, int], ...]]

    @classmethod
    def at(cls, views: Sequence[View], by: str) -> FirstLook:
        """Args: views: All that were looked at."""
        return cls(by, {view.name: _ranges(view.numbers) for view in views})

    def to_json(self) -> dict[str, Any]:
        return {
            "by": self.by,
            "frames": {name: list(map(list, r)) for name, r in self.frames.items()},
        }

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> FirstLook | None:
        """Of a draft's facts; None where nothing looked, a look failed, or a release before this
        one looked."""
        said = facts.get("first_look")
        if said is None:
            return None
        frames = {
            str(name): tuple((int(first), int(end)) for first, end in ranges)
            for name, ranges in said["frames"].items()
        }
        return cls(str(said["by"]), frames)

    def shown(self, original: Image, view: View) -> Frame:
        """Frames of the original as they were looked at in the way of a view of the masked image.

        Returns:
            A function that gives for a frame of the view its picture, of shape (H, W, 3), uint8,
            RGB; None where the first look did not see that frame in this way.
        """
        same = View(original, view.name, view.numbers)
        ranges = self.frames.get(view.name, ())

        def frame(place: int) -> np.ndarray | None:
            number = view.numbers[place]
            if not any(first <= number < end for first, end in ranges):
                return None
            return same.picture(place)

        return frame


def _ranges(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Ascending numbers as ranges (first, end)."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number:
            ranges[-1] = (ranges[-1][0], number + 1)
        else:
            ranges.append((number, number + 1))
    return tuple(ranges)
