"""Technician's day, second half: boxes decided, images sealed. Fails closed at every step."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np

from engine import metrics
from engine.detection import Profile
from engine.errors import DetectorError, InputError, ReviewNeeded
from engine.formats import images
from engine.permissions import Permission
from engine.records import (
    Caller,
    Detection,
    Image,
    ImageRecord,
    ImageState,
    SealedRegion,
    TextVerdict,
)
from engine.seal import pipeline
from engine.seal.pipeline import Sealed, Stopwatch, Subject, detection_from_json, detection_to_json
from engine.service.guard import log, needs
from engine.service.intake import HARMLESS, REASONS, Intake, Progress
from engine.store.audit import Event
from engine.store.database import Cursor, Row
from engine.vault import derive, open_field, seal_field

#: Share of a found box that other boxes must hide for it to count as changed, not removed.
COVERED = 0.9
MOST_BOXES = 500
#: How often an unwatched batch looks again before it asks a person.
_ROUNDS = 3


@dataclass(frozen=True)
class Prepared:
    """A sealed image whose files are written and that no row knows of yet.

    Args:
        regions: Each with its first byte in the container.
        columns: Of the image's row.
        facts: To be sealed with it; they tell of hidden pixels.
        corrections: What was done with the boxes, for the log.
    """

    regions: tuple[tuple[SealedRegion, int], ...]
    columns: Mapping[str, Any]
    facts: Mapping[str, Any] = field(repr=False)
    corrections: tuple[Event, ...]


class Sealing(Intake):
    """Methods of the Engine."""

    @needs(Permission.UPLOAD)
    def seal(
        self,
        caller: Caller,
        image_id: str,
        detections: Sequence[Detection],
        removed: Mapping[int, str] | None = None,
        confirm: str = "",
        adopt: bool = False,
        progress: Progress | None = None,
    ) -> ImageRecord:
        """Seal a draft: from here on nobody without permission sees what is under a box.

        Args:
            detections: The boxes a person decided on. Found ones that are unchanged keep
                their source and are padded; a person's own are taken as drawn.
            removed: For each found box that is not among them, its place in the draft's
                list and the reason why it may stay visible.
            confirm: A person's reason to go on although the draft says they must look.
            adopt: Seal too what the second look finds, and look again, instead of asking
                a person each time: for batches that nobody watches.

        Raises:
            ReviewNeeded: A person must look (again): ``facts['reasons']``, and what the
                second look still saw in ``facts['found']``. The draft stays.
            RestoreMismatch: The way back could not be proven. The draft stays.
            InputError: A removed box without a reason.
        """
        tell = progress or (lambda stage, share: None)
        row, draft_key, facts = self._draft(self.database.read(), image_id)
        subject, wrapped = self._subject(row)
        prepared = self._prepare(
            caller, row, draft_key, facts, subject, detections, removed or {}, confirm, adopt, tell
        )
        tell("storing", 0.9)
        case = self._missed_case(row, draft_key, facts, prepared)
        with self.database.write() as tx:
            self._release(tx, caller, row, draft_key, subject, wrapped, prepared)
            if case is not None:
                self.training.add(tx, case)
                kept = event("training.keep", row)
                self.audit.append(tx, caller, replace(kept, detail={"case": case["case_id"]}))
        self.viewings.close_subject(image_id)
        self.host.delete_blob(row["draft_blob"])
        tell("sealed", 1.0)
        return self._record(image_id)

    def _missed_case(
        self, row: Row, draft_key: bytes, facts: Mapping[str, Any], prepared: Prepared
    ) -> dict[str, Any] | None:
        """Material to learn from, where somebody flagged the image and the setting allows it."""
        if not self.settings.keep_missed or "flagged" not in json.loads(row["reasons"]):
            return None
        context = f"image/{row['image_id']}/{row['version']}/draft"
        original = open_field(draft_key, context, self.host.read_blob(row["draft_blob"]))
        after = [detection_to_json(r.detection) for r, _ in prepared.regions]
        return self.training.write(row, original, facts["detections"], after)

    def _prepare(
        self,
        caller: Caller,
        row: Row,
        draft_key: bytes,
        facts: dict[str, Any],
        subject: Subject,
        detections: Sequence[Detection],
        removed: Mapping[int, str],
        confirm: str,
        adopt: bool,
        tell: Progress,
    ) -> Prepared:
        """Everything about sealing but the rows: boxes, encryption, the second look, files."""
        watch = Stopwatch(self.host)
        found = [detection_from_json(d) for d in facts["detections"] + facts["still_visible"]]
        profile = self.profile(row["profile"])
        wanted = _believed(detections, found, profile, row)
        reasons = json.loads(row["reasons"])
        if not wanted and "nothing-found" not in reasons:
            reasons.append("nothing-found")
        if reasons and not confirm.strip():
            raise ReviewNeeded(
                "A person must look at this image before it is sealed.",
                image_id=row["image_id"],
                reasons=reasons,
            )
        corrections, left_out = _corrections(row, found, wanted, removed)
        image = self._in_memory(caller, row) or self._draft_image(row, draft_key, facts)
        tell("sealing", 0.1)
        for rounds_left in reversed(range(_ROUNDS if adopt else 1)):
            planned = pipeline.plan(image, wanted, *self._padding(profile))
            sealed = pipeline.seal(image, planned, subject, self.host, self.limits)
            tell("looking again", 0.5)
            with watch.stage("rescan"):
                new = self._still_visible(caller, row, draft_key, facts, left_out, profile, sealed)
                new = self._not_harmless(image, row, new, profile, sealed)
            if not new:
                break
            if not rounds_left:
                self._back_to_review(caller, row, draft_key, facts, new, "still-visible")
            wanted += new
            corrections += [event("box.adopt", row, d) for d in new]
        tell("measuring", 0.8)
        with watch.stage("assess"):
            assessment = self._assess(image, sealed)
        review = {
            "assessment": assessment,
            "reasons": reasons,
            "confirm": confirm.strip(),
            "sides": facts.get("sides", []),
        }
        return self._written(row, subject, facts["name"], image, sealed, review, corrections, watch)

    def _still_visible(
        self,
        caller: Caller,
        row: Row,
        draft_key: bytes,
        facts: dict[str, Any],
        left_out: Sequence[Detection],
        profile: Profile,
        sealed: Sealed,
    ) -> list[Detection]:
        """Search the masked picture for what no person has left visible with a reason."""
        if not profile.rescan:
            return []
        masked = sealed.masked_image
        try:
            hidden = [r.detection.region for r, _ in sealed.regions]
            left = pipeline.look(
                masked,
                lambda frame: self.detector.rescan(frame, masked.frames, hidden, profile),
            )
        except DetectorError:
            if "detector-failed" in json.loads(row["reasons"]):
                return []  # a person drew and confirmed every box, knowing that none could run
            log.exception("detector failed at the second look")
            self._back_to_review(caller, row, draft_key, facts, [], "detector-failed")
        return [d for d in left if not _covered(d, [o for o in left_out if o.label == d.label])]

    def _not_harmless(
        self,
        image: Image,
        row: Row,
        new: list[Detection],
        profile: Profile,
        sealed: Sealed,
    ) -> list[Detection]:
        """What the second look found, without text that the profile leaves visible."""
        if not new or profile.harmless_text != "visible":
            return new
        judged = self._judged(sealed.masked_image, new, self._known(image, row["patient_id"]))
        return [
            d
            for d, j in zip(new, judged, strict=True)
            if j is None or j.verdict is not TextVerdict.HARMLESS
        ]

    def _back_to_review(
        self,
        caller: Caller,
        row: Row,
        draft_key: bytes,
        facts: dict[str, Any],
        new: Sequence[Detection],
        why: str,
    ) -> NoReturn:
        """Keep what was found with the draft and ask a person.

        If somebody released the image meanwhile, it is withdrawn: they did not know this.
        """
        image_id = row["image_id"]
        facts["still_visible"] += [detection_to_json(d) for d in new]
        reasons = sorted({*json.loads(row["reasons"]), why})
        columns: dict[str, Any] = {
            "state": str(ImageState.REVIEW),
            "reasons": json.dumps(reasons),
            "facts": self._seal_facts(draft_key, image_id, row["version"], facts),
        }
        with self.database.write() as tx:
            key = draft_key
            if self.catalog.row(tx, image_id)["tag"] != row["tag"]:
                key = self.hierarchy.image_key(tx, image_id)
                released = self.catalog.row(tx, image_id)["state"] == ImageState.RELEASED
                columns = {"state": str(ImageState.WITHDRAWN)} if released else {}
            tag = self.catalog.change(tx, key, image_id, **columns) if columns else None
            refused = event("image.seal", row, outcome="refused")
            detail = {"why": reasons, "still_visible": len(new), "tag": tag}
            self.audit.append(tx, caller, replace(refused, detail=detail))
        self.viewings.close_subject(image_id)
        raise ReviewNeeded(REASONS[why], image_id=image_id, reasons=reasons, found=list(new))

    def _assess(self, image: Image, sealed: Sealed) -> dict[str, Any]:
        middle = image.frames // 2
        # Both at the original's window: the masks' own tone would shift one taken from content,
        # and pixels that nobody touched would count as changed.
        window = images.content_window(image, middle)
        return pipeline.assessment_to_json(
            metrics.assess(
                image.pixels,
                sealed.masked_image.pixels,
                sealed.ciphertexts(),
                [r.detection.region for r, _ in sealed.regions],
                images.render(image, middle, window),
                images.render(sealed.masked_image, middle, window),
            )
        )

    def _written(
        self,
        row: Row,
        subject: Subject,
        name: str,
        image: Image,
        sealed: Sealed,
        review: Mapping[str, Any],
        corrections: Sequence[Event],
        watch: Stopwatch,
    ) -> Prepared:
        """Write the files of a sealed image; its rows come after."""
        picture = images.render(sealed.masked_image, 0)
        boxes = [r.detection for r, _ in sealed.regions]
        parts = {
            "masked": sealed.stored,
            "thumbnail": images.thumbnail(picture),
        }
        with watch.stage("store"):
            blobs = {"sealed_blob": self.host.write_blob(sealed.container)}
            stored = len(sealed.container)
            for part, content in parts.items():
                content = seal_field(subject.key, subject.context(part), content, self.host.random)
                stored += len(content)
                blobs[f"{part}_blob"] = self.host.write_blob(content)
        facts = {
            "name": name,
            "size_bytes": len(image.data),
            "masked_digest": hashlib.sha256(sealed.masked).hexdigest(),
            "pixel_digest": sealed.pixel_digest.hex(),
            "file_digest": sealed.file_digest.hex(),
            "identical_bytes": sealed.identical_bytes,
            "remainder_start": sealed.remainder_start,
            "properties": {k: v for k, v in image.properties.items() if _is_plain(v)},
            **review,
        }
        times = {**json.loads(row["times_ms"]), **sealed.times_ms, **watch.times_ms}
        scores = [d.confidence for d in boxes if d.source != "person"]
        columns = {
            "stored_bytes": stored,
            "reasons": json.dumps(review["reasons"]),
            "confidence": min(scores, default=None),
            "region_count": len(boxes),
            "times_ms": json.dumps(times),
            **blobs,
        }
        return Prepared(sealed.regions, columns, facts, tuple(corrections))

    def _release(
        self,
        tx: Cursor,
        caller: Caller,
        row: Row,
        draft_key: bytes,
        subject: Subject,
        wrapped: bytes,
        prepared: Prepared,
    ) -> None:
        """Rows, tag and log of a sealed image; the draft's key is gone from here on."""
        image_id = subject.image_id
        # Anything that happened to the draft meanwhile, a review above all, comes first.
        if self.catalog.row(tx, image_id)["tag"] != row["tag"]:
            raise ReviewNeeded(
                "Somebody else changed this draft: open it again.",
                image_id=image_id,
                reasons=json.loads(row["reasons"]),
            )
        self.catalog.verify(tx, draft_key, image_id)
        tag = self.catalog.seal(
            tx,
            subject.key,
            image_id,
            prepared.regions,
            wrapped_key=wrapped,
            state=str(ImageState.RELEASED),
            version=subject.version,
            sealed_at=self.host.now(),
            sealed_by=caller.username,
            draft_blob=None,
            facts=self._seal_facts(subject.key, image_id, subject.version, prepared.facts),
            **prepared.columns,
        )
        labels = Counter(r.detection.label for r, _ in prepared.regions)
        self.audit.append(
            tx,
            caller,
            *prepared.corrections,
            Event(
                "image.seal",
                patient_id=row["patient_id"],
                image_id=image_id,
                reason=str(prepared.facts["confirm"]),
                detail={
                    "version": subject.version,
                    "regions": len(prepared.regions),
                    # Which statistics it may be in is decided by what it held then.
                    "labels": dict(labels),
                    "reviewed": prepared.facts["reasons"],
                    "tag": tag,
                },
            ),
        )

    def _subject(self, row: Row) -> tuple[Subject, bytes]:
        """A fresh data key for the sealed image, and its wrapping."""
        patient_key = self.hierarchy.patient_key(self.database.read(), row["patient_id"])
        key, wrapped = self.hierarchy.new_image_key(patient_key, row["image_id"])
        subject = Subject(
            row["image_id"], row["version"] + 1, key, derive(patient_key, "pseudonyms")
        )
        return subject, wrapped


