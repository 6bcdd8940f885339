"""Technician's day, second half: boxes decided, images sealed. Fails closed at every step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from engine import images, metrics, pipeline
from engine.audit import Event
from engine.database import Row
from engine.detection import Profile
from engine.errors import DetectorError, InputError, ReviewNeeded
from engine.permissions import Permission
from engine.pipeline import Sealed, Stopwatch, Subject, detection_from_json, detection_to_json
from engine.records import Caller, Detection, Image, ImageRecord, ImageState
from engine.service.guard import needs
from engine.service.intake import REASONS, Intake, Progress
from engine.vault import derive, seal_field

#: How often an unwatched batch looks again before it asks a person.
_ROUNDS = 3


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
        watch = Stopwatch(self.host)
        tell = progress or (lambda stage, share: None)
        row, draft_key, facts = self._draft(self.database.read(), image_id)
        found = [detection_from_json(d) for d in facts["detections"] + facts["still_visible"]]
        reasons = json.loads(row["reasons"])
        if not detections and "nothing-found" not in reasons:
            reasons.append("nothing-found")
        if reasons and not confirm.strip():
            raise ReviewNeeded(
                "A person must look at this image before it is sealed.",
                image_id=image_id,
                reasons=reasons,
            )
        corrections = _corrections(row, found, detections, removed or {})
        image = self._draft_image(row, draft_key, facts)
        profile = self.profile(row["profile"])
        subject, wrapped = self._subject(row)
        tell("sealing", 0.1)
        wanted = list(detections)
        for rounds_left in reversed(range(_ROUNDS if adopt else 1)):
            planned = pipeline.plan(image, wanted, *self._padding(profile))
            sealed = pipeline.seal(image, planned, subject, self.host, self.limits)
            tell("looking again", 0.5)
            with watch.stage("rescan"):
                new = self._still_visible(row, facts, profile, planned, sealed)
            if not new:
                break
            if not rounds_left:
                self._back_to_review(caller, row, draft_key, facts, new)
            wanted += new
        tell("measuring", 0.8)
        with watch.stage("assess"):
            assessment = self._assess(image, sealed)
        tell("storing", 0.9)
        record = self._store(
            caller, row, draft_key, subject, wrapped, facts["name"], image, sealed,
            {"assessment": assessment, "reasons": reasons, "confirm": confirm.strip()},
            corrections, watch,
        )  # fmt: skip
        tell("sealed", 1.0)
        return record

    def _still_visible(
        self,
        row: Row,
        facts: Mapping[str, Any],
        profile: Profile,
        planned: Sequence[Detection],
        sealed: Sealed,
    ) -> list[Detection]:
        """Search the masked picture for what no person has been shown yet."""
        if not profile.rescan:
            return []
        masked = sealed.masked_image
        try:
            left = self.detector.rescan(
                lambda i: images.render(masked, i),
                masked.frames,
                [d.region for d in planned],
                profile,
            )
        except DetectorError as err:
            if "detector-failed" in json.loads(row["reasons"]):
                return []  # a person drew and confirmed every box, knowing that none could run
            raise ReviewNeeded(
                REASONS["detector-failed"],
                image_id=row["image_id"],
                reasons=["detector-failed"],
            ) from err
        # What a person was shown before and left visible with a reason is theirs to release.
        seen = [detection_from_json(d) for d in facts["detections"] + facts["still_visible"]]
        return [d for d in left if not any(d.label == s.label and _overlap(d, s) for s in seen)]

    def _back_to_review(
        self,
        caller: Caller,
        row: Row,
        draft_key: bytes,
        facts: dict[str, Any],
        new: Sequence[Detection],
    ) -> NoReturn:
        """Keep what is still visible with the draft and ask a person."""
        image_id = row["image_id"]
        facts["still_visible"] += [detection_to_json(d) for d in new]
        reasons = sorted({*json.loads(row["reasons"]), "still-visible"})
        with self.database.write() as tx:
            self.catalog.change(
                tx,
                draft_key,
                image_id,
                state=str(ImageState.REVIEW),
                reasons=json.dumps(reasons),
                facts=self._seal_facts(draft_key, image_id, row["version"], facts),
            )
            self.audit.append(
                tx,
                caller,
                Event(
                    "image.seal",
                    "refused",
                    patient_id=row["patient_id"],
                    image_id=image_id,
                    detail={"why": reasons, "still_visible": len(new)},
                ),
            )
        self.viewings.close_subject(image_id)
        raise ReviewNeeded(REASONS["still-visible"], image_id=image_id, reasons=reasons, found=new)

    def _assess(self, image: Image, sealed: Sealed) -> dict[str, Any]:
        middle = image.frames // 2
        return pipeline.assessment_to_json(
            metrics.assess(
                image.pixels,
                sealed.masked_image.pixels,
                sealed.ciphertexts(),
                [r.detection.region for r, _ in sealed.regions],
                images.render(image, middle),
                images.render(sealed.masked_image, middle),
            )
        )

    def _store(
        self,
        caller: Caller,
        row: Row,
        draft_key: bytes,
        subject: Subject,
        wrapped: bytes,
        name: str,
        image: Image,
        sealed: Sealed,
        review: Mapping[str, Any],
        corrections: Sequence[Event],
        watch: Stopwatch,
    ) -> ImageRecord:
        """Files first, then one transaction; the draft's file and key go last."""
        image_id = subject.image_id
        picture = images.render(sealed.masked_image, 0)
        boxes = [r.detection for r, _ in sealed.regions]
        parts = {"masked": sealed.masked, "thumbnail": images.thumbnail(picture)}
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
            "pixel_digest": sealed.pixel_digest.hex(),
            "file_digest": sealed.file_digest.hex(),
            "identical_bytes": sealed.identical_bytes,
            "remainder_start": sealed.remainder_start,
            "properties": {k: v for k, v in image.properties.items() if _is_plain(v)},
            **review,
        }
        times = {**json.loads(row["times_ms"]), **sealed.times_ms, **watch.times_ms}
        scores = [d.confidence for d in boxes if d.source != "person"]
        with self.database.write() as tx:
            current, _, _ = self._draft(tx, image_id)
            if current["draft_blob"] != row["draft_blob"]:
                raise ReviewNeeded(
                    "Somebody else changed this draft: open it again.", image_id=image_id
                )
            self.catalog.verify(tx, draft_key, image_id)
            self.catalog.seal(
                tx,
                subject.key,
                image_id,
                sealed.regions,
                wrapped_key=wrapped,
                state=str(ImageState.RELEASED),
                version=subject.version,
                stored_bytes=stored,
                sealed_at=self.host.now(),
                sealed_by=caller.username,
                reasons=json.dumps(review["reasons"]),
                confidence=min(scores, default=None),
                region_count=len(boxes),
                times_ms=json.dumps(times),
                draft_blob=None,
                facts=self._seal_facts(subject.key, image_id, subject.version, facts),
                **blobs,
            )
            self.audit.append(
                tx,
                caller,
                *corrections,
                Event(
                    "image.seal",
                    patient_id=row["patient_id"],
                    image_id=image_id,
                    reason=str(review["confirm"]),
                    detail={
                        "version": subject.version,
                        "regions": len(boxes),
                        "reviewed": review["reasons"],
                    },
                ),
            )
        self.viewings.close_subject(image_id)
        self.host.delete_blob(row["draft_blob"])
        return self._record(image_id)

    def _padding(self, profile: Profile) -> tuple[float, int]:
        share, min_px = profile.padding, profile.padding_min_px
        return (
            self.settings.padding if share is None else share,
            self.settings.padding_min_px if min_px is None else min_px,
        )

    def _subject(self, row: Row) -> tuple[Subject, bytes]:
        """A fresh data key for the sealed image, and its wrapping."""
        patient_key = self.hierarchy.patient_key(self.database.read(), row["patient_id"])
        key, wrapped = self.hierarchy.new_image_key(patient_key, row["image_id"])
        subject = Subject(
            row["image_id"], row["version"] + 1, key, derive(patient_key, "pseudonyms")
        )
        return subject, wrapped


def _corrections(
    row: Row, found: Sequence[Detection], final: Sequence[Detection], removed: Mapping[int, str]
) -> list[Event]:
    """Audit events for every box that a person took away or added.

    Raises:
        InputError: A found box is gone without a reason.
    """
    kept = set(final)
    events = []
    common = {"patient_id": row["patient_id"], "image_id": row["image_id"]}
    for place, detection in enumerate(found):
        if detection in kept:
            continue
        detail = detection_to_json(detection)
        if any(_overlap(detection, d) for d in final):
            events.append(Event("box.change", detail=detail, **common))
            continue
        reason = removed.get(place, "").strip()
        if not reason:
            raise InputError("Every box that is taken away needs a reason.", place=place)
        events.append(Event("box.remove", reason=reason, detail=detail, **common))
    for detection in final:
        if detection not in set(found):
            events.append(Event("box.add", detail=detection_to_json(detection), **common))
    return events


def _overlap(a: Detection, b: Detection) -> bool:
    """Do two boxes show the same thing? Half of the smaller one is shared."""
    shared = a.region.intersection_px(b.region)
    return shared * 2 >= min(a.region.area_px, b.region.area_px)


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
