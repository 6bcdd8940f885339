"""Technician's day: files in, boxes corrected, images sealed. Fails closed at every step."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

import numpy as np

from engine import images, metrics, pipeline
from engine.audit import Event
from engine.catalog import record
from engine.database import Cursor, Row
from engine.detection import Profile
from engine.errors import DetectorError, DuplicateImage, InputError, NotFound, ReviewNeeded
from engine.permissions import Permission
from engine.pipeline import Sealed, Stopwatch, Subject, detection_from_json, detection_to_json
from engine.records import Caller, Detection, Image, ImageRecord, ImageState
from engine.service.guard import Core, log, needs
from engine.vault import blind_index, derive, open_field, pad_length, seal_field

Progress = Callable[[str, float], None]

#: Why a person must look, in words.
REASONS: Mapping[str, str] = {
    "nothing-found": "Nothing was found: look whether there really is nothing to hide.",
    "proposals": "Some boxes are uncertain: keep, correct or remove them.",
    "detector-failed": "The detector could not run: draw every box yourself.",
    "still-visible": "After masking, something can still be read: box it, or say why it may stay.",
}

#: How often an unwatched batch looks again before it asks a person.
_ROUNDS = 3

_OPEN = (ImageState.DRAFT, ImageState.REVIEW)


@dataclass(frozen=True)
class DraftView:
    """A draft opened by a technician: plaintext is behind the handle, not in here.

    Args:
        handle: For :meth:`Intake.draft_frame`; works in this session, for minutes.
        detections: What was found, most certain first.
        sealed_from: Confidence from which a found box is sealed; below it is a proposal.
        labels: Classes of the profile.
        hints: Patient data from a DICOM header, to compare with the record.
    """

    handle: str
    record: ImageRecord
    name: str
    detections: tuple[Detection, ...]
    reasons: tuple[str, ...]
    frames: int
    sealed_from: float
    labels: tuple[str, ...]
    hints: Mapping[str, Any]
    expires_at: datetime


class Intake(Core):
    """Methods of the Engine."""

    @needs(Permission.UPLOAD)
    def upload(
        self,
        caller: Caller,
        patient_id: str,
        name: str,
        data: bytes,
        profile: str | None = None,
        progress: Progress | None = None,
    ) -> ImageRecord:
        """Take a file in: check, decode, find, and keep it encrypted as a draft.

        Args:
            data: The file; a picture up to ``picture_limit_mb``, DICOM up to its own limit.
            profile: Specialty profile; by default the setting's.
            progress: Told each stage and the share done.

        Raises:
            InputError: The file cannot be taken; nothing of it is kept.
            DuplicateImage: It is here already; ``facts['image_id']``.
            NotFound: No such patient.
        """
        try:
            return self._upload(caller, patient_id, name, data, profile, progress)
        except InputError as err:
            self.audit.record(
                caller,
                Event("image.upload", "failed", patient_id=patient_id, detail={"why": err.code}),
            )
            raise

    def _upload(
        self,
        caller: Caller,
        patient_id: str,
        name: str,
        data: bytes,
        profile: str | None,
        progress: Progress | None,
    ) -> ImageRecord:
        watch = Stopwatch(self.host)
        tell = progress or (lambda stage, share: None)
        chosen = self.profile(profile)
        patient_key = self.hierarchy.patient_key(self.database.read(), self._patient(patient_id))
        duplicate_index = blind_index(self.hierarchy.system_key("index"), "image/file", data)
        self._refuse_duplicate(self.database.read(), duplicate_index)
        tell("reading the file", 0.05)
        with watch.stage("decode"):
            image = images.decode(_clean_name(name), data, self.limits)
        tell("looking for what must be hidden", 0.2)
        with watch.stage("detect"):
            detections, reasons = self._find(
                image, chosen, lambda stage, share: tell(stage, 0.2 + 0.6 * share)
            )
        tell("encrypting the original", 0.85)
        image_id = self.host.token("im")
        key, wrapped = self.hierarchy.new_image_key(patient_key, image_id)
        with watch.stage("encrypt_draft"):
            sealed = seal_field(key, f"image/{image_id}/0/draft", data, self.host.random)
        with watch.stage("store_draft"):
            blob = self.host.write_blob(sealed)
        facts = {
            "name": image.name,
            "detections": [detection_to_json(d) for d in detections],
            "hints": images.patient_hints(image),
            "size_bytes": len(data),
            "still_visible": [],
        }
        with self.database.write() as tx:
            self._refuse_duplicate(tx, duplicate_index)
            row = {
                "image_id": image_id,
                "patient_id": patient_id,
                "state": str(ImageState.REVIEW if reasons else ImageState.DRAFT),
                "version": 0,
                "wrapped_key": wrapped,
                "duplicate_index": duplicate_index,
                "format": str(image.format),
                "modality": str(image.properties.get("modality", "")),
                "profile": chosen.name,
                "width": image.width,
                "height": image.height,
                "frames": image.frames,
                # An exact size is computed from hidden pixels: who can render guesses of a name
                # and code them alike could compare. The exact one is sealed with the facts.
                "size_bytes": pad_length(len(data)),
                "stored_bytes": len(sealed),
                "uploaded_at": self.host.now(),
                "uploaded_by": caller.username,
                "reasons": json.dumps(reasons),
                "confidence": min((d.confidence for d in detections), default=None),
                "region_count": len(detections),
                "times_ms": json.dumps(watch.times_ms),
                "draft_blob": blob,
                "facts": self._seal_facts(key, image_id, 0, facts),
            }
            self.catalog.add(tx, key, row)
            self.audit.append(
                tx,
                caller,
                Event(
                    "image.upload",
                    patient_id=patient_id,
                    image_id=image_id,
                    detail={"format": str(image.format), "found": len(detections), "why": reasons},
                ),
            )
        tell("ready", 1.0)
        return self._record(image_id)

    @needs(Permission.UPLOAD)
    def drafts(self, caller: Caller, limit: int = 200, offset: int = 0) -> list[ImageRecord]:
        """What waits for a technician: drafts and the review queue, newest first."""
        return self.catalog.search(states=_OPEN, limit=limit, offset=offset)

    @needs(Permission.UPLOAD)
    def open_draft(self, caller: Caller, image_id: str) -> DraftView:
        """Open a draft for correction. Audited each time it is opened anew.

        Raises:
            NotFound: No such draft; a sealed image is none any more.
        """
        opened = self.viewings.find(caller.session_id, image_id, DraftView)
        if opened is not None:
            view: DraftView = opened.about
            return view
        tx = self.database.read()
        row, key, facts = self._draft(tx, image_id)
        self.audit.record(
            caller, Event("draft.open", patient_id=row["patient_id"], image_id=image_id)
        )
        image = self._draft_image(row, key, facts)
        profile = self.profile(row["profile"])
        view = DraftView(
            handle=self.host.token("vw"),
            record=self._record(image_id),
            name=facts["name"],
            detections=tuple(
                detection_from_json(d) for d in facts["detections"] + facts["still_visible"]
            ),
            reasons=tuple(json.loads(row["reasons"])),
            frames=image.frames,
            sealed_from=profile.confidence,
            labels=profile.classes,
            hints=facts["hints"],
            expires_at=self.viewings.expiry(),
        )
        self.viewings.add(caller.session_id, view.handle, image_id, image, view)
        return view

    @needs(Permission.UPLOAD)
    def draft_frame(
        self,
        caller: Caller,
        handle: str,
        frame: int = 0,
        window: tuple[float, float] | None = None,
    ) -> np.ndarray:
        """A frame of an opened draft, shape (H, W, 3), uint8, RGB. Raises NotFound."""
        viewing = self.viewings.get(caller.session_id, handle)
        if not isinstance(viewing.about, DraftView):
            raise NotFound("This picture is no longer open: ask for it again.")
        return images.render(viewing.image, frame, window)

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

    @needs(Permission.UPLOAD)
    def discard_draft(self, caller: Caller, image_id: str, reason: str) -> None:
        """Throw a draft away; its key is destroyed.

        Raises:
            InputError: No reason.
            NotFound: No such draft.
        """
        self._draft(self.database.read(), image_id)
        self._erase(caller, image_id, reason, "draft.discard")

    @needs(Permission.DELETE_IMAGE)
    def erase_image(self, caller: Caller, image_id: str, reason: str) -> None:
        """Destroy an image's key: nobody opens it again, here or from its packages.

        Raises:
            InputError: No reason.
            NotFound: No such image.
        """
        self._erase(caller, image_id, reason, "image.erase")

    def _erase(self, caller: Caller, image_id: str, reason: str, action: str) -> None:
        if not reason.strip():
            raise InputError("Erasing an image needs a reason.")
        with self.database.write() as tx:
            patient_id = self.catalog.row(tx, image_id)["patient_id"]
            blobs = self.catalog.erase(tx, image_id, self.host.now())
            self.audit.append(
                tx,
                caller,
                Event(action, patient_id=patient_id, image_id=image_id, reason=reason.strip()),
            )
        self.viewings.close_subject(image_id)
        for blob in blobs:
            self.host.delete_blob(blob)

    def profiles(self) -> dict[str, Profile]:
        """Specialty profiles by name."""
        return self.detector.profiles

    def profile(self, name: str | None) -> Profile:
        """One profile; None is the setting's. Raises InputError."""
        try:
            return self.detector.profiles[name or self.settings.profile]
        except KeyError as err:
            raise InputError("There is no such specialty profile.") from err

    def _find(
        self, image: Image, profile: Profile, progress: Progress
    ) -> tuple[list[Detection], list[str]]:
        """Detections, and why a person must look."""
        try:
            detections = self.detector.detect(
                lambda i: images.render(image, i), image.frames, profile, progress
            )
        except DetectorError:
            log.exception("detector failed")
            return [], ["detector-failed"]
        if not detections:
            return [], ["nothing-found"]
        if any(d.confidence < profile.confidence for d in detections):
            return detections, ["proposals"]
        return detections, []

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

    def _draft(self, tx: Cursor, image_id: str) -> tuple[Row, bytes, dict[str, Any]]:
        """Verified row, key and facts of a draft. Raises NotFound, SealBroken."""
        if self.catalog.row(tx, image_id)["state"] not in _OPEN:
            raise NotFound("There is no such draft: the image is sealed already.")
        key = self.hierarchy.image_key(tx, image_id)
        row = self.catalog.verify(tx, key, image_id)
        return row, key, self.open_facts(key, row)

    def _draft_image(self, row: Row, key: bytes, facts: Mapping[str, Any]) -> Image:
        context = f"image/{row['image_id']}/{row['version']}/draft"
        data = open_field(key, context, self.host.read_blob(row["draft_blob"]))
        return images.decode(facts["name"], data, self.limits)

    def _seal_facts(
        self, key: bytes, image_id: str, version: int, facts: Mapping[str, Any]
    ) -> bytes:
        text = json.dumps(facts, ensure_ascii=False).encode()
        return seal_field(key, f"image/{image_id}/{version}/facts", text, self.host.random)

    def open_facts(self, key: bytes, row: Mapping[str, Any]) -> dict[str, Any]:
        """What is known of hidden pixels; only for methods that may."""
        context = f"image/{row['image_id']}/{row['version']}/facts"
        facts: dict[str, Any] = json.loads(open_field(key, context, row["facts"]))
        return facts

    def _record(self, image_id: str) -> ImageRecord:
        return record(self.catalog.row(self.database.read(), image_id))

    def _patient(self, patient_id: str) -> str:
        return self.patients_.get(self.database.read(), patient_id).patient_id

    def _refuse_duplicate(self, tx: Cursor, index: bytes) -> None:
        image_id = self.catalog.find_duplicate(tx, index)
        if image_id is not None:
            raise DuplicateImage("This file is here already.", image_id=image_id)


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


def _clean_name(name: str) -> str:
    """The last part of a path, at most 255 characters (F39)."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1].strip().replace("\x00", "")
    if len(last) > 255:
        stem, dot, suffix = last.rpartition(".")
        last = (stem[: 255 - len(suffix) - 1] + dot + suffix) if dot else last[:255]
    return last or "unnamed"


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
