"""Masked DICOM objects by their UIDs, as other systems ask for them: found, described, given."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import EngineError, NotFound
from engine.formats import dicom_web, images
from engine.operations.context import Context
from engine.operations.guard import Guard, log, needs
from engine.operations.stored_images import StoredImages
from engine.permissions import Permission
from engine.records import Caller
from engine.store.audit import Event
from engine.store.studies import Placed, study_id_of

#: Headers kept in memory; one is some 10 kB.
_KEPT = 5000
#: Objects whose headers a search reads at most: what is older is not found without its study's UID.
_MOST_READ = 20_000
PATIENT_ID, STUDY_UID = "00100020", "0020000D"
SERIES_UID, INSTANCE_UID = "0020000E", "00080018"
_MODALITY, _MODALITIES = "00080060", "00080061"
_STUDY_SERIES, _STUDY_INSTANCES, _SERIES_INSTANCES = "00201206", "00201208", "00201209"


@dataclass(frozen=True)
class MaskedObject:
    """A masked object without its pixels.

    Args:
        header: Attributes in JSON by tag (PS3.18 annex F); bulk values by reference.
        syntax: Its transfer syntax.
    """

    image_id: str
    patient_id: str
    header: Mapping[str, Mapping[str, Any]] = field(repr=False)
    syntax: str = ""

    def uid(self, tag: str) -> str:
        """A UID of it; empty where it has none."""
        return str(next(iter(self.header.get(tag, {}).get("Value", ())), ""))


class Objects:
    """Query and retrieval of masked DICOM objects; nothing hidden is in them."""

    def __init__(self, context: Context, guard: Guard, stored: StoredImages) -> None:
        self._database = context.database
        self._patients = context.patients
        self._studies = context.studies
        self._guard = guard
        self._stored = stored
        self._headers: OrderedDict[str, tuple[Mapping[str, Any], str]] = OrderedDict()
        self._lock = threading.Lock()

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
        found = []
        groups = self._groups(caller, level, wanted)
        for place, group in enumerate(groups):
            if place >= offset + limit:
                break
            if place >= offset:
                found.append(_summary(level, group))
        read = Event("study.search", detail={"level": level, "found": len(found)})
        self._guard.record_read(caller, read)
        return found

    @needs(Permission.VIEW_MASKED)
    def of_study(self, caller: Caller, study_id: str) -> list[MaskedObject]:
        """Every masked object of a study. Raises NotFound."""
        found = list(self._objects(None, study_id))
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

    def _groups(
        self, caller: Caller, level: str, keys: Mapping[str, str]
    ) -> Iterator[list[MaskedObject]]:
        """Objects that match, those of one study, series or instance together."""
        among, keys = self._among(caller, dict(keys))
        modalities = keys.pop(_MODALITIES, "")
        study_uid = keys.get(STUDY_UID, "")
        single = bool(study_uid) and not set("*?,\\") & set(study_uid)
        study_id = study_id_of(study_uid) if single else None
        tag = {"study": STUDY_UID, "series": SERIES_UID}.get(level, INSTANCE_UID)
        group: list[MaskedObject] = []
        for found in self._objects(among, study_id):
            if group and group[0].uid(tag) != found.uid(tag):
                if _fits(group, keys, modalities):
                    yield group
                group = []
            group.append(found)
        if group and _fits(group, keys, modalities):
            yield group

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

    def _objects(
        self, patients: Sequence[str] | None, study_id: str | None
    ) -> Iterator[MaskedObject]:
        places = self._studies.released(self._database.read(), patients, study_id)
        for placed in places[:_MOST_READ]:
            try:
                yield self._object(placed)
            except EngineError as err:  # withdrawn or erased meanwhile, or damaged
                log.warning("a masked object is left out: %s", err.code)

    def _object(self, placed: Placed) -> MaskedObject:
        row = self._stored.released(self._database.read(), placed.image_id)
        address = row.masked_blob or ""
        with self._lock:
            kept = self._headers.get(address)
            if kept is not None:
                self._headers.move_to_end(address)
        if kept is None:
            kept = images.web_header(self._stored.part(placed.image_id, "masked"))
            with self._lock:
                self._headers[address] = kept
                while len(self._headers) > _KEPT:
                    self._headers.popitem(last=False)
        return MaskedObject(placed.image_id, placed.patient_id, *kept)


def _fits(group: Sequence[MaskedObject], keys: Mapping[str, str], modalities: str) -> bool:
    any_of = {_MODALITY: modalities}
    return any(dicom_web.matches(o.header, keys) for o in group) and any(
        dicom_web.matches(o.header, any_of) for o in group
    )


def _summary(level: str, group: Sequence[MaskedObject]) -> dict[str, Any]:
    """What is answered of a study, series or instance: its first object, with counts."""
    said: dict[str, Any] = dict(group[0].header)
    if level == "study":
        series = {o.uid(SERIES_UID) for o in group}
        modalities = sorted({o.uid(_MODALITY) for o in group} - {""})
        said[_MODALITIES] = {"vr": "CS", "Value": modalities}
        said[_STUDY_SERIES] = {"vr": "IS", "Value": [len(series)]}
        said[_STUDY_INSTANCES] = {"vr": "IS", "Value": [len(group)]}
    if level == "series":
        said[_SERIES_INSTANCES] = {"vr": "IS", "Value": [len(group)]}
    return said
