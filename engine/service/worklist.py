"""What waits for a technician, study by study; pictures of it, and many confirmed at once.

What is confirmed is noted with the draft and in the log, with what was on the screen and for how
long. Workers seal it then (:meth:`engine.service.batches.Batches.look`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from engine.errors import InputError, NotFound
from engine.formats import images
from engine.operations.admission import Work
from engine.operations.context import Context
from engine.operations.draft_boxes import DraftBox, boxes_of, carried, decided
from engine.operations.examination import BOXES_DRAWN, CONFIRMED, NOT_LOOKED_AT, Examiner
from engine.operations.guard import Guard, needs
from engine.operations.preparation import MOST_BOXES, Decision, heeded
from engine.operations.stored_images import OPEN_STATES, Draft, StoredImages, need_of
from engine.permissions import Permission
from engine.records import Caller, Detection, ImageRecord, ImageState, Study
from engine.store.audit import Event
from engine.store.database import Cursor
from engine.vault import blind_index

#: Drafts that a work list holds at most.
_MOST = 3000
#: Why a person must look that a look at a contact sheet answers.
_ON_A_SHEET = frozenset(("nothing-found", "proposals", "still-visible", "small-doubt"))
#: Why a draft waits, what stops most first: a doctor or patient waits for what was reported or
#: questioned; without a detector every box is still to be drawn; what can be read after masking is
#: a name; boxes that are uncertain, that a device had before, and images without any come then;
#: last what is in no doubt, but has boxes that a person left and has not sealed.
NEEDS = (
    "flagged", "box-questioned", "detector-failed", "still-visible", "proposals", "remembered",
    "nothing-found", BOXES_DRAWN,
)  # fmt: skip
#: Shortest time on the screen that counts as a look, seconds.
LEAST_SECONDS = 1.0
MOST_AT_ONCE = 60


@dataclass(frozen=True)
class WorkItem:
    """A draft of the work list.

    Args:
        version: Changes with every change of the draft, its boxes too.
        on_a_sheet: Can it be confirmed on a contact sheet, or must it be opened?
        worked_on_by: Who has it open; empty where nobody has.
        drawn: Did a person leave boxes with it?
    """

    record: ImageRecord
    version: str
    on_a_sheet: bool
    worked_on_by: str = ""
    drawn: bool = False

    @property
    def need(self) -> str:
        """What stops it most, one of :data:`NEEDS`; empty where nothing does."""
        stops = (*self.record.reasons, *((BOXES_DRAWN,) if self.drawn else ()))
        return next((need for need in NEEDS if need in stops), "")


@dataclass(frozen=True)
class WorkGroup:
    """The drafts of one series.

    Args:
        study: With all its images; None where a draft has no study yet.
        series: Number, description and body part, as people write them.
    """

    patient_id: str
    study: Study | None = field(repr=False)
    series_id: str
    series: str = field(repr=False)
    items: tuple[WorkItem, ...]


@dataclass(frozen=True)
class Look:
    """A draft that a person has looked at on a contact sheet.

    Args:
        version: What was shown.
        seconds: How long it was on the screen.
        shown_px: Longest side of its picture there.
        enlarged: Was it enlarged too?
    """

    image_id: str
    version: str
    seconds: float
    shown_px: int
    enlarged: bool = False


class Worklist:
    """What waits, and what is done with many at once."""

    def __init__(
        self, context: Context, guard: Guard, examiner: Examiner, stored: StoredImages
    ) -> None:
        self._admission = context.admission
        self._audit = context.audit
        self._catalog = context.catalog
        self._claims = context.claims
        self._database = context.database
        self._hierarchy = context.hierarchy
        self._studies = context.studies
        self._examiner = examiner
        self._guard = guard
        self._stored = stored

    @needs(Permission.UPLOAD)
    def groups(self, caller: Caller) -> list[WorkGroup]:
        """What waits, by patient, study and series; what stops most comes first.

        Patients are sorted by the first of :data:`NEEDS` that any of their drafts has; among these
        come one's own uploads, then what has waited longest. A patient's series are in a
        radiologist's order.

        Left out is what workers still have to do: drafts not looked at yet, and confirmed ones.
        """
        self._guard.record_read(caller, Event("image.list", detail={"states": [*OPEN_STATES]}))
        waiting = self._catalog.search(states=OPEN_STATES, limit=_MOST)
        waiting = [r for r in waiting if not {NOT_LOOKED_AT, CONFIRMED} & set(r.reasons)]
        tx = self._database.read()
        versions = self._versions(tx, [r.image_id for r in waiting])
        of_patient: dict[str, list[ImageRecord]] = defaultdict(list)
        for record in waiting:
            if record.image_id in versions:
                of_patient[record.patient_id].append(record)
        busy = self._claims.others(caller)
        # Of the log, because it says so without a key; the draft itself is asked when it is sealed.
        sure = [r.image_id for r in waiting if not r.reasons]
        drawn = self._audit.with_action(tx, "draft.boxes", sure)

        def item(record: ImageRecord) -> WorkItem:
            fits = record.frames == 1 and set(record.reasons) <= _ON_A_SHEET
            image_id = record.image_id
            worked_on_by = busy.get(image_id, "")
            return WorkItem(record, versions[image_id], fits, worked_on_by, image_id in drawn)

        by_patient, studies = [], self._studies.of_patients(tx, waiting)
        for patient_id, records in of_patient.items():
            groups, placed = [], set()
            for study in studies.get(patient_id, []):
                for series in study.series:
                    placed |= {r.image_id for r in series.images}
                    items = tuple(map(item, series.images))
                    groups.append(
                        WorkGroup(patient_id, study, series.series_id, series.title, items)
                    )
            left = tuple(item(r) for r in records if r.image_id not in placed)
            if left:
                groups.append(WorkGroup(patient_id, None, f"none-{patient_id}", "", left))
            by_patient.append(groups)
        by_patient.sort(key=lambda groups: _need(groups, caller.username))
        return [group for groups in by_patient for group in groups]

    def _versions(self, tx: Cursor, image_ids: Sequence[str]) -> dict[str, str]:
        return {i: self._version(tag) for i, tag in self._catalog.tags(tx, image_ids).items()}

    def _version(self, tag: bytes) -> str:
        return blind_index(self._hierarchy.system_key("index"), "draft/version", tag).hex()[:16]

    @needs(Permission.UPLOAD)
    def preview(self, caller: Caller, image_id: str, side_px: int = 256) -> bytes:
        """A draft's picture with its boxes, as PNG, at most ``side_px`` a side.

        Of several frames the middle one. Audited as a look at the draft. Raises NotFound.
        """
        draft = self._stored.draft(self._database.read(), image_id)
        row = draft.row
        seen = Event("draft.preview", patient_id=row.patient_id, image_id=image_id)
        self._guard.record_read(caller, seen)
        with self._admission.room(Work.PAGE, caller.username, need_of(row, draft.facts)):
            image = self._stored.draft_image(draft)
        turn = images.orientation(image)
        middle = image.frames // 2
        shown = [
            (images.to_upright(b.detection.region, turn, image.width, image.height), b)
            for b in self._boxes(draft)
            if b.removed is None
            and b.detection.region.frame <= middle < b.detection.region.frame_end
        ]
        found = [region for region, b in shown if b.found is not None]
        own = [region for region, b in shown if b.found is None]
        return images.boxed_picture(images.displayed(image, middle), found, own, side_px)

    @needs(Permission.UPLOAD)
    def confirm(self, caller: Caller, looks: Sequence[Look]) -> list[str]:
        """Confirm what was seen on one contact sheet; workers seal it.

        Returns:
            Ids of those that are confirmed. One that changed after it was shown, that is no draft
            any more, or that somebody else works on, is left out.

        Raises:
            InputError: Too many at once, or shown too briefly to be seen.
        """
        if not 0 < len(looks) <= MOST_AT_ONCE:
            raise InputError(f"Confirm between 1 and {MOST_AT_ONCE} images at once.")
        if min(look.seconds for look in looks) < LEAST_SECONDS:
            raise InputError("Some images were not on the screen long enough. Look at them first.")
        busy, confirmed = self._claims.others(caller), []
        for look in looks:
            if look.image_id in busy:
                continue
            try:
                self._confirm(caller, look, len(looks))
            except NotFound:
                continue
            confirmed.append(look.image_id)
        return confirmed

    def _confirm(self, caller: Caller, look: Look, together: int) -> None:
        """Raises NotFound where what was shown is no more."""
        draft = self._stored.draft(self._database.read(), look.image_id)
        row = draft.row
        if self._version(row.tag) != look.version or not set(row.reasons) <= _ON_A_SHEET:
            raise NotFound("Another user changed this draft.")
        if row.frames > 1:
            raise InputError("An image with several frames must be opened before it is sealed.")
        boxes, removed = decided(self._boxes(draft))
        decision = {
            "boxes": [d.to_json() for d in boxes],
            "removed": [[place, reason] for place, reason in removed.items()],
            "confirm": "seen on a contact sheet: all identifying content is boxed",
        }
        reasons = [*row.reasons, CONFIRMED]
        what = {
            "seconds": round(look.seconds, 1), "shown_px": look.shown_px,
            "enlarged": look.enlarged, "together": together, "boxes": len(boxes),
        }  # fmt: skip
        self._change(caller, draft, "draft.confirm", what, decision=decision, reasons=reasons)

    @needs(Permission.UPLOAD)
    def confirmed(self, caller: Caller) -> list[ImageRecord]:
        """What anybody confirmed and workers have not sealed yet, newest first."""
        self._guard.record_read(caller, Event("image.list", detail={"states": [*OPEN_STATES]}))
        return self._catalog.search(states=OPEN_STATES, reason=CONFIRMED, limit=_MOST)

    @needs(Permission.UPLOAD)
    def take_back(self, caller: Caller, image_ids: Sequence[str]) -> list[str]:
        """Take a confirmation back, as long as it has not been sealed.

        Returns:
            Ids of those that wait for a person again.
        """
        waiting = []
        for image_id in image_ids:
            try:
                draft = self._stored.draft(self._database.read(), image_id)
                if CONFIRMED not in draft.row.reasons:
                    continue
                reasons = [r for r in draft.row.reasons if r != CONFIRMED]
                self._change(caller, draft, "draft.unconfirm", {}, decision=None, reasons=reasons)
            except NotFound:  # it has just been sealed
                continue
            waiting.append(image_id)
        return waiting

    @needs(Permission.UPLOAD)
    def boxes(self, caller: Caller, image_id: str) -> list[DraftBox]:
        """A draft's boxes as a person left them, else as proposed. Raises NotFound."""
        return self._boxes(self._stored.draft(self._database.read(), image_id))

    @needs(Permission.UPLOAD)
    def keep_boxes(self, caller: Caller, image_id: str, boxes: Sequence[DraftBox]) -> None:
        """Keep a draft's boxes as a person left them, until it is sealed.

        Raises:
            InputError: Too many.
            NotFound: No such draft, somebody else works on it, or it is being sealed.
        """
        if len(boxes) > MOST_BOXES:
            raise InputError(f"Too many boxes. The limit is {MOST_BOXES} per image.")
        self._claims.claim(caller, image_id)
        draft = self._stored.draft(self._database.read(), image_id)
        if CONFIRMED in draft.row.reasons:  # workers seal what was on the sheet
            raise NotFound("This image was confirmed and is being sealed. Undo that first.")
        if boxes != self._boxes(draft):
            self._keep(caller, draft, boxes)

    @needs(Permission.UPLOAD)
    def carry(self, caller: Caller, image_id: str, others: Sequence[str]) -> int:
        """Add one draft's boxes to others of the same size, as a person's own.

        They are drafts still: each is shown with these boxes before anybody confirms it.

        Returns:
            To how many something was added.
        """
        draft = self._stored.draft(self._database.read(), image_id)
        size = (draft.row.patient_id, draft.row.width, draft.row.height, draft.row.frames)
        boxes = [b for b in self._boxes(draft) if b.removed is None]
        busy, count = self._claims.others(caller), 0
        for other_id in others:
            if other_id == image_id or other_id in busy:
                continue
            try:
                count += self._carry(caller, boxes, size, other_id)
            except NotFound:  # sealed, discarded or changed meanwhile
                continue
        return count

    def _carry(
        self, caller: Caller, boxes: Sequence[DraftBox], size: tuple[str, int, int, int], to: str
    ) -> bool:
        """Was anything added? Raises NotFound where it is no draft any more."""
        draft = self._stored.draft(self._database.read(), to)
        row = draft.row
        same = (row.patient_id, row.width, row.height, row.frames) == size
        if not same or CONFIRMED in row.reasons:  # workers seal what was on the sheet
            return False
        before = self._boxes(draft)
        after = carried(boxes, before)
        if after == before:
            return False
        self._keep(caller, draft, after)
        return True

    @needs(Permission.UPLOAD)
    def decide(
        self,
        caller: Caller,
        image_id: str,
        detections: Sequence[Detection],
        removed: Mapping[int, str],
        confirm: str = "",
    ) -> None:
        """Check a decision that is sealed later, and keep its answer with the draft until then.

        The caller holds the draft from here on until :meth:`leave`; :meth:`Drafts.seal` seals it.

        Args:
            detections, removed, confirm: As of :meth:`Drafts.seal`.

        Raises:
            ReviewNeeded: A person must look, and there is no answer.
            InputError: A box that cannot be, or a removed one without a reason.
            NotFound: No such draft, or somebody else works on it.
        """
        self._claims.claim(caller, image_id)
        draft = self._stored.draft(self._database.read(), image_id)
        profile = self._examiner.profile(draft.row.profile)
        heeded(draft.row, draft.facts, profile, Decision(detections, removed, confirm))
        if confirm.strip() != draft.facts.get("answer", ""):
            self._change(caller, draft, "draft.answer", {}, answer=confirm.strip())
        self._claims.hold(caller, image_id)

    @needs(Permission.UPLOAD)
    def hold(self, caller: Caller, image_id: str) -> None:
        """Keep others off a draft until :meth:`leave`. Raises NotFound where somebody has it."""
        self._claims.hold(caller, image_id)

    @needs(Permission.UPLOAD)
    def leave(self, caller: Caller, image_id: str) -> None:
        """Let others work on a draft."""
        self._claims.leave(caller, image_id)

    def release(self, username: str, image_id: str) -> None:
        """As :meth:`leave`, for work that has ended, of an account whose session may have ended."""
        self._claims.leave_as(username, image_id)

    def _boxes(self, draft: Draft) -> list[DraftBox]:
        profile = self._examiner.profile(draft.row.profile)
        return boxes_of(draft.facts, profile, draft.row.reasons)

    def _keep(self, caller: Caller, draft: Draft, boxes: Sequence[DraftBox]) -> None:
        found = len(draft.facts["detections"]) + len(draft.facts["still_visible"])
        kept = [box.to_json() for box in boxes]
        self._change(
            caller, draft, "draft.boxes", {"boxes": len(boxes)}, boxes=kept, boxes_found=found
        )

    def _change(
        self, caller: Caller, draft: Draft, action: str, detail: dict[str, Any], **facts: Any
    ) -> None:
        """Write facts of a draft, and why a person must look, with a row in the log."""
        row, image_id = draft.row, draft.row.image_id
        reasons = facts.pop("reasons", None)
        columns: dict[str, Any] = {}
        if reasons is not None:
            waits = ImageState.REVIEW if reasons else ImageState.DRAFT
            columns = {"reasons": json.dumps(reasons), "state": str(waits)}
        whole = {**draft.facts, **facts}
        sealed = self._stored.seal_facts(draft.key, image_id, row.version, whole)
        with self._database.write() as tx:
            if self._catalog.row(tx, image_id).tag != row.tag:
                raise NotFound("Another user changed this draft. Open it again.")
            tag = self._catalog.change(tx, draft.key, image_id, facts=sealed, **columns)
            event = Event(
                action, patient_id=row.patient_id, image_id=image_id, detail={**detail, "tag": tag}
            )
            self._audit.append(tx, caller, event)


def _need(groups: Sequence[WorkGroup], own: str) -> tuple[int, bool, datetime]:
    """What stops most, whether somebody else sent it, and since when it waits."""
    items = [item for group in groups for item in group.items]
    ranks = [NEEDS.index(item.need) if item.need else len(NEEDS) for item in items]
    mine = any(item.record.uploaded_by == own for item in items)
    return (min(ranks), not mine, min(item.record.uploaded_at for item in items))
