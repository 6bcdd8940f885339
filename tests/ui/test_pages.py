"""Every page as a visitor of each role sees it, without a browser."""

from __future__ import annotations

import gc
import json
import re
import runpy
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from streamlit.runtime.scriptrunner import script_runner
from streamlit.testing.v1 import AppTest

import api
from api.held_intakes import Intakes
from engine import Detection, DraftBox, Engine, ImageRecord, Look, Region, Role, errors, version
from engine.store.audit import AuditLog
from tests import builders
from tests.conftest import PASSWORD, Team
from tests.fakes import ScriptedDetector
from ui import state, widgets
from ui.background_jobs import Job
from ui.patient_banner import person

HOME = Path(__file__).parents[2] / "Home.py"
BOX = Detection(Region(8, 8, 200, 40), "text", 0.9, "net")
PROPOSAL = Detection(Region(20, 100, 90, 130), "text", 0.15, "net")
PICTURE = builders.png(builders.labelled()[0])

Visit = Callable[..., AppTest]


@pytest.fixture
def visit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Visit:
    """Open a page as the holder of a token."""
    monkeypatch.setattr(api.app.state, "engine", engine, raising=False)
    # AppTest would run pages beside Home.py, as a server does that was not told otherwise.
    monkeypatch.setattr(
        script_runner, "_mpa_v1", lambda path: runpy.run_path(path, run_name="__main__")
    )

    def open_page(token: str = "", page: str = "", tab: str = "") -> AppTest:
        monkeypatch.setattr(state, "token", lambda: token)
        app = AppTest.from_file(HOME, default_timeout=120).run()
        if page:
            if tab:
                app.query_params["tab"] = tab
            app.switch_page(f"pages/{page}.py").run()
        assert not app.exception
        return app

    return open_page


@pytest.fixture
def patient(engine: Engine, team: Team) -> str:
    return engine.patients.create(
        team.technician, "P-17", "Erika Musterfrau", 61, "allergic"
    ).patient_id


@pytest.fixture
def draft(engine: Engine, team: Team, detector: ScriptedDetector, patient: str) -> ImageRecord:
    detector.found = [BOX]
    return engine.drafts.upload(team.technician, patient, "erika.png", PICTURE)


@pytest.fixture
def sealed(engine: Engine, team: Team, draft: ImageRecord) -> ImageRecord:
    return engine.drafts.seal(team.technician, draft.image_id, [BOX])


def texts(app: AppTest) -> str:
    """Everything a reader sees, in one string."""
    kinds = (app.title, app.header, app.subheader, app.markdown, app.caption, app.text)
    notices = (app.error, app.warning, app.info, app.success)
    return "\n".join(str(e.value) for kind in (*kinds, *notices) for e in kind)


def click(app: AppTest, label: str) -> AppTest:
    """Press the button whose label begins so."""
    found = [b for b in app.button if b.label.startswith(label)]
    assert found, f"no button {label!r} among {[b.label for b in app.button]}"
    found[0].click().run()
    assert not app.exception
    return app


def fill(app: AppTest, **values: str) -> None:
    """Type into text inputs by their labels (underscores are spaces)."""
    for name, value in values.items():
        label = name.replace("_", " ")
        next(t for t in app.text_input if t.label == label).input(value)


def component(app: AppTest, name: str) -> dict[str, Any]:
    """The data of a component of ours that is on the page."""
    components = app.get("bidi_component")
    for element in components:
        if element.proto.component_name == f"medsec_{name}":
            data: dict[str, Any] = json.loads(element.proto.json)
            return data
    raise AssertionError(f"no {name} on the page; it says: {texts(app)}")


def address(app: AppTest) -> dict[str, str]:
    """The filters in the page's address."""
    values = dict(app.query_params)
    return {k: v[0] if isinstance(v, list) else str(v) for k, v in values.items()}


def remembered(app: AppTest) -> list[Any]:
    return list(app._session_state.filtered_state.values())


# --- the way in -------------------------------------------------------------------------------


def test_the_first_start_asks_for_the_consoles_code(engine: Engine, visit: Visit) -> None:
    app = visit()
    fill(app, Setup_code_from_the_console="wrong", User_name="ada", Your_name="Ada")
    fill(app, Password=PASSWORD, Repeat_password=PASSWORD)
    click(app, "Create administrator")
    assert "does not match the setup code on the console" in texts(app)
    fill(app, Setup_code_from_the_console=engine.people.setup_code())
    fill(app, Repeat_password="another one altogether")
    click(app, "Create administrator")
    assert "differ" in texts(app)
    assert engine.people.setup_needed()
    fill(app, Repeat_password=PASSWORD)
    click(app, "Create administrator")
    assert not engine.people.setup_needed()
    assert api.redeem_ticket(engine, component(app, "session")["ticket"])


def test_a_wrong_password_is_a_sentence_and_no_ticket(visit: Visit, team: Team) -> None:
    app = visit()
    fill(app, User_name="doctor", Password="something else entirely")
    click(app, "Sign in")
    assert "do not match" in texts(app) or "not correct" in texts(app)
    assert not app.get("bidi_component") or "ticket" not in str(app.get("bidi_component"))


def test_signing_in_gives_a_ticket_and_never_the_token(
    engine: Engine, visit: Visit, team: Team
) -> None:
    app = visit()
    # A trailing blank belongs to a password: nothing may cut it off on the way.
    engine.people.create(team.administrator, "Blank", "B", Role.DOCTOR, PASSWORD + " ")
    fill(app, User_name="Blank", Password=PASSWORD + " ")
    click(app, "Sign in")
    token = api.redeem_ticket(engine, component(app, "session")["ticket"])
    assert engine.sessions.whoami(token).username == "blank"
    assert all(token not in str(value) for value in remembered(app))


@pytest.mark.parametrize(
    ("role", "titles"),
    [
        (Role.TECHNICIAN, ["Upload", "Review"]),
        (Role.DOCTOR, ["Review", "Analytics"]),
        (Role.RESEARCHER, ["Analytics"]),
        (Role.ADMINISTRATOR, ["Analytics", "Admin"]),
    ],
)
def test_each_role_has_its_menu_and_something_to_do(
    visit: Visit, team: Team, role: Role, titles: list[str]
) -> None:
    app = visit(team.token(role))
    assert "Good day" in texts(app)
    shown = [p["page_name"] for p in app._registered_pages.values()]
    assert shown == ["Home", *titles, "My account"]
    assert f"MedSec {version()}" in [caption.value for caption in app.sidebar.caption]