def _believed(
    given: Sequence[Detection], found: Sequence[Detection], profile: Profile, row: Row
) -> list[Detection]:
    """The boxes a caller sent, without what only the detector may say.

    What is not among the found boxes is a person's own, whatever it claims: it would
    otherwise choose its padding, its confidence and words for the log.

    Raises:
        InputError: Too many, an unknown class, or outside the image.
    """
    if len(given) > MOST_BOXES:
        raise InputError(f"At most {MOST_BOXES} boxes can be sealed in one image.")
    known = set(found)
    labels = {*profile.classes, *(d.label for d in found)}
    for detection in given:
        if detection.label not in labels:
            raise InputError("A box has a class that this specialty does not have.")
        if detection.region.clipped(row["width"], row["height"], row["frames"]) is None:
            raise InputError("A box lies outside the image.")
    return [d if d in known else replace(d, source="person", confidence=1.0) for d in given]


def _corrections(
    row: Row, found: Sequence[Detection], final: Sequence[Detection], removed: Mapping[int, str]
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
                "Every found box that is taken away or made smaller needs a reason.", place=place
            )
        left_out.append(detection)
        action = "box.leave" if reason == HARMLESS else "box.remove"
        events.append(replace(event(action, row, detection), reason=reason))
    events += [event("box.add", row, d) for d in final if d not in known]
    return events, left_out


def _covered(detection: Detection, others: Sequence[Detection]) -> bool:
    """Do others hide nearly all of a box, on every frame it is on?"""
    box = detection.region
    over = [
        o.region.xyxy
        for o in others
        if o.region.frame <= box.frame and o.region.frame_end >= box.frame_end
    ]
    return bool(over) and metrics.coverage(box.xyxy, np.asarray(over)) >= COVERED


def event(action: str, row: Row, box: Detection | None = None, outcome: str = "ok") -> Event:
    """For the log: what happened to an image, or to a box on it."""
    return Event(
        action,
        outcome,
        patient_id=row["patient_id"],
        image_id=row["image_id"],
        detail=None if box is None else detection_to_json(box),
    )


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
