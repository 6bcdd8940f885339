"""Technician's day, first half: files in, drafts opened, nothing kept in clear."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np

from engine.detection import Profile, merge
from engine.errors import DetectorError, DuplicateImage, EngineError, InputError, NotFound
from engine.formats import images
from engine.permissions import Permission
from engine.records import (
    Caller,
    Detection,
    Image,
    ImageRecord,
    ImageState,
    Region,
    TextVerdict,
)
from engine.seal import pipeline
from engine.seal.pipeline import Stopwatch, detection_from_json, detection_to_json
from engine.service.guard import log, needs
from engine.service.keeping import Keeping
from engine.service.verdicts import Verdicts, verdict_facts
from engine.store.audit import Event
from engine.store.catalog import record
from engine.store.database import Cursor, Row
from engine.vault import blind_index, open_field, pad_length, seal_field

Progress = Callable[[str, float], None]

#: Why a person must look, in words.
REASONS: Mapping[str, str] = {
    "nothing-found": "Nothing was found: look whether there really is nothing to hide.",
    "proposals": "Some boxes are uncertain: keep, correct or remove them.",
    "detector-failed": "The detector could not run: draw every box yourself.",
    "flagged": "Somebody saw something that should be hidden: find it, box it, seal it anew.",
    "still-visible": "After masking, something can still be read: box it, or say why it may stay.",
}

_OPEN_STATES = (ImageState.DRAFT, ImageState.REVIEW)

#: Why a box of harmless text is left out where the profile lets it be seen.
HARMLESS = "harmless text, which the profile leaves visible"


class Suggestion(StrEnum):
    """What the profile makes of a found box, before a person decides."""

    SEAL = "seal"
    ASK = "ask"  # too uncertain: a person says
    LEAVE = "leave"  # harmless text, where the profile lets it be seen


@dataclass(frozen=True)
class DraftView:
    """A draft opened by a technician: plaintext is behind the handle, not in here.

    Args:
        handle: For :meth:`Intake.draft_frame`; works in this session, for minutes.
        detections: What was found, most certain first.
        suggestions: For each of them, what the profile makes of it.
        masks: For each of them, the pixels that are hidden if it is sealed as it was found.
        grid: Width and height in px of the blocks to which masks are rounded outward.
        labels: Classes of the profile.
        hints: Patient data from a DICOM header, to compare with the record.
        recognizable_head: Slices of a head, from which a face could be rendered.
    """

    handle: str
    record: ImageRecord
    name: str = field(repr=False)
    detections: tuple[Detection, ...]
    reasons: tuple[str, ...]
    frames: int
    suggestions: tuple[Suggestion, ...]
    masks: tuple[Region, ...]
    grid: tuple[int, int]
    labels: tuple[str, ...]
    hints: Mapping[str, Any] = field(repr=False)
    expires_at: datetime
    blob: str = field(repr=False)
    recognizable_head: bool = False

    def suggested(self, suggestion: Suggestion) -> list[Detection]:
        """The found boxes of which the profile makes this."""
        paired = zip(self.detections, self.suggestions, strict=True)
        return [d for d, s in paired if s is suggestion]

    @property
    def left(self) -> dict[int, str]:
        """Harmless boxes by their place, with the reason, as :meth:`Engine.seal` takes them."""
        places = enumerate(self.suggestions)
        return {i: HARMLESS for i, s in places if s is Suggestion.LEAVE}


@dataclass(frozen=True)
class Examined:
    """What a look at a file gave.

    Args:
        columns: Of its catalog row, as far as the file decides them.
        facts: To be sealed with the row; they tell of hidden pixels.
    """

    columns: Mapping[str, Any]
    facts: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Entry:
    """A file that is stored, encrypted whole, and that no catalog row knows of yet."""

    image_id: str
    patient_id: str
    key: bytes = field(repr=False)
    wrapped_key: bytes = field(repr=False)
    duplicate_index: bytes = field(repr=False)
    blob: str
    stored_bytes: int


class Intake(Keeping, Verdicts):
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
        patient_id = self._patient(patient_id)
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
        patient_key = self.hierarchy.patient_key(self.database.read(), patient_id)
        duplicate_index = blind_index(self.hierarchy.system_key("index"), "image/file", data)
        self._refuse_duplicate(self.database.read(), duplicate_index)
        name = clean_name(name)
        checked = self.viewings.kept(caller.session_id, duplicate_index.hex(), "checked")
        known = None if checked is None else replace(checked, name=name)
        image, examined = self._examine(patient_id, name, data, chosen, watch, tell, known)
        tell("encrypting the original", 0.85)
        entry = self._keep(patient_key, patient_id, data, duplicate_index, watch)
        with self.database.write() as tx:
            self._enter(tx, caller, entry, examined, watch.times_ms)
        self.viewings.close_subject(duplicate_index.hex())
        self.viewings.keep(caller.session_id, entry.image_id, image, entry.blob)
        tell("ready", 1.0)
        return self._record(entry.image_id)

    def _examine(
        self,
        patient_id: str,
        name: str,
        data: bytes,
        profile: Profile,
        watch: Stopwatch,
        tell: Progress,
        known: Image | None = None,
    ) -> tuple[Image, Examined]:
        """Decode a file and look for what must be hidden; nothing is kept. Raises InputError.

        Args:
            known: The file as it was decoded already.
        """
        tell("reading the file", 0.05)
        with watch.stage("decode"):
            image = known or images.decode(name, data, self.limits)
        tell("looking for what must be hidden", 0.2)
        with watch.stage("detect"):
            detections, reasons = self._find(
                image, profile, lambda stage, share: tell(stage, 0.2 + 0.6 * share)
            )
        tell("reading text", 0.8)
        with watch.stage("read"):
            judged = self._judged(image, detections, self._known(image, patient_id))
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
            "size_bytes": pad_length(len(data)),
            "reasons": json.dumps(reasons),
            "confidence": min((d.confidence for d in detections), default=None),
            "region_count": len(detections),
        }
        facts = {
            "name": image.name,
            "detections": [detection_to_json(d) for d in detections],
            "hints": images.patient_hints(image),
            "size_bytes": len(data),
            "still_visible": [],
            **verdict_facts(detections, judged),
        }
        return image, Examined(columns, facts)

    def _keep(
        self,
        patient_key: bytes,
        patient_id: str,
        data: bytes,
        duplicate_index: bytes,
        watch: Stopwatch,
    ) -> Entry:
        """Encrypt a file whole under a fresh key and store it; no row knows of it yet."""
        image_id = self.host.token("im")
        key, wrapped = self.hierarchy.new_image_key(patient_key, image_id)
        with watch.stage("encrypt_draft"):
            sealed = seal_field(key, f"image/{image_id}/0/draft", data, self.host.random)
        with watch.stage("store_draft"):
            blob = self.host.write_blob(sealed)
        return Entry(image_id, patient_id, key, wrapped, duplicate_index, blob, len(sealed))

    def _enter(
        self,
        tx: Cursor,
        caller: Caller,
        entry: Entry,
        examined: Examined,
        times_ms: Mapping[str, float],
    ) -> None:
        """The draft's row and its entry in the log. Raises DuplicateImage, NotFound."""
        self._refuse_duplicate(tx, entry.duplicate_index)
        self.patients_.refuse_erased(tx, entry.patient_id)
        tag = self.catalog.add(
            tx,
            entry.key,
            {
                "image_id": entry.image_id,
                "patient_id": entry.patient_id,
                "version": 0,
                "wrapped_key": entry.wrapped_key,
                "duplicate_index": entry.duplicate_index,
                "stored_bytes": entry.stored_bytes,
                "uploaded_at": self.host.now(),
                "uploaded_by": caller.username,
                "times_ms": json.dumps(times_ms),
                "draft_blob": entry.blob,
                "facts": self._seal_facts(entry.key, entry.image_id, 0, examined.facts),
                **examined.columns,
            },
        )
        self.audit.append(
            tx,
            caller,
            Event(
                "image.upload",
                patient_id=entry.patient_id,
                image_id=entry.image_id,
                detail={
                    "format": examined.columns["format"],
                    "found": examined.columns["region_count"],
                    "why": json.loads(examined.columns["reasons"]),
                    "tag": tag,
                },
            ),
        )

    @needs(Permission.UPLOAD)
    def check_upload(
        self, caller: Caller, name: str, data: bytes, profile: str | None = None
    ) -> None:
        """Would this file be taken? For doors that do something else first; nothing is stored.

        It stays decoded in memory for the upload that follows in the same session.

        Raises:
            InputError: As :meth:`upload` would.
        """
        self.profile(profile)
        index = blind_index(self.hierarchy.system_key("index"), "image/file", data)
        self._refuse_duplicate(self.database.read(), index)
        image = images.decode(clean_name(name), data, self.limits)
        self.viewings.keep(caller.session_id, index.hex(), image, "checked")

    @needs(Permission.UPLOAD)
    def work_token(self, caller: Caller) -> str:
        """A token for work that a session leaves behind, such as a batch; over with the session.

        An access token would expire while the work waits. It stays within this process, until
        :meth:`end_work`.
        """
        work = self.host.token("work")
        self._work[work] = caller.session_id
        return work

    def end_work(self, work: str) -> None:
        """The work is done: its token is worth nothing from here on."""
        self._work.pop(work, None)

    @needs(Permission.UPLOAD)
    def drafts(self, caller: Caller, limit: int = 200, offset: int = 0) -> list[ImageRecord]:
        """What waits for a technician: drafts and the review queue, newest first."""
        self.record_read(caller, Event("image.list", detail={"states": [*_OPEN_STATES]}))
        return self.catalog.search(states=_OPEN_STATES, limit=limit, offset=offset)

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
        image = self._in_memory(caller, row) or self._draft_image(row, key, facts)
        profile = self.profile(row["profile"])
        detections = with_verdicts(facts)
        view = DraftView(
            handle=self.host.token("vw"),
            record=self._record(image_id),
            name=facts["name"],
            detections=detections,
            reasons=tuple(json.loads(row["reasons"])),
            frames=image.frames,
            suggestions=tuple(suggestion(d, profile) for d in detections),
            masks=tuple(
                pipeline.plan(image, [d], *self._padding(profile))[0].region for d in detections
            ),
            grid=image.grid,
            labels=profile.classes,
            hints=facts["hints"],
            expires_at=self.viewings.expiry(),
            blob=row["draft_blob"],
            recognizable_head=bool(image.properties.get("recognizable_head")),
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
        row = self.catalog.row(self.database.read(), viewing.subject_id)
        # Sealed or sent back while it was being opened: what was open is over.
        if not isinstance(viewing.about, DraftView) or row["draft_blob"] != viewing.about.blob:
            self.viewings.close(caller.session_id, handle)
            raise NotFound("This picture is no longer open: ask for it again.")
        return images.render(viewing.image, frame, window)

    @needs(Permission.UPLOAD)
    def discard_draft(self, caller: Caller, image_id: str, reason: str) -> None:
        """Throw a draft away; its key is destroyed.

        Raises:
            InputError: No reason.
            NotFound: No such draft.
        """
        self._erase(caller, image_id, reason, "draft.discard", never_sealed=True)

    @needs(Permission.DELETE_IMAGE)
    def erase_image(self, caller: Caller, image_id: str, reason: str) -> None:
        """Destroy an image's key: nobody opens it again, here or from its packages.

        Raises:
            InputError: No reason.
            NotFound: No such image.
        """
        self._erase(caller, image_id, reason, "image.erase")

    def _erase(
        self,
        caller: Caller,
        image_id: str,
        reason: str,
        action: str,
        *,
        never_sealed: bool = False,
    ) -> None:
        if not reason.strip():
            raise InputError("Erasing an image needs a reason.")
        with self.database.write() as tx:
            row = self.catalog.row(tx, image_id)
            # Asked in the transaction: somebody may be sealing it at this moment, and one that
            # was sealed is not a technician's to destroy.
            if never_sealed and (row["state"] not in _OPEN_STATES or row["version"] > 0):
                raise NotFound("There is no such draft.")
            blobs = self.catalog.erase(tx, image_id, self.host.now())
            about = {"patient_id": row["patient_id"], "image_id": image_id}
            self.audit.append(tx, caller, Event(action, reason=reason.strip(), **about))
        self.viewings.close_subject(image_id)
        for blob in blobs:
            self.host.delete_blob(blob)
        self._keep_erasures()

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
            detections = merge(
                pipeline.look(
                    image,
                    lambda frame: self.detector.detect(frame, image.frames, profile, progress),
                ),
                profile.iou,
            )
        except DetectorError:
            log.exception("detector failed")
            return [], ["detector-failed"]
        if not detections:
            return [], ["nothing-found"]
        if not all(profile.seals(d) for d in detections):
            return detections, ["proposals"]
        return detections, []

    def _draft(self, tx: Cursor, image_id: str) -> tuple[Row, bytes, dict[str, Any]]:
        """Verified row, key and facts of a draft. Raises NotFound, SealBroken."""

        def read() -> tuple[Row, bytes, dict[str, Any]]:
            if self.catalog.row(tx, image_id)["state"] not in _OPEN_STATES:
                raise NotFound("There is no such draft: the image is sealed already.")
            key = self.hierarchy.image_key(tx, image_id)
            row = self.catalog.verify(tx, key, image_id)
            return row, key, self.open_facts(key, row)

        return self._steady(image_id, read)

    def _padding(self, profile: Profile) -> tuple[float, int]:
        share, min_px = profile.padding, profile.padding_min_px
        return (
            self.settings.padding if share is None else share,
            self.settings.padding_min_px if min_px is None else min_px,
        )

    def _in_memory(self, caller: Caller, row: Row) -> Image | None:
        """A draft's image where this session has it open, or has just sent it; else None."""
        opened = self.viewings.find(caller.session_id, row["image_id"], DraftView)
        if opened is not None and opened.about.blob == row["draft_blob"]:
            return opened.image
        return self.viewings.kept(caller.session_id, row["image_id"], row["draft_blob"])

    def _draft_image(self, row: Row, key: bytes, facts: Mapping[str, Any]) -> Image:
        context = f"image/{row['image_id']}/{row['version']}/draft"
        try:
            data = open_field(key, context, self.host.read_blob(row["draft_blob"]))
        except EngineError:
            if self.catalog.tag(self.database.read(), row["image_id"]) != row["tag"]:
                raise NotFound("Somebody else changed this draft: open it again.") from None
            raise
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
            patient_id = self.catalog.row(tx, image_id)["patient_id"]
            raise DuplicateImage(
                "This file is here already.", image_id=image_id, patient_id=patient_id
            )


def with_verdicts(facts: Mapping[str, Any]) -> tuple[Detection, ...]:
    """A draft's boxes; what was found later than at intake has not been read."""
    boxes = [detection_from_json(d) for d in facts["detections"] + facts["still_visible"]]
    verdicts = facts.get("verdicts", [])
    verdicts = verdicts + [None] * (len(boxes) - len(verdicts))
    return tuple(
        replace(d, verdict=None if v is None else TextVerdict(v))
        for d, v in zip(boxes, verdicts, strict=True)
    )


def suggestion(detection: Detection, profile: Profile) -> Suggestion:
    if profile.harmless_text == "visible" and detection.verdict is TextVerdict.HARMLESS:
        return Suggestion.LEAVE
    return Suggestion.SEAL if profile.seals(detection) else Suggestion.ASK


def clean_name(name: str) -> str:
    """The last part of a path, at most 255 characters (F39)."""
    plain = name.encode("utf-8", "replace").decode()  # names of other encodings
    last = plain.replace("\\", "/").rsplit("/", 1)[-1].strip()
    last = "".join(c for c in last if c.isprintable())
    if len(last) > 255:
        stem, dot, suffix = last.rpartition(".")
        last = (stem[: 255 - len(suffix) - 1] + dot + suffix) if dot else last[:255]
    return "unnamed" if last in ("", ".", "..") else last
