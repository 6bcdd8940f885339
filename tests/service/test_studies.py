"""Patient, study, series, image: what belongs together, in order, for whom, and after changes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pydicom
import pytest

from engine import Detection, Engine, Source, Study, errors
from engine.records import Region
from tests import builders
from tests.conftest import WHY, Ward, text_png

FOUND = [Detection(Region(8, 8, 60, 24), "text", 0.9, "scripted")]


def slice_of(instance: int, **where: Any) -> bytes:
    """A small slice; its noise differs by instance."""
    where = {"modality": "CT", "SeriesDescription": "Head 5.0", **where}
    return builders.dicom(
        builders.radiograph(64, 48, seed=abs(instance)), instance=instance, **where
    )


def studies(ward: Ward, token: str | None = None) -> list[Study]:
    return ward.engine.studies.of_patient(token or ward.team.technician, ward.patient_id)


def shape(found: Sequence[Study]) -> list[list[int]]:
    return [[len(one.images) for one in study.series] for study in found]


def test_slices_of_a_study_come_in_a_radiologists_order(ward: Ward) -> None:
    sent = {}
    for series, instance in ((2, 10), (2, 9), (1, 2), (1, 1), (2, 1)):
        image_id = ward.upload(slice_of(instance, series=series), "x.dcm", FOUND)
        sent[series, instance] = image_id
    [study] = studies(ward)
    assert (study.date, study.time, study.dated) == ("2024-02-29", "10:11", True)
    assert (study.accession_number, study.modalities) == ("A0001001", ("CT",))
    first, second = study.series
    assert (first.number, second.number, second.description) == (1, 2, "Head 5.0")
    assert [i.image_id for i in first.images] == [sent[1, 1], sent[1, 2]]
    assert [i.image_id for i in second.images] == [sent[2, 1], sent[2, 9], sent[2, 10]]


def test_without_instance_numbers_slices_lie_along_their_normal(ward: Ward) -> None:
    """A coronal series, sent in another order than that of the table."""
    sent = {}
    for y in (30.0, -11.0, 10.0):
        data = slice_of(
            int(y), InstanceNumber=None, ImagePositionPatient=[0.0, y, 5.0],
            ImageOrientationPatient=[1, 0, 0, 0, 0, 1],
        )  # fmt: skip
        sent[y] = ward.upload(data, "x.dcm", FOUND)
    [[images]] = [[one.images for one in study.series] for study in studies(ward)]
    # The normal of (x, z) is -y: the slice with the greatest y comes first.
    assert [i.image_id for i in images] == [sent[30.0], sent[10.0], sent[-11.0]]


def test_the_masked_file_names_the_study_and_series_of_the_catalog(ward: Ward) -> None:
    image_ids = [ward.seal(slice_of(i), "x.dcm", FOUND) for i in (1, 2)]
    [study] = studies(ward)
    masked = [
        pydicom.dcmread(io.BytesIO(ward.engine.images.masked_file(ward.team.doctor, i).data))
        for i in image_ids
    ]
    assert {m.StudyInstanceUID for m in masked} == {study.study_uid}
    assert len({m.SeriesInstanceUID for m in masked}) == 1
    assert study.study_uid != builders.uid(1, 1)


def test_files_without_a_header_make_a_study_of_day_and_uploader(ward: Ward) -> None:
    for seed in (1, 2):
        ward.upload(builders.png(builders.radiograph(64, 48, seed=seed)), found=FOUND)
    ward.engine.context.host.advance(days=1)  # type: ignore[attr-defined]
    token = ward.engine.sessions.sign_in("technician", "four unrelated words here").token
    data = builders.png(builders.radiograph(64, 48, seed=3))
    ward.engine.drafts.upload(token, ward.patient_id, "a.png", data)
    newest, older = studies(ward, token)
    assert shape([newest, older]) == [[1], [2]]
    assert not newest.dated
    assert newest.date > older.date


def test_a_batch_places_its_files_as_an_upload_does(ward: Ward) -> None:
    ward.detector.found = FOUND
    sources = [Source(f"{i}.dcm", lambda i=i: slice_of(i)) for i in (2, 1)]  # type: ignore[misc]
    items = list(ward.engine.batches.seal(ward.team.technician, ward.patient_id, sources, few=True))
    assert [item.state for item in items] == ["sealed", "sealed"]
    [study] = studies(ward, ward.team.doctor)
    assert [i.image_id for i in study.series[0].images] == [items[1].image_id, items[0].image_id]


def test_doctors_know_of_released_images_only(ward: Ward) -> None:
    ward.upload(slice_of(1, study=1), "x.dcm", FOUND)
    [draft] = studies(ward)
    assert studies(ward, ward.team.doctor) == []
    with pytest.raises(errors.NotFound):
        ward.engine.studies.get(ward.team.doctor, draft.study_id)
    ward.seal(slice_of(2, study=1), "x.dcm", FOUND)
    assert shape(studies(ward, ward.team.doctor)) == [[1]]
    assert shape([ward.engine.studies.get(ward.team.technician, draft.study_id)]) == [[2]]


def test_an_erased_image_leaves_its_study_and_an_empty_one_goes(ward: Ward) -> None:
    first, second = (ward.seal(slice_of(i), "x.dcm", FOUND) for i in (1, 2))
    [study] = studies(ward)
    ward.engine.images.erase(ward.team.administrator, first, WHY)
    assert shape(studies(ward)) == [[1]]
    ward.engine.images.erase(ward.team.administrator, second, WHY)
    assert studies(ward) == []
    with pytest.raises(errors.NotFound):
        ward.engine.studies.get(ward.team.technician, study.study_id)


def test_an_erased_patient_leaves_no_study(ward: Ward) -> None:
    ward.seal(slice_of(1), "x.dcm", FOUND)
    ward.engine.patients.erase(ward.team.administrator, ward.patient_id, WHY)
    tx = ward.engine.context.database.read()
    for table in ("studies", "series", "image_places"):
        assert tx.count(f"SELECT count(*) FROM {table}") == 0  # noqa: S608


def test_studies_move_with_a_merged_patient(ward: Ward) -> None:
    ward.seal(slice_of(1, StudyDescription="Head trauma"), "x.dcm", FOUND)
    [before] = studies(ward)
    stays = ward.engine.patients.create(ward.team.technician, "P-2", "Erika Schmidt").patient_id
    ward.engine.patients.merge(ward.team.technician, "P-2", "P-1", WHY)
    [after] = ward.engine.studies.of_patient(ward.team.doctor, stays)
    assert (after.study_id, after.description) == (before.study_id, "Head trauma")
    assert after.patient_id == stays


@pytest.mark.parametrize("change", [
    "UPDATE image_places SET series_id = 'se_other'",
    "UPDATE image_places SET study_id = (SELECT max(study_id) FROM studies)",
    "UPDATE image_places SET place = (SELECT max(place) FROM image_places)",
    "UPDATE studies SET record = (SELECT max(record) FROM studies)",
    "UPDATE series SET record = (SELECT max(record) FROM series)",
])  # fmt: skip
def test_a_changed_row_is_a_named_error_or_shows_nothing_else(ward: Ward, change: str) -> None:
    for study in (1, 2):
        ward.seal(slice_of(study, study=study), "x.dcm", FOUND)
    before = studies(ward)
    with ward.engine.context.database.write() as tx:
        tx.run(change)
    try:
        found = studies(ward)
    except errors.SealBroken:
        return
    # An image that was moved to a series that is not there is missing, and nowhere else.
    there = {s.study_id: {i.image_id for one in s.series for i in one.images} for s in before}
    for one in found:
        assert {i.image_id for s in one.series for i in s.images} <= there[one.study_id]
    assert shape(found) != shape(before)


def test_what_identifies_is_not_in_the_catalog_in_clear(ward: Ward, engine: Engine) -> None:
    ward.upload(slice_of(1, StudyDescription="Musterfrau, control"), "x.dcm", FOUND)
    rows = str(engine.context.database.read().all(
        "SELECT study_uid, s.record, e.record, place FROM studies s JOIN series e USING (study_id)"
        " JOIN image_places USING (series_id)"
    ))  # fmt: skip
    for said in ("Musterfrau", "Head 5.0", "20240229", "2024-02-29", "A0001001", "1.2.826"):
        assert said not in rows


def test_who_reads_a_study_stands_in_the_log(ward: Ward) -> None:
    data, found = text_png()
    ward.seal(data, found=[found])
    studies(ward, ward.team.doctor)
    [entry] = ward.engine.audit.entries(ward.team.administrator, query="study.list")
    assert (entry.actor, entry.patient_id) == ("doctor", ward.patient_id)
