"""Masked DICOM objects by their UIDs, for DICOMweb and DIMSE: read, matched, and put together.

Asks nobody for a permission; services do that before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import EngineError
from engine.formats import dicom_web, images
from engine.operations.context import Context
from engine.operations.guard import log
from engine.operations.stored_images import StoredImages
from engine.store.studies import Placed, study_id_of

#: Headers kept in memory; one is some 10 kB.
_KEPT = 5000
PATIENT_ID, STUDY_UID = "00100020", "0020000D"
SERIES_UID, INSTANCE_UID = "0020000E", "00080018"
#: The attribute that is different for each match of a level.
UNIQUE = {
    "patient": PATIENT_ID,
    "study": STUDY_UID,
    "series": SERIES_UID,
    "instance": INSTANCE_UID,
}
_MODALITY, _MODALITIES = "00080060", "00080061"
_PATIENT_STUDIES = "00201200"
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


class MaskedObjects:
    """Released masked objects of a catalog; nothing hidden is in them."""

    def __init__(self, context: Context, stored: StoredImages) -> None:
        self._database = context.database
        self._studies = context.studies
        self._stored = stored
        self._headers: OrderedDict[str, tuple[Mapping[str, Any], str]] = OrderedDict()
        self._lock = threading.Lock()

    def groups(
        self,
        level: str,
        keys: Mapping[str, str],
        patients: Sequence[str] | None,
        sender: str | None = None,
    ) -> Iterator[list[MaskedObject]]:
        """Objects that match, those of one patient, study, series or instance together.

        Newest study first. Each is read when it is asked for, so whoever stops pays for no more.

        Args:
            level: ``patient``, ``study``, ``series`` or ``instance``.
            keys: Values by tag; see :func:`engine.formats.dicom_web.matches`.
            patients: Whose; None for everybody's.
            sender: Only what this caller sent.
        """
        left = dict(keys)
        modalities = left.pop(_MODALITIES, "")
        study_uid = left.get(STUDY_UID, "")
        single = bool(study_uid) and not set("*?,\\") & set(study_uid)
        study_id = study_id_of(study_uid) if single else None
        tag = UNIQUE[level]
        found = self.of(patients, study_id, sender)
        if level == "patient":
            whole: dict[str, list[MaskedObject]] = {}
            for one in found:
                whole.setdefault(one.uid(tag), []).append(one)
            yield from (group for group in whole.values() if _fits(group, left, modalities))
            return
        group: list[MaskedObject] = []
        for one in found:
            if group and group[0].uid(tag) != one.uid(tag):
                if _fits(group, left, modalities):
                    yield group
                group = []
            group.append(one)
        if group and _fits(group, left, modalities):
            yield group

    def of(
        self, patients: Sequence[str] | None, study_id: str | None, sender: str | None = None
    ) -> Iterator[MaskedObject]:
        """Objects of patients, a study or a sender; None for all of them."""
        places = self._studies.released(self._database.read(), patients, study_id, sender)
        for placed in places:
            try:
                yield self._object(placed)
            except EngineError as err:  # withdrawn or erased meanwhile, or damaged
                log.warning("a masked object is left out: %s", err.code)

    def one(self, image_id: str) -> MaskedObject:
        """One object. Raises NotFound where it is not released."""
        row = self._stored.released(self._database.read(), image_id)
        return self._object(Placed(image_id, "", "", row.patient_id))

    def file(self, image_id: str, native: bool) -> bytes:
        """The file of a masked object, in Explicit VR Little Endian or as it is stored.

        Raises:
            NotFound: No such released image.
            UnsupportedFormat: It cannot be decompressed.
        """
        self._stored.released(self._database.read(), image_id)
        data = images.from_storage(self._stored.part(image_id, "masked"))
        return images.uncompressed(data) if native else data

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


def summary(level: str, group: Sequence[MaskedObject]) -> dict[str, Any]:
    """What is answered of a match: the attributes of its first object, with counts."""
    said: dict[str, Any] = dict(group[0].header)
    if level == "patient":
        said[_PATIENT_STUDIES] = _number(len({o.uid(STUDY_UID) for o in group}))
    if level == "study":
        modalities = sorted({o.uid(_MODALITY) for o in group} - {""})
        said[_MODALITIES] = {"vr": "CS", "Value": modalities}
        said[_STUDY_SERIES] = _number(len({o.uid(SERIES_UID) for o in group}))
        said[_STUDY_INSTANCES] = _number(len(group))
    if level == "series":
        said[_SERIES_INSTANCES] = _number(len(group))
    return said


def _number(count: int) -> dict[str, Any]:
    return {"vr": "IS", "Value": [count]}


def _fits(group: Sequence[MaskedObject], keys: Mapping[str, str], modalities: str) -> bool:
    any_of = {_MODALITY: modalities}
    return any(dicom_web.matches(o.header, keys) for o in group) and any(
        dicom_web.matches(o.header, any_of) for o in group
    )
