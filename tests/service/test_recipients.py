"""Copies for recipients: profiles, pseudonyms of a list, shifted dates, and the report."""

from __future__ import annotations

import io
import json
import shutil
from typing import Any

import pydicom
import pytest

from engine import CohortOrder, errors
from engine.operations import conformance
from tests import builders
from tests.conftest import WHY, Ward, text_png

DATES = {"StudyDate": "20210419", "SeriesDate": "20210420", "StudyDescription": "Thorax Musterfrau"}
LIST = "number,pseudonym\nP-1,LYON-001\nP-2,LYON-002\n"


def _seal(ward: Ward, instance: int = 1, patient_id: str = "", **attributes: Any) -> str:
    pixels = builders.labelled(seed=instance)[0]
    data = builders.dicom(pixels, instance=instance, **{**builders.person(), **DATES, **attributes})
    box = text_png()[1]
    ward.detector.found = [box]
    engine, token = ward.engine, ward.team.technician
    whose = patient_id or ward.patient_id
    upload = engine.drafts.upload(token, whose, f"{instance}.dcm", data)
    return engine.drafts.seal(token, upload.image_id, [box]).image_id


def _taken(ward: Ward, **order: Any) -> dict[str, bytes]:
    doctor = ward.team.doctor
    cohort = ward.engine.cohorts.prepare(doctor, CohortOrder(reason=WHY, **order))
    return dict(ward.engine.cohorts.files(doctor, cohort.release_id))


def _headers(files: dict[str, bytes]) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(io.BytesIO(d)) for n, d in files.items() if n.endswith(".dcm")]


def test_a_copy_has_what_its_profile_keeps_and_the_statement_says_it(ward: Ward) -> None:
    image_id = _seal(ward)
    files = _taken(ward, image_ids=[image_id], profile="research", recipient="Lyon")
    [there] = _headers(files)
    assert there.StudyDescription == "Thorax"
    days = (pydicom.valuerep.DA(there.SeriesDate) - pydicom.valuerep.DA(there.StudyDate)).days
    assert (there.StudyDate != "20210419", days) == (True, 1)
    codes = [item.CodeValue for item in there.DeidentificationMethodCodeSequence]
    [listed] = json.loads(files["manifest.json"])
    said = json.loads(files["statement.json"])
    assert listed["deidentification"] == codes == [c["code"] for c in said["deidentification"]]
    assert (said["recipient"], said["identifiers"]) == ("Lyon", "of this recipient")
    assert "113107" in codes
    everything = b"".join(files.values())
    for telling in (b"Musterfrau", b'P-1"', b"20210419", b"H-000001"):
        assert telling not in everything
    masked = ward.engine.images.masked_file(ward.team.doctor, image_id).data
    assert (there.pixel_array == pydicom.dcmread(io.BytesIO(masked)).pixel_array).all()


def test_the_same_recipient_gets_the_same_again_and_another_one_other(ward: Ward) -> None:
    images = [_seal(ward, 1), _seal(ward, 2)]

    def seen(**order: Any) -> list[tuple[str, ...]]:
        headers = _headers(_taken(ward, image_ids=images, profile="research", **order))
        return sorted(
            (h.SOPInstanceUID, h.StudyInstanceUID, h.PatientID, h.StudyDate) for h in headers
        )

    lyon = seen(recipient="Lyon")
    assert lyon == seen(recipient="Lyon")
    assert len({row[1:] for row in lyon}) == 1  # one study, one patient, one shift
    for other in (seen(recipient="Graz"), seen(new_identifiers=True), seen(new_identifiers=True)):
        for mine, theirs in zip(lyon, other, strict=True):
            assert not set(mine) & set(theirs)


def test_pseudonyms_of_a_list_are_used_and_whoever_is_not_in_it_does_not_leave(
    ward: Ward,
) -> None:
    engine, doctor = ward.engine, ward.team.doctor
    other = engine.patients.create(ward.team.technician, "P-9", "Jan Nowak", 50).patient_id
    mine, theirs = _seal(ward, 1), _seal(ward, 2, other)
    assert engine.recipients.save_pseudonyms(doctor, "Lyon", LIST) == 2
    assert engine.recipients.lists(doctor) == ["Lyon"]
    [there] = _headers(_taken(ward, image_ids=[mine], profile="basic", recipient="Lyon"))
    assert (there.PatientID, there.PatientName) == ("LYON-001", "LYON-001")
    with pytest.raises(errors.InputError, match="not in this recipient's list"):
        _taken(ward, image_ids=[mine, theirs], profile="basic", recipient="Lyon")


