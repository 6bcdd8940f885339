"""One file looked at, without a catalog: decode, find, read. Workers use it as the server does."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from engine.detection import UNKNOWN, Detector, Judgement, Known, Profile, merge
from engine.errors import DetectorError, InputError
from engine.formats import images
from engine.formats.views import View, views_of
from engine.geometry import CORNERS, union_area_px
from engine.metrics import Memories, coarse_confidence, device_id, remembered
from engine.operations.context import WorkerContext
from engine.operations.guard import log
from engine.operations.series import SeriesFiles, SeriesLook
from engine.operations.shadow import looked
from engine.records import Detection, Image, ImageState, Region, TextVerdict
from engine.seal import pipeline
from engine.seal.pipeline import Stopwatch
from engine.vault import pad_length

Progress = Callable[[str, float], None]


#: Why a person must look, in words.
REASONS: Mapping[str, str] = {
    "nothing-found": "Nothing was detected. Check that there is nothing to hide.",
    "proposals": "Some boxes are uncertain. Keep, correct or remove them.",
    "not-looked-at": "Nothing has been looked for in this image yet: it waits for its turn.",
    "confirmed": "A person has confirmed this image; it is being sealed.",
    "detector-failed": "The detector could not run. Draw all boxes yourself.",
    "flagged": "A user reported visible private content. Box it and seal the image again.",
    "still-visible": "Text is still readable after masking. Box it, or give a reason to leave it.",
    "box-questioned": "A user needs what a box hides. Keep the box, make it smaller or remove it.",
    "remembered": "Earlier images of this device were sealed here. Keep or remove the boxes.",
    "boxes-drawn": "A person drew or removed boxes. Open the image and seal it.",
    "small-doubt": "Small uncertain boxes were sealed without asking.",
}


#: Why a person must look at a draft that workers have not come to yet.
NOT_LOOKED_AT = "not-looked-at"
#: Of a draft that a person has confirmed and that workers have not sealed yet.
CONFIRMED = "confirmed"
#: A person left boxes with a draft: nothing but a person's decision seals it.
BOXES_DRAWN = "boxes-drawn"
#: Share of a box that others must hide for it to count as hidden, by a person and by networks.
COVERED, WHOLLY = 0.9, 0.98
#: Why a box of harmless text is left out where the profile lets it be seen.
HARMLESS = "harmless text, which the profile leaves visible"
#: Boxes that are read at most, the most certain first: films can have thousands.
MOST_READ = 150


class Suggestion(StrEnum):
    """What the profile makes of a found box, before a person decides."""

    SEAL = "seal"
    ASK = "ask"  # too uncertain: a person says
    LEAVE = "leave"  # harmless text, where the profile lets it be seen


@dataclass(frozen=True)
class Devices:
    """What is known of devices when an image of one of them comes in.

    Args:
        source: Who sends the file.
        memories: What people sealed again and again, by device.
    """

    source: str
    memories: Memories = field(default_factory=dict)


@dataclass(frozen=True)
class Beside:
    """What is known beside a file that is looked at.

    Args:
        names: The patient's number and name in the record, to tell a name from a side marker.
        devices: What their images had, to be added to what is found.
        series: Files of its series, to find what stands in all of them.
    """

    names: Sequence[str] = field(repr=False)
    devices: Devices
    series: SeriesFiles | None = None


@dataclass(frozen=True)
class Examined:
    """What a look at a file gave.

    Args:
        columns: Of its catalog row, as far as the file decides them.
        facts: To be sealed with the row; they tell of hidden pixels.
    """

    columns: Mapping[str, Any]
    facts: dict[str, Any] = field(repr=False)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why a person must look; empty where nobody must."""
        return tuple(json.loads(self.columns["reasons"]))


