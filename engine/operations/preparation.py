"""One draft made ready for release, without a catalog: sealed, proven, looked at again, stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engine import metrics
from engine.detection import Profile
from engine.errors import DetectorError, InputError, ReviewNeeded
from engine.formats import images
from engine.formats.views import views_of
from engine.metrics import Look
from engine.operations.context import WorkerContext
from engine.operations.examination import (
    COVERED,
    HARMLESS,
    Examiner,
    Progress,
    sorted_out,
    with_verdicts,
)
from engine.operations.guard import log
from engine.operations.series import SERIES, SeriesFiles
from engine.operations.shadow import Shadow
from engine.records import Detection, Image, SealedRegion, TextVerdict
from engine.seal import pipeline
from engine.seal.pipeline import Sealed, Stopwatch, Subject
from engine.store.audit import Event
from engine.store.catalog import DraftRow
from engine.vault import seal_field

MOST_BOXES = 500
#: How often an unwatched batch looks again before it asks a person.
_ROUNDS = 3


@dataclass(frozen=True)
class Prepared:
    """A sealed image whose files are written and that no row knows of yet.

    Args:
        regions: Each with its first byte in the container, its confidence and time coarse.
        columns: Of the image's row; coarse where they tell of hidden pixels.
        facts: To be sealed with it; they tell of hidden pixels.
        corrections: What was done with the boxes, for the log.
        look: What it says of the first answer.
        shadow: For the log: a candidate beside what a person decided.
        shadow_look: What it says of the candidate's answer; ``NOBODY`` where there is none, or who
            decided was not shown the picture.
    """

    regions: tuple[tuple[SealedRegion, int], ...]
    columns: Mapping[str, Any]
    facts: Mapping[str, Any] = field(repr=False)
    corrections: tuple[Event, ...]
    look: Look = Look.NOBODY
    shadow: Event | None = None
    shadow_look: Look = Look.NOBODY

    @property
    def addresses(self) -> list[str]:
        """Files that were written for it."""
        return [at for name, at in self.columns.items() if name.endswith("_blob")]


@dataclass(frozen=True)
class OpenedDraft:
    """A draft as it is sealed.

    Args:
        facts: What is known of it besides its row; they tell of hidden pixels.
        image: Decoded once, when it was opened or taken in.
        names: The patient's number and name in the record.
        series: Files of its series, where more are known than when it was looked at.
    """

    row: DraftRow
    facts: dict[str, Any] = field(repr=False)
    image: Image = field(repr=False)
    names: Sequence[str] = field(repr=False)
    series: SeriesFiles | None = None


@dataclass(frozen=True)
class Decision:
    """What a person, or a batch, decided about a draft.

    Args:
        boxes: Found ones that are unchanged keep their source and are padded; a person's own
            are taken as drawn.
        removed: For each found box that is not among them, its place in the draft's list and
            the reason why it may stay visible.
        confirm: The reason to go on although the draft says that a person must look.
        adopt: Seal too what the second look finds, and look again, instead of asking a person.
        automatic: Nobody has looked: the boxes are those that the profile proposes.
        shown: Who decided was shown the picture.
    """

    boxes: Sequence[Detection]
    removed: Mapping[int, str]
    confirm: str = ""
    adopt: bool = False
    automatic: bool = False
    shown: bool = False


class SentBack(Exception):
    """The second look found something, or failed; the draft has to say so.

    Args:
        why: A key of ``REASONS``.
        found: What can still be seen.
    """

    def __init__(self, why: str, found: Sequence[Detection] = ()) -> None:
        super().__init__(why)
        self.why, self.found = why, tuple(found)


class Preparer:
    """Seals a draft and proves it; rows come after."""

    def __init__(self, context: WorkerContext, examiner: Examiner) -> None:
        self._detector = context.detector
        self._host = context.host
        self._live = context.live
        #: Also for those who examine a file before it is sealed.
        self.examiner = examiner

    def prepare(
        self, draft: OpenedDraft, subject: Subject, decision: Decision, tell: Progress
    ) -> Prepared:
        """Everything about sealing but the rows: boxes, encryption, the second look, files.

        Raises:
            SentBack: The second look found something, or failed.
            ReviewNeeded: A person must look first, and nobody confirmed.
            InputError: A box that cannot be, or a removed one without a reason.
            RestoreMismatch: The way back could not be proven.
        """
        watch = Stopwatch(self._host)
        row, facts = draft.row, draft.facts
        profile = self.examiner.profile(row.profile)
        wanted, reasons, corrections, left_out = heeded(row, facts, profile, decision)
        look = self._look(draft, profile, wanted, decision)
        beside = self._beside(draft, profile, wanted, decision)
        shadow = _compared(draft, beside, look)
        tell("sealing", 0.1)
        recipients = self._live.recipients(self._host.now())
        for rounds_left in reversed(range(_ROUNDS if decision.adopt else 1)):
            # Whoever takes such a box away takes it away for nothing.
            boxes = [*wanted, *pipeline.sealed_whole(draft.image)]
            planned = pipeline.plan(draft.image, boxes, *self.examiner.padding(profile))
            sealed = pipeline.seal(
                draft.image, planned, subject, self._host, self._live.limits, recipients
            )
            tell("looking again", 0.5)
            with watch.stage("rescan"):
                new = self._still_visible(draft, left_out, profile, sealed)
                new = self._not_harmless(draft, new, profile, sealed)
            if not new:
                break
            if not rounds_left:
                raise SentBack("still-visible", new)
            wanted += new
            corrections += [event("box.adopt", row, d) for d in new]
            if look is not Look.NOBODY and any(d.source == SERIES for d in new):
                look = Look.MISSED
        tell("measuring", 0.8)
        with watch.stage("assess"):
            assessment = self._assess(draft.image, sealed)
        doubted = [d for d in wanted if d.source != "person" and not profile.seals(d)]
        if doubted and not reasons:
            reasons = ["small-doubt"]
        review = {
            "assessment": assessment,
            "reasons": reasons,
            "confirm": decision.confirm.strip(),
            "automatic": decision.automatic,
            "rescanned_by": self._detector.version if profile.rescan else "",
            "sides": facts.get("sides", []),
        }
        written = self._written(draft, subject, sealed, review, corrections, watch)
        return replace(written, look=look, shadow=shadow, shadow_look=beside)

    def _look(
        self,
        draft: OpenedDraft,
        profile: Profile,
        final: Sequence[Detection],
        decision: Decision,
    ) -> Look:
        """Would anything that a person hides be visible, had nobody looked?"""
        if decision.automatic:
            return Look.NOBODY
        found = with_verdicts(draft.facts)
        sealed, _, _ = sorted_out(found, profile, draft.row.reasons)
        # What the second look finds is sealed too where nobody is asked.
        # But for what only slices showed that came later: nobody would have waited for them.
        seen = {Detection.from_json(d) for d in draft.facts["still_visible"]}
        seen = {d for d in seen if d.source != SERIES}
        if self._leaves(draft, profile, [*sealed, *seen], final):
            return Look.MISSED
        return Look.CLEAN if decision.shown else Look.UNSEEN

    def _leaves(
        self,
        draft: OpenedDraft,
        profile: Profile,
        sealed: Sequence[Detection],
        final: Sequence[Detection],
    ) -> bool:
        """Would these boxes leave anything visible that a person hides?"""
        planned = pipeline.plan(draft.image, sealed, *self.examiner.padding(profile))
        hidden = [mask.region for mask in planned]
        return any(d.region.hidden_share(hidden) < COVERED for d in final)

    def _beside(
        self,
        draft: OpenedDraft,
        profile: Profile,
        final: Sequence[Detection],
        decision: Decision,
    ) -> Look:
        """As :meth:`_look`, of the answer of a version that looked in the shadow."""
        shadow = Shadow.of(draft.facts)
        if shadow is None or decision.automatic:
            return Look.NOBODY
        sealed, _, _ = sorted_out(shadow.detections, profile, shadow.reasons)
        if shadow.failed or self._leaves(draft, profile, sealed, final):
            return Look.MISSED
        return Look.CLEAN if decision.shown else Look.NOBODY

    def _still_visible(
        self, draft: OpenedDraft, left_out: Sequence[Detection], profile: Profile, sealed: Sealed
    ) -> list[Detection]:
        """Search the masked picture, and what stands in its series, for what no person has left
        visible with a reason."""
        if not profile.rescan:
            return []
        masked = sealed.masked_image
        try:
            hidden = [r.detection.region for r, _ in sealed.regions]
            left = pipeline.look(
                views_of(masked, hidden),
                lambda view: self._detector.rescan(
                    view.picture, view.frames, view.placed(hidden), profile, view.scene
                ),
            )
            views = views_of(draft.image) if draft.series else []
            standing, _ = self.examiner.series.seen(
                draft.series, draft.image, views, profile, self._detector
            )
            left += [d for d in standing if d.region.hidden_share(hidden) < COVERED]
        except DetectorError as err:
            if "detector-failed" in draft.row.reasons:
                return []  # a person drew and confirmed every box, knowing that none could run
            log.exception("detector failed at the second look")
            raise SentBack("detector-failed") from err
        return [d for d in left if not _covered(d, [o for o in left_out if o.label == d.label])]

    def _not_harmless(
        self, draft: OpenedDraft, new: list[Detection], profile: Profile, sealed: Sealed
    ) -> list[Detection]:
        """What the second look found, without text that the profile leaves visible."""
        if not new or profile.harmless_text != "visible":
            return new
        names = [*draft.names, *images.identifiers(draft.image)]
        hidden = [r.detection.region for r, _ in sealed.regions]
        judged = self.examiner.judged(views_of(sealed.masked_image, hidden), new, names)
        return [
            d
            for d, j in zip(new, judged, strict=True)
            if j is None or j.verdict is not TextVerdict.HARMLESS
        ]

    def _assess(self, image: Image, sealed: Sealed) -> dict[str, Any]:
        middle = image.frames // 2
        # Otherwise pixels that nobody touched could count as changed.
        before, after = images.alike(image, sealed.masked_image, middle)
        return pipeline.assessment_to_json(
            metrics.assess(
                image.pixels,
                sealed.masked_image.pixels,
                sealed.ciphertexts(),
                [r.detection.region for r, _ in sealed.regions],
                before,
                after,
            )
        )

    def _written(
        self,
        draft: OpenedDraft,
        subject: Subject,
        sealed: Sealed,
        review: Mapping[str, Any],
        corrections: Sequence[Event],
        watch: Stopwatch,
    ) -> Prepared:
        """Write the files of a sealed image; its rows come after."""
        image = draft.image
        picture = images.displayed(sealed.masked_image)
        boxes = [r.detection for r, _ in sealed.regions]
        parts = {
            "masked": sealed.stored,
            "thumbnail": images.thumbnail(picture),
        }
        with watch.stage("store"):
            blobs = {"sealed_blob": self._host.write_blob(sealed.container)}
            stored = len(sealed.container)
            for part, content in parts.items():
                content = seal_field(subject.key, subject.context(part), content, self._host.random)
                stored += len(content)
                blobs[f"{part}_blob"] = self._host.write_blob(content)
        times = {
            **draft.row.times_ms,
            **draft.facts.get("times_ms", {}),
            **sealed.times_ms,
            **watch.times_ms,
        }
        facts = {
            "name": draft.facts["name"],
            "folder": draft.facts.get("folder", ""),
            "device": draft.facts.get("device", []),
            "detector": draft.facts.get("detector", ""),
            "size_bytes": len(image.data),
            "decoded_bytes": image.pixels.nbytes,
            "masked_digest": hashlib.sha256(sealed.masked).hexdigest(),
            "pixel_digest": sealed.pixel_digest.hex(),
            "file_digest": sealed.file_digest.hex(),
            "identical_bytes": sealed.identical_bytes,
            "remainder_start": sealed.remainder_start,
            "times_ms": times,
            "confidences": [d.confidence for d in boxes],
            "encrypt_ms": [r.encrypt_ms for r, _ in sealed.regions],
            "properties": {k: v for k, v in image.properties.items() if _is_plain(v)},
            **review,
        }
        scores = [metrics.coarse_confidence(d.confidence) for d in boxes if d.source != "person"]
        columns = {
            "stored_bytes": stored,
            "reasons": json.dumps(review["reasons"]),
            "confidence": min(scores, default=None),
            "region_count": len(boxes),
            "times_ms": json.dumps(metrics.coarse_times(times)),
            **blobs,
        }
        coarse = tuple((_coarse(region), start) for region, start in sealed.regions)
        return Prepared(coarse, columns, facts, tuple(corrections))


def heeded(
    row: DraftRow, facts: Mapping[str, Any], profile: Profile, decision: Decision
) -> tuple[list[Detection], list[str], list[Event], list[Detection]]:
    """A decision held against its draft, as far as that needs no picture.

    Returns:
        Boxes to seal, why a person had to look, what was done with boxes for the log, and found
        boxes that are left visible for a reason.

    Raises:
        ReviewNeeded: A person must look first, and nobody confirmed.
        InputError: A box that cannot be, or a removed one without a reason.
    """
    found = [Detection.from_json(d) for d in facts["detections"] + facts["still_visible"]]
    wanted = _believed(decision.boxes, found, profile, row)
    reasons = list(row.reasons)
    if not wanted and "nothing-found" not in reasons:
        reasons.append("nothing-found")
    if reasons and not decision.confirm.strip():
        raise ReviewNeeded(
            "This image must be reviewed before it is sealed.",
            image_id=row.image_id,
            reasons=reasons,
        )
    corrections, left_out = _corrections(row, found, wanted, decision.removed)
    return wanted, reasons, corrections, left_out


def _compared(draft: OpenedDraft, beside: Look, look: Look) -> Event | None:
    """For the log: what a person decided, held against a candidate and the one in force."""
    shadow = Shadow.of(draft.facts)
    if shadow is None or beside is Look.NOBODY:
        return None
    detail = {
        "version": shadow.version,
        "in_force": draft.facts.get("detector", ""),
        "missed": beside is Look.MISSED,
        "missed_in_force": look is Look.MISSED,
    }
    return replace(event("shadow.decide", draft.row), detail=detail)


def _coarse(region: SealedRegion) -> SealedRegion:
    found = region.detection
    return replace(
        region,
        detection=replace(found, confidence=metrics.coarse_confidence(found.confidence)),
        encrypt_ms=metrics.coarse_ms(region.encrypt_ms),
    )


def _believed(
    given: Sequence[Detection], found: Sequence[Detection], profile: Profile, row: DraftRow
) -> list[Detection]:
    """The boxes a caller sent, without what only the detector may say.

    What is not among the found boxes is a person's own, whatever it claims: it would
    otherwise choose its padding, its confidence and words for the log.

    Raises:
        InputError: Too many, an unknown class, or outside the image.
    """
    if len(given) > MOST_BOXES:
        raise InputError(f"Too many boxes. The limit is {MOST_BOXES} per image.")
    known = set(found)
    labels = {*profile.classes, *(d.label for d in found)}
    for detection in given:
        if detection.label not in labels:
            raise InputError(
                "The class of a box is not part of this profile. Choose another class."
            )
        if detection.region.clipped(row.width, row.height, row.frames) is None:
            raise InputError("A box is outside the image. Move or remove it.")
    return [d if d in known else replace(d, source="person", confidence=1.0) for d in given]


def _corrections(
    row: DraftRow,
    found: Sequence[Detection],
    final: Sequence[Detection],
    removed: Mapping[int, str],
) -> tuple[list[Event], list[Detection]]:
    """Audit events for boxes taken away, changed or added, and the boxes left out for a reason.

    Raises:
        InputError: A found box is no longer covered, and no reason was given.
    """
    known, kept = set(found), set(final)
    events, left_out = [], []
    for place, detection in enumerate(found):
        if detection in kept:
            continue
        if _covered(detection, final):
            events.append(event("box.change", row, detection))
            continue
        reason = removed.get(place, "").strip()
        if not reason:
            raise InputError(
                "Give a reason for each detected box that you removed or made smaller.", place=place
            )
        left_out.append(detection)
        action = "box.leave" if reason == HARMLESS else "box.remove"
        events.append(replace(event(action, row, detection), reason=reason))
    events += [event("box.add", row, d) for d in final if d not in known]
    # By place: the draft's order is that of the confidences.
    events.sort(key=_place)
    return events, left_out


def _place(change: Event) -> list[int]:
    detail = change.detail or {}
    return [detail[name] for name in ("frame", "y1", "x1", "y2", "x2")]


def _covered(detection: Detection, others: Sequence[Detection]) -> bool:
    """Do others hide nearly all of a box, on every frame it is on?"""
    return detection.region.hidden_share([o.region for o in others]) >= COVERED


def event(action: str, row: DraftRow, box: Detection | None = None, outcome: str = "ok") -> Event:
    """For the log: what happened to an image, or to a box on it."""
    return Event(
        action,
        outcome,
        patient_id=row.patient_id,
        image_id=row.image_id,
        detail=None if box is None else metrics.coarse_log(box.to_json()),
    )


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
