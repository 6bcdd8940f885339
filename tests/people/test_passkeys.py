"""Passkeys: made, asked for, copied, forged, and what they guard."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine import Engine, Permission, Role, Settings, errors
from engine.people.passkeys import MOST_ASKED, PATIENCE
from tests.authenticator import Authenticator
from tests.conftest import PASSWORD, Team
from tests.fakes import FakeHost, ScriptedDetector

ORIGIN = "https://medsec.hospital.example"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, web_origin=ORIGIN)


@pytest.fixture
def device() -> Authenticator:
    return Authenticator(ORIGIN)


def add(engine: Engine, token: str, device: Authenticator) -> tuple[str, ...]:
    options = engine.account.begin_passkey(token, PASSWORD)
    return engine.account.confirm_passkey(token, device.create(options), "Blue key")


def asked(engine: Engine) -> errors.CodeNeeded:
    with pytest.raises(errors.CodeNeeded) as needed:
        engine.sessions.sign_in("doctor", PASSWORD)
    return needed.value


def test_a_passkey_is_a_second_factor(engine: Engine, team: Team, device: Authenticator) -> None:
    codes = add(engine, team.doctor, device)
    assert len(codes) == 10
    now = engine.account.second_factor(team.doctor)
    assert [(p.name, p.used_at) for p in now.passkeys] == [("Blue key", None)]
    assert now.enabled_at is not None
    assert not now.has_app
    step = asked(engine)
    session = engine.sessions.finish_sign_in(step.challenge, device.get(step.passkey))
    assert engine.sessions.whoami(session.token).username == "doctor"
    assert engine.account.second_factor(team.doctor).passkeys[0].used_at is not None
    entry = next(
        e for e in engine.audit.entries(team.administrator) if e.action == "session.sign-in"
    )
    assert entry.detail["second_factor"] == "passkey"


def test_a_recovery_code_stands_for_a_lost_passkey(
    engine: Engine, team: Team, device: Authenticator
) -> None:
    codes = add(engine, team.doctor, device)
    step = asked(engine)
    engine.sessions.finish_sign_in(step.challenge, codes[0])
    assert engine.sessions.sign_in_api("doctor", PASSWORD, code=codes[1])


@pytest.mark.parametrize("kind", ["again", "other page", "other account", "other key", "stranger"])
def test_an_answer_that_was_not_asked_for_opens_nothing(
    engine: Engine, team: Team, device: Authenticator, kind: str
) -> None:
    add(engine, team.doctor, device)
    step = asked(engine)
    if kind == "again":
        answer = device.get(step.passkey)
        engine.sessions.finish_sign_in(step.challenge, answer)
        step = asked(engine)
    elif kind == "other page":  # one that looks like this one, at another address
        device.origin = "https://medsec.hospital.example.evil.example"
        answer = device.get(step.passkey)
    elif kind == "other account":
        other = Authenticator(ORIGIN, b"another key of sixteen")
        add(engine, team.technician, other)
        answer = other.get(engine.sessions.ask_passkey(team.technician))
    elif kind == "other key":  # of the same name
        answer = Authenticator(ORIGIN).get(step.passkey)
    else:
        asked_by_nobody = json.loads(step.passkey) | {"challenge": "c3RyYW5nZXI"}
        answer = device.get(json.dumps(asked_by_nobody))
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.finish_sign_in(step.challenge, answer)


@pytest.mark.parametrize(
    "answer",
    ["{", "{}", '{"response": 3}', '{"response": {"clientDataJSON": "e30"}}', "{" * 5000,
     '{"response": {"clientDataJSON": "\\u0000"}}'],
)  # fmt: skip
def test_what_is_no_answer_is_refused_like_a_wrong_code(
    engine: Engine, team: Team, device: Authenticator, answer: str
) -> None:
    add(engine, team.doctor, device)
    step = asked(engine)
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.finish_sign_in(step.challenge, answer)
    with pytest.raises(errors.InputError):
        engine.account.confirm_passkey(team.doctor, answer, "x")


def test_a_damaged_answer_is_refused_whatever_is_damaged(
    engine: Engine, team: Team, device: Authenticator
) -> None:
    add(engine, team.doctor, device)
    for part in ("signature", "authenticatorData", "clientDataJSON"):
        whole = json.loads(device.get(engine.sessions.ask_passkey(team.doctor)))
        kept = whole["response"][part]
        whole["response"][part] = kept[:-4] + ("AAAA" if kept[-4:] != "AAAA" else "BBBB")
        with pytest.raises(errors.PermissionDenied):
            engine.sessions.prove(team.doctor, code=json.dumps(whole))


def test_a_copy_of_a_key_shows_by_its_counter(
    engine: Engine, team: Team, device: Authenticator
) -> None:
    add(engine, team.doctor, device)
    for _ in range(2):
        engine.sessions.prove(
            team.doctor, code=device.get(engine.sessions.ask_passkey(team.doctor))
        )
    device.count = 0
    with pytest.raises(errors.PermissionDenied):
        engine.sessions.prove(
            team.doctor, code=device.get(engine.sessions.ask_passkey(team.doctor))
        )


def test_an_answer_that_comes_late_is_refused(
    engine: Engine, team: Team, device: Authenticator, host: FakeHost
) -> None:
    add(engine, team.doctor, device)
    options = engine.sessions.ask_passkey(team.doctor)
    host.advance(seconds=PATIENCE.total_seconds() + 1)
    with pytest.raises(errors.PermissionDenied):
        engine.sessions.prove(team.doctor, code=device.get(options))


def test_whoever_asks_very_often_can_answer_the_newest_only(
    engine: Engine, team: Team, device: Authenticator
) -> None:
    add(engine, team.doctor, device)
    options = [engine.sessions.ask_passkey(team.doctor) for _ in range(MOST_ASKED + 1)]
    with pytest.raises(errors.PermissionDenied):
        engine.sessions.prove(team.doctor, code=device.get(options[0]))
    engine.sessions.prove(team.doctor, code=device.get(options[1]))


def test_wrong_answers_count_as_failures(engine: Engine, team: Team, device: Authenticator) -> None:
    add(engine, team.doctor, device)
    with pytest.raises(errors.AccountLocked):  # noqa: PT012 - how many it takes is not said here
        for _ in range(20):
            step = asked(engine)
            with pytest.raises(errors.NotSignedIn):
                engine.sessions.finish_sign_in(step.challenge, "{}")


def test_a_passkey_needs_the_password_to_be_made_and_a_whole_proof_to_go(
    engine: Engine, team: Team, device: Authenticator
) -> None:
    with pytest.raises(errors.PermissionDenied):
        engine.account.begin_passkey(team.doctor, "wrong")
    add(engine, team.doctor, device)
    (passkey,) = engine.account.second_factor(team.doctor).passkeys
    answer = device.get(engine.sessions.ask_passkey(team.doctor))
    with pytest.raises(errors.PermissionDenied):
        engine.account.remove_passkey(team.doctor, passkey.credential_id, "wrong", answer)
    with pytest.raises(errors.PermissionDenied):
        engine.account.remove_passkey(team.doctor, passkey.credential_id, PASSWORD, "123456")
    answer = device.get(engine.sessions.ask_passkey(team.doctor))
    engine.account.remove_passkey(team.doctor, passkey.credential_id, PASSWORD, answer)
    now = engine.account.second_factor(team.doctor)
    assert (now.enabled_at, now.codes_left, now.passkeys) == (None, 0, ())


def test_a_passkey_of_somebody_else_cannot_be_removed(
    engine: Engine, team: Team, device: Authenticator
) -> None:
    other = Authenticator(ORIGIN, b"another key of sixteen")
    add(engine, team.doctor, device)
    add(engine, team.technician, other)
    (theirs,) = engine.account.second_factor(team.technician).passkeys
    answer = device.get(engine.sessions.ask_passkey(team.doctor))
    with pytest.raises(errors.NotFound):
        engine.account.remove_passkey(team.doctor, theirs.credential_id, PASSWORD, answer)


def test_a_second_passkey_keeps_the_recovery_codes_and_ends_other_sessions(
    engine: Engine, team: Team, device: Authenticator
) -> None:
    codes = add(engine, team.doctor, device)
    other = engine.sessions.finish_sign_in(asked(engine).challenge, codes[0]).token
    assert add(engine, team.doctor, Authenticator(ORIGIN, b"a second key of mine")) == ()
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.whoami(other)
    assert engine.account.second_factor(team.doctor).codes_left == 9


def test_the_same_device_is_not_added_twice(
    engine: Engine, team: Team, device: Authenticator
) -> None:
    add(engine, team.doctor, device)
    with pytest.raises(errors.InputError):
        add(engine, team.doctor, device)


def test_a_role_that_wants_a_second_factor_is_content_with_a_passkey(
    settings: Settings, host: FakeHost, device: Authenticator
) -> None:
    strict = replace(settings, second_factor="doctor")
    engine = Engine.open(strict, host=host, detector=ScriptedDetector(strict))
    try:
        doctor = Team(engine).doctor
        assert not engine.sessions.may(doctor, Permission.VIEW_MASKED)
        add(engine, doctor, device)
        assert engine.sessions.may(doctor, Permission.VIEW_MASKED)
    finally:
        engine.close()


def test_an_administrator_takes_passkeys_with_the_second_factor(
    engine: Engine, team: Team, device: Authenticator
) -> None:
    add(engine, team.doctor, device)
    engine.people.reset_second_factor(team.administrator, "doctor")
    assert engine.sessions.sign_in("doctor", PASSWORD).account.role is Role.DOCTOR


def test_passkeys_are_off_without_an_address(
    settings: Settings, host: FakeHost, device: Authenticator
) -> None:
    without = replace(settings, web_origin="")
    engine = Engine.open(without, host=host, detector=ScriptedDetector(without))
    try:
        doctor = Team(engine).doctor
        assert not engine.account.second_factor(doctor).passkeys_offered
        with pytest.raises(errors.InputError):
            engine.account.begin_passkey(doctor, PASSWORD)
    finally:
        engine.close()


@pytest.mark.parametrize(
    "origin",
    [
        "http://medsec.hospital.example",
        "https://192.0.2.1",
        "https://[::1]",
        "medsec",
        "https://a/b",
    ],
)
def test_an_address_that_browsers_refuse_is_a_wrong_setting(
    settings: Settings, origin: str
) -> None:
    with pytest.raises(errors.SettingsError):
        replace(settings, web_origin=origin)


def test_a_passkey_that_was_written_into_the_catalogs_file_opens_nothing(
    engine: Engine, team: Team, device: Authenticator
) -> None:
    add(engine, team.technician, device)
    with engine.context.database.write() as tx:
        tx.run("UPDATE passkeys SET username = 'doctor'")
        with pytest.raises(errors.RosterBroken):
            engine.context.watch._integrity.check(tx)
    with pytest.raises(errors.SealBroken):
        engine.sessions.sign_in("doctor", PASSWORD)


def test_neither_key_nor_name_of_a_passkey_is_readable_on_disk(
    engine: Engine, team: Team, device: Authenticator, settings: Settings
) -> None:
    add(engine, team.doctor, device)
    engine.close()
    written = b"".join(
        path.read_bytes() for path in Path(settings.data).rglob("*") if path.is_file()
    )
    assert b"Blue key" not in written
