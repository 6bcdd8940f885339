"""Masked DICOM objects by their UIDs, as other systems ask for them: found, described, given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from engine.errors import NotFound
from engine.formats import dicom_web, images
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.operations.masked_objects import PATIENT_ID, MaskedObject, MaskedObjects, summary
from engine.operations.stored_images import StoredImages
from engine.permissions import Permission
from engine.records import Caller
from engine.store.audit import Event
from engine.store.studies import study_id_of


class Objects:
    """Query and retrieval of masked DICOM objects; nothing hidden is in them."""

    def __init__(
        self, context: Context, guard: Guard, stored: StoredImages, masked: MaskedObjects
    ) -> None:
        self._database = context.database
        self._patients = context.patients
        self._guard = guard
        self._masked_objects = masked
        self._stored = stored

    @needs(Permission.VIEW_MASKED)
    def search(
        self, caller: Caller, level: str, keys: Mapping[str, str], limit: int, offset: int
    ) -> list[dict[str, Any]]:
        """Attributes of what matches, newest study first.

        Args:
            level: ``study``, ``series`` or ``instance``.
            keys: Values by keyword or tag; see :func:`engine.formats.dicom_web.matches`. PatientID
                is the pseudonym of the masked objects, or a hospital number.

        Raises:
            InputError: An attribute is not known.
        """
        wanted = {dicom_web.tag_of(name): value for name, value in keys.items()}
        among, wanted = self._among(caller, wanted)
        groups = self._masked_objects.groups(level, wanted, among)
        found = [summary(level, group) for group in islice(groups, offset, offset + limit)]
        read = Event("study.search", detail={"level": level, "found": len(found)})
        self._guard.record_read(caller, read)
        return found

    @needs(Permission.VIEW_MASKED)
    def of_study(self, caller: Caller, study_id: str) -> list[MaskedObject]:
        """Every masked object of a study. Raises NotFound."""
        found = list(self._masked_objects.of(None, study_id))
        if not found:
            raise NotFound("There is no such study.")
        read = Event("study.read", patient_id=found[0].patient_id, detail={"objects": len(found)})
        self._guard.record_read(caller, read)
        return found

    @needs(Permission.EXPORT)
    def file(self, caller: Caller, image_id: str, native: bool = False) -> bytes:
        """The file of a masked object.

        Args:
            native: In Explicit VR Little Endian; otherwise as it is stored.

        Raises:
            NotFound: No such released image.
            UnsupportedFormat: It cannot be decompressed.
        """
        data = images.from_storage(self._masked(caller, image_id, "image.export"))
        return images.uncompressed(data) if native else data

    @needs(Permission.EXPORT)
    def frames(
        self, caller: Caller, image_id: str, numbers: Sequence[int], native: bool = False
    ) -> tuple[list[bytes], str]:
        """Frames of a masked object, from 1, and their transfer syntax. Raises NotFound."""
        stored = self._masked(caller, image_id, "image.export")
        return images.web_frames(stored, numbers, native)

    @needs(Permission.EXPORT)
    def bulk(self, caller: Caller, image_id: str, tag: str) -> bytes:
        """A bulk value of a masked object, by tag of eight hex digits. Raises NotFound."""
        return images.web_bulk(self._masked(caller, image_id, "image.export"), tag)

    def tag(self, name: str) -> str:
        """Eight hex digits for a keyword or a tag; shows nothing. Raises InputError."""
        return dicom_web.tag_of(name)

    def study_id(self, study_uid: str) -> str:
        """The id of a study by its UID in masked objects; shows nothing."""
        return study_id_of(study_uid)

    def _masked(self, caller: Caller, image_id: str, action: str) -> bytes:
        row = self._stored.released(self._database.read(), image_id)
        stored = self._stored.part(image_id, "masked")
        event = Event(action, patient_id=row.patient_id, image_id=image_id)
        self._guard.record_read(caller, event)
        return stored

    def _among(
        self, caller: Caller, keys: dict[str, str]
    ) -> tuple[list[str] | None, dict[str, str]]:
        """Patients among whom to look. A hospital number is taken out of the keys."""
        among = self._guard.open_patients(caller)
        number = keys.get(PATIENT_ID, "")
        known = self._patients.find_id(self._database.read(), number) if number else None
        if known is None:
            return among, keys
        del keys[PATIENT_ID]
        return [p for p in [known] if among is None or p in among], keys
