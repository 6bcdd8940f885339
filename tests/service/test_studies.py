"""Patient, study, series, image: what belongs together, in order, for whom, and after changes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextvars import copy_context
from typing import Any

import pydicom
import pytest

from engine import Detection, Engine, Source, Study, begin_request, errors
from engine.records import Region
from tests import builders
from tests.conftest import PASSWORD, WHY, Ward, text_png
from tests.fakes import FakeHost

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


# --- restoring a study under one reason ---------------------------------------------------------


def log_of(ward: Ward, *actions: str) -> list[tuple[str, str, str]]:
    """Action, outcome and image of these entries, oldest first."""
    entries = ward.engine.audit.entries(ward.team.administrator, limit=500)
    told = [(e.action, e.outcome, e.image_id or "") for e in entries if e.action in actions]
    return told[::-1]


def sealed_series(ward: Ward, slices: int, series: int = 1) -> list[str]:
    return [
        ward.seal(slice_of(10 * series + i, series=series), "x.dcm", FOUND) for i in range(slices)
    ]


def test_a_study_is_requested_once_and_each_image_is_in_the_log(ward: Ward) -> None:
    ids = sealed_series(ward, 3)
    doctor, [study] = ward.team.doctor, studies(ward)
    opened = ward.engine.studies.restore(doctor, study.study_id, WHY)
    assert [image.image_id for image in opened.images] == ids
    actions = ("study.restore", "image.restore", "region.decrypt")
    assert log_of(ward, *actions) == [("study.restore", "requested", "")]
    for image_id in ids:
        original = slice_of(10 + ids.index(image_id))
        shown = ward.engine.studies.restored_frame(doctor, opened.handle, image_id)
        single = ward.engine.images.restore(doctor, image_id, WHY)
        assert (shown == ward.engine.images.restored_frame(doctor, single.handle)).all()
        file = ward.engine.studies.open_image(doctor, opened.handle, image_id).handle
        assert ward.engine.images.restored_file(doctor, file).data == original
    told = [row for row in log_of(ward, *actions) if row[1] != "requested"]
    assert told == [
        row
        for image_id in ids
        for row in 2
        * [("region.decrypt", "ok", image_id), ("image.restore", "completed", image_id)]
    ]
    reasons = {e.reason for e in ward.engine.images.history(doctor, ids[0])}
    assert WHY in reasons


def test_the_log_tells_which_images_were_opened_by_which_request(ward: Ward) -> None:
    [image_id] = sealed_series(ward, 1)
    doctor, [study] = ward.team.doctor, studies(ward)

    def asked() -> tuple[str, str]:
        begin_request()  # as each request of a browser does, which has an id of its own
        opened = ward.engine.studies.restore(doctor, study.study_id, WHY)
        call = begin_request()
        ward.engine.studies.open_image(doctor, opened.handle, image_id)
        return opened.handle, call

    handle, call = copy_context().run(asked)  # tests after this one are no request
    entries = ward.engine.audit.entries(ward.team.administrator)
    details = {
        e.action: e.detail for e in entries if e.action in ("study.restore", "image.restore")
    }
    assert len(details) == 2
    assert {d["study_request"] for d in details.values()} == {handle}
    assert details["image.restore"]["request"] == call


def test_one_series_opens_no_other(ward: Ward) -> None:
    [first], [second] = sealed_series(ward, 1, series=1), sealed_series(ward, 1, series=2)
    doctor, [study] = ward.team.doctor, studies(ward)
    opened = ward.engine.studies.restore(doctor, study.study_id, WHY, study.series[1].series_id)
    ward.engine.studies.restored_frame(doctor, opened.handle, second)
    with pytest.raises(errors.NotFound):
        ward.engine.studies.restored_frame(doctor, opened.handle, first)
    with pytest.raises(errors.NotFound, match="series"):
        ward.engine.studies.restore(doctor, study.study_id, WHY, "se_other")


def test_a_broken_image_is_named_and_the_others_open(ward: Ward) -> None:
    ids = sealed_series(ward, 3)
    doctor, [study] = ward.team.doctor, studies(ward)
    row = ward.engine.context.catalog.row(ward.engine.context.database.read(), ids[1])
    host = ward.engine.context.host
    blob = bytearray(host.read_blob(str(row.sealed_blob)))
    blob[len(blob) // 2] ^= 1
    host.path(str(row.sealed_blob)).write_bytes(blob)
    opened = ward.engine.studies.restore(doctor, study.study_id, WHY)
    ward.engine.studies.restored_frame(doctor, opened.handle, ids[0])
    with pytest.raises(errors.SealError):
        ward.engine.studies.restored_frame(doctor, opened.handle, ids[1])
    ward.engine.studies.restored_frame(doctor, opened.handle, ids[2])
    assert ("image.restore", "failed", ids[1]) in log_of(ward, "image.restore")


def test_classes_of_an_account_hold_for_each_image_of_a_study(ward: Ward) -> None:
    [image_id] = sealed_series(ward, 1)
    [study] = studies(ward)
    ward.engine.care.set_restorable_classes(ward.team.administrator, "doctor", ["face"])
    opened = ward.engine.studies.restore(ward.team.doctor, study.study_id, WHY)
    with pytest.raises(errors.PermissionDenied):
        ward.engine.studies.restored_frame(ward.team.doctor, opened.handle, image_id)


def test_a_study_needs_a_reason_and_ends(ward: Ward, host: FakeHost) -> None:
    [image_id] = sealed_series(ward, 1)
    doctor, [study] = ward.team.doctor, studies(ward)
    with pytest.raises(errors.InputError, match="reason"):
        ward.engine.studies.restore(doctor, study.study_id, " ")
    opened = ward.engine.studies.restore(doctor, study.study_id, WHY)
    host.advance(minutes=10)  # longer than a single restoration lasts
    ward.engine.studies.restored_frame(doctor, opened.handle, image_id)
    again = ward.engine.sessions.sign_in("doctor", PASSWORD).token
    with pytest.raises(errors.NotFound):  # another session of the same account
        ward.engine.studies.restored_frame(again, opened.handle, image_id)
    ward.engine.studies.close(doctor, opened.handle)
    assert ward.engine.images.open_restoration(doctor, image_id) is None
    with pytest.raises(errors.NotFound, match="has ended"):
        ward.engine.studies.restored_frame(doctor, opened.handle, image_id)
    opened = ward.engine.studies.restore(doctor, study.study_id, WHY)
    ward.engine.studies.restored_frame(doctor, opened.handle, image_id)
    for _ in range(2):
        host.advance(minutes=12)
        ward.engine.studies.restored_frame(doctor, opened.handle, image_id)
    host.advance(minutes=7)
    assert ward.engine.studies.restorations(doctor, study.study_id) == []
    assert ward.engine.images.open_restoration(doctor, image_id) is None


def test_what_was_withdrawn_or_sealed_anew_is_not_opened_with_its_study(ward: Ward) -> None:
    ids = sealed_series(ward, 2)
    doctor, [study] = ward.team.doctor, studies(ward)
    opened = ward.engine.studies.restore(doctor, study.study_id, WHY)
    ward.engine.studies.restored_frame(doctor, opened.handle, ids[0])
    ward.engine.withdrawals.flag(doctor, ids[0], "a name in the corner")
    with pytest.raises(errors.NotFound):
        ward.engine.studies.restored_frame(doctor, opened.handle, ids[0])
    view = ward.engine.drafts.open(ward.team.technician, ids[0])
    ward.engine.drafts.seal(ward.team.technician, ids[0], view.detections, confirm=WHY)
    with pytest.raises(errors.NotFound, match="sealed anew"):
        ward.engine.studies.restored_frame(doctor, opened.handle, ids[0])
    ward.engine.studies.restored_frame(doctor, opened.handle, ids[1])


def test_a_study_takes_its_share_of_the_memory_and_closes_nobody_elses(ward: Ward) -> None:
    ids = sealed_series(ward, 5)
    doctor, [study] = ward.team.doctor, studies(ward)
    pictures = ward.engine.context.open_images
    alone = ward.engine.images.restore(doctor, ids[0], WHY)
    one = pictures.held_bytes
    pictures._memory = 9 * one  # a quarter has room for two
    opened = ward.engine.studies.restore(doctor, study.study_id, WHY)
    for image_id in (*ids[1:], *ids[1:]):
        ward.engine.studies.restored_frame(doctor, opened.handle, image_id)
        assert pictures.held_bytes < 3.5 * one
    ward.engine.images.restored_frame(doctor, alone.handle)
    completed = [row[2] for row in log_of(ward, "image.restore") if row[1] == "completed"]
    assert completed == [ids[0], *ids[1:], *ids[1:]]  # opened again, logged again
