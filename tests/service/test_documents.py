"""Reports, presentation states, PDFs and key objects: sealed whole, restored, and left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine import CohortOrder, Instance, errors
from engine.formats import images
from engine.records import Format, ImageState
from engine.settings import Settings
from tests import builders
from tests.conftest import WHY, Ward, text_png
from tests.formats.documents import (
    BASIC_TEXT,
    FINDING,
    KEY_OBJECTS,
    MODALITIES,
    PDF,
    PRESENTATION,
    document,
)

LIMITS = images.Limits.of(Settings())
KINDS = {"report": BASIC_TEXT, "state": PRESENTATION, "PDF": PDF, "key objects": KEY_OBJECTS}


@pytest.fixture
def quiet(ward: Ward) -> Ward:
    ward.detector.found = []
    return ward


def sealed(ward: Ward, data: bytes, name: str = "report.dcm") -> str:
    """Through the path of the upload page, which seals what leaves no doubt."""
    ward.detector.found = []
    engine, token = ward.engine, ward.team.technician
    image_id = engine.drafts.upload(token, ward.patient_id, name, data).image_id
    view = engine.drafts.open(token, image_id)
    engine.drafts.seal(token, image_id, view.detections)
    return image_id


@pytest.mark.parametrize("name", KINDS)
def test_a_document_is_sealed_whole_and_comes_back_byte_for_byte(quiet: Ward, name: str) -> None:
    engine, doctor = quiet.engine, quiet.team.doctor
    data = document(KINDS[name])
    image_id = sealed(quiet, data)
    record = engine.images.get(doctor, image_id)
    assert (record.format, record.modality) == (Format.DOCUMENT, MODALITIES[KINDS[name]])
    assert (record.state, record.reasons) == (ImageState.RELEASED, ())
    restored = engine.images.restore(doctor, image_id, WHY)
    file = engine.images.restored_file(doctor, restored.handle)
    assert (file.data, file.name, restored.proof) == (data, "report.dcm", "bytes")
    actions = [e.action for e in engine.images.history(doctor, image_id)]
    assert {"image.seal", "image.restore", "region.decrypt"} <= set(actions)


@pytest.mark.parametrize("name", KINDS)
def test_nothing_of_a_document_is_in_clear_or_in_what_is_shown(quiet: Ward, name: str) -> None:
    image_id = sealed(quiet, document(KINDS[name]))
    engine, technician = quiet.engine, quiet.team.technician
    masked = engine.images.masked_file(technician, image_id).data
    assert images.sniff(masked) is Format.PNG
    told = masked + engine.images.thumbnail(technician, image_id)
    told += str(engine.images.get(technician, image_id)).encode()
    for file in quiet.engine.settings.data.rglob("*"):
        told += file.read_bytes() if file.is_file() else b""
    for telling in (FINDING, "nodule", "%PDF", builders.uid(1, 1, 9, 90), "H-000001"):
        assert telling.encode() not in told


def test_two_documents_have_the_same_masked_file(quiet: Ward) -> None:
    files = [
        quiet.engine.images.masked_file(
            quiet.team.doctor, sealed(quiet, document(PDF, instance=i, StudyDescription=said))
        ).data
        for i, said in ((1, "short"), (2, "a much longer description of a study"))
    ]
    assert files[0] == files[1]


def test_who_may_not_restore_does_not(quiet: Ward) -> None:
    image_id = sealed(quiet, document(BASIC_TEXT))
    for token in (quiet.team.technician, quiet.team.researcher, quiet.team.administrator):
        with pytest.raises(errors.PermissionDenied):
            quiet.engine.images.restore(token, image_id, WHY)
    with pytest.raises(errors.InputError):
        quiet.engine.images.restore(quiet.team.doctor, image_id, " ")


def test_a_class_that_is_not_granted_keeps_the_document_closed(quiet: Ward) -> None:
    engine, team = quiet.engine, quiet.team
    image_id = sealed(quiet, document(PDF))
    engine.care.set_restorable_classes(team.administrator, "doctor", ["face"])
    with pytest.raises(errors.PermissionDenied):
        engine.images.restore(team.doctor, image_id, WHY)
    masked = engine.images.masked_file(team.doctor, image_id).data
    package = engine.packages.export(team.doctor, image_id).data
    with pytest.raises(errors.PermissionDenied):
        engine.packages.restore(team.doctor, masked, package, WHY)


def test_documents_lie_in_their_study_and_open_with_it(quiet: Ward) -> None:
    engine, team = quiet.engine, quiet.team
    picture = builders.dicom(builders.labelled()[0], **builders.person())
    quiet.detector.found = [text_png()[1]]
    image_id = quiet.seal(picture, "scan.dcm", [text_png()[1]])
    documents = {sealed(quiet, document(uid, i), f"{i}.dcm"): document(uid, i)
                 for i, uid in enumerate(KINDS.values(), 1)}  # fmt: skip
    [study] = engine.studies.of_patient(team.doctor, quiet.patient_id)
    held = {image.image_id for series in study.series for image in series.images}
    assert held == {image_id, *documents}
    opened = engine.studies.restore(team.doctor, study.study_id, WHY)
    for document_id, data in documents.items():
        restored = engine.studies.open_image(team.doctor, opened.handle, document_id)
        assert engine.images.restored_file(team.doctor, restored.handle).data == data


def test_documents_stay_here_when_a_cohort_leaves_and_it_says_so(quiet: Ward) -> None:
    engine, doctor = quiet.engine, quiet.team.doctor
    quiet.detector.found = [text_png()[1]]
    picture = builders.dicom(builders.labelled()[0], **builders.person())
    image_id = quiet.seal(picture, "scan.dcm", [text_png()[1]])
    report = sealed(quiet, document(BASIC_TEXT))

    def taken(**order: Any) -> dict[str, bytes]:
        cohort = engine.cohorts.prepare(doctor, CohortOrder(reason=WHY, **order))
        return dict(engine.cohorts.files(doctor, cohort.release_id))

    for profile in ("", "research"):
        files = taken(image_ids=[image_id, report], profile=profile)
        assert len(json.loads(files["manifest.json"])) == 1
        said = json.loads(files["statement.json"])
        assert (said["images"], said["documents_left_out"]) == (1, 1)
        [study] = json.loads(files["conformance.json"])
        assert study["documents_left_out"] == 1
    with pytest.raises(errors.InputError, match="Documents stay here"):
        taken(image_ids=[report])


def test_the_network_takes_documents_by_the_same_intake(quiet: Ward) -> None:
    engine, team = quiet.engine, quiet.team
    engine.nodes.save(team.administrator, "PACS", {"addresses": ["127.0.0.1"]})
    token = engine.reception.admit("PACS", "127.0.0.1")
    engine.patients.create(team.technician, "H-000001", "Doe, Jane", 31)
    for i, uid in enumerate(KINDS.values(), 1):
        sent = Instance(uid, builders.uid(1, 1, 9, i), document(uid, i))
        first, again = (engine.reception.receive(token, sent) for _ in range(2))
        assert str(first) != str(again)
    waiting = engine.drafts.waiting(team.technician)
    assert {draft.modality for draft in waiting} == set(MODALITIES.values())
    assert all(draft.format is Format.DOCUMENT for draft in waiting)


def test_another_document_under_a_used_uid_is_kept_beside_the_first(quiet: Ward) -> None:
    one, two = (
        images.decode("a.dcm", document(PDF, StudyDescription=said), LIMITS) for said in ("A", "B")
    )
    assert images.pixel_digest(one.pixels) != images.pixel_digest(two.pixels)


def test_a_person_is_told_what_the_file_is(quiet: Ward) -> None:
    for name, uid in KINDS.items():
        image = images.decode("a.dcm", document(uid), LIMITS)
        [note] = images.notes(image)
        assert "sealed whole" in note, name


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_document_that_is_cut_off_is_refused_or_comes_back_as_it_came(
    quiet: Ward, kept: float
) -> None:
    whole = document(PDF)
    data = whole[: int(len(whole) * kept)]
    try:
        image_id = sealed(quiet, data)
    except errors.InputError:
        return
    restored = quiet.engine.images.restore(quiet.team.doctor, image_id, WHY)
    assert quiet.engine.images.restored_file(quiet.team.doctor, restored.handle).data == data


def test_a_sealed_package_gives_the_document_back(quiet: Ward) -> None:
    engine, doctor = quiet.engine, quiet.team.doctor
    data = document(KEY_OBJECTS)
    image_id = sealed(quiet, data)
    masked = engine.images.masked_file(doctor, image_id).data
    package = engine.packages.export(doctor, image_id).data
    file, proof = engine.packages.restore(doctor, masked, package, WHY)
    assert (file.data, proof) == (data, "bytes")


def test_what_a_persons_program_stores_goes_the_same_way(quiet: Ward) -> None:
    engine, team = quiet.engine, quiet.team
    engine.patients.create(team.technician, "H-000001", "Doe, Jane", 31)
    sent = Instance("", "", document(PRESENTATION))
    stored = engine.reception.store(team.technician, sent, builders.uid(1, 1))
    assert (stored.sop_class, str(stored.state)) == (PRESENTATION, "stored")
    with pytest.raises(errors.WrongInstance):
        engine.reception.store(team.technician, Instance("", "", document(PDF)), builders.uid(9, 9))
    [waiting] = engine.drafts.waiting(team.technician)
    assert waiting.format is Format.DOCUMENT


def test_queries_of_the_network_do_not_find_documents(quiet: Ward) -> None:
    engine, doctor = quiet.engine, quiet.team.doctor
    sealed(quiet, document(BASIC_TEXT))
    assert engine.objects.search(doctor, "instance", {}, 10, 0) == []
