"""Reading burned-in text to tell what names somebody; only the verdict is kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from engine.detection import UNKNOWN, Judgement, Known
from engine.errors import DetectorError
from engine.formats import images
from engine.geometry import CORNERS
from engine.records import Detection, Image, Region, TextVerdict
from engine.service.guard import Core, log

#: Boxes that are read at most, the most certain first: films can have thousands.
MOST_READ = 150


class Verdicts(Core):
    """What the Engine asks its detector's reader."""

    def _known(self, image: Image, patient_id: str) -> Known:
        """What the record and the file's header say of the patient."""
        patient = self.patients_.get(self.database.read(), patient_id)
        return Known.of([patient.id, patient.name, *images.identifiers(image)])

    def _judged(
        self, image: Image, detections: Sequence[Detection], known: Known
    ) -> list[Judgement | None]:
        """A judgement for each box of text, None for all others.

        A reader that fails keeps nobody from sealing: what was not read is unknown, and sealed.
        """
        texts = [i for i, d in enumerate(detections) if d.label == "text"]
        judged: list[Judgement | None] = [
            UNKNOWN if d.label == "text" else None for d in detections
        ]
        by_frame: dict[int, list[int]] = defaultdict(list)
        for i in texts[:MOST_READ]:
            region = detections[i].region
            by_frame[(region.frame + region.frame_end) // 2].append(i)
        try:
            for frame, places in by_frame.items():
                regions = [detections[i].region for i in places]
                for i, found in zip(places, self._read(image, frame, regions, known), strict=True):
                    judged[i] = found
        except DetectorError:
            log.exception("reading text failed")
            return [UNKNOWN if d.label == "text" else None for d in detections]
        return judged

    def _read(
        self, image: Image, frame: int, regions: Sequence[Region], known: Known
    ) -> list[Judgement]:
        """Judgements of one frame, by what can be seen of it in every window that was looked at."""
        judged = self.detector.judge(images.render(image, frame), regions, known)
        if images.window_hides(image):
            full = self.detector.judge(images.render_full(image, frame), regions, known)
            judged = [_both(a, b) for a, b in zip(judged, full, strict=True)]
        # A box over many frames may hide another text on one of them: it is never harmless.
        return [
            UNKNOWN if j.verdict is TextVerdict.HARMLESS and r.frame_count > 1 else j
            for j, r in zip(judged, regions, strict=True)
        ]


def _both(one: Judgement, other: Judgement) -> Judgement:
    """Identifying if either says so; harmless only if both do."""
    if TextVerdict.IDENTIFYING in (one.verdict, other.verdict):
        return Judgement(TextVerdict.IDENTIFYING)
    return one if one == other else UNKNOWN


def verdict_facts(
    detections: Sequence[Detection], judged: Sequence[Judgement | None]
) -> dict[str, Any]:
    """Verdicts and side markers as they are sealed with an image's facts."""
    return {
        "verdicts": [None if j is None else str(j.verdict) for j in judged],
        "sides": [
            {
                "side": j.side,
                **dict(zip(CORNERS, d.region.xyxy, strict=True)),
                "frame": d.region.frame,
            }
            for d, j in zip(detections, judged, strict=True)
            if j is not None and j.side
        ],
    }
