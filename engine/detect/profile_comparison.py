"""Compare two profiles on the same pictures; the result is counts only."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.geometry import Region, line_steps
from engine.records import Detection

SAME = 0.5  # IoU from which two boxes of a class are the same thing
COVERED = 0.8  # share of a person's box that must be hidden


@dataclass
class Side:
    """What one of the two did, over all pictures.

    Args:
        alone: Boxes by class that only it found.
        empty: Pictures in which it found nothing.
        failed: Pictures that it could not look at.
        covered: Boxes of people that it would have hidden to ``COVERED``.
        padding: Of its boxes: share of the longer side, and px at least.
    """

    profile: str
    padding: tuple[float, int] = (0.0, 0)
    alone: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    failed: int = 0
    covered: int = 0
    times_ms: list[float] = field(default_factory=list)

    @property
    def median_ms(self) -> float | None:
        """Median time per picture; None without pictures."""
        return statistics.median(self.times_ms) if self.times_ms else None


@dataclass
class Comparison:
    """Counts over all pictures that both looked at.

    Args:
        both: Boxes by class that both found.
        by_people: Boxes that people drew or kept when an image was sent back: what should
            have been found.
    """

    first: Side
    second: Side
    images: int = 0
    both: Counter[str] = field(default_factory=Counter)
    by_people: int = 0

    def add(
        self,
        found: Sequence[Detection],
        other: Sequence[Detection],
        truth: Sequence[Detection],
    ) -> None:
        """Count one picture.

        Args:
            found, other: What the first and the second would seal or propose.
            truth: Boxes of people; none where nobody has corrected it yet.
        """
        self.images += 1
        left = list(other)
        for d in found:
            twin = next((o for o in left if _same(d, o)), None)
            if twin is None:
                self.first.alone[d.label] += 1
            else:
                left.remove(twin)
                self.both[d.label] += 1
        self.second.alone.update(d.label for d in left)
        self.by_people += len(truth)
        for side, boxes in ((self.first, found), (self.second, other)):
            side.empty += not boxes
            masks = [_hidden(d, *side.padding) for d in boxes]
            side.covered += sum(t.region.hidden_share(masks) >= COVERED for t in truth)


def _same(a: Detection, b: Detection) -> bool:
    return a.label == b.label and a.region.iou(b.region) > SAME


def _hidden(found: Detection, padding: float, min_px: int) -> Region:
    """What would be hidden of a picture without losses: as a seal pads and rounds it."""
    steps = line_steps(found.region) if found.label == "text" else (1, 1)
    return found.region.padded(padding, min_px).aligned(steps)
