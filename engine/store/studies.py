"""Patient, study, series, image (PS3.3 A.1.2): which images belong together, and in what order.

A study is known by the UID that its masked files have, which is made of the original's under the
patient's secret: so it is the same for every image of the study, and tells nobody the original.
Dates, descriptions and numbers identify; they are encrypted with the patient's own key. So is the
place of an image, which proves the plain columns beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from engine.errors import NotFound, SealBroken
from engine.formats.dicom_header import Pseudonyms
from engine.host import Host
from engine.records import ImageRecord, Series, Study
from engine.store.database import Cursor, Row
from engine.store.key_hierarchy import KeyHierarchy
from engine.vault import derive, open_field, seal_field

_OF_STUDY = ("study_date", "study_time", "study_description", "accession_number", "patient_sex")
_OF_SERIES = ("series_number", "series_description", "modality", "body_part", "laterality")
_OF_IMAGE = ("instance_number", "position_mm")
_LAST = float("inf")


@dataclass(frozen=True)
class Arrival:
    """An image whose place is to be found.

    Args:
        facts: What its header says: see :func:`engine.formats.dicom_study.study_facts`.
        masked: The facts are those of a masked file, whose UIDs are mapped already.
    """

    image_id: str
    patient_id: str
    uploaded_at: datetime
    uploaded_by: str
    facts: Mapping[str, Any] = field(repr=False)
    masked: bool = False


@dataclass(frozen=True)
class Placed:
    """Where a released image is."""

    image_id: str
    series_id: str
    study_id: str
    patient_id: str


@dataclass(frozen=True)
class SeriesOfSize:
    """Images of one series that have one size, in px: they can be laid over one another."""

    series_id: str
    patient_id: str
    width: int
    height: int


class Studies:
    """Studies of one catalog. Callers hold the transaction."""

    def __init__(self, hierarchy: KeyHierarchy, host: Host) -> None:
        self._hierarchy = hierarchy
        self._host = host

    def place(self, tx: Cursor, image: Arrival) -> str:
        """Put an image into its study and series, which are made where they are new.

        A file without a header belongs to a study of its patient, day of upload and uploader.

        Returns:
            The id of the study.

        Raises:
            UnknownKey: The patient was erased.
        """
        key = self._hierarchy.patient_key(tx, image.patient_id)
        facts = image.facts
        study_uid, series_uid = self._uids(key, image)
        study_id, series_id = _id("st", study_uid), _id("se", study_uid, series_uid)
        now = self._host.now()
        tx.run(
            "INSERT INTO studies VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
            study_id,
            image.patient_id,
            study_uid,
            self._sealed(key, f"study/{study_id}", {k: facts.get(k) for k in _OF_STUDY}),
            now,
        )
        tx.run(
            "INSERT INTO series VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            series_id,
            study_id,
            self._sealed(key, f"series/{series_id}", {k: facts.get(k) for k in _OF_SERIES}),
            now,
        )
        place = {"study": study_id, "series": series_id, **{k: facts.get(k) for k in _OF_IMAGE}}
        tx.run(
            "INSERT INTO image_places VALUES ($1, $2, $3, $4)",
            image.image_id,
            series_id,
            study_id,
            self._sealed(key, f"place/{image.image_id}", place),
        )
        return study_id

    def _uids(self, key: bytes, image: Arrival) -> tuple[str, str]:
        """UIDs of study and series as masked files have them."""
        names = Pseudonyms(derive(key, "pseudonyms"))
        day = f"{image.uploaded_at:%Y-%m-%d}/{image.uploaded_by}"
        found = []
        for kind in ("study", "series"):
            said = str(image.facts.get(f"{kind}_uid", ""))
            own = said if image.masked else str(names.uid(said)) if said else ""
            found.append(own or str(names.uid(f"{kind} of an upload/{image.patient_id}/{day}")))
        return found[0], found[1]

    def forget(self, tx: Cursor, image_id: str) -> None:
        """Take an erased image out; a study or series that is left empty goes too."""
        row = tx.one("SELECT * FROM image_places WHERE image_id = $1", image_id)
        if row is None:
            return
        tx.run("DELETE FROM image_places WHERE image_id = $1", image_id)
        for table, column in (("series", "series_id"), ("studies", "study_id")):
            tx.run(
                f"DELETE FROM {table} WHERE {column} = $1"  # noqa: S608
                f" AND NOT EXISTS (SELECT 1 FROM image_places WHERE {column} = $1)",
                row[column],
            )

    def move(self, tx: Cursor, old: bytes, new: bytes, into_id: str, gone_id: str) -> None:
        """Encrypt the studies of one patient under another's key.

        Raises:
            SealBroken: One of them was altered.
        """
        studies = tx.all("SELECT * FROM studies WHERE patient_id = $1", gone_id)
        among = [row["study_id"] for row in studies]
        series = self._among(tx, "series", among)
        places = self._among(tx, "image_places", among)
        for table, kind, name, column, rows in (
            ("studies", "study", "study_id", "record", studies),
            ("series", "series", "series_id", "record", series),
            ("image_places", "place", "image_id", "place", places),
        ):
            for row in rows:
                context = f"{kind}/{row[name]}"
                sealed = self._sealed(new, context, self._opened(old, context, row[column]))
                tx.run(f"UPDATE {table} SET {column} = $2 WHERE {name} = $1", row[name], sealed)  # noqa: S608
        tx.run("UPDATE studies SET patient_id = $2 WHERE patient_id = $1", gone_id, into_id)

    def patient_of(self, tx: Cursor, study_id: str) -> str | None:
        """Patient of a study; None if there is no such study."""
        row = tx.one("SELECT patient_id FROM studies WHERE study_id = $1", study_id)
        return None if row is None else str(row["patient_id"])

    def study_of(self, tx: Cursor, image_id: str) -> str | None:
        """The study of an image; None where it has no place yet."""
        row = tx.one("SELECT study_id FROM image_places WHERE image_id = $1", image_id)
        return None if row is None else str(row["study_id"])

    def dates(self, tx: Cursor, image_ids: Sequence[str]) -> dict[str, str]:
        """Day of the study of each of these images whose header says one, as ``YYYY-MM-DD``.

        Raises:
            SealBroken: A row was altered.
        """
        rows = tx.all(
            "SELECT * FROM image_places JOIN studies USING (study_id)"
            " WHERE image_id IN (SELECT unnest($1::VARCHAR[]))",
            list(image_ids),
        )
        found = {}
        for row in rows:
            key = self._hierarchy.patient_key(tx, row["patient_id"])
            self._place(key, row)
            said = self._opened(key, f"study/{row['study_id']}", row["record"])
            found[row["image_id"]] = said["study_date"] or ""
        return {image_id: day for image_id, day in found.items() if day}

    def released(
        self,
        tx: Cursor,
        patients: Sequence[str] | None,
        study_id: str | None = None,
        sender: str | None = None,
    ) -> list[Placed]:
        """Places of released DICOM images, newest study first.

        Args:
            patients: Whose; None for everybody's.
            study_id: Only of this study.
            sender: Only what this caller sent.
        """
        rows = tx.all(
            "SELECT p.image_id, p.series_id, p.study_id, s.patient_id FROM image_places p"
            " JOIN studies s USING (study_id) JOIN images i USING (image_id)"
            " WHERE i.state = 'released' AND i.format = 'DICOM'"
            " AND ($1::VARCHAR[] IS NULL OR s.patient_id IN (SELECT unnest($1::VARCHAR[])))"
            " AND ($2::VARCHAR IS NULL OR p.study_id = $2)"
            " AND ($3::VARCHAR IS NULL OR i.uploaded_by = $3)"
            " ORDER BY s.created_at DESC, p.study_id, p.series_id, i.uploaded_at, p.image_id",
            None if patients is None else list(patients),
            study_id,
            sender,
        )
        return [Placed(**row) for row in rows]

    def series_of_draft(self, tx: Cursor, image_id: str) -> SeriesOfSize | None:
        """The series of a DICOM file of one frame; None for other files, and without a place."""
        image = tx.one("SELECT * FROM images WHERE image_id = $1", image_id)
        place = tx.one("SELECT series_id FROM image_places WHERE image_id = $1", image_id)
        if image is None or place is None or (image["format"], image["frames"]) != ("DICOM", 1):
            return None
        return SeriesOfSize(
            place["series_id"], image["patient_id"], image["width"], image["height"]
        )

    def drafts_of(self, tx: Cursor, series: SeriesOfSize, states: Sequence[str]) -> list[str]:
        """Its images of one frame in one of some states, as they arrived."""
        rows = tx.all(
            "SELECT i.image_id FROM image_places p JOIN images i USING (image_id)"
            " WHERE p.series_id = $1 AND i.patient_id = $2 AND i.width = $3 AND i.height = $4"
            " AND i.state IN (SELECT unnest($5::VARCHAR[])) AND i.format = 'DICOM'"
            " AND i.frames = 1 AND i.draft_blob IS NOT NULL ORDER BY i.uploaded_at, i.image_id",
            series.series_id,
            series.patient_id,
            series.width,
            series.height,
            [*map(str, states)],
        )
        return [row["image_id"] for row in rows]

    def unplaced(self, tx: Cursor, patient_id: str | None, limit: int) -> list[str]:
        """Images that have no place yet: those that an earlier release took in."""
        rows = tx.all(
            "SELECT image_id FROM images WHERE state <> 'erased' AND ($1::VARCHAR IS NULL OR"
            " patient_id = $1) AND image_id NOT IN (SELECT image_id FROM image_places)"
            " ORDER BY uploaded_at, image_id LIMIT $2",
            patient_id,
            limit,
        )
        return [row["image_id"] for row in rows]

    def of_patient(
        self,
        tx: Cursor,
        patient_id: str,
        images: Sequence[ImageRecord],
        study_id: str | None = None,
    ) -> list[Study]:
        """Studies in which some of these images are, newest first.

        Args:
            images: Of this patient, that the caller may know of.
            study_id: Only this one.

        Raises:
            NotFound: The study is not one of this patient.
            SealBroken: A row was altered.
        """
        rows = tx.all(
            "SELECT * FROM studies WHERE patient_id = $1"
            " AND ($2::VARCHAR IS NULL OR study_id = $2)",
            patient_id,
            study_id,
        )
        if study_id is not None and not rows:
            raise NotFound("There is no such study.")
        return self._built(tx, rows, images).get(patient_id, [])

    def of_patients(self, tx: Cursor, images: Sequence[ImageRecord]) -> dict[str, list[Study]]:
        """Studies in which these images are, by patient, newest first. Raises SealBroken."""
        patients = list({image.patient_id for image in images})
        rows = tx.all(
            "SELECT * FROM studies WHERE patient_id IN (SELECT unnest($1::VARCHAR[]))", patients
        )
        return self._built(tx, rows, images)

    def _built(
        self, tx: Cursor, rows: Sequence[Row], images: Sequence[ImageRecord]
    ) -> dict[str, list[Study]]:
        """Studies of these rows that have some of the images, by patient."""
        if not rows:
            return {}
        patients = {row["study_id"]: row["patient_id"] for row in rows}
        keys = {p: self._hierarchy.patient_key(tx, p) for p in set(patients.values())}
        among = list(patients)
        records = {image.image_id: image for image in images}
        held: dict[str, list[tuple[tuple[Any, ...], ImageRecord]]] = defaultdict(list)
        for row in self._among(tx, "image_places", among):
            image = records.get(row["image_id"])
            if image is not None and image.patient_id == patients[row["study_id"]]:
                place = self._place(keys[image.patient_id], row)
                held[row["series_id"]].append((_image_order(place, image), image))
        of_study: dict[str, list[tuple[tuple[Any, ...], Series]]] = defaultdict(list)
        for row in self._among(tx, "series", among):
            if row["series_id"] in held:
                key = keys[patients[row["study_id"]]]
                in_order = sorted(held[row["series_id"]], key=lambda one: one[0])
                said = self._opened(key, f"series/{row['series_id']}", row["record"])
                series = _series(row, said, [image for _, image in in_order])
                of_study[row["study_id"]].append((_series_order(series, row), series))
        found: dict[str, list[Study]] = defaultdict(list)
        for row in rows:
            if row["study_id"] in of_study:
                said = self._opened(
                    keys[row["patient_id"]], f"study/{row['study_id']}", row["record"]
                )
                its_series = sorted(of_study[row["study_id"]], key=lambda one: one[0])
                study = _study(row, said, [one for _, one in its_series])
                found[row["patient_id"]].append(study)
        for studies in found.values():
            studies.sort(key=lambda s: (s.date, s.time, s.study_id), reverse=True)
        return found

    def _among(self, tx: Cursor, table: str, study_ids: Sequence[str]) -> list[Row]:
        return tx.all(
            f"SELECT * FROM {table} WHERE study_id IN (SELECT unnest($1::VARCHAR[]))",  # noqa: S608
            list(study_ids),
        )

    def _place(self, key: bytes, row: Row) -> dict[str, Any]:
        place = self._opened(key, f"place/{row['image_id']}", row["place"])
        if (place["study"], place["series"]) != (row["study_id"], row["series_id"]):
            raise SealBroken(
                "The catalog entry of this image was altered. Restore it from a backup.",
                image_id=row["image_id"],
            )
        return place

    def _sealed(self, key: bytes, context: str, value: Mapping[str, Any]) -> bytes:
        text = json.dumps(value, ensure_ascii=False).encode()
        return seal_field(key, context, text, self._host.random)

    def _opened(self, key: bytes, context: str, sealed: bytes) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(open_field(key, context, sealed))
        return value


def study_id_of(study_uid: str) -> str:
    """The id of a study, by the UID that its masked files have."""
    return _id("st", study_uid)


def _id(prefix: str, *uids: str) -> str:
    """An id that is the same for the same UIDs."""
    return f"{prefix}_{hashlib.sha256('/'.join(uids).encode()).hexdigest()[:24]}"


def _image_order(place: Mapping[str, Any], image: ImageRecord) -> tuple[Any, ...]:
    number, position = place["instance_number"], place["position_mm"]
    return (
        _LAST if number is None else number,
        _LAST if position is None else position,
        image.uploaded_at,
        image.image_id,
    )


def _series_order(series: Series, row: Row) -> tuple[Any, ...]:
    number = _LAST if series.number is None else series.number
    return number, row["created_at"], series.series_id


def _series(row: Row, said: Mapping[str, Any], images: Sequence[ImageRecord]) -> Series:
    return Series(
        series_id=row["series_id"],
        number=said["series_number"],
        description=said["series_description"] or "",
        modality=said["modality"] or "",
        body_part=said["body_part"] or "",
        laterality=said["laterality"] or "",
        images=tuple(images),
    )


def _study(row: Row, said: Mapping[str, Any], series: Sequence[Series]) -> Study:
    first = min(image.uploaded_at for one in series for image in one.images)
    return Study(
        study_id=row["study_id"],
        patient_id=row["patient_id"],
        study_uid=row["study_uid"],
        date=said["study_date"] or f"{first:%Y-%m-%d}",
        time=said["study_time"] or "",
        dated=bool(said["study_date"]),
        description=said["study_description"] or "",
        accession_number=said["accession_number"] or "",
        sex=said.get("patient_sex") or "",  # studies of earlier releases do not say
        series=tuple(series),
    )