class Examiner:
    """What the detector says of an image under a profile."""

    def __init__(self, context: WorkerContext) -> None:
        self._detector = context.detector
        self._live = context.live
        self.series = SeriesLook(context)

    def profiles(self) -> dict[str, Profile]:
        """Specialty profiles by name."""
        return self._detector.profiles

    def profile(self, name: str | None) -> Profile:
        """One profile; None is the setting's. Raises InputError."""
        try:
            return self._detector.profiles[name or self._live.settings.profile]
        except KeyError as err:
            raise InputError("There is no such specialty profile.") from err

    def padding(self, profile: Profile) -> tuple[float, int]:
        """How far a found box is made larger: a share of its size, and px at least."""
        share, min_px = profile.padding, profile.padding_min_px
        return (
            self._live.settings.padding if share is None else share,
            self._live.settings.padding_min_px if min_px is None else min_px,
        )

    def examine(
        self,
        image: Image,
        profile: Profile,
        beside: Beside,
        watch: Stopwatch,
        tell: Progress,
    ) -> Examined:
        """Look for what must be hidden in a decoded file; nothing is kept."""
        devices = beside.devices
        tell("looking for what must be hidden", 0.2)
        detector = self._detector.running(self._detector.own)  # the same to the end of this look
        with watch.stage("detect"):
            views = views_of(image)
            detections, reasons = self.find(
                image, views, profile, lambda stage, share: tell(stage, 0.2 + 0.6 * share), detector
            )
            standing, count, failed = self._standing(image, views, profile, beside.series, detector)
            detections = [*detections, *standing_beside(standing, detections)]
            # Why a person must look is for the image's own boxes to say: where its noise alone
            # agrees with what stands in the others, there may be nothing in it.
            if failed and "detector-failed" not in reasons:
                reasons = [*reasons, "detector-failed"]
        with watch.stage("shadow"):
            shadow = looked(
                detector, lambda other: self.find(image, views, profile, _silent, other)
            )
            if shadow is not None and not shadow.failed:
                more = standing_beside(standing, shadow.detections)
                shadow = replace(shadow, detections=(*shadow.detections, *more))
        device = device_parts(devices.source, image, images.device_facts(image))
        memory = devices.memories.get(device_id(device))
        if memory is not None:
            size = (image.width, image.height, image.frames)
            more, asked = remembered(memory, detections, size, profile.proposal_confidence)
            detections = [*detections, *more]
            reasons = [*reasons, "remembered"] if asked else reasons
            if shadow is not None and not shadow.failed:
                own = list(shadow.detections)
                more, asked = remembered(memory, own, size, profile.proposal_confidence)
                why = (*shadow.reasons, "remembered") if asked else shadow.reasons
                shadow = replace(shadow, detections=(*own, *more), reasons=why)
        tell("reading text", 0.8)
        with watch.stage("read"):
            known = [*beside.names, *images.identifiers(image)]
            judged = self.judged(views, detections, known)
        found = self._examined(image, profile, detections, reasons, judged)
        known_of_it = {
            "device": device,
            "detector": detector.version,
            "series_count": count,
            "shadow": shadow.to_json() if shadow else None,
        }
        return replace(found, facts={**found.facts, **known_of_it})

    def _standing(
        self,
        image: Image,
        views: Sequence[View],
        profile: Profile,
        series: SeriesFiles | None,
        detector: Detector,
    ) -> tuple[list[Detection], int, bool]:
        """As :meth:`SeriesLook.seen`, and whether a network failed."""
        try:
            return *self.series.seen(series, image, views, profile, detector), False
        except DetectorError:
            log.exception("detector failed at a series")
            return [], 0, True

    def unseen(self, image: Image, profile: Profile) -> Examined:
        """A decoded file in which nothing has been looked for yet, so that a person must look."""
        return self._examined(image, profile, [], [NOT_LOOKED_AT], [])

    def _examined(
        self,
        image: Image,
        profile: Profile,
        detections: Sequence[Detection],
        reasons: Sequence[str],
        judged: Sequence[Judgement | None],
    ) -> Examined:
        columns = {
            "state": str(ImageState.REVIEW if reasons else ImageState.DRAFT),
            "format": str(image.format),
            "modality": str(image.properties.get("modality", "")),
            "profile": profile.name,
            "width": image.width,
            "height": image.height,
            "frames": image.frames,
            # An exact size is computed from hidden pixels: who can render guesses of a name
            # and code them alike could compare. The exact one is sealed with the facts.
            "size_bytes": pad_length(len(image.data)),
            "reasons": json.dumps(reasons),
            "confidence": min((coarse_confidence(d.confidence) for d in detections), default=None),
            "region_count": len(detections),
        }
        facts = {
            "name": image.name,
            "detections": [d.to_json() for d in detections],
            "hints": images.patient_hints(image),
            "study": images.study_facts(image),
            "size_bytes": len(image.data),
            "decoded_bytes": image.pixels.nbytes,
            "still_visible": [],
            "detector": "",
            "series_count": 0,
            **verdict_facts(detections, judged),
        }
        return Examined(columns, facts)

    def find(
        self,
        image: Image,
        views: Sequence[View],
        profile: Profile,
        progress: Progress,
        detector: Detector,
    ) -> tuple[list[Detection], list[str]]:
        """Detections, and why a person must look."""
        try:
            detections = merge(
                pipeline.look(
                    views,
                    lambda view: detector.detect(
                        view.picture, view.frames, profile, progress, view.scene
                    ),
                ),
                profile.iou,
            )
        except DetectorError:
            log.exception("detector failed")
            return pipeline.sealed_whole(image), ["detector-failed"]
        whole = pipeline.sealed_whole(image)
        hidden = {f for box in whole for f in range(box.region.frame, box.region.frame_end)}
        if not detections and len(hidden) < image.frames:
            return whole, ["nothing-found"]
        if not all(profile.seals(d) for d in detections) and not self._small(
            image, detections, profile
        ):
            return [*whole, *detections], ["proposals"]
        return [*whole, *detections], []

    def _small(self, image: Image, detections: Sequence[Detection], profile: Profile) -> bool:
        """Is all doubt so small that it is sealed instead of asked about?

        Only beside something certain: a picture with nothing but specks is one in which nothing
        was found.
        """
        doubtful = [d.region for d in detections if not profile.seals(d)]
        if not profile.small_doubt or len(doubtful) == len(detections):
            return False
        width, height = image.width, image.height
        # Of a film as if all frames lay on one another: what is doubted on each adds up.
        flat = (r.padded(*self.padding(profile)).on_frames(0) for r in doubtful)
        masks = [mask for r in flat if (mask := r.clipped(width, height)) is not None]
        for x1, y1, x2, y2 in profile.diagnostic_regions:
            part = Region(
                int(x1 * width), int(y1 * height), math.ceil(x2 * width), math.ceil(y2 * height)
            )
            if any(part.intersection_px(mask) for mask in masks):
                return False
        covered = union_area_px([mask.xyxy for mask in masks])
        return covered <= profile.small_doubt * width * height

    def judged(
        self, views: Sequence[View], detections: Sequence[Detection], names: Sequence[str]
    ) -> list[Judgement | None]:
        """A judgement for each box of text, None for all others. Only the verdict is kept.

        A reader that fails keeps nobody from sealing: what was not read is unknown, and sealed.
        """
        known = Known.of(names)
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
                for i, found in zip(places, self._read(views, frame, regions, known), strict=True):
                    judged[i] = found
        except DetectorError:
            log.exception("reading text failed")
            return [UNKNOWN if d.label == "text" else None for d in detections]
        return judged

    def _read(
        self, views: Sequence[View], frame: int, regions: Sequence[Region], known: Known
    ) -> list[Judgement]:
        """Judgements of one frame, by what can be seen of it in every view that holds it."""
        judged: list[Judgement] = []
        for view in views:
            if frame in view.numbers:
                place = view.numbers.index(frame)
                flat = [region.on_frames(frame) for region in regions]
                seen = self._detector.judge(view.picture(place), view.placed(flat), known)
                judged = [_both(*j) for j in zip(judged, seen, strict=True)] if judged else seen
        # A box over many frames may hide another text on one of them: it is never harmless.
        return [
            UNKNOWN if j.verdict is TextVerdict.HARMLESS and r.frame_count > 1 else j
            for j, r in zip(judged, regions, strict=True)
        ]


