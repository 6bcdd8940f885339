"""The Network tab, and images of unknown patients on the Upload page."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import dimse
from engine import Engine, Instance
from tests import builders
from tests.conftest import WHY, Team, Ward
from tests.rest import BOX
from tests.ui.test_pages import Visit, click, texts
from tests.ui.test_pages import visit as visit


def field(app: AppTest, label: str) -> Any:
    return next(t for t in [*app.text_input, *app.text_area] if t.label.startswith(label))


def test_an_administrator_adds_a_node_and_takes_it_away(
    engine: Engine, visit: Visit, team: Team
) -> None:
    app = visit(team.administrator, "4_Admin", tab="Network")
    assert "DICOM is not received" in texts(app)
    field(app, "AE title").input("CT1")
    field(app, "IP addresses").input("not-an-address")
    click(app, "Save the node")
    assert "An address is not valid" in texts(app)
    field(app, "IP addresses").input("10.1.2.3\n10.2.0.0/16")
    click(app, "Save the node")
    [node] = [e.node for e in engine.nodes.entries(team.administrator).values()]
    assert (node.title, node.addresses) == ("CT1", ("10.1.2.3", "10.2.0.0/16"))
    app = visit(team.administrator, "4_Admin", tab="Network")
    assert [str(v) for f in app.dataframe for v in f.value.get("AE title", [])] == ["CT1"]
    click(app, "Remove the node")
    assert engine.nodes.entries(team.administrator) == {}


@pytest.mark.parametrize("button", ["Assign to this patient", "Discard"])
def test_a_technician_says_whose_a_held_image_is(
    engine: Engine, visit: Visit, team: Team, button: str
) -> None:
    engine.nodes.save(team.administrator, "CT1", {"addresses": ["127.0.0.1"]})
    data = builders.dicom(builders.labelled()[0])
    sent = Instance("1.2.840.10008.5.1.4.1.1.7", builders.uid(1, 1, 1, 1), data)
    engine.reception.receive(engine.reception.admit("CT1", "127.0.0.1"), sent)
    engine.patients.create(team.technician, "P-17", "Jane Doe")
    app = visit(team.technician, "1_Upload")
    assert "Received for unknown patients" in texts(app)
    click(app, button)  # nothing is filled in yet
    assert ("There is no such patient" in texts(app)) == button.startswith("Assign")
    assert ("Give a reason" in texts(app)) == (button == "Discard")
    label = "Whose image it is" if button.startswith("Assign") else "Reason for discarding"
    field(app, label).input("P-17").run()
    click(app, button)
    assert engine.reception.held(team.technician) == []
    assert len(engine.drafts.waiting(team.technician)) == button.startswith("Assign")


@pytest.mark.parametrize("button", ["Assign to this patient", "Discard"])
def test_a_study_of_an_unknown_patient_is_one_answer(
    engine: Engine, visit: Visit, team: Team, button: str
) -> None:
    engine.nodes.save(team.administrator, "CT1", {"addresses": ["127.0.0.1"]})
    token = engine.reception.admit("CT1", "127.0.0.1")
    pixels = builders.labelled()[0]
    sent = [
        *(builders.dicom(pixels, instance=n, series=s) for s in (1, 2) for n in (1, 2)),
        builders.dicom(pixels, instance=9, PatientName="Other^One"),  # under the same study
        builders.dicom(pixels, instance=1, study=2),
    ]
    for data in sent:
        engine.reception.receive(token, Instance("", "", data))
    engine.patients.create(team.technician, "P-17", "Jane Doe")
    app = visit(team.technician, "1_Upload")
    labels = [e.label for e in app.expander if "from CT1" in e.label]
    assert sorted(", 4 images of one study" in label for label in labels) == [False, False, True]
    [study] = [e for e in app.expander if "4 images" in e.label]
    place = 0 if button.startswith("Assign") else 1
    study.text_input[place].input("P-17").run()
    [study] = [e for e in app.expander if "4 images" in e.label]
    next(b for b in study.button if b.label.startswith(button)).click().run()
    taken = engine.drafts.waiting(team.technician)
    assert len(taken) == (4 if button.startswith("Assign") else 0)
    left = engine.reception.held(team.technician)
    assert {str(h.hints["name"]) for h in left} == {"Other, One", "Doe, Jane"}
    assert len(left) == 2


def test_an_administrator_makes_a_rule_and_sees_what_waits_and_why(
    engine: Engine, visit: Visit, team: Team, ward: Ward
) -> None:
    place = {"host": "127.0.0.1", "port": 1, "receives": True}
    engine.nodes.save(team.administrator, "ARCHIVE", {"addresses": ["127.0.0.1"], **place})
    app = visit(team.administrator, "4_Admin", tab="Network")
    field(app, "Name of the rule").input("everything")
    app.multiselect[0].set_value(["ARCHIVE"])
    click(app, "Save the rule")
    assert list(engine.sendings.rules(team.administrator)) == ["everything"]
    ward.seal(builders.dicom(builders.labelled()[0]), "a.dcm", [BOX])
    engine.sendings.send_due("ARCHIVE", dimse.Courier(engine).deliver)
    app = visit(team.administrator, "4_Admin", tab="Network")
    [why] = [str(v) for f in app.dataframe for v in f.value.get("Why not sent", [])]
    assert "cannot be reached" in why
    click(app, "Try now")
    [entry] = engine.sendings.entries(team.administrator)
    assert (entry.state, entry.attempts) == ("waiting", 0)
    app = visit(team.administrator, "4_Admin", tab="Network")
    click(app, "Cancel")
    [entry] = engine.sendings.entries(team.administrator)
    assert entry.state == "cancelled"
    app = visit(team.administrator, "4_Admin", tab="Network")
    next(s for s in app.selectbox if s.label == "Rule to change").select("everything").run()
    click(app, "Remove the rule")
    assert engine.sendings.rules(team.administrator) == {}


def test_a_doctor_sends_a_masked_image_and_an_original(
    engine: Engine, visit: Visit, team: Team, ward: Ward
) -> None:
    place = {"host": "127.0.0.1", "port": 1, "receives": True, "originals": True}
    engine.nodes.save(team.administrator, "ARCHIVE", {"addresses": ["127.0.0.1"], **place})
    image_id = ward.seal(builders.dicom(builders.labelled()[0]), "a.dcm", [BOX])
    app = visit(team.doctor, "2_Review")
    app.query_params["image"] = image_id
    click(app.run(), "Send the masked image")
    app = visit(team.doctor, "2_Review")
    app.query_params["image"] = image_id
    app.run()
    field(app, "Why does this system need").input(WHY)
    click(app, "Send the original")
    queued = engine.sendings.entries(team.administrator)
    assert sorted((e.original, e.queued_by) for e in queued) == [
        (False, "doctor"), (True, "doctor"),
    ]  # fmt: skip
