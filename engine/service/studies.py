"""Studies of a patient: what belongs together, in a radiologist's order."""

from __future__ import annotations

import numpy as np

from engine.errors import InputError, NotFound
from engine.formats import images
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.operations.restorations import Restoration
from engine.operations.study_places import AT_ONCE, StudyPlaces
from engine.operations.study_restorations import StudyRestoration, StudyRestorations
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

    def __init__(
        self, context: Context, guard: Guard, places: StudyPlaces, restorations: StudyRestorations
    ) -> None:
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._guard = guard
        self._live = context.live
        self._patients = context.patients
        self._places = places
        self._restorations = restorations
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
        return self._one(caller, study_id)

    @needs(Permission.LIST_PATIENTS)
    def study_of(self, caller: Caller, image_id: str) -> str | None:
        """The study of an image; None where it has none yet."""
        return self._studies.study_of(self._database.read(), image_id)

    @needs(Permission.RESTORE, fresh=True)
    def restore(
        self, caller: Caller, study_id: str, reason: str, series_id: str = ""
    ) -> StudyRestoration:
        """Open a study, or one series of it, under one reason.

        The log has one ``requested`` for all. Each image is opened when it is looked at
        (:meth:`restored_frame`, :meth:`open_image`), with every check of a single restoration and
        with its own rows in the log. One that cannot be opened does not stop the others.

        Args:
            series_id: Only this series.

        Raises:
            InputError: No reason.
            NotFound: No such study or series, or no released image in it.
        """
        if self._live.settings.reason_required and not reason.strip():
            raise InputError("Give a reason for access to the original.")
        study = self._one(caller, study_id)
        released = tuple(
            image
            for series in study.series
            if series_id in ("", series.series_id)
            for image in series.images
            if image.state is ImageState.RELEASED
        )
        if not released:
            raise NotFound("There is no such series.")
        opened = self._restorations.prepare(study, released, series_id, reason.strip())
        detail = {
            "study": study_id,
            "series": series_id,
            "images": len(released),
            "study_request": opened.handle,
        }
        requested = Event(
            "study.restore",
            "requested",
            patient_id=study.patient_id,
            reason=opened.reason,
            detail=detail,
        )
        self._audit.record(caller, requested)
        self._restorations.begin(caller, opened)
        return opened

    @needs(Permission.RESTORE)
    def restoration(self, caller: Caller, handle: str) -> StudyRestoration:
        """A study restoration of this session again. Raises NotFound where it is over."""
        return self._restorations.of(caller, handle)

    @needs(Permission.RESTORE)
    def restorations(self, caller: Caller, study_id: str) -> list[StudyRestoration]:
        """What this session has restored of a study, newest first."""
        return self._restorations.of_session(caller, study_id)

    @needs(Permission.RESTORE)
    def open_image(self, caller: Caller, handle: str, image_id: str) -> Restoration:
        """One image of a study restoration; its handle is that of a single restoration.

        Raises:
            NotFound: It is over, is not about this image, or the image was changed since.
            PermissionDenied: None of the image's classes is granted to this account.
            SealError: Something does not open or is not the original.
        """
        return self._restorations.image(caller, handle, image_id)[1]

    @needs(Permission.RESTORE)
    def restored_frame(
        self,
        caller: Caller,
        handle: str,
        image_id: str,
        frame: int = 0,
        window: tuple[float, float] | None = None,
        enhance: bool = False,
    ) -> np.ndarray:
        """A frame of an image of a study restoration, upright, shape (H, W, 3), uint8, RGB.

        Args:
            window: Centre and width; DICOM only.
            enhance: Contrast-limited histogram equalisation, for looking only.

        Raises:
            NotFound, PermissionDenied, SealError: As :meth:`open_image`.
        """
        image, _ = self._restorations.image(caller, handle, image_id)
        rgb = images.displayed(image, frame, window)
        return images.enhance(rgb) if enhance else rgb

    @needs(None)
    def close(self, caller: Caller, handle: str) -> None:
        """Forget a study restoration of this session now, with every picture of it."""
        self._restorations.close(caller, handle)

    def _one(self, caller: Caller, study_id: str) -> Study:
        patient_id = self._studies.patient_of(self._database.read(), study_id)
        found = [] if patient_id is None else self._read(caller, patient_id, study_id)
        if not found:
            raise NotFound("There is no such study.")
        return found[0]

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