def standing_beside(standing: Sequence[Detection], found: Sequence[Detection]) -> list[Detection]:
    """What stands in a series and is not found in the image already.

    Both stay: what was found in the image itself may reach further.
    """
    hidden = [d.region for d in found]
    return [d for d in standing if d.region.hidden_share(hidden) < WHOLLY]


def _silent(stage: str, share: float) -> None:
    pass


def device_parts(
    source: str, image: Image, device: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """What names the device of an image, the kind of its images and their layout, with the values.

    Args:
        source: Who sends the file, where it does not say which device made it.
        device: What the file says of it.
    """
    size = ("size", f"{image.width} x {image.height}")
    if not device:
        return ("source", source), ("kind", str(image.format)), size
    modality = str(image.properties.get("modality", ""))
    return ("modality", modality), *device.items(), size


def with_verdicts(facts: Mapping[str, Any]) -> tuple[Detection, ...]:
    """A draft's boxes; what was found later than at intake has not been read."""
    boxes = [Detection.from_json(d) for d in facts["detections"] + facts["still_visible"]]
    verdicts = facts.get("verdicts", [])
    verdicts = verdicts + [None] * (len(boxes) - len(verdicts))
    return tuple(
        replace(d, verdict=None if v is None else TextVerdict(v))
        for d, v in zip(boxes, verdicts, strict=True)
    )


def suggestions(
    detections: Sequence[Detection], profile: Profile, reasons: Sequence[str]
) -> list[Suggestion]:
    """What the profile makes of each found box.

    Args:
        reasons: Why a person must look; where there is none, what is uncertain is small, and
            sealed.
    """
    visible = profile.harmless_text == "visible"
    unsure = Suggestion.ASK if reasons else Suggestion.SEAL
    return [
        Suggestion.LEAVE
        if visible and d.verdict is TextVerdict.HARMLESS
        else Suggestion.SEAL
        if profile.seals(d)
        else unsure
        for d in detections
    ]


def sorted_out(
    found: Sequence[Detection], profile: Profile, reasons: Sequence[str]
) -> tuple[list[Detection], list[Detection], dict[int, str]]:
    """Found boxes by what the profile makes of them, for where nobody is asked.

    Args:
        reasons: As for :func:`suggestions`.

    Returns:
        Those to seal, those to ask about, and the reasons of those that are left, by their place.
    """
    what = suggestions(found, profile, reasons)
    paired = list(zip(found, what, strict=True))
    return (
        [d for d, s in paired if s is Suggestion.SEAL],
        [d for d, s in paired if s is Suggestion.ASK],
        {i: HARMLESS for i, s in enumerate(what) if s is Suggestion.LEAVE},
    )


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
    }  # fmt: skip
