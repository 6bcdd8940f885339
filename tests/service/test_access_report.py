"""A patient asks: who has seen my images?"""

from __future__ import annotations

import csv
import io
import json

import pytest

from engine import errors
from engine.operations.access_report import access_report
from tests.conftest import Ward, text_png


def _sealed(ward: Ward) -> str:
    data, box = text_png()
    ward.detector.found = [box]
    upload = ward.engine.drafts.upload(ward.team.technician, ward.patient_id, "a.png", data)
    return ward.engine.drafts.seal(ward.team.technician, upload.image_id, [box]).image_id


def test_the_report_tells_who_did_what_and_why(ward: Ward) -> None:
    image_id = _sealed(ward)
    ward.engine.images.restore(ward.team.doctor, image_id, "planning of the operation")
    report = ward.engine.audit.patient_report(ward.team.administrator, "P-1")
    told = {(line.who, line.what, line.outcome): line for line in report.lines}
    opened = told[("doctor", "Opened the original image", "done")]
    assert opened.reason == "planning of the operation"
    assert opened.image_id == image_id
    assert ("technician", "Uploaded the image", "done") in told
    assert ("technician", "Sealed the image", "done") in told
    moments = [line.at for line in report.lines]
    assert moments == sorted(moments)


def test_what_has_no_end_in_the_log_is_told_as_begun(ward: Ward) -> None:
    image_id = _sealed(ward)
    ward.engine.images.restore(ward.team.doctor, image_id, "planning")
    entries = ward.engine.context.audit.of_patient(ward.patient_id)
    [place] = [i for i, e in enumerate(entries) if e.outcome == "requested"]
    killed = access_report("P-1", entries[-1].occurred_at, entries[: place + 1])
    assert (killed.lines[-1].outcome, killed.lines[-1].reason) == ("begun", "planning")


def test_what_is_done_several_times_in_one_go_is_one_line(ward: Ward) -> None:
    image_id = _sealed(ward)
    for _ in range(3):
        ward.engine.images.restore(ward.team.doctor, image_id, "planning")
    [opened] = [
        line
        for line in ward.engine.audit.patient_report(ward.team.administrator, "P-1").lines
        if line.what == "Opened the original image"
    ]
    assert opened.times == 3


def test_nobody_elses_patient_is_in_it(ward: Ward) -> None:
    _sealed(ward)
    other = ward.engine.patients.create(ward.team.technician, "P-2", "Max Mustermann", 44)
    report = ward.engine.audit.patient_report(ward.team.administrator, "P-2")
    assert [line.what for line in report.lines] == ["Made a new record"]
    again = ward.engine.audit.patient_report(ward.team.administrator, other.patient_id)
    assert again.lines[0] == report.lines[0]  # and the first report is in the second
    assert [line.what for line in again.lines[1:]] == ["Made the report of who had access"]


def test_an_image_that_lay_under_another_record_brings_its_past(ward: Ward) -> None:
    image_id = _sealed(ward)
    ward.engine.images.restore(ward.team.doctor, image_id, "before the merge")
    into = ward.engine.patients.create(ward.team.technician, "P-2", "Erika Musterfrau", 61)
    ward.engine.patients.merge(ward.team.technician, into.patient_id, ward.patient_id, "one person")
    report = ward.engine.audit.patient_report(ward.team.administrator, "P-2")
    assert "before the merge" in [line.reason for line in report.lines]


def test_the_files_have_times_in_the_zone_that_was_asked_for(ward: Ward) -> None:
    _sealed(ward)
    report = ward.engine.audit.patient_report(ward.team.administrator, "P-1")
    utc = list(csv.reader(io.StringIO(report.csv("UTC").data.decode())))
    tokyo = list(csv.reader(io.StringIO(report.csv("Asia/Tokyo").data.decode())))
    assert utc[0][0] == "When (UTC)"
    assert tokyo[0][0] == "When (Asia/Tokyo)"
    assert len(utc) == len(report.lines) + 1
    assert utc[1][0] != tokyo[1][0]
    with pytest.raises(errors.InputError, match="time zone"):
        report.csv("../../etc/passwd")


def test_the_pdf_takes_any_reason(ward: Ward) -> None:
    image_id = _sealed(ward)
    for reason in ("Łódź, Прага, Αθήνα", "会诊", "=HYPERLINK(1)", "x" * 400, "line\nline"):
        ward.engine.images.restore(ward.team.doctor, image_id, reason)
    report = ward.engine.audit.patient_report(ward.team.administrator, "P-1")
    assert report.pdf("Europe/Berlin").data.startswith(b"%PDF-")
    assert "'=HYPERLINK(1)" in report.csv("UTC").data.decode()


def test_unknown_patients_are_a_named_error(ward: Ward) -> None:
    with pytest.raises(errors.NotFound):
        ward.engine.audit.patient_report(ward.team.administrator, "P-404")


def test_the_log_leaves_as_fhir_one_resource_a_line(ward: Ward) -> None:
    _sealed(ward)
    file = ward.engine.audit.export_fhir(ward.team.administrator)
    lines = [json.loads(line) for line in file.data.decode().splitlines()]
    entries = ward.engine.audit.entries(ward.team.administrator, limit=10_000)
    logged = [e for e in entries if e.action not in ("audit.export", "audit.read")]
    assert [line["id"] for line in lines] == [f"medsec-{e.sequence}" for e in reversed(logged)]
    assert all(line["resourceType"] == "AuditEvent" for line in lines)
    assert "Musterfrau" not in file.data.decode()