@pytest.mark.parametrize(
    ("page", "role"),
    [
        ("1_Upload", Role.DOCTOR),
        ("1_Upload", Role.ADMINISTRATOR),
        ("2_Review", Role.RESEARCHER),
        ("2_Review", Role.ADMINISTRATOR),
        ("3_Analytics", Role.TECHNICIAN),
        ("4_Admin", Role.DOCTOR),
        ("4_Admin", Role.TECHNICIAN),
    ],
)
def test_a_page_run_by_itself_refuses_other_roles_and_strangers(
    engine: Engine, team: Team, sealed: ImageRecord, monkeypatch: pytest.MonkeyPatch,
    page: str, role: Role,
) -> None:  # fmt: skip
    monkeypatch.setattr(api.app.state, "engine", engine, raising=False)
    monkeypatch.setattr(
        script_runner, "_mpa_v1", lambda path: runpy.run_path(path, run_name="__main__")
    )
    for token in ("", "forged", team.token(role)):
        monkeypatch.setattr(state, "token", lambda token=token: token)
        app = AppTest.from_file(HOME.parent / "pages" / f"{page}.py").run()
        assert not app.exception
        assert len(app.error) == 1
        assert not app.title
        assert not app.button


def test_a_session_that_has_ended_sees_the_sign_in(
    engine: Engine, visit: Visit, team: Team
) -> None:
    app = visit(team.technician, "1_Upload")
    engine.people.set_enabled(team.administrator, "technician", False)
    app.run()
    assert [t.label for t in app.text_input][:2] == ["User name", "Password"]
    assert "Your session has ended" in texts(app)
    assert "Waiting to be sealed" not in texts(app)
    assert "Your session" not in texts(visit())


def test_signing_out_ends_the_session_in_the_engine(
    engine: Engine, visit: Visit, team: Team
) -> None:
    click(visit(team.doctor), "Sign out")
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.whoami(team.doctor)


# --- upload -----------------------------------------------------------------------------------


def test_a_technician_makes_a_patient_and_the_note_is_for_doctors(
    engine: Engine, visit: Visit, team: Team
) -> None:
    app = visit(team.technician, "1_Upload")
    fill(app, Patient_number="P-17", Name="Erika Musterfrau")
    app.number_input[0].set_value(61)
    app.text_area[0].input("allergic to contrast agent")
    click(app, "Add patient")
    assert "Patient added" in texts(app)
    [found] = engine.patients.search(team.doctor, "Musterfrau")
    assert (found.id, found.age, found.note) == ("P-17", 61, "allergic to contrast agent")
    assert "allergic" not in texts(app)
    assert app.selectbox[0].value == found.patient_id


def test_one_bad_file_does_not_stop_the_others(
    engine: Engine, visit: Visit, team: Team, detector: ScriptedDetector, patient: str
) -> None:
    detector.found = [BOX]
    app = visit(team.technician, "1_Upload")
    app.selectbox[0].select(patient).run()
    other = builders.png(builders.labelled("DOE", seed=4)[0])
    app.file_uploader[0].set_value(
        [
            ("erika.png", PICTURE, "image/png"),
            ("lying.png", b"%PDF-1.7 not a picture", "image/png"),
            ("again.png", PICTURE, "image/png"),
            ("doe.png", other, "image/png"),
        ]
    ).run()
    assert not app.exception
    said = texts(app)
    assert "2 uploaded, 2 failed" in said
    assert "already been uploaded" in said
    assert len(engine.drafts.waiting(team.technician)) == 2
    assert not app.file_uploader[0].value  # dropped on the server as well
    click(app, "Open the existing draft")
    assert component(app, "editor")
    assert not any(isinstance(v, bytes | np.ndarray) for v in remembered(app))


def test_images_without_doubt_are_sealed_as_they_come_and_others_wait(
    engine: Engine, visit: Visit, team: Team, detector: ScriptedDetector, patient: str
) -> None:
    """Choose the patient, switch it on, drop the files: three actions, however many files."""
    detector.found = [BOX]
    app = visit(team.technician, "1_Upload")
    app.selectbox[0].select(patient).run()
    next(t for t in app.toggle if t.key == "seal-at-once").set_value(True).run()
    files = [(f"{i}.png", builders.png(builders.labelled(f"DOE {i}")[0]), "") for i in range(3)]
    app.file_uploader[0].set_value(files).run()
    assert "3 uploaded, 0 failed** · 3 sealed" in texts(app)
    assert not engine.drafts.waiting(team.technician)
    detector.found = [BOX, PROPOSAL]
    app.file_uploader[0].set_value([("erika.png", PICTURE, "image/png")]).run()
    assert "1 uploaded, 0 failed**" in texts(app)
    [waiting] = engine.drafts.waiting(team.technician)
    assert waiting.reasons == ("proposals",)


def test_all_drafts_without_doubt_are_sealed_in_one_step(
    engine: Engine, visit: Visit, team: Team, detector: ScriptedDetector, patient: str
) -> None:
    for seed, found in enumerate(([BOX], [BOX], [BOX, PROPOSAL], [], [BOX])):
        detector.found = found
        data = builders.png(builders.labelled(f"DOE {seed}")[0])
        last = engine.drafts.upload(team.technician, patient, f"{seed}.png", data).image_id
    own = DraftBox(Detection(Region(20, 150, 60, 170), "text", 1.0))  # somebody saw what was missed
    boxes = [*engine.worklist.boxes(team.technician, last), own]
    engine.worklist.keep_boxes(team.technician, last, boxes)
    app = visit(team.technician, "1_Upload")
    click(app, "Seal 2 images without doubt")
    assert "2 images are being sealed" in texts(app)
    sealed_beside(app)
    assert {d.reasons for d in engine.drafts.waiting(team.technician)} == {
        ("proposals",), ("nothing-found",), (),
    }  # fmt: skip
    assert engine.worklist.boxes(team.technician, last) == boxes
    assert not [b for b in app.button if "without doubt" in b.label]


