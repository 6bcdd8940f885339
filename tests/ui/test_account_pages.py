"""The pages about accounts: asking for one, the second step, My account, and Admin's list."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import segno
from streamlit.testing.v1 import AppTest

import api
from engine import Engine, Role, Settings, errors
from tests.conftest import PASSWORD, Team, Ward, text_png
from tests.fakes import FakeHost
from tests.people.test_second_factor import Phone, enrol
from tests.ui.test_pages import Visit, click, component, fill, remembered, texts, visit
from ui import widgets

__all__ = ["visit"]


def element(app: AppTest, kind: str) -> str:
    return "\n".join(str(e.proto.body) for e in app.get(kind))


def choose(app: AppTest, label: str, value: Any) -> None:
    next(s for s in app.selectbox if s.label == label).set_value(value)


def my_account(visit: Visit, token: str) -> AppTest:
    app = visit(token)
    page = next(h for h, p in app._registered_pages.items() if p["page_name"] == "My account")
    app._page_hash = page
    app.run()
    assert "My account" in texts(app)
    return app


def test_a_stranger_asks_and_the_administrator_decides(
    engine: Engine, visit: Visit, team: Team
) -> None:
    app = visit()
    fill(app, **{"Sign-in_name": "nora"}, Your_name="Nora New")
    fill(app, Choose_a_password=PASSWORD, Repeat_password=PASSWORD + "x")
    choose(app, "Requested role", Role.ADMINISTRATOR)
    click(app, "Send request")
    assert "differ" in texts(app)
    fill(app, Repeat_password=PASSWORD)
    click(app, "Send request")
    reference = engine.people.requests(team.administrator)[0].request_id
    assert reference in texts(app)
    assert PASSWORD not in str(remembered(app))
    page = visit(team.administrator, "4_Admin")
    assert reference in texts(page)
    assert next(
        b for b in page.button if b.label.startswith("Approve ")
    ).disabled  # the wish decides nothing
    next(s for s in page.selectbox if s.key == f"give-{reference}").set_value(Role.DOCTOR).run()
    click(page, "Approve")
    assert engine.sessions.sign_in("nora", PASSWORD).account.role is Role.DOCTOR
    assert "Account requests" not in texts(page)


def test_a_request_for_a_taken_name_can_only_be_declined(
    engine: Engine, visit: Visit, team: Team
) -> None:
    engine.people.request("doctor", "Not the doctor", Role.DOCTOR, PASSWORD)
    page = visit(team.administrator, "4_Admin")
    assert "This user name is taken. Decline" in texts(page)
    assert next(b for b in page.button if b.label.startswith("Approve ")).disabled
    click(page, "Decline")
    assert engine.people.requests(team.administrator) == []


def test_the_sign_in_asks_for_the_code_in_a_second_step(
    engine: Engine, visit: Visit, team: Team, host: FakeHost
) -> None:
    phone, _ = enrol(engine, host, team.doctor)
    app = visit()
    fill(app, User_name="doctor", Password=PASSWORD)
    click(app, "Sign in")
    assert "One more step" in texts(app)
    assert not app.get("bidi_component")  # no ticket yet
    assert PASSWORD not in str(remembered(app))
    fill(app, Code_from_your_authenticator_app="000000")
    click(app, "Sign in")
    assert "not correct" in texts(app)
    fill(app, Code_from_your_authenticator_app=phone.code())
    click(app, "Sign in")
    token = api.redeem_ticket(engine, component(app, "session")["ticket"])
    assert engine.sessions.whoami(token).username == "doctor"


def test_the_second_step_can_be_given_up(
    engine: Engine, visit: Visit, team: Team, host: FakeHost
) -> None:
    enrol(engine, host, team.doctor)
    app = visit()
    fill(app, User_name="doctor", Password=PASSWORD)
    click(app, "Sign in")
    click(app, "Start over")
    assert "One more step" not in texts(app)
    assert any(t.label == "User name" for t in app.text_input)


def test_a_second_factor_is_set_up_by_picture_or_by_text(
    engine: Engine, visit: Visit, team: Team, host: FakeHost
) -> None:
    app = my_account(visit, team.doctor)
    fill(app, Your_password=PASSWORD)
    click(app, "Set up an app")
    secret = app.code[0].value.replace(" ", "")
    uri = f"otpauth://totp/MedSec:doctor?secret={secret}&issuer=MedSec"
    assert segno.make(uri, error="m").svg_data_uri(scale=5, border=4, light="#fff") in re.sub(
        "&#x27;|&amp;", lambda m: {"&#x27;": "'", "&amp;": "&"}[m[0]], element(app, "html")
    )
    fill(app, Code="000000")
    click(app, "Turn on")
    assert "The code is not correct" in texts(app)
    fill(app, Code=Phone(secret, host).code())
    click(app, "Turn on")
    codes = app.code[0].value.split("\n")
    assert len(codes) == 10
    assert engine.account.second_factor(team.doctor).enabled_at is not None
    app.run()
    assert not app.code  # shown once
    assert codes[0] not in str(remembered(app)) + texts(app)
    fill(app, **{"Confirm_with_your_password": PASSWORD, "Code_or_recovery_code": codes[0]})
    click(app, "Turn off the second factor")
    assert engine.account.second_factor(team.doctor).enabled_at is None


def test_a_password_is_changed_on_ones_own_page(engine: Engine, visit: Visit, team: Team) -> None:
    app = my_account(visit, team.researcher)
    new = "four other words instead"
    fill(app, Current_password="wrong wrong wrong", New_password=new, Repeat_the_new_password=new)
    click(app, "Change the password")
    assert "not correct" in texts(app)
    fill(app, Current_password=PASSWORD, Repeat_the_new_password="five")
    click(app, "Change the password")
    assert "differ" in texts(app)
    fill(app, Repeat_the_new_password=new)
    click(app, "Change the password")
    assert "Password changed" in texts(app)
    assert engine.sessions.sign_in("researcher", new)
    assert new not in str(remembered(app))


def test_ones_own_sessions_are_listed_and_ended(engine: Engine, visit: Visit, team: Team) -> None:
    pair = engine.sessions.sign_in_api("doctor", PASSWORD)
    app = my_account(visit, team.doctor)
    assert "(this session)" in texts(app)
    assert "API" in texts(app)
    click(app, "End session")
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.whoami(pair.access)
    click(app, "End all sessions")
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.whoami(team.doctor)
    assert component(app, "session") == {"end": "now"}


def test_an_administrator_ends_sessions_and_resets_a_second_factor(
    engine: Engine, visit: Visit, team: Team, host: FakeHost
) -> None:
    enrol(engine, host, team.doctor)
    page = visit(team.administrator, "4_Admin")
    choose(page, "Account", "doctor")
    page.run()
    assert "Signed in, 1 session: browser on" in texts(page)
    click(page, "End all sessions of this account")
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.whoami(team.doctor)
    click(page, "Remove the second factor")
    assert engine.sessions.sign_in("doctor", PASSWORD)


def test_a_role_that_wants_a_second_factor_sees_nothing_but_the_way_to_it(
    engine: Engine, visit: Visit, team: Team, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.context.sessions, "factor_roles", frozenset({Role.DOCTOR}))
    app = visit(team.doctor)
    assert [p["page_name"] for p in app._registered_pages.values()] == ["My account"]
    assert "Set it up below to use MedSec" in texts(app)
    assert "Good day" not in texts(app)
    enrol(engine, host, team.doctor)
    app.run()
    assert len(app._registered_pages) > 1
    assert "Good day" in texts(visit(team.doctor))


def test_a_restoration_prompts_for_a_fresh_proof(ward: Ward, visit: Visit, host: FakeHost) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine, doctor = ward.engine, ward.team.doctor
    object.__setattr__(engine.settings, "step_up_minutes", 5.0)
    host.advance(minutes=6)
    app = visit(doctor)
    app.query_params["image"] = image_id
    app.switch_page("pages/2_Review.py").run()
    reason = "Why do you need to see the original?"
    next(t for t in app.text_input if t.label == reason).input("tumour board")
    click(app, "Restore the original")
    assert "Opening originals requires your password" in texts(app)
    assert "renderings of them" not in texts(app)
    engine.sessions.prove(doctor, password=PASSWORD)  # the prompt itself is tested in a browser
    click(app, "Restore the original")
    assert "renderings of them" in texts(app)


def test_a_second_administrator_confirms_on_the_accounts_tab(
    engine: Engine, team: Team, settings: Settings, visit: Visit
) -> None:
    people = engine.people
    people.create(team.administrator, "ben", "Ben", Role.ADMINISTRATOR, PASSWORD)
    second = engine.sessions.sign_in("ben", PASSWORD).token
    engine.context.live.use(replace(settings, four_eyes=True))
    own = visit(team.administrator, "4_Admin")
    choose(own, "Account", "technician")
    choose(own.run(), "New role", "doctor")
    click(own.run(), "Change role")
    assert "Another administrator has to confirm this change" in texts(own)
    click(own, "Confirm")  # what waits is on the page at once
    assert "Another administrator has to confirm it" in texts(own)
    page = visit(second, "4_Admin")
    assert "change the role of the account **technician** with the role doctor" in texts(page)
    click(page, "Confirm")
    assert engine.people.proposals(second) == []
    roles = {a.username: a.role for a in people.accounts(second)}
    assert roles["technician"] is Role.DOCTOR


def test_no_ticket_makes_a_key_that_streamlit_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []
    monkeypatch.setattr(
        widgets, "_component", lambda name: lambda **given: keys.append(given["key"])
    )
    for ticket in ("ab__cd", "ab-_cd"):
        widgets.renew_cookie(ticket)
    assert len({*keys}) == 2
    assert not any("__" in key for key in keys)
