"""A candidate beside the version in force: what it would have done, which changes nothing.

It looks at the same pictures under the same profile, after the version in force. Whatever it does,
also where it fails, the draft is as it would be without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.detection import Detector
from engine.records import Detection
from engine.store.audit import Event
from engine.tracing import unexpected

#: A box of which less is covered by the other's boxes is one that the other did not find.
COVERED = 0.5

Find = Callable[[Detector], tuple[list[Detection], list[str]]]


@dataclass(frozen=True)
class Shadow:
    """What a candidate said of a draft.

    Args:
        version: Its name.
        failed: It could not look.
        reasons: Why a person would have had to look, had it been in force.
    """

    version: str
    detections: tuple[Detection, ...] = field(default=(), repr=False)
    reasons: tuple[str, ...] = ()
    failed: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "detections": [d.to_json() for d in self.detections],
            "reasons": list(self.reasons),
            "failed": self.failed,
        }

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Shadow | None:
        """Of a draft's facts; None where none looked."""
        said = facts.get("shadow")
        if said is None:
            return None
        return cls(
            said["version"],
            tuple(Detection.from_json(d) for d in said["detections"]),
            tuple(said["reasons"]),
            said["failed"],
        )


def looked(detector: Detector, find: Find) -> Shadow | None:
    """Let the candidate look, where there is one.

    Args:
        find: Detections, and why a person must look, with a detector.
    """
    candidate = detector.candidate
    if candidate is None:
        return None
    try:
        detections, reasons = find(detector.running(candidate))
    except Exception as err:  # noqa: BLE001 - the draft goes on whatever a candidate does
        unexpected("a candidate in the shadow failed", err)
        return Shadow(candidate.name, failed=True)
    failed = "detector-failed" in reasons
    return Shadow(candidate.name, tuple(detections), tuple(reasons), failed)


def differing(
    found: Sequence[Detection], shadow: Sequence[Detection]
) -> tuple[list[Detection], list[Detection]]:
    """Boxes that only the candidate found, and those that only the version in force found."""

    def missing(boxes: Sequence[Detection], others: Sequence[Detection]) -> list[Detection]:
        hidden = [o.region for o in others]
        return [d for d in boxes if d.region.hidden_share(hidden) < COVERED]

    return missing(shadow, found), missing(found, shadow)


def look_event(patient_id: str, image_id: str, facts: Mapping[str, Any]) -> tuple[Event, ...]:
    """For the log, when a draft came in: how far a candidate differs; nothing without one."""
    shadow = Shadow.of(facts)
    if shadow is None:
        return ()
    found = [Detection.from_json(d) for d in facts["detections"]]
    more, fewer = differing(found, shadow.detections) if not shadow.failed else ([], [])
    detail = {
        "version": shadow.version,
        "in_force": facts["detector"],
        "more": len(more),
        "fewer": len(fewer),
        "failed": shadow.failed,
    }
    return (Event("shadow.look", patient_id=patient_id, image_id=image_id, detail=detail),)
