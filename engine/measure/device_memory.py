"""Places on a device's images that people sealed again and again.

Scanners write the same field at the same place of every image. What people drew there on earlier
images, because the detector had missed it, is proposed on the next one; an administrator can make
it a rule. Nothing is ever taken away by it. CTP and other pixel cleaners come with catalogues of
such places, typed in for each device; here they are learned.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.geometry import Region
from engine.records import Detection

#: Images of a device that count: the newest that a person sealed.
LATEST = 20
#: On so many of them, at least, people drew a box at the same place.
AGAIN = 3
#: Overlap (IoU) from which two boxes are at the same place.
ALIKE = 0.7
#: Source of boxes that come from here.
REMEMBERED = "device"
#: Share of a remembered box that found ones must hide for it not to be proposed.
_HIDDEN = 0.9


@dataclass(frozen=True)
class Place:
    """A place of a device's images.

    Args:
        region: On one frame; it holds for all.
        images: On how many of the latest images people drew it.
    """

    label: str
    region: Region
    images: int = field(default=0, compare=False)

    def like(self, other: Place) -> bool:
        """Are both the same place, as far as people's hands are steady?"""
        return self.label == other.label and self.region.iou(other.region) >= ALIKE

    @property
    def place_id(self) -> str:
        """The same place of the same label has the same one, 12 hexadecimal digits."""
        text = json.dumps([self.label, *self.region.xyxy])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Memory:
    """What is known of one device.

    Args:
        again: Proposed on its next image.
        always: Sealed on its next image, as an administrator decided.
    """

    again: tuple[Place, ...] = ()
    always: tuple[Place, ...] = ()


#: By the device's short name.
Memories = Mapping[str, Memory]


def device_id(parts: Sequence[tuple[str, str]]) -> str:
    """A short name of a device and a layout of its images, 16 hexadecimal digits.

    Args:
        parts: What names it: maker, model, software, layout, size ... and the values.
    """
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:16]


def recurring(images: Sequence[Sequence[Detection]]) -> tuple[Place, ...]:
    """Places at which people drew a box on at least ``AGAIN`` of the latest images.

    Args:
        images: Boxes that people drew, an entry an image, oldest first.

    Returns:
        The hull of the boxes at each place, most frequent first.
    """
    groups: dict[str, list[tuple[Region, set[int]]]] = defaultdict(list)
    for n, boxes in enumerate(images[-LATEST:]):
        for box in boxes:
            flat = box.region.on_frames(0)
            held = groups[box.label]
            for i, (region, seen) in enumerate(held):
                if region.iou(flat) >= ALIKE:
                    held[i] = (region.hull(flat), seen | {n})
                    break
            else:
                held.append((flat, {n}))
    places = [
        Place(label, region, len(seen))
        for label, held in groups.items()
        for region, seen in held
        if len(seen) >= AGAIN
    ]
    return tuple(sorted(places, key=lambda p: (-p.images, p.label, p.region)))


def remembered(
    memory: Memory, found: Sequence[Detection], size: tuple[int, int, int], proposal: float
) -> tuple[list[Detection], bool]:
    """What a device's memory adds to what was found in one of its images.

    Args:
        size: Width and height in px, and number of frames.
        proposal: Confidence of a box about which a person is asked.

    Returns:
        Boxes to add, and whether a person must be asked about any of them.
    """
    width, height, frames = size
    hidden = [d.region for d in found]
    added: list[Detection] = []
    asked = False
    for places, confidence in ((memory.always, 1.0), (memory.again, proposal)):
        for place in places:
            region = place.region.on_frames(0, frames).clipped(width, height, frames)
            if region is None or region.hidden_share(hidden) >= _HIDDEN:
                continue
            hidden.append(region)
            added.append(Detection(region, place.label, confidence, REMEMBERED))
            asked = asked or confidence < 1.0
    return added, asked
