# ruff: noqa: F811 (a fixture of another file is a parameter here)
"""Care relations, broken glass, classes and merges, as each role sees them on the pages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from engine import Detection, Engine, ImageRecord, Region
from tests.conftest import WHY, Team
from tests.ui.test_pages import PICTURE, click, component, fill, texts, visit  # noqa: F401 (a fixture)

URGENT = "unconscious in the emergency room"
Visit = Callable[..., AppTest]


@pytest.fixture
def bound(engine: Engine) -> None:
    """The setting in force, without opening the folder a second time."""
    object.__setattr__(engine.settings, "care_relation", True)


@pytest.fixture
def sealed(engine: Engine, team: Team, detector) -> ImageRecord:
    patient = engine.patients.create(team.technician, "P-17", "Erika Musterfrau", 61, "allergic")
    detector.found = [
        Detection(Region(8, 8, 200, 40), "text", 0.9, "net"),
        Detection(Region(60, 80, 200, 180), "thorax", 0.9, "net"),
    ]
    draft = engine.drafts.upload(team.technician, patient.patient_id, "erika.png", PICTURE)
    view = engine.drafts.open(team.technician, draft.image_id)
    return engine.drafts.seal(team.technician, draft.image_id, view.detections)


def _type(app: AppTest, label: str, text: str) -> None:
    next(t for t in [*app.text_input, *app.text_area] if t.label.startswith(label)).input(text)


def test_glass_is_broken_on_the_review_page_and_reviewed_on_the_admin_page(
    engine: Engine,
    team: Team,
    visit: Visit,
    sealed: ImageRecord,
    bound: None,
) -> None:
    app = visit(team.doctor, "2_Review")
    assert "P-17" not in texts(app)
    _type(app, "Patient", "P-17")
    app.run()
    assert "No sealed image matches" in texts(app)
    assert next(t for t in app.text_input if t.label == "Patient number").value == "P-17"
    _type(app, "Why do you need this patient", "need it")
    click(app, "Emergency access (break-glass)")
    assert "in 15 to 1000 characters" in texts(app)
    _type(app, "Why do you need this patient", URGENT)
    click(app, "Emergency access (break-glass)")
    assert "Emergency access to patient P\\-17 until" in texts(app)
    assert any(b.label.startswith("View ") for b in app.button)

    home = visit(team.administrator)
    assert "Emergency access: 1 open now, 0 to review" in texts(home)
    admin = visit(team.administrator, "4_Admin", tab="Access")
    assert URGENT in texts(admin)
    assert "Erika" not in texts(admin)
    click(admin, "End access now")
    assert "Emergency access: 1 to review" in texts(admin)
    click(admin, "Record the review")
    assert "Choose a verdict" in texts(admin)
    admin.radio[0].set_value("justified")
    _type(admin, "Remark", "spoke to the ward")
    click(admin, "Record the review")
    assert "Emergency access: 0 to review" in texts(admin)
    [glass] = engine.care.emergency_access(team.administrator)
    assert (glass.verdict, glass.remark) == ("justified", "spoke to the ward")
    assert "P-17" not in texts(visit(team.doctor, "2_Review"))


def test_a_doctor_ends_their_own_emergency_access(
    engine: Engine,
    team: Team,
    visit: Visit,
    sealed: ImageRecord,
    bound: None,
) -> None:
    engine.care.break_glass(team.doctor, "P-17", URGENT)
    app = visit(team.doctor)
    assert "Emergency access to patient P\\-17" in texts(app)
    click(app, "End access now")
    assert "has ended" in texts(app) or "Emergency access" not in texts(app)
    assert engine.care.emergency_access_due(team.administrator) == (0, 1)


def test_emergency_access_needs_the_setting_and_a_doctor(
    engine: Engine,
    team: Team,
    visit: Visit,
) -> None:
    app = visit(team.doctor, "2_Review")
    _type(app, "Patient", "P-99")
    app.run()
    assert not [b for b in app.button if b.label == "Emergency access (break-glass)"]
    object.__setattr__(engine.settings, "care_relation", True)
    app = visit(team.technician, "2_Review")
    _type(app, "Patient", "P-99")
    app.run()
    assert not [b for b in app.button if b.label == "Emergency access (break-glass)"]


def test_a_technician_names_the_doctor_and_merges_a_duplicate(
    engine: Engine,
    team: Team,
    visit: Visit,
    sealed: ImageRecord,
    bound: None,
) -> None:
    engine.patients.create(team.technician, "P-18", "Erica Musterfrau", 61)
    app = visit(team.technician, "1_Upload")
    chosen = next(s for s in app.selectbox if s.label == "Patient of these files")
    chosen.set_value(sealed.patient_id).run()
    assert "Treating doctors: none yet" in [e.label for e in app.expander]
    app.multiselect[0].set_value(["doctor"])
    click(app, "Add doctors")
    assert [p.id for p in engine.patients.search(team.doctor)] == ["P-17"]
    fill(app, Patient_number_of_the_duplicate="P-18")
    _type(app, "Why are these records of the same person", "same passport")
    click(app, "Merge records")
    assert "Tick the box to confirm" in texts(app)
    next(c for c in app.checkbox if c.label.startswith("I compared name, age")).check()
    click(app, "Merge records")
    assert engine.patients.get(team.doctor, "P-18").id == "P-17"


def test_a_part_says_what_is_withheld_and_offers_no_original(
    engine: Engine,
    team: Team,
    visit: Visit,
    sealed: ImageRecord,
) -> None:
    admin = visit(team.administrator, "4_Admin", tab="Access")
    next(c for c in admin.checkbox if c.label.startswith("All classes")).uncheck()
    next(m for m in admin.multiselect if m.label == "Or only these classes").set_value(["thorax"])
    click(admin, "Save classes")
    assert engine.care.restorable_classes(team.administrator) == {"doctor": frozenset({"thorax"})}
    engine.images.restore(team.doctor, sealed.image_id, WHY)
    app = visit(team.doctor, "2_Review")
    app.query_params["image"] = sealed.image_id
    app.run()
    assert not app.exception
    said = texts(app)
    assert (
        "Partly restored: 1 of 2 regions are open. Your account cannot open these classes: text"
        in said
    )
    assert "has the same stored value as in the original, verified" in said
    assert component(app, "viewer")["opened"] == "Opened regions"
    links = [e.proto.label for e in app.get("link_button")]
    assert "PNG" in links
    assert not [label for label in links if label.startswith("Original")]


def test_a_doctor_reads_the_note_and_the_history_of_a_record(
    engine: Engine,
    team: Team,
    visit: Visit,
    sealed: ImageRecord,
) -> None:
    engine.patients.update(team.technician, sealed.patient_id, name="Erika Schmidt")
    app = visit(team.doctor, "2_Review")
    app.query_params["image"] = sealed.image_id
    app.run()
    assert "allergic" in texts(app)
    app.toggle[0].set_value(True).run()
    assert not app.exception
    table = next(d.value for d in app.dataframe if "Changed by" in d.value.columns)
    assert list(table["Name"]) == ["Erika Musterfrau"]
    assert list(table["Changed"]) == ["name"]


def test_the_health_tab_says_that_mail_is_off(
    team: Team,
    visit: Visit,
) -> None:
    assert "MEDSEC_SMTP_HOST" in texts(visit(team.administrator, "4_Admin", tab="Health"))


def test_who_treats_whom_is_mended_by_number(
    engine: Engine,
    team: Team,
    visit: Visit,
    sealed: ImageRecord,
) -> None:
    app = visit(team.administrator, "4_Admin", tab="Access")
    next(t for t in app.text_input if t.key == "care-number").input("P-17")
    click(app, "Save")
    [relation] = engine.care.relations(team.administrator)
    assert (relation.number, relation.username) == ("P-17", "doctor")
    assert "Erika" not in texts(app)
    next(t for t in app.text_input if t.key == "care-number").input("P-17")
    next(c for c in app.checkbox if c.label.startswith("This doctor")).check()
    click(app, "Save")
    assert engine.care.relations(team.administrator) == []
