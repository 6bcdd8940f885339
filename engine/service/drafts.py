"""Technician's day: files in, boxes decided, images sealed. Fails closed at every step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NoReturn

import numpy as np

from engine.errors import InputError, NotFound, ReviewNeeded
from engine.formats import images
from engine.formats.needs import Need
from engine.metrics import Look
from engine.operations.admission import Work
from engine.operations.context import Context
from engine.operations.draft_boxes import drawn
from engine.operations.erasures import Erasures
from engine.operations.examination import (
    BOXES_DRAWN,
    CONFIRMED,
    HARMLESS,
    REASONS,
    Beside,
    Progress,
    Suggestion,
    sorted_out,
    suggestions,
    with_verdicts,
)
from engine.operations.guard import Guard, needs
from engine.operations.intake import Intake, clean_name
from engine.operations.preparation import (
    Decision,
    OpenedDraft,
    Prepared,
    Preparer,
    SentBack,
    event,
)
from engine.operations.release_decisions import RELEASED_EMPTY
from engine.operations.series import SeriesFinder
from engine.operations.stored_images import OPEN_STATES, Draft, StoredImages, need_of
from engine.permissions import Permission
from engine.records import Caller, Detection, Image, ImageRecord, ImageState, Patient, Region
from engine.seal import pipeline
from engine.seal.pipeline import Stopwatch
from engine.store.audit import Event
from engine.vault import blind_index

#: Marks a file in memory that was checked and not taken in yet.
_CHECKED = "checked"
_MOST_SHOWN = 10_000


@dataclass(frozen=True)
class DraftView:
    """A draft opened by a technician: plaintext is behind the handle, not in here.

    Args:
        handle: For :meth:`Drafts.frame`; works in this session, for minutes.
        detections: What was found, most certain first.
        suggestions: For each of them, what the profile makes of it.
        masks: For each of them, the pixels that are hidden if it is sealed as it was found.
        grid: Width and height in px of the blocks to which masks are rounded outward.
        labels: Classes of the profile.
        hints: Patient data from a DICOM header, to compare with the record.
        recognizable_head: Slices of a head, from which a face could be rendered.
        orientation: Which way up it is stored, 1 to 8 as in EXIF; :meth:`Drafts.frame` is upright.
        notes: What is not shown or looked at as in other files, in sentences.
        answer: A person's answer of an attempt to seal it that has not sealed it.
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
    orientation: int = 1
    notes: tuple[str, ...] = ()
    answer: str = field(default="", repr=False)

    def suggested(self, suggestion: Suggestion) -> list[Detection]:
        """The found boxes of which the profile makes this."""
        paired = zip(self.detections, self.suggestions, strict=True)
        return [d for d, s in paired if s is suggestion]

    @property
    def left(self) -> dict[int, str]:
        """Harmless boxes by their place, with the reason, as :meth:`Drafts.seal` takes them."""
        places = enumerate(self.suggestions)
        return {i: HARMLESS for i, s in places if s is Suggestion.LEAVE}


