"""Patients, their history and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from engine.errors import InputError, NotFound
from engine.operations.context import Context
from engine.operations.erasures import Erasures
from engine.operations.guard import Guard, needs
from engine.operations.patient_records import PatientRecords
from engine.permissions import Permission, allowed
from engine.records import Caller, Note, Patient
from engine.store.audit import Event


@dataclass(frozen=True)
class Extent:
    """How much there is of a patient, without a name.

    Args:
        unsealed: Images of ``images`` that were never sealed.
        first, last: When images came in; None where there is none.
    """

    images: int
    unsealed: int
    first: datetime | None
    last: datetime | None


class Patients:
    """Records of patients."""

    def __init__(self, context: Context, guard: Guard, erasures: Erasures) -> None:
        self._access = context.access
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._merging = context.merging
        self._open_images = context.open_images
        self._patients = context.patients
        self._records = PatientRecords(context)
        self._erasures = erasures
        self._guard = guard

    @needs(Permission.LIST_PATIENTS)
    def search(
        self,
        caller: Caller,
        query: str = "",
        limit: int = 50,
        offset: int = 0,
        only: Sequence[str] | None = None,
    ) -> list[Patient]:
        """Patients by number or by the beginnings of words of their name (see Patients).

        Args:
            only: Opaque keys among which to look, such as those of a list of images.
        """
        among = self._guard.open_patients(caller)
        if only is not None:
            among = [p for p in set(only) if among is None or p in among]
        found = self._patients.search(query, limit, offset, among)
        # What was typed may be a name: the log says that somebody searched, not for whom.
        how = {"by": "words" if query.strip() else "list", "found": len(found)}
        self._guard.record_read(caller, Event("patient.search", detail=how))
        return [self._shown(caller, p) for p in found]

    @needs(Permission.LIST_PATIENTS)
    def get(self, caller: Caller, patient_id: str) -> Patient:
        """One patient, by opaque key or hospital number. Raises NotFound."""
        tx = self._database.read()
        patient = self._patients.get(tx, self.resolve(patient_id))
        self._audit.record(caller, Event("patient.read", patient_id=patient.patient_id))
        return self._shown(caller, patient)

    @needs(Permission.EDIT_PATIENTS)
    def create(
        self, caller: Caller, id: str, name: str, age: int | None = None, note: str = ""
    ) -> Patient:
        """Add a patient. Raises InputError."""
        with self._database.write() as tx:
            patient = self._records.create(tx, caller, id=id, name=name, age=age, note=note)
        return self._shown(caller, patient)

    @needs(Permission.EDIT_PATIENTS)
    def update(self, caller: Caller, /, patient_id: str, **changes: Any) -> Patient:
        """Change id, name, age or note; what was before is kept.

        A note by somebody who may not read notes is added below the one that is there.

        Raises:
            InputError: A field is too long, empty or taken.
            NotFound: No such patient.
        """
        unknown = set(changes) - {"id", "name", "age", "note"}
        if unknown:
            raise InputError("Unknown field. A patient has id, name, age and note.")
        if changes.get("note", "") is None:  # what somebody who may not read it has in hand
            del changes["note"]
        patient_id = self.resolve(patient_id)
        with self._database.write() as tx:
            note = changes.get("note")
            if isinstance(note, str) and not allowed(caller.role, Permission.READ_PATIENT_NOTE):
                # Who cannot read what is there must not replace it: it is written below.
                there = self._patients.get(tx, patient_id).note or ""
                changes["note"] = "\n".join(text for text in (there, note) if text.strip())
            patient, changed = self._patients.update(tx, patient_id, caller.username, **changes)
            tag = self._patients.tag(tx, patient_id)
            self._audit.append(
                tx,
                caller,
                Event(
                    "patient.update", patient_id=patient_id, detail={"fields": changed, "tag": tag}
                ),
            )
        return self._shown(caller, patient)

    @needs(Permission.MERGE_PATIENTS)
    def merge(self, caller: Caller, patient_id: str, duplicate: str, reason: str) -> Patient:
        """Make one of two records of the same person. This cannot be undone.

        Images, notes and history move to the record that stays; so do the doctors who treat
        the other. The other's number goes on naming the one that stays.

        Args:
            patient_id: Who stays: opaque key or hospital number.
            duplicate: Who goes: opaque key or hospital number.

        Raises:
            InputError: No reason, or one patient twice.
            NotFound: One of them does not exist.
            SealBroken: Something of the duplicate was altered; nothing was moved.
        """
        if not reason.strip():
            raise InputError("Give a reason for merging. A merge cannot be undone.")
        with self._database.write() as tx:
            into_id = self._patients.known(tx, patient_id)
            gone_id = self._patients.known(tx, duplicate)
            if into_id is None or gone_id is None:
                raise NotFound("There is no such patient.")
            if into_id == gone_id:
                raise InputError("Both numbers already belong to the same record.")
            tags = self._merging.merge(tx, into_id, gone_id, caller.username)
            self._access.move(tx, gone_id, into_id)
            detail = {
                "merged": gone_id,
                "images": len(tags),
                "tag": self._patients.tag(tx, into_id),
            }
            self._audit.append(
                tx,
                caller,
                Event("patient.merged", patient_id=gone_id, detail={"into": into_id}),
                *(
                    Event("image.move", patient_id=into_id, image_id=i, detail={"tag": tag})
                    for i, tag in tags.items()
                ),
                Event("patient.merge", patient_id=into_id, reason=reason.strip(), detail=detail),
            )
        for image_id in tags:
            self._open_images.close_subject(image_id)
        return self._shown(caller, self._patients.get(self._database.read(), into_id))

    @needs(Permission.ERASE_PATIENTS)
    def extent(self, caller: Caller, patient_id: str) -> Extent:
        """What :meth:`erase` would destroy, so that a mistyped number is noticed.

        Args:
            patient_id: Opaque key or hospital number.

        Raises:
            NotFound: No such patient.
        """
        tx = self._database.read()
        known = self._patients.known(tx, patient_id)
        if known is None:
            raise NotFound("There is no such patient.")
        found = Extent(**self._catalog.extent(tx, known))
        detail = {"by": "erasure", "found": found.images}
        self._guard.record_read(caller, Event("patient.search", patient_id=known, detail=detail))
        return found

    @needs(Permission.ERASE_PATIENTS)
    def erase(self, caller: Caller, patient_id: str, reason: str) -> None:
        """Destroy a patient's key: record, notes and images are unrecoverable from here on.

        Backups made before stay readable until they are pruned; restoring one erases again.

        Args:
            patient_id: Opaque key or hospital number.

        Raises:
            InputError: No reason given.
            NotFound: No such patient.
        """
        if not reason.strip():
            raise InputError("Give a reason for erasing the patient.")
        self._erasures.patient(caller, self.resolve(patient_id), reason)

    @needs(Permission.READ_HISTORY)
    def history(self, caller: Caller, patient_id: str) -> list[dict[str, Any]]:
        """Earlier versions of a patient's record, newest first."""
        tx = self._database.read()
        patient_id = self._patients.get(tx, self.resolve(patient_id)).patient_id
        self._audit.record(caller, Event("patient.history", patient_id=patient_id))
        return self._patients.history(tx, patient_id)

    @needs(Permission.READ_NOTES)
    def notes(
        self, caller: Caller, image_id: str | None = None, patient_id: str | None = None
    ) -> list[Note]:
        """Notes of a patient or of one image, newest first."""
        tx = self._database.read()
        if patient_id is None:
            if image_id is None:
                raise InputError("Choose a patient or an image.")
            patient_id = self._catalog.row(tx, image_id).patient_id
        patient_id = self.resolve(patient_id)
        found = self._patients.notes(tx, patient_id, image_id)
        read = Event(
            "note.read",
            patient_id=patient_id,
            image_id=image_id or "",
            detail={"notes": len(found)},
        )
        self._guard.record_read(caller, read)
        return found

    @needs(Permission.WRITE_NOTES)
    def add_note(
        self, caller: Caller, patient_id: str, text: str, image_id: str | None = None
    ) -> Note:
        """Append a note. Raises InputError, NotFound."""
        patient_id = self.resolve(patient_id)
        with self._database.write() as tx:
            if image_id is not None and self._catalog.row(tx, image_id).patient_id != patient_id:
                raise NotFound("This patient has no such image.")
            note = self._patients.add_note(tx, patient_id, image_id, caller.username, text)
            self._audit.append(
                tx,
                caller,
                Event("note.write", patient_id=patient_id, image_id=image_id or ""),
            )
        return note

    def resolve(self, name: str) -> str:
        """Opaque key for an opaque key or a hospital number; unknown ones stay as they are."""
        return self._patients.known(self._database.read(), name) or name

    def _shown(self, caller: Caller, patient: Patient) -> Patient:
        """Without the note for those who may not read it (F25)."""
        if allowed(caller.role, Permission.READ_PATIENT_NOTE):
            return patient
        return replace(patient, note=None)
