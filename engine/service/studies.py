"""Studies of a patient: what belongs together, in a radiologist's order."""

from __future__ import annotations

from engine.errors import NotFound
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.operations.study_places import AT_ONCE, StudyPlaces
from engine.permissions import Permission, allowed
from engine.records import Caller, ImageState, Study
from engine.store.audit import Event

#: States of images in studies, and what it takes to know of them.
_SEEN = {
    ImageState.RELEASED: Permission.LIST_PATIENTS,
    ImageState.DRAFT: Permission.UPLOAD,
    ImageState.REVIEW: Permission.UPLOAD,
}


class Studies:
    """Patient, study, series, image."""

    def __init__(self, context: Context, guard: Guard, places: StudyPlaces) -> None:
        self._catalog = context.catalog
        self._database = context.database
        self._guard = guard
        self._patients = context.patients
        self._places = places
        self._studies = context.studies

    @needs(Permission.LIST_PATIENTS)
    def of_patient(self, caller: Caller, patient_id: str) -> list[Study]:
        """Studies of a patient, newest first, with the images that the caller may know of.

        Technicians know of drafts, others of released images. Dates and descriptions are those
        of the headers.

        Args:
            patient_id: Opaque key or hospital number.

        Raises:
            NotFound: No such patient.
            SealBroken: A row was altered.
        """
        tx = self._database.read()
        key = self._patients.known(tx, patient_id)
        if key is None:
            raise NotFound("There is no such patient.")
        return self._read(caller, key, None)

    @needs(Permission.LIST_PATIENTS)
    def get(self, caller: Caller, study_id: str) -> Study:
        """One study, with the images that the caller may know of.

        Raises:
            NotFound: No such study, or nothing in it that the caller may know of.
            SealBroken: A row was altered.
        """
        patient_id = self._studies.patient_of(self._database.read(), study_id)
        found = [] if patient_id is None else self._read(caller, patient_id, study_id)
        if not found:
            raise NotFound("There is no such study.")
        return found[0]

    @needs(Permission.LIST_PATIENTS)
    def study_of(self, caller: Caller, image_id: str) -> str | None:
        """The study of an image; None where it has none yet."""
        return self._studies.study_of(self._database.read(), image_id)

    def _read(self, caller: Caller, patient_id: str, study_id: str | None) -> list[Study]:
        while self._places.complete(patient_id) == AT_ONCE:
            pass
        tx = self._database.read()
        seen = [s for s, permission in _SEEN.items() if allowed(caller.role, permission)]
        images = self._catalog.records_of_patient(tx, patient_id, seen)
        found = self._studies.of_patient(tx, patient_id, images, study_id)
        read = Event("study.list", patient_id=patient_id, detail={"studies": len(found)})
        self._guard.record_read(caller, read)
        return found