class Drafts:
    """Files that came in and are not sealed yet."""

    def __init__(
        self,
        context: Context,
        guard: Guard,
        preparer: Preparer,
        stored: StoredImages,
        intake: Intake,
        erasures: Erasures,
    ) -> None:
        self._context = context
        self._admission = context.admission
        self._audit = context.audit
        self._catalog = context.catalog
        self._claims = context.claims
        self._database = context.database
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._live = context.live
        self._open_images = context.open_images
        self._training_cases = context.training_cases
        self._erasures = erasures
        self._examiner = preparer.examiner
        self._guard = guard
        self._intake = intake
        self._preparer = preparer
        self._stored = stored
        #: Handles of drafts of which a frame was shown: only who saw one has looked.
        self._shown: set[str] = set()

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
        patient = self._intake.patient(patient_id)
        try:
            return self._upload(caller, patient, name, data, profile, progress)
        except InputError as err:
            why = {"why": err.code}
            failed = Event("image.upload", "failed", patient_id=patient.patient_id, detail=why)
            self._audit.record(caller, failed)
            raise

    def _upload(
        self,
        caller: Caller,
        patient: Patient,
        name: str,
        data: bytes,
        profile: str | None,
        progress: Progress | None,
    ) -> ImageRecord:
        watch = Stopwatch(self._host)
        tell = progress or (lambda stage, share: None)
        chosen = self._examiner.profile(profile)
        patient_key = self._hierarchy.patient_key(self._database.read(), patient.patient_id)
        duplicate_index = blind_index(self._hierarchy.system_key("index"), "image/file", data)
        self._intake.refuse_duplicate(self._database.read(), duplicate_index)
        names = (patient.id, patient.name)
        tell("reading the file", 0.05)
        checked = self._checked(caller, duplicate_index)
        need = self._need(caller, checked, data)
        with self._admission.room(Work.INTAKE, caller.username, need):
            with watch.stage("decode"):
                image = checked or images.decode("", data, self._live.limits, need.seconds)
            image = replace(image, name=clean_name(name))
            examined = self._examiner.examine(
                image, chosen, Beside(names, self._intake.devices(caller)), watch, tell
            )
            tell("encrypting the original", 0.85)
            entry = self._intake.keep(patient_key, patient.patient_id, data, duplicate_index, watch)
            # Before there is a row: whoever erases the image afterwards closes this too.
            self._open_images.keep(caller.session_id, entry.image_id, image, entry.blob)
        try:
            with self._database.write() as tx:
                self._intake.enter(tx, caller, entry, examined, watch.times_ms)
        except BaseException:
            self._open_images.close_subject(entry.image_id)
            raise
        self._guard.forget_if_ended(caller)
        tell("ready", 1.0)
        return self._stored.record(entry.image_id)

    @needs(Permission.UPLOAD)
    def check(self, caller: Caller, name: str, data: bytes, profile: str | None = None) -> None:
        """Would this file be taken? For callers that do something else first; stores nothing.

        It stays decoded in memory for the upload that follows in the same session.

        Raises:
            InputError: As :meth:`upload` would.
        """
        self._examiner.profile(profile)
        index = blind_index(self._hierarchy.system_key("index"), "image/file", data)
        self._intake.refuse_duplicate(self._database.read(), index)
        need = self._need(caller, None, data)
        with self._admission.room(Work.INTAKE, caller.username, need):
            image = images.decode(clean_name(name), data, self._live.limits, need.seconds)
            self._open_images.keep(caller.session_id, index.hex(), image, _CHECKED)
        self._guard.forget_if_ended(caller)

    def _checked(self, caller: Caller, index: bytes) -> Image | None:
        """What :meth:`check` has just decoded, if anything.

        Whatever becomes of the upload, the checked file is not kept any longer.
        """
        kept = self._open_images.kept(caller.session_id, index.hex(), _CHECKED)
        self._open_images.close_subject(index.hex())
        return kept

    def _need(self, caller: Caller, checked: Image | None, data: bytes) -> Need:
        """What a file that comes in needs. Raises InputError where it cannot be taken."""
        if checked is not None:
            return Need.of(len(data), images.extent_of(checked))
        return self._admission.need_of(caller.username, data, self._live.limits)

    @needs(Permission.UPLOAD)
    def waiting(self, caller: Caller, limit: int = 200, offset: int = 0) -> list[ImageRecord]:
        """What waits for a technician: drafts and the review queue, newest first."""
        self._guard.record_read(caller, Event("image.list", detail={"states": [*OPEN_STATES]}))
        return self._catalog.search(states=OPEN_STATES, limit=limit, offset=offset)

    @needs(Permission.UPLOAD)
    def open(self, caller: Caller, image_id: str) -> DraftView:
        """Open a draft for correction. Audited each time it is opened anew.

        Until it is left, or some minutes pass, nobody else can open it.

        Raises:
            NotFound: No such draft, a sealed image is none any more, somebody else has it open, or
                it was confirmed on a contact sheet and is being sealed.
        """
        self._claims.claim(caller, image_id)
        opened = self._open_images.find(caller.session_id, image_id, DraftView)
        if opened is not None:
            view: DraftView = opened.about
            return view
        draft = self._stored.draft(self._database.read(), image_id)
        row, facts = draft.row, draft.facts
        if CONFIRMED in row.reasons:
            self._claims.leave(caller, image_id)
            raise NotFound("This image was confirmed and is being sealed. Undo that first.")
        self._audit.record(
            caller, Event("draft.open", patient_id=row.patient_id, image_id=image_id)
        )
        with self._admission.room(Work.PAGE, caller.username, need_of(row, facts)):
            image = self._image(caller, draft)
        profile = self._examiner.profile(row.profile)
        detections = with_verdicts(facts)
        view = DraftView(
            handle=self._host.token("vw"),
            record=row.record,
            name=facts["name"],
            detections=detections,
            reasons=row.reasons,
            frames=image.frames,
            suggestions=tuple(suggestions(detections, profile, row.reasons)),
            masks=tuple(
                pipeline.plan(image, [d], *self._examiner.padding(profile))[0].region
                for d in detections
            ),
            grid=image.grid,
            labels=profile.classes,
            hints=facts["hints"],
            expires_at=self._open_images.expiry(),
            blob=row.draft_blob or "",
            recognizable_head=bool(image.properties.get("recognizable_head")),
            notes=images.notes(image),
            orientation=images.orientation(image),
            answer=facts.get("answer", ""),
        )
        self._open_images.add(caller.session_id, view.handle, image_id, image, view)
        self._guard.forget_if_ended(caller)
        return view

    @needs(Permission.UPLOAD)
    def frame(
        self,
        caller: Caller,
        handle: str,
        frame: int = 0,
        window: tuple[float, float] | None = None,
    ) -> np.ndarray:
        """A frame of an opened draft, upright, shape (H, W, 3), uint8, RGB. Raises NotFound."""
        viewing = self._open_images.get(caller.session_id, handle)
        row = self._catalog.row(self._database.read(), viewing.subject_id)
        # Sealed or sent back while it was being opened: what was open is over.
        if not isinstance(viewing.about, DraftView) or row.draft_blob != viewing.about.blob:
            self._open_images.close(caller.session_id, handle)
            raise NotFound("This image is no longer open. Open it again.")
        if len(self._shown) >= _MOST_SHOWN:  # opened and never sealed
            self._shown.clear()
        self._shown.add(handle)
        return images.displayed(viewing.image, frame, window)

    @needs(Permission.UPLOAD)
    def discard(self, caller: Caller, image_id: str, reason: str) -> None:
        """Throw a draft away; its key is destroyed.

        Raises:
            InputError: No reason.
            NotFound: No such draft.
        """
        self._erasures.image(caller, image_id, reason, "draft.discard", never_sealed=True)

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
        self._claims.claim(caller, image_id)
        draft = self._stored.draft(self._database.read(), image_id)
        opened = self._open_images.find(caller.session_id, image_id, DraftView)
        shown = opened is not None and opened.about.handle in self._shown
        decision = Decision(detections, removed or {}, confirm, adopt, shown=shown)
        return self._seal(caller, draft, decision, progress)

    @needs(Permission.UPLOAD)
    def seal_undoubted(
        self, caller: Caller, image_id: str, progress: Progress | None = None
    ) -> ImageRecord:
        """Seal a draft as its profile proposes, without a person's look; the log says so.

        What the second look finds is sealed too, as in a batch.

        Raises:
            ReviewNeeded: There is doubt, a person left boxes with it, the profile's rule asks for
                a person, or text is readable after three looks. The draft stays.
            InputError: The settings do not offer it.
            NotFound: No such draft, or somebody else works on it.
            RestoreMismatch: The way back could not be proven. The draft stays.
        """
        if not self._live.settings.auto_seal:
            raise InputError(
                "Sealing without a look is switched off. Open the image and seal it, or ask an"
                " administrator."
            )
        # No claim is made: where a person must look, others may open it at once. Boxes that
        # somebody draws from here on change the draft, which then is not sealed.
        holder = self._claims.others(caller).get(image_id)
        if holder is not None:
            raise NotFound(f"{holder} is working on this image. Choose another one.")
        draft = self._stored.draft(self._database.read(), image_id)
        if drawn(draft.facts):
            _refuse_drawn(draft)
        decisions, confirm = self._intake.decisions, ""
        if draft.row.reasons and not decisions.answered(draft.row):
            raise ReviewNeeded(
                "This image must be reviewed before it is sealed.",
                image_id=image_id,
                reasons=list(draft.row.reasons),
            )
        decisions.refuse(self._database.read(), draft.row)
        if draft.row.reasons:
            confirm = RELEASED_EMPTY
        profile = self._examiner.profile(draft.row.profile)
        found = with_verdicts(draft.facts)
        boxes, _, left = sorted_out(found, profile, draft.row.reasons)
        decision = Decision(boxes, left, confirm, adopt=True, automatic=True)
        return self._seal(caller, draft, decision, progress)

    @needs(Permission.UPLOAD)
    def refuse_drawn(self, caller: Caller, image_id: str) -> None:
        """For callers that would seal what was found, without a person's boxes.

        Raises:
            ReviewNeeded: A person left boxes with this draft.
            NotFound: No such draft.
        """
        draft = self._stored.draft(self._database.read(), image_id)
        if drawn(draft.facts):
            _refuse_drawn(draft)

    def _seal(
        self, caller: Caller, draft: Draft, decision: Decision, progress: Progress | None
    ) -> ImageRecord:
        tell = progress or (lambda stage, share: None)
        row, image_id = draft.row, draft.row.image_id
        patient_key = self._hierarchy.patient_key(self._database.read(), row.patient_id)
        fresh = self._intake.fresh_key(image_id, row.version + 1, patient_key)
        patient = self._intake.patient(row.patient_id)
        names = (patient.id, patient.name)
        try:
            with self._admission.room(Work.INTAKE, caller.username, need_of(row, draft.facts)):
                series = SeriesFinder(self._context).of(
                    self._database.read(), image_id, draft.facts.get("series_count", 0)
                )
                opened = OpenedDraft(row, draft.facts, self._image(caller, draft), names, series)
                prepared = self._preparer.prepare(opened, fresh.subject, decision, tell)
                del opened
        except SentBack as sent:
            self._back_to_review(caller, draft, sent)
        finally:
            self._examiner.series.forget()
        tell("storing", 0.9)
        case = self._missed_case(draft, decision, prepared)
        with self._database.write() as tx:
            self._intake.release(tx, caller, row, draft.key, fresh, prepared)
            if case is not None:
                self._training_cases.add(tx, case)
                kept = event("training.keep", row)
                self._audit.append(tx, caller, replace(kept, detail={"case": case["case_id"]}))
        self._open_images.close_subject(image_id)
        self._claims.leave(caller, image_id)
        self._host.delete_blob(row.draft_blob or "")
        tell("sealed", 1.0)
        return self._stored.record(image_id)

    def _image(self, caller: Caller, draft: Draft) -> Image:
        """The decoded original: from memory where this session has it open or has just sent it."""
        image_id, blob = draft.row.image_id, draft.row.draft_blob or ""
        opened = self._open_images.find(caller.session_id, image_id, DraftView)
        if opened is not None and opened.about.blob == blob:
            return opened.image
        kept = self._open_images.kept(caller.session_id, image_id, blob)
        return kept or self._stored.draft_image(draft)

    def _missed_case(
        self, draft: Draft, decision: Decision, prepared: Prepared
    ) -> dict[str, Any] | None:
        """Material to learn from, where something was missed and the setting allows it: somebody
        flagged the image, or a person drew what the first answer would not have hidden."""
        missed = "flagged" in draft.row.reasons or prepared.look is Look.MISSED
        if not self._live.settings.keep_missed or not missed:
            return None
        original = self._stored.draft_file(draft)
        # As they were decided: what is sealed of a found box is larger by its padding.
        after = [d.to_json() for d in decision.boxes]
        device = [part for part in draft.facts.get("device", ()) if part[0] != "source"]
        before = draft.facts["detections"]
        return self._training_cases.write(draft.row, original, before, after, device)

    def _back_to_review(self, caller: Caller, draft: Draft, sent: SentBack) -> NoReturn:
        """Keep what was found with the draft and ask a person.

        If somebody released the image meanwhile, it is withdrawn: they did not know this.

        Raises:
            ReviewNeeded: Always.
        """
        row, image_id = draft.row, draft.row.image_id
        facts = dict(draft.facts)
        facts["still_visible"] = [
            *facts["still_visible"], *(d.to_json() for d in sent.found)
        ]  # fmt: skip
        reasons = sorted({*row.reasons, sent.why})
        columns: dict[str, Any] = {
            "state": str(ImageState.REVIEW),
            "reasons": json.dumps(reasons),
            "facts": self._stored.seal_facts(draft.key, image_id, row.version, facts),
        }
        with self._database.write() as tx:
            key, now = draft.key, self._catalog.row(tx, image_id)
            if now.tag != row.tag:
                key = self._hierarchy.image_key(tx, image_id)
                released = now.state == ImageState.RELEASED
                columns = {"state": str(ImageState.WITHDRAWN)} if released else {}
            tag = self._catalog.change(tx, key, image_id, **columns) if columns else None
            refused = event("image.seal", row, outcome="refused")
            detail = {"why": reasons, "still_visible": len(sent.found), "tag": tag}
            self._audit.append(tx, caller, replace(refused, detail=detail))
        self._open_images.close_subject(image_id)
        raise ReviewNeeded(
            REASONS[sent.why], image_id=image_id, reasons=reasons, found=list(sent.found)
        ) from sent.__cause__


def _refuse_drawn(draft: Draft) -> NoReturn:
    """Raises ReviewNeeded: only the boxes that a person left say what is to be sealed."""
    raise ReviewNeeded(
        REASONS[BOXES_DRAWN],
        image_id=draft.row.image_id,
        reasons=sorted({*draft.row.reasons, BOXES_DRAWN}),
    )