def test_what_was_confirmed_is_in_sight_after_a_restart_until_it_is_sealed(
    engine: Engine, visit: Visit, team: Team, draft: ImageRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for who neither sent nor confirmed it."""
    [group] = engine.worklist.groups(team.technician)
    look = Look(draft.image_id, group.items[0].version, 3.0, 180)
    assert engine.worklist.confirm(team.technician, [look]) == [draft.image_id]
    intakes = Intakes(engine)  # as after a restart: its queues are empty
    monkeypatch.setattr(api.app.state, "intakes", intakes, raising=False)
    engine.people.create(team.administrator, "tom", "Tom", Role.TECHNICIAN, PASSWORD)
    app = visit(engine.sessions.sign_in("tom", PASSWORD).token, "1_Upload")
    assert "1 image was confirmed on a contact sheet and not sealed yet" in texts(app)
    click(app, "Look at them again")
    assert "Waiting again: 1 image." in texts(app)
    assert engine.drafts.waiting(team.technician) == [draft]
    [group] = engine.worklist.groups(team.technician)
    engine.worklist.confirm(team.technician, [replace(look, version=group.items[0].version)])
    app.run()
    click(app, "Seal as confirmed")
    until = time.monotonic() + 60
    while intakes.looking.queued() and time.monotonic() < until:
        time.sleep(0.05)
    intakes.stop()
    assert engine.images.get(team.doctor, draft.image_id).region_count == 1
    app.run()
    assert "not sealed yet" not in texts(app)


def test_a_page_that_was_left_finds_its_intake_again(
    engine: Engine, visit: Visit, team: Team, detector: ScriptedDetector, patient: str
) -> None:
    detector.found = [BOX]
    app = visit(team.technician, "1_Upload")

    def work(tell: Callable[[str, float], None]) -> ImageRecord:
        return engine.drafts.upload(team.technician, patient, "erika.png", PICTURE, progress=tell)

    app.session_state["medsec.jobs"] = {
        "a": Job("erika.png", "t", work),
        "b": Job("twin.png", "t", work),
    }
    app.run()
    assert not app.exception
    assert "1 uploaded, 1 failed" in texts(app)
    assert len(engine.drafts.waiting(team.technician)) == 1


def open_draft(app: AppTest, image_id: str) -> None:
    """As a click on its picture in the work list does."""
    shown = component(app, "worklist")["patients"]
    items = [i["id"] for p in shown for g in p["groups"] for i in g["items"]]
    assert image_id in items
    app.query_params["draft"] = image_id
    app.run()


def sealed_beside(app: AppTest) -> AppTest:
    """The page, once nothing is being sealed beside it."""
    until = time.monotonic() + 60
    while api.seals().at_work("technician"):
        assert time.monotonic() < until
        time.sleep(0.02)
    return app.run()


def test_the_next_image_opens_while_the_last_one_is_sealed(
    engine: Engine, visit: Visit, team: Team, detector: ScriptedDetector, patient: str
) -> None:
    """Of the same series first, then of one's own upload, then what needs a look."""
    detector.found = [BOX]
    other = engine.patients.create(team.technician, "P-18", "Otto Muster", 40).patient_id
    ids = []
    for number, whose in ((1, patient), (1, other), (2, patient)):
        pixels = builders.labelled(f"DOE {number}", seed=len(ids))[0]
        data = builders.dicom(pixels, instance=number, modality="US", patient=len(whose))
        ids.append(engine.drafts.upload(team.technician, whose, f"{len(ids)}.dcm", data).image_id)
    first, elsewhere, second = ids
    app = visit(team.technician, "1_Upload")
    open_draft(app, first)
    for following in (second, elsewhere):
        click(app, "Seal 1 region")
        assert "The image is being sealed. This is the next one." in texts(app)
        assert address(app)["draft"] == following
        assert component(app, "editor")["id"].startswith(following)
    click(app, "Seal 1 region")
    assert "draft" not in address(app)
    sealed_beside(app)
    assert not engine.drafts.waiting(team.technician)
    assert next(e for e in app.expander if "Sealed just now" in e.label).label.endswith("3")
    assert "Otto Muster" in texts(app)
    engine.patients.update(team.technician, other, name="Olga Muster")
    app.run()
    assert "Olga Muster" in texts(app)
    assert "Otto Muster" not in texts(app)


def test_an_address_opens_the_draft_that_was_open(
    visit: Visit, team: Team, draft: ImageRecord
) -> None:
    app = visit(team.technician, "1_Upload")
    app.query_params["draft"] = draft.image_id
    app.run()
    assert component(app, "editor")["id"].startswith(draft.image_id)
    click(app, "Back to the queue")
    assert "draft" not in address(app)
    app.query_params["draft"] = "im_unknown"
    app.run()
    assert "no longer exists" in texts(app)


def test_a_technician_seals_and_then_sees_the_sealed_image_only(
    engine: Engine, visit: Visit, team: Team, draft: ImageRecord
) -> None:
    app = visit(team.technician, "1_Upload")
    click(app, "Correct")
    data = component(app, "editor")
    assert [b["label"] for b in data["boxes"]] == ["text"]
    assert (data["width"], data["height"]) == (320, 240)
    assert data["picture"].startswith("/api/drafts/")  # fetched with the cookie, not sent along
    click(app, "Seal 1 region")
    sealed_beside(app)
    click(app, "Show")
    seen = component(app, "viewer")
    assert seen["original"] is None
    assert seen["masked"].startswith(f"/api/images/{draft.image_id}/")
    assert engine.images.get(team.doctor, draft.image_id).region_count == 1
    assert not any(isinstance(v, bytes | np.ndarray) for v in remembered(app))


def test_a_draft_with_proposals_is_not_sealed_before_a_person_decides(
    engine: Engine, visit: Visit, team: Team, detector: ScriptedDetector, patient: str
) -> None:
    detector.found = [BOX, PROPOSAL]
    engine.drafts.upload(team.technician, patient, "erika.png", PICTURE)
    app = visit(team.technician, "1_Upload")
    assert "1 of them must be reviewed" in texts(app)
    click(app, "Correct")
    assert "uncertain" in texts(app)
    click(app, "Seal 2 regions")
    assert "logged with your name" in texts(app)
    assert len(engine.drafts.waiting(team.technician)) == 1
    click(app, "I checked the whole image: all identifying content is boxed")
    sealed_beside(app)
    assert not engine.drafts.waiting(team.technician)


def test_what_the_second_look_sees_comes_back_to_the_editor(
    visit: Visit, team: Team, detector: ScriptedDetector, draft: ImageRecord
) -> None:
    detector.left = [[Detection(Region(30, 180, 120, 200), "text", 0.8, "net")]]
    app = visit(team.technician, "1_Upload")
    click(app, "Correct")
    click(app, "Seal 1 region")
    sealed_beside(app)
    click(app, "Correct")
    data = component(app, "editor")
    assert [(b["x1"], b["found"]) for b in data["boxes"]] == [(8, 0), (30, 1)]
    assert "still readable after masking" in texts(app)


def test_boxes_are_carried_to_the_series_and_each_picture_is_still_looked_at(
    engine: Engine, visit: Visit, team: Team, detector: ScriptedDetector, patient: str
) -> None:
    detector.found = [BOX, PROPOSAL]
    for seed in (1, 2):
        data = builders.png(builders.labelled(f"ERIKA {seed}", seed=seed)[0])
        engine.drafts.upload(team.technician, patient, f"{seed}.png", data)
    detector.found = [BOX]
    last = builders.png(builders.labelled("ERIKA 3", seed=3)[0])
    other = builders.png(builders.labelled("ERIKA 4", seed=4, width=400)[0])
    engine.drafts.upload(team.technician, patient, "3.png", last)
    engine.drafts.upload(team.technician, patient, "4.png", other)
    app = visit(team.technician, "1_Upload")
    click(app, "Correct")  # the first of those that need a look
    click(app, "Apply these boxes to the series (2 more pictures)")
    assert len(engine.drafts.waiting(team.technician)) == 4  # nothing was decided
    click(app, "Back to the queue")
    for button, boxes in (("3.png", 2), ("4.png", 1)):
        draft = next(
            d for d in engine.drafts.waiting(team.technician)
            if engine.drafts.open(team.technician, d.image_id).name == button
        )  # fmt: skip
        open_draft(app, draft.image_id)
        shown = component(app, "editor")["boxes"]
        assert len(shown) == boxes
        assert [b["found"] for b in shown] == [0, None][:boxes]
        click(app, "Back to the queue")


def test_a_file_that_names_another_patient_is_pointed_out(
    engine: Engine, visit: Visit, team: Team, detector: ScriptedDetector
) -> None:
    detector.found = [BOX]
    pixels = builders.labelled()[0]
    mine = engine.patients.create(team.technician, "P-77", "Erika Musterfrau").patient_id
    ids = [
        engine.drafts.upload(
            team.technician, mine, f"{n}.dcm", builders.dicom(pixels, instance=n, **header)
        ).image_id
        for n, header in enumerate(({"PatientID": "P-77", "PatientAge": "061Y"}, {}))
    ]
    app = visit(team.technician, "1_Upload")
    open_draft(app, ids[1])
    assert any("patient number in the file differs" in w.value for w in app.warning)
    click(app, "Back to the queue")
    open_draft(app, ids[0])
    assert not any("patient number in the file differs" in w.value for w in app.warning)
    click(app, "Save the age in the patient record")
    assert engine.patients.get(team.technician, mine).age == 61


def test_what_has_not_begun_can_be_stopped_and_the_batch_says_so(
    engine: Engine, visit: Visit, team: Team, detector: ScriptedDetector, patient: str
) -> None:
    detector.found = [BOX]
    app = visit(team.technician, "1_Upload")

    def work(tell: Callable[[str, float], None]) -> ImageRecord:
        return engine.drafts.upload(team.technician, patient, "=erika.png", PICTURE, progress=tell)

    first = Job("=erika.png", "t", work)
    first.result()
    free = threading.Event()
    busy = [
        Job("busy", "t", lambda _tell: free.wait(30)) for _ in range(2)
    ]  # every thread there is
    second = Job("late.png", "t", work)
    second.cancel()
    free.set()
    for job in busy:
        job.result()
    app.session_state["medsec.jobs"] = {"a": first, "b": second}
    app.run()
    assert not app.exception
    assert "1 uploaded, 1 failed" in texts(app)
    assert "stopped by you" in texts(app)
    lines = component(app, "download")["text"].splitlines()
    assert lines[1].startswith("'=erika.png,uploaded,im_")  # no formula
    assert lines[1].endswith(",1,,draft")
    assert lines[2].startswith("late.png,not uploaded")


def test_a_draft_is_discarded_with_a_reason_only(
    engine: Engine, visit: Visit, team: Team, draft: ImageRecord
) -> None:
    app = visit(team.technician, "1_Upload")
    click(app, "Correct")
    click(app, "Discard permanently")
    assert "Give a reason for erasing the image" in texts(app)
    fill(app, **{"Reason for discarding": "test scan"})
    click(app, "Discard permanently")
    assert not engine.drafts.waiting(team.technician)
    assert "Draft discarded" in texts(app)


# --- review -----------------------------------------------------------------------------------


def test_a_doctor_finds_restores_and_writes_a_note(
    engine: Engine, visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    app = visit(team.doctor, "2_Review")
    app.text_input(key="review-query").input("nobody").run()
    assert "No sealed image matches" in texts(app)
    app.text_input(key="review-query").input("muster").run()
    click(app, "View")
    app.query_params["image"] = sealed.image_id  # as the viewer's Details does
    app.run()
    assert component(app, "viewer")["original"] is None
    click(app, "Restore the original")
    assert "Give a reason for access" in texts(app)
    assert component(app, "viewer")["original"] is None
    fill(app, **{"Why do you need to see the original?": "tumour board"})
    click(app, "Restore the original")
    assert (
        "The stored pixels are identical to those of the original, verified by SHA-256."
        in texts(app)
    )
    data = component(app, "viewer")
    assert data["original"].startswith("/api/restorations/")
    [row] = data["regions"]
    assert (row["label"], row["confidence"]) == ("text", 0.75)
    assert float(row["cells"][1]) > 7  # sealed bytes look random
    assert "of sealing as the nearest power of two" in texts(app)  # no more is kept of them
    assert any("Look again" in str(h.proto) for h in app.get("html"))
    assert not any(isinstance(v, bytes | np.ndarray) for v in remembered(app))
    links = [b.proto.url for b in app.get("link_button")]
    assert any(link.endswith("format=original") for link in links)
    app.text_area[0].input("No change since last year.")
    click(app, "Add note")
    assert "No change since last year." in texts(app)
    reasons = [e.reason for e in engine.images.history(team.doctor, sealed.image_id)]
    assert "tumour board" in reasons


def test_a_doctor_hands_over_what_a_search_found(
    engine: Engine, visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    app = visit(team.doctor, "2_Review")
    click(app, "Prepare")
    assert "Say what the images are for" in texts(app)
    fill(app, **{"What for, and to whom": "Trial 7"})
    click(app, "Prepare")
    assert "1 image of 1 patient can be downloaded" in texts(app)
    assert engine.cohorts.public_key(team.doctor)[1] in [c.value for c in app.code]


def test_a_doctor_walks_through_a_study_image_by_image(
    engine: Engine, visit: Visit, team: Team, patient: str, detector: ScriptedDetector
) -> None:
    detector.found = [BOX]
    sent = {}
    for series, instance in ((2, 3), (2, 1), (1, 1), (2, 2)):
        data = builders.dicom(
            builders.labelled()[0] // (series + instance), series=series, instance=instance,
            StudyDescription="Knee, both sides", SeriesDescription=f"Axial {series}",
        )  # fmt: skip
        taken = engine.drafts.upload(team.technician, patient, "x.dcm", data)
        engine.drafts.seal(team.technician, taken.image_id, [BOX])
        sent[series, instance] = taken.image_id
    app = visit(team.doctor, "2_Review")
    app.text_input(key="review-query").input("P-17").run()
    assert "2024-02-29 10:11 · Knee, both sides" in texts(app)
    assert "2 series · 4 images" in texts(app)
    assert "**Series 2 · Axial 2**" in texts(app)
    tiles = [b for b in app.button if b.label.startswith("View ")]
    assert len({b.label for b in tiles}) == len(tiles)  # who only listens tells them apart
    second = tiles[1]
    second.click().run()
    data = component(app, "stack")
    assert data["start"] == str(second.key).removeprefix("named-open-")
    assert [[image[0] for image in one["images"]] for one in data["series"]] == [
        [sent[1, 1]], [sent[2, 1], sent[2, 2], sent[2, 3]],
    ]  # fmt: skip
    app.query_params["image"] = sent[2, 1]  # as the viewer's Details does
    app.run()
    assert "Image 1 of 3" in texts(app)
    assert next(b for b in app.button if b.label == "Previous").disabled
    click(app, "Next")
    assert address(app)["image"] == sent[2, 2]
    click(app, "Next")
    assert "Image 3 of 3" in texts(app)
    assert next(b for b in app.button if b.label == "Next").disabled
    click(app, "Back to the study")
    assert component(app, "stack")["start"] == data["start"]
    click(app, "Back to the list")
    assert "Knee, both sides" in texts(app)
    assert "study" not in address(app)


def test_a_doctor_restores_a_study_on_its_page_under_one_reason(
    engine: Engine, visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    app = visit(team.doctor, "2_Review")
    app.text_input(key="review-query").input("P-17").run()
    click(app, "View")
    assert "Erika Musterfrau" in app.get("html")[0].proto.body
    assert component(app, "stack")["series"][0]["images"] == [[sealed.image_id, 1, ""]]
    click(app, "Restore: clinical reading")
    data = component(app, "stack")
    handle = data["series"][0]["images"][0][2]
    assert handle.startswith("vs_")
    assert data["expires"] > 0
    assert not [b for b in app.button if b.label == "Comparison"]  # all of it is restored
    reasons = [e.reason for e in engine.audit.entries(team.administrator) if e.reason]
    assert reasons == ["Clinical reading"]
    click(app, "Close the restoration")
    assert component(app, "stack")["series"][0]["images"][0][2] == ""
    with pytest.raises(errors.NotFound):
        engine.studies.restoration(team.doctor, handle)
    app.text_input[0].input("")
    click(app, "Restore the originals")
    assert "Give a reason for access" in texts(app)


def test_a_technician_turns_the_pages_of_a_study_and_cannot_restore_it(
    visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    app = visit(team.technician, "2_Review")
    app.text_input(key="review-query").input("P-17").run()
    click(app, "View")
    assert component(app, "stack")["series"][0]["images"] == [[sealed.image_id, 1, ""]]
    assert not [b for b in app.button if "Restore" in b.label]


@pytest.mark.parametrize(("stored", "shown"), [
    ("Doe^John", "Doe, John"), ("Doe^John^Adam^Dr.^Jr.", "Doe, Dr. John Adam, Jr."),
    ("Yamada^Tarou=山田^太郎", "Yamada, Tarou"), ("Doe", "Doe"), ("Doe^", "Doe"),
    ("Łukasiewicz, Jan", "Łukasiewicz, Jan"),
    # From right to left, and isolated: a date after it would be turned around.
    ("محمد^علي", "\u2068محمد, علي\u2069"),
])  # fmt: skip
def test_names_are_shown_as_people_write_them(stored: str, shown: str) -> None:
    assert person(stored) == shown


def test_a_doctor_restores_a_series_once_and_walks_through_the_originals(
    engine: Engine, visit: Visit, team: Team, patient: str, detector: ScriptedDetector
) -> None:
    detector.found = [BOX]
    for instance in (1, 2, 3):
        data = builders.dicom(builders.labelled()[0] // instance, instance=instance)
        taken = engine.drafts.upload(team.technician, patient, "x.dcm", data)
        engine.drafts.seal(team.technician, taken.image_id, [BOX])
    app = visit(team.doctor, "2_Review")
    app.query_params["image"] = taken.image_id
    app.run()
    fill(app, **{"Why do you need to see the original?": "tumour board"})
    scope = next(r for r in app.radio if r.label == "Restore")
    assert scope.options == ["This image", "Series, 3 images"]
    scope.set_value(scope.proto.options[1])
    click(app, "Restore the original")
    seen = [component(app, "viewer")["original"]]
    for _ in range(2):
        click(app, "Previous")
        seen.append(component(app, "viewer")["original"])
    assert len(set(seen)) == 3
    assert all(str(address).startswith("/api/restorations/") for address in seen)
    told = [e.action for e in engine.audit.entries(team.administrator) if e.outcome == "requested"]
    assert told == ["study.restore"]
    click(app, "Close the restoration")
    assert component(app, "viewer")["original"] is None
    click(app, "Next")
    assert component(app, "viewer")["original"] is None


def study_of(engine: Engine, team: Team, patient: str) -> str:
    [study] = engine.studies.of_patient(team.doctor, patient)
    return study.study_id


def test_filters_of_the_review_are_in_the_address_and_what_was_typed_is_not(
    engine: Engine, visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    engine.patients.create(team.technician, "P-18", "Erik Musterfrau", 61)
    app = visit(team.doctor, "2_Review")
    next(s for s in app.selectbox if s.label == "Sealed class").select("face").run()
    assert "No sealed image matches" in texts(app)
    next(s for s in app.selectbox if s.label == "Sealed class").select("text").run()
    assert "1 to 1 of 1 image" in texts(app)
    app.text_input(key="review-query").input("muster").run()
    app.get("button_group")[0].set_value(sealed.patient_id).run()
    assert address(app) == {"class": "text", "patient": sealed.patient_id}
    assert "Erika" in next(b.label for b in app.button if b.key == "every-patient")
    click(app, "View")
    assert address(app)["image"] == sealed.image_id
    click(app, "Back to the list")
    assert "1 to 1 of 1 image" in texts(app)
    assert address(app) == {"class": "text", "patient": sealed.patient_id}


def test_a_series_is_one_card_on_review_and_opens_as_a_study(
    engine: Engine, visit: Visit, team: Team, detector: ScriptedDetector, patient: str
) -> None:
    detector.found = [BOX]
    for instance in (1, 2):
        pixels = builders.labelled(f"DOE {instance}", seed=instance)[0]
        data = builders.dicom(pixels, instance=instance, modality="CT")
        draft = engine.drafts.upload(team.technician, patient, f"{instance}.dcm", data)
        view = engine.drafts.open(team.technician, draft.image_id)
        engine.drafts.seal(team.technician, draft.image_id, view.detections)
    app = visit(team.doctor, "2_Review")
    assert sum(b.label.startswith("View ") for b in app.button) == 1
    assert "1 to 2 of 2 images" in texts(app)
    # Whose studies these are is said where they are searched for, and they can be handed over.
    app.text_input(key="review-query").input("P-17").run()
    assert "17 · Erika Musterfrau**" in texts(app)
    assert "Hand these 2 images over" in [e.label for e in app.expander]
    click(app, "View")
    assert len(component(app, "stack")["series"][0]["images"]) == 2


def test_a_list_says_that_there_are_more_than_were_counted(
    engine: Engine, visit: Visit, team: Team, sealed: ImageRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(engine.context.catalog), "count", lambda *_, **__: 20_000)
    app = visit(team.doctor, "2_Review")
    assert "1 to 1 of more than 10,000 images" in texts(app)
    assert any(b.label == "Older" for b in app.button)
    assert "10,000+" in [m.value for m in visit(team.doctor).metric]


def test_a_shared_address_shows_the_same_list(
    engine: Engine, visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    app = visit(team.doctor)
    app.query_params["sure"] = "100-100"
    app.switch_page("pages/2_Review.py").run()
    assert "No sealed image matches" in texts(app)
    for strange in ("200-300", "x", "90-10", "80-95"):
        app.query_params["sure"] = strange
        app.query_params["skip"] = "77"
        app.query_params["from"] = "no day"
        app.run()
        assert not app.exception


def test_a_reload_finds_what_the_session_has_open(
    engine: Engine, visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    opened = engine.images.restore(team.doctor, sealed.image_id, "tumour board")
    app = visit(team.doctor)
    app.query_params["image"] = sealed.image_id
    app.switch_page("pages/2_Review.py").run()
    assert opened.handle in component(app, "viewer")["original"]
    click(app, "Close the restoration")
    assert component(app, "viewer")["original"] is None


def test_a_restoration_that_ran_out_is_said_and_gone(
    visit: Visit, team: Team, sealed: ImageRecord, host: Any
) -> None:
    app = visit(team.doctor, "2_Review")
    click(app, "View")
    fill(app, **{"Why do you need to see the original?": "tumour board"})
    click(app, "Restore the original")
    host.advance(minutes=6)
    app.run()
    assert "has ended" in texts(app)
    assert component(app, "viewer")["original"] is None


def test_a_technician_sees_the_sealed_image_and_no_way_to_open_it(
    visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    app = visit(team.technician, "2_Review")
    click(app, "View")
    labels = [b.label for b in app.button]
    assert "Restore the original" not in labels
    assert "Add note" not in labels
    assert component(app, "viewer")["original"] is None


def test_a_missed_name_withdraws_the_image_at_once(
    engine: Engine, visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    app = visit(team.doctor, "2_Review")
    click(app, "View")
    fill(app, **{"What was missed? Do not enter the name itself.": "name at the lower edge"})
    click(app, "Withdraw image")
    assert "Image withdrawn" in texts(app)
    assert [*engine.search.images(team.doctor).images] == []


def test_names_are_shown_as_text_and_not_as_markup(
    engine: Engine, visit: Visit, team: Team, detector: ScriptedDetector
) -> None:
    detector.found = [BOX]
    name = "<b>Eve</b> [x](http://evil.test) *star*"
    patient = engine.patients.create(team.technician, "P-1", name, 30)
    image = engine.drafts.upload(team.technician, patient.patient_id, "e.png", PICTURE)
    engine.drafts.seal(team.technician, image.image_id, [BOX])
    app = visit(team.doctor, "2_Review")
    shown = next(m.value for m in app.markdown if "Eve" in m.value)
    assert "[x](" not in shown
    assert "<b>" not in shown
    click(app, "View")
    shown = next(h.proto.body for h in app.get("html") if "Eve" in h.proto.body)
    assert "&lt;b&gt;Eve&lt;/b&gt;" in shown


# --- analytics --------------------------------------------------------------------------------


def test_analytics_says_when_there_is_nothing_to_measure(visit: Visit, team: Team) -> None:
    app = visit(team.researcher, "3_Analytics")
    assert "no image has been sealed" in texts(app)
    assert not app.get("plotly_chart")


def test_every_chart_explains_itself_and_names_nobody(
    visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    app = visit(team.doctor, "3_Analytics")
    charts = app.get("plotly_chart")
    assert len(charts) == 8
    everything = texts(app) + "".join(str(c.proto) for c in charts)
    for secret in ("Musterfrau", "P-17", "erika", sealed.image_id, sealed.patient_id):
        assert secret not in everything


def test_one_patients_numbers_are_not_shown_to_a_researcher(
    visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    app = visit(team.researcher, "3_Analytics")
    assert not app.get("plotly_chart")
    assert "so few patients" in texts(app)
    assert "Up to 10 more are withheld" in texts(app)
    assert not app.metric


def test_filters_of_the_analytics_are_in_the_address_and_in_every_table(
    visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    app = visit(team.doctor, "3_Analytics")
    kinds = next(m for m in app.multiselect if m.label == "Modality")
    kinds.select("PNG").run()
    assert address(app) == {"modality": "PNG"}
    links = [b.proto.url for b in app.get("link_button")]
    assert len(links) == 4
    assert all("modality=PNG" in link for link in links)
    assert {m.value for m in app.metric} >= {"1"}
    next(m for m in app.multiselect if m.label == "Modality").unselect("PNG").run()
    assert not address(app)


def test_what_is_stored_is_measured_when_asked_for(
    visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    app = visit(team.doctor, "3_Analytics")
    click(app, "Measure now")
    assert "1 regions of 1 images" in texts(app)
    assert len(app.get("plotly_chart")) == 11


# --- admin ------------------------------------------------------------------------------------


def test_an_administrator_makes_and_closes_an_account(
    engine: Engine, visit: Visit, team: Team
) -> None:
    app = visit(team.administrator, "4_Admin")
    fill(app, User_name="nina", Name="Nina New", Initial_password=PASSWORD)
    next(s for s in app.selectbox if s.label == "Role").select(Role.DOCTOR)
    click(app, "Create account")
    assert "Account created" in texts(app)
    assert engine.sessions.sign_in("nina", PASSWORD).account.role is Role.DOCTOR
    assert PASSWORD not in [t.value for t in app.text_input]
    next(s for s in app.selectbox if s.label == "Account").select("nina").run()
    click(app, "Disable account")
    assert not next(
        a for a in engine.people.accounts(team.administrator) if a.username == "nina"
    ).enabled


def test_a_short_password_is_a_sentence(visit: Visit, team: Team) -> None:
    app = visit(team.administrator, "4_Admin")
    fill(app, User_name="nina", Name="Nina New", Initial_password="short")
    click(app, "Create account")
    assert "The password is too short. Use at least" in texts(app)


def test_an_administrator_cannot_raise_themselves(engine: Engine, visit: Visit, team: Team) -> None:
    app = visit(team.administrator, "4_Admin")
    next(s for s in app.selectbox if s.label == "Account").select("admin").run()
    next(s for s in app.selectbox if s.label == "New role").select(Role.DOCTOR).run()
    click(app, "Change role")
    assert app.error
    assert engine.sessions.whoami(team.administrator).role is Role.ADMINISTRATOR


def test_the_audit_log_is_searched_and_verified(
    visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    app = visit(team.administrator, "4_Admin", tab="Audit log")
    click(app, "Verify the chain")
    assert "one unbroken chain" in texts(app)
    search = next(t for t in app.text_input if t.label == "Search")
    search.input("image.seal").run()
    logs = [frame.value for frame in app.dataframe if "Outcome" in frame.value]
    actions = {action for log in logs for action in log["Action"]}
    assert actions == {"image.seal"}
    assert {words for log in logs for words in log["What"]} == {"Sealed the image"}


def test_the_audit_log_is_filtered_by_day_person_and_outcome(
    engine: Engine, visit: Visit, team: Team, host: Any
) -> None:
    with pytest.raises(errors.PermissionDenied):
        engine.patients.create(team.doctor, "P-1", "Nobody")
    app = visit(team.administrator, "4_Admin", "Audit log")

    def told() -> set[tuple[str, str]]:
        table = app.dataframe[0].value
        return set(zip(table["User"], table["Outcome"], strict=True))

    assert len(told()) > 3
    next(s for s in app.selectbox if s.label == "User").select("doctor").run()
    assert {user for user, _ in told()} == {"doctor"}
    next(s for s in app.selectbox if s.label == "Outcome").select("refused").run()
    assert told() == {("doctor", "refused")}
    link = next(b.proto.url for b in app.get("link_button") if "audit/file" in b.proto.url)
    assert "actor=doctor" in link
    assert "outcome=refused" in link
    tomorrow = (host.now() + timedelta(days=1)).date()
    assert not app.error, [e.value for e in app.error]
    next(d for d in app.date_input if d.label == "From").set_value(tomorrow).run()
    assert not app.exception, [e.value for e in app.exception]
    assert not app.error, [e.value for e in app.error]
    assert told() == set()
    next(d for d in app.date_input if d.label == "From").set_value(tomorrow - timedelta(1)).run()
    assert told() == {("doctor", "refused")}


def test_a_search_of_the_log_says_how_far_it_came_and_goes_on(
    visit: Visit, team: Team, sealed: ImageRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = visit(team.administrator, "4_Admin", "Audit log")
    assert not any(b.label == "Search further back" for b in app.button)
    monkeypatch.setattr("engine.store.audit._FIRST_PART", 5)
    monkeypatch.setattr("engine.store.audit._next_part", lambda part, took_ms: 10_000)
    next(t for t in app.text_input if t.label == "Search").input("nobody").run()
    assert "No entry matches." in texts(app)
    monkeypatch.setitem(AuditLog.entries.__kwdefaults__, "patience_ms", 0.0)
    app.run()
    assert re.search(r"No match, searched back to No\. \d+, 2026-.* Older entries", texts(app))
    click(app, "Search further back")
    assert re.search(r"No match of the entries before No\. \d+, searched back", texts(app))
    next(t for t in app.text_input if t.label == "Search").input("admin").run()  # from the newest
    assert re.search(r"All matches, searched back to No\. \d+, 2026-", texts(app))
    click(app, "Search further back")
    click(app, "Newest entries")
    assert not any(b.label == "Newest entries" for b in app.button)


def test_times_are_in_the_viewers_zone_which_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    summer, winter = datetime(2026, 7, 1, 22, 30), datetime(2026, 1, 1, 22, 30)  # noqa: DTZ001
    for name, shown in (
        ("Europe/Warsaw", ("2026-07-02 00:30 CEST", "2026-01-01 23:30 CET")),
        ("America/Sao_Paulo", ("2026-07-01 19:30 UTC-03", "2026-01-01 19:30 UTC-03")),
        ("Nowhere/Land", ("2026-07-01 22:30 UTC", "2026-01-01 22:30 UTC")),
        (None, ("2026-07-01 22:30 UTC", "2026-01-01 22:30 UTC")),
    ):
        monkeypatch.setattr(widgets.st, "context", SimpleNamespace(timezone=name))
        assert (widgets.when(summer), widgets.when(winter)) == shown
    monkeypatch.setattr(widgets.st, "context", SimpleNamespace(timezone="Europe/Warsaw"))
    named = "When (Europe/Warsaw)"
    there = datetime(2026, 1, 1, 23, 30)  # noqa: DTZ001
    assert widgets.times("When", [winter]) == {named: [there]}
    assert widgets.times("When", [winter, None]) == {named: ["2026-01-01 23:30:00", ""]}
    assert widgets.begins(date(2026, 7, 1)) == datetime(2026, 6, 30, 22)  # noqa: DTZ001


def test_an_administrator_writes_a_checkpoint_or_is_told_what_to_set(
    engine: Engine, visit: Visit, team: Team, tmp_path: Path
) -> None:
    app = visit(team.administrator, "4_Admin", tab="Audit log")
    assert "set `MEDSEC_CHECKPOINT_DIR` to a folder" in texts(app)
    assert not any(b.label == "Write a checkpoint" for b in app.button)
    object.__setattr__(engine.settings, "checkpoint_dir", tmp_path / "checkpoints")
    app = visit(team.administrator, "4_Admin", tab="Audit log")
    click(app, "Write a checkpoint")
    [written] = (tmp_path / "checkpoints").iterdir()
    assert f"Checkpoint `{written.name}` was written." in texts(app)
    logs = [frame.value for frame in app.dataframe if "Outcome" in frame.value]
    assert [log["Action"].iloc[0] for log in logs] == ["audit.checkpoint"]
    object.__setattr__(engine.settings, "checkpoint_dir", written)  # a file, no folder
    app = click(visit(team.administrator, "4_Admin", tab="Audit log"), "Write a checkpoint")
    assert "Cannot write to the checkpoint folder. Check MEDSEC_CHECKPOINT_DIR" in texts(app)


def test_an_administrator_changes_a_setting_and_sees_who_did(
    engine: Engine, visit: Visit, team: Team
) -> None:
    app = visit(team.administrator, "4_Admin", tab="Settings")
    next(s for s in app.selectbox if s.label == "Setting").select("restore_minutes").run()
    next(t for t in app.text_input if t.label == "New value").input("99").run()
    click(app, "Save")
    assert "out of range" in texts(app)
    next(t for t in app.text_input if t.label == "New value").input("9").run()
    click(app, "Save")
    assert "The change takes effect with the next restoration" in texts(app)
    assert engine.settings.restore_minutes == 9
    before = {b for frame in app.dataframe for b in frame.value.get("Before", [])}
    assert before == {"5.0"}
    next(s for s in app.selectbox if s.label == "Setting").select("restore_minutes").run()
    click(app, "Reset to the value at server start")
    assert engine.settings.restore_minutes == 5


def test_the_log_is_taken_away_without_formulas(engine: Engine, team: Team) -> None:
    engine.patients.create(team.technician, "P-9", "Erika Musterfrau")
    with pytest.raises(errors.NotFound):
        engine.images.erase(team.administrator, "im_none", "=cmd()")
    text = engine.audit.export(team.administrator).data.decode()
    lines = text.splitlines()
    assert lines[0].startswith("sequence,occurred_at,actor")
    assert "patient.create" in text
    assert "Musterfrau" not in text
    assert len(lines) == 1 + engine.audit.verify(team.administrator) - 1  # not the export itself


def test_no_patient_is_in_sight_of_an_administrator(
    visit: Visit, team: Team, sealed: ImageRecord
) -> None:
    tabs = ("Accounts", "Access", "Audit log", "Keys and backups", "Health", "Profiles", "Models",
            "Release", "De-identification", "Network", "Settings")  # fmt: skip
    for page, tab in [("", ""), ("3_Analytics", ""), *(("4_Admin", tab) for tab in tabs)]:
        app = visit(team.administrator, page, tab=tab)
        everything = texts(app) + "".join(str(f.value) for f in app.dataframe)
        assert "Musterfrau" not in everything
        assert "erika" not in everything
        assert not any("/api/images" in str(h.proto) for h in app.get("html"))


def test_a_run_of_a_page_leaves_nothing_out_of_collections(visit: Visit, team: Team) -> None:
    """Only the start does (Home.py): done by each run, a server would keep its garbage for ever."""
    visit(team.technician)
    before = gc.get_freeze_count()
    visit(team.technician, "1_Upload")
    assert gc.get_freeze_count() <= before


def test_an_administrator_sees_until_when_the_last_backup_is_locked(
    visit: Visit, engine: Engine, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    def facts() -> str:
        app = visit(team.administrator, "4_Admin", tab="Health")
        return "".join(str(h.proto) for h in app.get("html"))

    assert "not locked" in facts()
    until = datetime(2031, 5, 4, 3, 2, tzinfo=UTC)
    now = {**engine.health.state(team.administrator), "last_backup_locked_until": until}
    monkeypatch.setattr(engine.health, "state", lambda token: now)
    said = facts()
    assert ("not locked" in said, "2031-05-04" in said) == (False, True)


def test_a_doctor_sends_a_flagged_image_back_to_the_queue(
    visit: Visit, engine: Engine, team: Team, sealed: ImageRecord
) -> None:
    engine.withdrawals.flag(team.technician, sealed.image_id, "a date in the corner")
    assert "Withdrawn" not in texts(visit(team.technician))
    home = visit(team.doctor)
    assert "Withdrawn images" in texts(home)
    home.button(key=f"reopen-{sealed.image_id}").click().run()
    assert engine.withdrawals.waiting(team.doctor) == []
    assert [d.reasons for d in engine.drafts.waiting(team.technician)] == [("flagged",)]


def test_an_administrator_rotates_keys_and_erases_a_patient_by_number(
    visit: Visit, engine: Engine, team: Team, sealed: ImageRecord
) -> None:
    app = visit(team.administrator, "4_Admin", tab="Keys and backups")
    app.button(key="rotate").click().run()
    assert not app.exception
    health = engine.health.state(team.administrator)
    assert len(health["root_keys"]) == 2
    assert f"In use: `{health['root_keys'][1]}`" in texts(app)
    assert health["keys_to_rotate"] == 0
    form = "FormSubmitter:erase-0-Look what would be erased"
    for number, reason, says in (
        ("P-17", " ", "Give a reason"),
        ("P-170", "asked for it", "There is no such patient"),
        ("P-17", "asked for it", " has 1 image, uploaded "),
    ):
        app.text_input(key="erase-number-0").input(number)
        app.text_input(key="erase-reason-0").input(reason)
        app.button(key=form).click().run()
        assert says in texts(app)
        assert [*engine.search.images(team.doctor).images] != []
    app.button(key="erase-not").click().run()
    assert " has 1 image" not in texts(app)
    app.text_input(key="erase-number-1").input("P-17")
    app.text_input(key="erase-reason-1").input("asked for it")
    app.button(key=form.replace("erase-0", "erase-1")).click().run()
    app.button(key="erase-sure").click().run()
    assert [*engine.search.images(team.doctor).images] == []
    assert "erased. The erasure is in the audit log" in texts(app)
    assert app.text_input(key="erase-number-2").value == ""  # the next one is not half done
    assert [b for b in app.button if b.key == "erase-sure"] == []


def test_the_work_list_is_grouped_sorted_by_need_filtered_and_counted(
    engine: Engine, visit: Visit, team: Team, detector: ScriptedDetector, patient: str
) -> None:
    other = engine.patients.create(team.technician, "P-18", "Muster^Otto", 40).patient_id
    plan = ((patient, "CT", [BOX]), (other, "US", [PROPOSAL]), (other, "US", []))
    for number, (whose, modality, found) in enumerate(plan, 1):
        detector.found = found
        pixels = builders.labelled(f"DOE {number}", seed=number)[0]
        data = builders.dicom(pixels, instance=number, modality=modality, patient=len(whose))
        engine.drafts.upload(team.technician, whose, f"{number}.dcm", data)
    app = visit(team.technician, "1_Upload")
    shown = component(app, "worklist")["patients"]
    assert [p["title"] for p in shown] == ["P-18 · Muster, Otto", "P-17 · Erika Musterfrau"]
    [group] = shown[0]["groups"]
    assert (group["count"], group["fit"]) == (2, 2)
    assert group["needs"] == [["Uncertain boxes", 1], ["Nothing found", 1]]
    assert [i["need"] for i in group["items"]] == ["proposals", "nothing-found"]
    need = next(s for s in app.selectbox if s.key == "list-need")
    assert need.options == ["Uncertain boxes (1)", "Nothing found (1)", "No doubt (1)"]
    need.set_value("none").run()
    assert address(app)["list-need"] == "none"
    [left] = component(app, "worklist")["patients"]
    assert left["title"].startswith("P-17")
    assert "Waiting to be sealed: 3" in texts(app)
    assert [b.label for b in app.button if "contact sheets" in b.label] == [
        "Look at 1 image on contact sheets"
    ]


def test_the_message_of_the_last_contact_sheet_is_shown_on_the_list_after_it(
    visit: Visit, team: Team
) -> None:
    app = visit(team.technician, "1_Upload")
    app.session_state["medsec.said"] = "16 images confirmed and being sealed."
    app.session_state["medsec.sheet"] = "all"
    app.run()
    assert "16 images confirmed" in texts(app)
    assert "must be reviewed" not in texts(app)
    app.run()
    assert "16 images confirmed" not in texts(app)


def test_a_long_work_list_has_pages_and_a_long_series_shows_its_first(
    engine: Engine, visit: Visit, team: Team, detector: ScriptedDetector, patient: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("ui.worklist._PAGE", 4)
    monkeypatch.setattr("ui.worklist._OF_SERIES", 2)
    detector.found = [BOX]
    for number in range(8):
        pixels = builders.labelled(f"DOE {number}", seed=number)[0]
        data = builders.dicom(pixels, instance=number, series=1 + number // 6, modality="CT")
        engine.drafts.upload(team.technician, patient, f"{number}.dcm", data)
    app = visit(team.technician, "1_Upload")
    counts = [
        (g["count"], len(g["items"]))
        for p in component(app, "worklist")["patients"]
        for g in p["groups"]
    ]
    assert counts == [(6, 2), (2, 2)]
    app.session_state["medsec.whole-series"] = component(app, "worklist")["patients"][0]["groups"][
        0
    ]["id"]
    app.run()
    assert "Page 1 of 2" in texts(app)
    click(app, "Next page")
    [patient_] = component(app, "worklist")["patients"]
    assert [(g["count"], len(g["items"])) for g in patient_["groups"]] == [(2, 2)]
    assert address(app)["list-page"] == "2"