def test_a_list_is_sealed_and_read_under_a_reason(ward: Ward) -> None:
    engine, doctor = ward.engine, ward.team.doctor
    engine.recipients.save_pseudonyms(doctor, "Lyon", LIST)
    assert engine.recipients.pseudonym(doctor, ward.patient_id, "Lyon", WHY) == "LYON-001"
    keyed = engine.recipients.pseudonym(doctor, ward.patient_id, "Graz", WHY)
    assert keyed.startswith("MS-")
    assert engine.recipients.patient_of(doctor, "Lyon", "LYON-001", WHY) == ward.patient_id
    for pseudonym in ("LYON-002", "LYON-003"):
        with pytest.raises(errors.NotFound):
            engine.recipients.patient_of(doctor, "Lyon", pseudonym, WHY)
    with pytest.raises(errors.InputError, match="reason"):
        engine.recipients.pseudonym(doctor, ward.patient_id, "Lyon", " ")
    rows = engine.context.database.read().all(
        "SELECT action, outcome, detail::VARCHAR AS detail FROM audit"
        " WHERE action LIKE 'pseudonym%' ORDER BY sequence"
    )
    assert [r["action"] for r in rows] == ["pseudonyms.save", *["pseudonyms.read"] * 5]
    assert [r["outcome"] for r in rows] == ["ok"] * 4 + ["refused"] * 2
    assert "LYON-001" not in str(rows)
    stored = engine.context.database.read().one("SELECT * FROM pseudonyms")
    assert stored is not None
    for telling in (b"LYON-001", b"P-1"):
        assert telling not in bytes(stored["sealed"])


def test_a_list_that_was_altered_is_found(ward: Ward) -> None:
    engine, doctor = ward.engine, ward.team.doctor
    engine.recipients.save_pseudonyms(doctor, "Lyon", LIST)
    engine.recipients.save_pseudonyms(doctor, "Graz", LIST)
    with engine.context.database.write() as tx:
        row = tx.one("SELECT sealed FROM pseudonyms WHERE recipient = 'Graz'")
        assert row is not None
        tx.run("UPDATE pseudonyms SET sealed = $1 WHERE recipient = 'Lyon'", row["sealed"])
    with pytest.raises(errors.SealBroken):
        engine.recipients.pseudonym(doctor, ward.patient_id, "Lyon", WHY)


@pytest.mark.parametrize(
    "text",
    ["", "number,pseudonym\n", "n,p\nP-1\n", "n,p\nP-1,A\nP-1,B\n", "n,p\nP-1,A\nP-2,A\n",
     "n,p\nP-1,A\\B\n", "n,p\n,A\n"],
)  # fmt: skip
def test_a_list_that_cannot_be_is_refused(ward: Ward, text: str) -> None:
    with pytest.raises(errors.InputError):
        ward.engine.recipients.save_pseudonyms(ward.team.doctor, "Lyon", text)
    assert ward.engine.recipients.lists(ward.team.doctor) == []


def test_an_administrator_makes_profiles_that_cohorts_name(ward: Ward) -> None:
    engine, admin = ward.engine, ward.team.administrator
    engine.recipients.save(admin, "trial-7", "Only dates", {"dates": True})
    assert engine.recipients.choices(ward.team.doctor)["trial-7"].options.dates
    [there] = _headers(_taken(ward, image_ids=[_seal(ward)], profile="trial-7"))
    codes = [item.CodeValue for item in there.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113101", "113107"]
    for name, options in (("basic", {}), ("Trial", {}), ("x", {"dates": 1}), ("x", {"uid": True})):
        with pytest.raises(errors.InputError):
            engine.recipients.save(admin, name, "", options)
    engine.recipients.remove(admin, "trial-7")
    with pytest.raises(errors.InputError, match="no such de-identification profile"):
        _taken(ward, image_ids=[_seal(ward, 3)], profile="trial-7")
    for wrong in (
        {"recipient": "Lyon"},
        {"profile": "basic", "recipient": "Lyon", "new_identifiers": True},
        {"profile": "basic", "packages": True},
    ):
        with pytest.raises(errors.InputError):
            _taken(ward, image_ids=[_seal(ward, 4 + len(wrong))], **wrong)


def test_the_report_says_of_each_study_what_was_removed_kept_and_changed(ward: Ward) -> None:
    files = _taken(ward, image_ids=[_seal(ward, 1), _seal(ward, 2)], profile="research")
    [study] = json.loads(files["conformance.json"])
    assert (study["study"], study["files"]) == ("patient-00001/study-001", 2)
    assert study["removed"]["PatientAddress"] == 2
    assert study["changed"]["StudyDate"] == 2
    assert study["kept"]["Modality"] == 2
    assert study["validator"] is None


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
def test_a_validator_is_asked_without_a_file_on_disk(ward: Ward) -> None:
    files = _taken(ward, image_ids=[_seal(ward)], profile="research", validate=True)
    [study] = json.loads(files["conformance.json"])
    assert study["validator"] == "dciodvfy"
    assert study["findings"]  # the test's files lack type 2 attributes
    assert any("Element=<" in finding for finding in study["findings"])
    assert not any("LYON" in finding or "MS-" in finding for finding in study["findings"])
    good = conformance.findings("dciodvfy", b"no DICOM at all")
    assert good


def test_a_validator_that_hangs_or_is_missing_is_said_so() -> None:
    assert conformance.findings("/nowhere/dciodvfy", b"") == {
        "the validator did not come to an end"
    }


def test_pictures_leave_as_they_are_and_say_nothing_of_dicom(ward: Ward) -> None:
    data, box = text_png()
    ward.detector.found = [box]
    image_id = ward.seal(data, "a.png", [box])
    files = _taken(ward, image_ids=[image_id], profile="research", recipient="Lyon")
    [line] = json.loads(files["manifest.json"])
    assert line["deidentification"] == []
    assert files[line["path"]] == ward.engine.images.masked_file(ward.team.doctor, image_id).data
