# ruff: noqa: F811 (a fixture of another file is a parameter here)
"""The administrator's tabs about specialties and networks, without a browser."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from engine import Engine, Role, Suggestion, TextVerdict
from tests.conftest import PASSWORD, Team
from tests.detect.test_custom_networks import box, hospital, network  # noqa: F401 - fixtures
from tests.fakes import ScriptedDetector
from tests.learned import learned
from tests.ui.test_pages import BOX, PICTURE, click, component, patient, texts, visit  # noqa: F401
from tests.ui.test_pages import Visit as Visitor

pytestmark = pytest.mark.usefixtures("hospital")


def admin_page(visit: Visitor, team: Team, tab: str) -> AppTest:
    return visit(team.administrator, "4_Admin", tab=tab)


def labelled(elements: object, label: str, place: int = 0) -> object:
    found = [e for e in elements if e.label == label]  # type: ignore[attr-defined]
    assert found, f"nothing is called {label!r}"
    return found[place]


def test_an_administrator_changes_a_profile_and_takes_it_back(
    engine: Engine,
    team: Team,
    visit: Visitor,
) -> None:
    app = admin_page(visit, team, "Profiles")
    labelled(app.selectbox, "Profile to change").select("chest").run()
    labelled(app.number_input, "thorax").set_value(0.6)
    labelled(app.checkbox, "Leave harmless text visible").check()
    click(app, "Save the profile")
    assert "The next upload uses it" in texts(app)
    assert engine.profiles.get("chest").class_confidence == {"thorax": 0.6}
    assert engine.profiles.get("chest").harmless_text == "visible"
    labelled(app.selectbox, "Profile to change").select("chest").run()
    click(app, "Reset to the shipped profile")
    assert engine.profiles.get("chest").harmless_text == "sealed"


def test_a_profile_without_text_is_refused_with_a_sentence(
    engine: Engine,
    team: Team,
    visit: Visitor,
) -> None:
    app = admin_page(visit, team, "Profiles")
    labelled(app.multiselect, "Classes to seal").set_value(["face"])
    click(app, "Save the profile")
    assert "Every profile must seal text" in texts(app)
    assert "text" in engine.profiles.get("general").classes


def test_a_network_of_the_hospitals_own_is_sent_and_listed(
    engine: Engine,
    team: Team,
    visit: Visitor,
) -> None:
    app = admin_page(visit, team, "Models")
    uploader = labelled(app.get("file_uploader"), "Network (.onnx)")
    uploader.set_value(("ours.onnx", network(), "application/octet-stream")).run()
    labelled(app.text_input, "Short name").input("tags")
    labelled(app.text_input, "Title", -1).input("Our tags")
    labelled(app.selectbox, "tag").select("text")
    click(app, "Check and add")
    assert "Profiles can use it" in texts(app)
    assert engine.custom_networks.records(team.administrator)["tags"].finds == ("text",)
    listed = next(d.value for d in app.dataframe if "Network" in d.value)
    assert "tags" in list(listed["Network"])


def test_a_comparison_shows_counts_alone(
    engine: Engine,
    team: Team,
    visit: Visitor,
    detector: ScriptedDetector,
    patient: str,
) -> None:
    detector.found = [BOX]
    engine.drafts.upload(team.technician, patient, "erika.png", PICTURE)
    app = admin_page(visit, team, "Models")
    click(app, "Compare")
    counted = next(d.value for d in app.dataframe if "Found by both" in d.value)
    assert list(counted["Found by both"]) == [1]
    assert "Musterfrau" not in texts(app)


def test_the_technician_sees_what_was_read_of_each_box(
    engine: Engine,
    team: Team,
    visit: Visitor,
    detector: ScriptedDetector,
    patient: str,
) -> None:
    engine.profiles.save(team.administrator, "general", {"harmless_text": "visible"})
    detector.found = [BOX]
    detector.verdicts = {BOX.region.xyxy: (TextVerdict.HARMLESS, "L")}
    draft = engine.drafts.upload(team.technician, patient, "erika.png", PICTURE)
    view = engine.drafts.open(team.technician, draft.image_id)
    assert view.suggestions == (Suggestion.LEAVE,)
    app = visit(team.technician, "1_Upload")
    click(app, "Correct")
    [shown] = component(app, "editor")["boxes"]
    assert shown["verdict"] == "harmless"
    assert shown["removed"].startswith("harmless text")
    assert not shown["proposed"]


# --- learned versions ---------------------------------------------------------------------------


def test_a_learned_version_is_taken_in_looks_in_the_shadow_and_comes_in_force(
    engine: Engine, team: Team, visit: Visitor, patient: str, detector: ScriptedDetector
) -> None:
    file = learned()
    name = file.card.name
    engine.people.create(team.administrator, "ben", "Ben", Role.ADMINISTRATOR, PASSWORD)
    app = admin_page(visit, team, "Models")
    uploader = labelled(app.get("file_uploader"), "Learned version (.medsec-network)")
    uploader.set_value((f"{name}.medsec-network", file.to_bytes(), "application/octet-stream"))
    click(app, "Check and take in")
    assert "It looks at nothing yet" in texts(app)
    listed = next(d.value for d in app.dataframe if "Learned from" in d.value)
    assert list(listed["State"]) == ["in force", "candidate"]
    click(app, "Look in the shadow")
    assert "in the shadow" in texts(app)
    detector.found = [BOX]
    engine.drafts.upload(team.technician, patient, "scan.png", PICTURE)
    app = admin_page(visit, team, "Models")
    assert engine.versions.entries(team.administrator)[1].shadow.images == 1
    click(app, "Put in force")
    assert "Another administrator has to confirm" in texts(app)
    assert detector.own is None
    other = engine.sessions.sign_in("ben", PASSWORD).token
    app = visit(other, "4_Admin", tab="Models")
    assert "wants to put" in texts(app)
    click(app, "Confirm")
    assert detector.version == name
    app = admin_page(visit, team, "Models")
    labelled(app.text_input, "Reason to go back to the version before").input("worse here")
    click(app, "Roll back")
    assert "is in force again" in texts(app)
    assert detector.own is None


def test_a_worse_version_is_refused_with_a_sentence(
    engine: Engine, team: Team, visit: Visitor
) -> None:
    app = admin_page(visit, team, "Models")
    uploader = labelled(app.get("file_uploader"), "Learned version (.medsec-network)")
    uploader.set_value(("worse.medsec-network", learned(lost=2).to_bytes(), "x/y"))
    click(app, "Check and take in")
    assert "hides less of a line that names a patient" in texts(app)
    assert len(engine.versions.entries(team.administrator)) == 1
