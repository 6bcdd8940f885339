"""Boxes of a draft as a person left them: kept with the draft until it is sealed.

They are sealed with the draft's facts, in pixels of the stored picture. Without them, a draft has
the boxes that its profile proposes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.detection import Profile
from engine.operations.examination import HARMLESS, Suggestion, suggestions, with_verdicts
from engine.records import Detection

#: Share of a carried box that one of the same class must hide for it to be the same.
_SAME = 0.9


@dataclass(frozen=True)
class DraftBox:
    """One box of a draft.

    Args:
        found: Its place among the found boxes; None for one that a person drew.
        removed: Why it is not sealed; None where it is. Empty while the reason is missing.
        left: Why a found box left the place where it was found.
    """

    detection: Detection
    found: int | None = None
    removed: str | None = None
    left: str = ""

    def to_json(self) -> dict[str, Any]:
        """As it is sealed with the facts."""
        return {
            "box": self.detection.to_json(), "found": self.found, "removed": self.removed,
            "left": self.left,
        }  # fmt: skip

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> DraftBox:
        """The inverse of :meth:`to_json`."""
        box = Detection.from_json(item["box"])
        return cls(box, item["found"], item["removed"], item["left"])


def drawn(facts: Mapping[str, Any]) -> bool:
    """Did a person leave boxes with a draft? What was found is then not all there is to seal."""
    return bool(facts.get("boxes"))


def boxes_of(facts: Mapping[str, Any], profile: Profile, reasons: Sequence[str]) -> list[DraftBox]:
    """A draft's boxes: as a person left them, with what was found since, else as proposed.

    Args:
        reasons: Why a person must look at it.
    """
    found = with_verdicts(facts)
    kept = [_fresh(DraftBox.from_json(item), found) for item in facts.get("boxes", ())]
    seen = facts.get("boxes_found", 0) if kept else 0
    proposed = [
        DraftBox(d, place, HARMLESS if s is Suggestion.LEAVE else None)
        for place, (d, s) in enumerate(
            zip(found, suggestions(found, profile, reasons), strict=True)
        )
    ]
    return kept + proposed[seen:]


def _fresh(box: DraftBox, found: Sequence[Detection]) -> DraftBox:
    """With the verdict of the found box, which is sealed elsewhere."""
    if box.found is None or not 0 <= box.found < len(found):
        return replace(box, found=None)
    original = found[box.found]
    same = (original.region, original.label) == (box.detection.region, box.detection.label)
    return replace(box, detection=original) if same else box


def decided(boxes: Sequence[DraftBox]) -> tuple[list[Detection], dict[int, str]]:
    """Boxes to seal, and the reasons of found ones that are not sealed where they were found."""
    removed: dict[int, str] = {}
    for box in boxes:
        reason = box.left if box.removed is None else box.removed
        if box.found is not None and reason:
            removed[box.found] = reason
    return [box.detection for box in boxes if box.removed is None], removed


def carried(boxes: Sequence[DraftBox], to: Sequence[DraftBox]) -> list[DraftBox]:
    """A draft's boxes with those of another beside them, each as a person's own, none twice."""
    own = [DraftBox(Detection(b.detection.region, b.detection.label, 1.0)) for b in boxes]
    return [*to, *(b for b in own if not any(_same(b.detection, o) for o in to))]


def _same(box: Detection, other: DraftBox) -> bool:
    if other.removed is not None or box.label != other.detection.label:
        return False
    return box.region.hidden_share([other.detection.region]) >= _SAME
