"""Accounts and rights lie in clear: what somebody writes into the catalog's file opens nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyotp
import pytest

from cli import main
from engine import Engine, Role, Settings, errors
from engine.crypto.tagged_tokens import token_digest
from engine.store.database import Cursor
from tests.conftest import PASSWORD, Team, Ward
from tests.fakes import FakeHost, ScriptedDetector

URGENT = "unconscious in the emergency room"
OTHER = "five other unrelated words"

#: What somebody with the file and without a key would write, given what :func:`busy` left there.
FORGED: dict[str, str] = {
    "a doctor for a patient": "INSERT INTO care SELECT patient_id, 'doctor', now(), 'technician'"
    " FROM patients",
    "broken glass": "INSERT INTO glass SELECT 'gl_x', patient_id, 'd2', reason, opened_at,"
    " opened_at + INTERVAL 1 YEAR, NULL, NULL, NULL, NULL, NULL, NULL FROM glass",
    "glass that does not end": "UPDATE glass SET ended_at = NULL",
    "glass of another patient": "UPDATE glass SET patient_id = 'pt_x'",
    "a review": "UPDATE glass SET verdict = 'justified'",
    "every class": "DELETE FROM class_grants",
    "another class": 'UPDATE class_grants SET labels = \'["face","text"]\'',
    "a role": "UPDATE accounts SET role = 'doctor' WHERE username = 'technician'",
    "an account": "INSERT INTO accounts SELECT 'thief', name, role, password_hash, enabled,"
    " created_at, NULL FROM accounts WHERE username = 'doctor'",
    "a known password": "UPDATE accounts SET password_hash = (SELECT password_hash FROM accounts"
    " WHERE username = 'researcher') WHERE username = 'doctor'",
    "an account that was closed": "UPDATE accounts SET enabled = true",
    "no second factor": "DELETE FROM second_factors",
    "a second factor of one's own": "UPDATE second_factors SET secret = 'x'",
    "a recovery code": "INSERT INTO recovery_codes VALUES ('doctor', 'known', NULL)",
    "an address": "UPDATE identities SET email = 'thief@example.org'",
    "a person": "UPDATE identities SET subject = 'thief', issuer = 'https://login.example'",
    "the password of a request": "UPDATE account_requests SET password_hash = 'x'",
    "a role that was wished for": "UPDATE account_requests SET role = 'administrator'",
}


def check(engine: Engine) -> None:
    with engine.context.database.write() as tx:
        engine.context.watch._integrity.check(tx)


def busy(engine: Engine, team: Team) -> None:
    """Everything that changes accounts and rights; the log keeps up with each of it."""
    admin, number = team.administrator, "P-1"

    def factor() -> str:
        enrolment = engine.account.begin_second_factor(team.doctor, PASSWORD)
        engine.account.confirm_second_factor(
            team.doctor, pyotp.TOTP(enrolment.secret).at(_now(engine))
        )
        return enrolment.secret

    def both(call: str, secret: str) -> None:
        engine.context.host.advance(seconds=90)  # type: ignore[attr-defined]
        code = pyotp.TOTP(secret).at(_now(engine))
        getattr(engine.account, call)(team.doctor, PASSWORD, code)

    steps = [
        lambda: engine.people.create(admin, "d2", "Second Doctor", Role.DOCTOR, PASSWORD),
        lambda: engine.people.create(admin, "gone", "Gone Doctor", Role.DOCTOR, PASSWORD),
        lambda: engine.people.set_enabled(admin, "gone", False),
        lambda: engine.people.set_enabled(admin, "gone", True),
        lambda: engine.people.set_enabled(admin, "gone", False),
        lambda: engine.people.reset_password(admin, "d2", OTHER),
        lambda: engine.account.change_password(team.technician, PASSWORD, OTHER),
        lambda: engine.people.request("asks", "Asks For", Role.DOCTOR, PASSWORD),
        lambda: engine.people.approve(
            admin, engine.people.requests(admin)[0].request_id, Role.RESEARCHER
        ),
        lambda: engine.people.request("asks2", "Asks For", Role.DOCTOR, PASSWORD),
        lambda: engine.people.decline(admin, engine.people.requests(admin)[0].request_id),
        lambda: engine.people.request("asks3", "Asks For", Role.DOCTOR, PASSWORD),
        lambda: engine.people.link_identity(admin, "d2", "d2@example.org"),
        lambda: both("renew_recovery_codes", factor()),
        lambda: engine.people.reset_second_factor(admin, "doctor"),
        lambda: setattr(team, "doctor", engine.sessions.sign_in("doctor", PASSWORD).token),
        lambda: both("remove_second_factor", factor()),
        lambda: engine.account.begin_second_factor(
            team.doctor, PASSWORD
        ),  # replaced before it counts
        factor,
        lambda: engine.patients.create(team.technician, "P-2", "Jan Nowak"),
        lambda: engine.care.assign(team.technician, "P-2", "d2"),
        lambda: engine.care.assign(team.technician, number, "doctor"),
        lambda: engine.care.end(team.technician, number, "doctor"),
        lambda: engine.care.break_glass(team.doctor, number, URGENT),
        lambda: engine.care.end_emergency_access(
            team.doctor, engine.care.my_emergency_access(team.doctor)[0].glass_id
        ),
        lambda: engine.care.review_emergency_access(
            admin, engine.care.emergency_access(admin)[0].glass_id, "unjustified", "asked the ward"
        ),
        lambda: engine.patients.merge(team.technician, number, "P-2", "registered twice"),
        lambda: engine.care.set_restorable_classes(admin, "doctor", ["face"]),
        lambda: engine.people.set_role(admin, "asks", Role.TECHNICIAN),
        lambda: engine.patients.create(team.technician, "P-3", "Ada Nowak"),
        lambda: engine.care.assign(team.technician, "P-3", "d2"),
        lambda: engine.patients.erase(admin, "P-3", "asked for it"),
    ]
    for step in steps:
        step()
        check(engine)


def _now(engine: Engine) -> datetime:
    return engine.context.host.now().replace(tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path / "data", key_file=tmp_path / "root.key", bcrypt_cost=4, care_relation=True
    )


def test_every_change_of_accounts_and_rights_is_known_and_every_forgery_is_found(
    ward: Ward, settings: Settings, host: FakeHost, detector: ScriptedDetector
) -> None:
    engine = ward.engine
    busy(engine, ward.team)
    assert {what for what, sql in FORGED.items() if not found(engine, sql)} == set()
    check(engine)  # each of them was taken back
    engine.close()
    Engine.open(settings, host, detector=detector).close()


def found(engine: Engine, sql: str) -> bool:
    """Write it, look, and take it back."""
    try:
        with engine.context.database.write() as tx:
            before = _all(tx)
            tx.run(sql)
            assert _all(tx) != before, "the forgery changes nothing"
            engine.context.watch._integrity.check(tx)
    except errors.RosterBroken:
        return True
    return False


def _all(tx: Cursor) -> str:
    tables = ("accounts", "account_requests", "second_factors", "recovery_codes", "identities",
              "care", "glass", "class_grants")  # fmt: skip
    return str([tx.all(f"SELECT * FROM {table}") for table in tables])  # noqa: S608


def test_a_server_does_not_start_on_forged_rights_until_the_operator_lets_them_stand(
    ward: Ward, settings: Settings, host: FakeHost, detector: ScriptedDetector,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with ward.engine.context.database.write() as tx:
        tx.run("UPDATE accounts SET role = 'doctor' WHERE username = 'technician'")
    ward.engine.close()
    place = ["--data", str(settings.data), "--key", str(settings.key_file)]
    for _ in range(2):  # asking does not make it right
        with pytest.raises(errors.RosterBroken):
            Engine.open(settings, host, detector=detector)
        assert main(["verify", *place]) == 2
        assert "changed outside MedSec" in capsys.readouterr().err
    # Nor does what the operator changes meanwhile.
    engine = Engine.open(settings, host, detector=detector, operator=True)
    engine.people.create(engine.operator_token(), "d2", "Second Doctor", Role.DOCTOR, PASSWORD)
    engine.close()
    with pytest.raises(errors.RosterBroken):
        Engine.open(settings, host, detector=detector)
    assert main(["accept-roster", *place, "--reason", "mended by hand"]) == 0
    assert main(["verify", *place]) == 0
    engine = Engine.open(settings, host, detector=detector)
    admin = engine.sessions.sign_in("admin", PASSWORD).token
    told = engine.audit.entries(admin, query="roster.")
    assert {e.outcome for e in told if e.action == "roster.verify"} == {"failed", "ok"}
    assert "mended by hand" in {e.reason for e in told}
    engine.close()


def test_rights_that_are_forged_while_the_server_runs_are_found_and_not_vouched_for(
    ward: Ward,
) -> None:
    engine, admin = ward.engine, ward.team.administrator
    with engine.context.database.write() as tx:
        tx.run("UPDATE accounts SET role = 'doctor' WHERE username = 'technician'")
    engine.upkeep.tend()
    assert engine.health.state(admin)["broken"] == ["accounts and rights"]
    engine.people.set_enabled(admin, "researcher", False)
    with pytest.raises(errors.RosterBroken):
        engine.audit.verify_access(admin)
    entries = engine.audit.entries(admin, query="roster.verify")
    assert [(e.actor, e.outcome) for e in entries] == [("admin", "failed"), ("system", "failed")]


def test_a_folder_of_an_earlier_version_begins_its_roster_once(
    settings: Settings, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = ScriptedDetector(settings)
    with monkeypatch.context() as earlier:
        earlier.setattr("engine.operations.access_watch.CHANGES", frozenset())
        engine = Engine.open(settings, host, detector=detector)
        Team(engine)
        engine.close()
    for _ in range(2):
        engine = Engine.open(settings, host, detector=detector)
        check(engine)
        admin = engine.sessions.sign_in("admin", PASSWORD).token
        begun = engine.audit.entries(admin, query="roster.begin")
        assert len([e for e in begun if "roster" in e.detail]) == 1
        engine.close()


# --- sessions and refresh tokens --------------------------------------------------------------


def test_a_session_that_was_written_or_moved_in_the_catalog_opens_nothing(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    made = "A" * 65
    api = engine.sessions.sign_in_api("researcher", PASSWORD)
    with engine.context.database.write() as tx:
        tx.run(
            "INSERT INTO sessions (token_digest, session_id, username, created_at, seen_at,"
            " expires_at, origin, proven_at, door) SELECT $1, 'se_made', username, created_at,"
            " seen_at, expires_at, origin, proven_at, door FROM sessions WHERE username = 'doctor'",
            token_digest(made),
        )
        tx.run("UPDATE sessions SET username = 'doctor' WHERE username = 'researcher'")
    for token in (made, team.researcher, api.access):
        with pytest.raises(errors.NotSignedIn):
            engine.sessions.whoami(token)
    assert engine.sessions.whoami(team.doctor).username == "doctor"


def test_a_refresh_token_that_was_written_or_moved_in_the_catalog_gives_no_pair(
    ward: Ward,
) -> None:
    engine = ward.engine
    mine, theirs = (engine.sessions.sign_in_api(n, PASSWORD) for n in ("researcher", "doctor"))
    session_id = engine.caller(theirs.access).session_id
    made = "B" * 65
    with engine.context.database.write() as tx:
        later = engine.context.host.now().replace(year=2030)
        tx.run("INSERT INTO refresh_tokens VALUES ($1, $2, $3, NULL)",
               token_digest(made), session_id, later)  # fmt: skip
        tx.run("UPDATE refresh_tokens SET session_id = $2 WHERE token_digest = $1",
               token_digest(mine.refresh), session_id)  # fmt: skip
    for token in (made, mine.refresh):
        with pytest.raises(errors.NotSignedIn):
            engine.sessions.refresh(token)
        engine.sessions.revoke(token)  # nor does it end another's session
    assert engine.sessions.whoami(theirs.access).username == "doctor"
    assert engine.sessions.refresh(theirs.refresh).access
