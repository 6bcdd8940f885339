"""De-identification profiles on Admin, recipients on Review, and who can read attributes."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from streamlit.testing.v1 import AppTest

from engine import Engine, ImageRecord
from tests.conftest import Team
from tests.fakes import ScriptedDetector
from tests.formats.documents import BASIC_TEXT, FINDING, document
from tests.formats.test_dicom_attributes import certificate
from tests.ui.test_pages import Visit, click, texts
from tests.ui.test_pages import draft as draft
from tests.ui.test_pages import patient as patient
from tests.ui.test_pages import sealed as sealed
from tests.ui.test_pages import visit as visit


def field(app: AppTest, label: str) -> Any:
    kinds = [*app.text_input, *app.text_area, *app.checkbox, *app.selectbox]
    return next(t for t in kinds if t.label.startswith(label))


def test_an_administrator_makes_a_profile_and_takes_it_away(
    engine: Engine, visit: Visit, team: Team
) -> None:
    app = visit(team.administrator, "4_Admin", tab="De-identification")
    field(app, "Name").input("Trial 7")
    click(app, "Save the profile")
    assert "The name is not valid" in texts(app)
    field(app, "Name").input("trial-7")
    field(app, "Keep dates").check()
    click(app, "Save the profile")
    made = engine.recipients.entries(team.administrator)["trial-7"]
    assert (made.options.dates, made.options.device) == (True, False)
    app = visit(team.administrator, "4_Admin", tab="De-identification")
    [listed] = [f.value for f in app.dataframe if "Profile" in f.value]
    assert list(listed["Profile"]) == ["basic", "follow-up", "research", "trial-7"]
    field(app, "Profile to change").select("trial-7").run()
    click(app, "Remove the profile")
    assert "trial-7" not in engine.recipients.entries(team.administrator)


def test_an_administrator_names_who_can_read_original_attributes(
    engine: Engine, visit: Visit, team: Team
) -> None:
    app = visit(team.administrator, "4_Admin", tab="Settings")
    assert "Nobody is named" in texts(app)
    field(app, "Setting").select("recipient_certificates").run()
    field(app, "Certificates (PEM)").input("-----BEGIN PRIVATE KEY-----").run()
    click(app, "Save")
    assert "holds a private key" in texts(app)
    pem = certificate("archive", rsa.generate_private_key(65537, 2048))
    field(app, "Certificates (PEM)").input(pem).run()
    click(app, "Save")
    [named] = engine.runtime_settings.recipients(team.administrator)
    assert named.subject == "CN=archive"
    app = visit(team.administrator, "4_Admin", tab="Settings")
    [holders] = [f.value for f in app.dataframe if "Holder" in f.value]
    assert list(holders["Holder"]) == ["CN=archive"]
    shown = [f.value for f in app.dataframe if "Value" in f.value]
    assert "1 certificate" in list(shown[0]["Value"])


def test_a_doctor_hands_copies_over_by_a_profile_and_names_the_recipient(
    engine: Engine, visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    app = visit(team.doctor, "2_Review")
    field(app, "What for, and to whom").input("Trial 7")
    field(app, "Recipient of copies").input("Lyon")
    click(app, "Prepare")
    assert "Choose a de-identification profile" in texts(app)
    field(app, "De-identification").select("research")
    click(app, "Prepare")
    assert "1 image of 1 patient can be downloaded" in texts(app)


def test_a_document_says_what_it_is_and_gives_the_original_alone(
    engine: Engine, visit: Visit, team: Team, patient: str, detector: ScriptedDetector
) -> None:
    detector.found = []
    data = document(BASIC_TEXT)
    image_id = engine.drafts.upload(team.technician, patient, "report.dcm", data).image_id
    view = engine.drafts.open(team.technician, image_id)
    engine.drafts.seal(team.technician, image_id, view.detections)
    app = visit(team.doctor, "2_Review")
    app.query_params["image"] = image_id
    app.run()
    assert "This is a document of the study without a picture" in texts(app)
    assert FINDING not in texts(app)
    field(app, "Why do you need").input("ward round")
    click(app, "Restore the original")
    links = [b.proto.label for b in app.get("link_button")]
    assert "Original DICOM document" in links
    assert "PNG" not in links
