"""Sessions: how they end, who sees them, and who is asked again."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import Engine, Permission, Role, Settings, errors
from engine.host import Folder
from engine.operations.guard import FRESH, GUARDED
from engine.people.sessions import GRACE
from tests import builders
from tests.conftest import PASSWORD, WHY, Team, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector

Ended = errors.NotSignedIn


def test_a_session_names_its_account_and_its_token_is_not_stored(
    engine: Engine, team: Team
) -> None:
    session = engine.sessions.sign_in("DOCTOR ", PASSWORD, "here")
    caller = engine.caller(session.token)
    assert (caller.username, caller.role, caller.origin) == ("doctor", Role.DOCTOR, "here")
    assert session.token not in repr(session)
    assert session.token not in str(engine.context.database.read().all("SELECT * FROM sessions"))


@pytest.mark.parametrize(("minutes", "alive"), [(14.9, True), (15.0, False)])
def test_idle_sessions_end(
    engine: Engine, team: Team, host: FakeHost, minutes: float, alive: bool
) -> None:
    host.advance(minutes=minutes)
    if alive:
        assert engine.sessions.whoami(team.doctor).username == "doctor"
    else:
        with pytest.raises(Ended):
            engine.sessions.whoami(team.doctor)


def test_a_busy_session_ends_at_its_absolute_limit(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    for _ in range(47):
        host.advance(minutes=10)
        engine.sessions.whoami(team.doctor)
    host.advance(minutes=10)
    with pytest.raises(Ended):
        engine.sessions.whoami(team.doctor)


def test_automatic_refreshes_do_not_keep_a_session_alive(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    host.advance(minutes=10)
    engine.caller(team.doctor, activity=False)
    host.advance(minutes=10)
    with pytest.raises(Ended):
        engine.caller(team.doctor)


def test_a_clock_that_jumps_back_revives_nothing(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    host.advance(hours=-1)
    with pytest.raises(Ended):
        engine.sessions.whoami(team.doctor)


@pytest.mark.parametrize("token", [None, "", 7, "x" * 500, object(), "nonsense-nonsense"])
def test_nonsense_is_not_a_token(engine: Engine, token: object) -> None:
    with pytest.raises(Ended):
        engine.caller(token)


def test_disabling_an_account_works_at_once(engine: Engine, team: Team) -> None:
    engine.people.set_enabled(team.administrator, "doctor", False)
    with pytest.raises(Ended):
        engine.sessions.whoami(team.doctor)


def test_a_signed_out_token_cannot_be_played_again(engine: Engine, team: Team) -> None:
    engine.sessions.sign_out(team.doctor)
    with pytest.raises(Ended):
        engine.sessions.whoami(team.doctor)


def test_everybody_sees_their_own_sessions_and_ends_one(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    host.advance(minutes=5)
    here = engine.sessions.sign_in("doctor", PASSWORD).token
    pair = engine.sessions.sign_in_api("doctor", PASSWORD)
    mine = engine.sessions.mine(here)
    assert sorted(s.door for s in mine) == ["API", "browser", "browser"]
    assert [s.door for s in mine if s.current] == ["browser"]
    assert {(s.seen_at - s.started_at).seconds for s in mine} == {0}
    api = next(s for s in mine if s.door == "API")
    engine.sessions.end(here, api.session_id)
    for used in (engine.sessions.whoami, engine.sessions.refresh):
        with pytest.raises(Ended):
            used(pair.access if used == engine.sessions.whoami else pair.refresh)
    assert len(engine.sessions.mine(here)) == 2
    host.advance(minutes=12)
    assert [s.current for s in engine.sessions.mine(here)] == [True]  # the first one was idle


def test_nobody_ends_another_persons_session(engine: Engine, team: Team) -> None:
    other = engine.sessions.mine(team.technician)[0].session_id
    for token in (team.doctor, team.administrator):
        with pytest.raises(errors.NotFound):
            engine.sessions.end(token, other)
    assert engine.sessions.whoami(team.technician).username == "technician"


def test_signing_out_everywhere_ends_refresh_tokens_too(engine: Engine, team: Team) -> None:
    here = engine.sessions.sign_in("doctor", PASSWORD).token
    pair = engine.sessions.sign_in_api("doctor", PASSWORD)
    assert engine.sessions.sign_out_everywhere(here) == 3
    for token in (here, team.doctor, pair.access):
        with pytest.raises(Ended):
            engine.sessions.whoami(token)
    with pytest.raises(Ended):
        engine.sessions.refresh(pair.refresh)
    assert engine.sessions.whoami(team.technician).username == "technician"


def test_a_new_password_ends_the_other_sessions(engine: Engine, team: Team) -> None:
    here = engine.sessions.sign_in("doctor", PASSWORD).token
    pair = engine.sessions.sign_in_api("doctor", PASSWORD)
    engine.account.change_password(here, PASSWORD, "four other words instead")
    assert engine.sessions.whoami(here).username == "doctor"
    for token in (team.doctor, pair.access):
        with pytest.raises(Ended):
            engine.sessions.whoami(token)
    with pytest.raises(Ended):
        engine.sessions.refresh(pair.refresh)


def test_an_administrator_ends_the_sessions_of_another(engine: Engine, team: Team) -> None:
    pair = engine.sessions.sign_in_api("doctor", PASSWORD)
    doors = [s.door for s in engine.people.sessions(team.administrator, "doctor")]
    assert sorted(doors) == ["API", "browser"]
    assert engine.people.end_sessions(team.administrator, "Doctor") == 2
    for token in (team.doctor, pair.access):
        with pytest.raises(Ended):
            engine.sessions.whoami(token)
    logged = engine.audit.entries(team.administrator, query="account.end-sessions")[0]
    assert logged.detail == {"username": "doctor", "sessions": 2}


def test_what_an_ended_session_had_open_is_closed(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine, team = ward.engine, ward.team
    handle = engine.images.restore(team.doctor, image_id, WHY).handle
    session_id = engine.caller(team.doctor).session_id
    engine.context.open_images.get(session_id, handle)
    engine.people.end_sessions(team.administrator, "doctor")
    with pytest.raises(errors.NotFound):
        engine.context.open_images.get(session_id, handle)


# --- asking again -----------------------------------------------------------------------------


@pytest.fixture
def careful(tmp_path: Path, host: FakeHost) -> Ward:
    """A ward where a restoration wants a proof of the last five minutes."""
    settings = Settings(
        data=tmp_path / "careful", key_file=tmp_path / "keys" / "c.key", bcrypt_cost=4,
        step_up_minutes=5,
    )  # fmt: skip
    host.files = Folder(settings.data / "blobs")
    detector = ScriptedDetector(settings)
    engine = Engine.open(settings, host, detector=detector)
    team = Team(engine)
    patient = engine.patients.create(team.technician, "P-1", "Erika Musterfrau", 61)
    return Ward(engine, team, detector, patient.patient_id)


def test_a_restoration_asks_again_when_the_last_proof_is_old(careful: Ward, host: FakeHost) -> None:
    data, found = text_png()
    image_id = careful.seal(data, found=[found])
    engine, doctor = careful.engine, careful.team.doctor
    handle = engine.images.restore(doctor, image_id, WHY).handle
    host.advance(minutes=5)
    with pytest.raises(errors.StepUpNeeded) as refused:
        engine.images.restore(doctor, image_id, WHY)
    assert (refused.value.status, refused.value.code) == (401, "step-up-needed")
    assert engine.images.get(doctor, image_id).image_id == image_id  # looking at what is sealed may
    with pytest.raises(errors.PermissionDenied):
        engine.sessions.prove(doctor, password="something else entirely")
    with pytest.raises(errors.StepUpNeeded):
        engine.images.restore(doctor, image_id, WHY)
    engine.sessions.prove(doctor, password=PASSWORD)
    assert engine.images.restore(doctor, image_id, WHY).handle != handle
    entries = engine.audit.entries(careful.team.administrator, query="refused")
    assert any(e.detail.get("why") == "step-up-needed" for e in entries)


def test_an_access_token_asks_again_like_a_cookie(careful: Ward, host: FakeHost) -> None:
    data, found = text_png()
    image_id = careful.seal(data, found=[found])
    engine = careful.engine
    pair = engine.sessions.sign_in_api("doctor", PASSWORD)
    host.advance(minutes=5)
    fresh = engine.sessions.refresh(pair.refresh)  # a refresh is no proof
    with pytest.raises(errors.StepUpNeeded):
        engine.images.restore(fresh.access, image_id, WHY)
    engine.sessions.prove(fresh.access, password=PASSWORD)
    assert engine.images.restore(fresh.access, image_id, WHY).opened


def test_every_way_to_the_original_asks_again(careful: Ward, host: FakeHost) -> None:
    host.advance(minutes=6)
    engine, doctor = careful.engine, careful.team.doctor
    for call in (
        lambda: engine.images.restore(doctor, "im_x", WHY),
        lambda: engine.withdrawals.reopen(doctor, "im_x"),
        lambda: engine.packages.restore(doctor, b"", b"", WHY),
        lambda: engine.sendings.send_original(doctor, "im_x", "ARCHIVE", WHY),
        lambda: engine.sendings.send_original_study(doctor, "st_x", "ARCHIVE", WHY),
        lambda: engine.exchange.deliver_region(doctor, "im_x", "rg_x", WHY, "ex_x"),
    ):
        with pytest.raises(errors.StepUpNeeded):
            call()


def test_every_method_that_needs_the_right_to_restore_asks_again_or_opens_nothing() -> None:
    opens_nothing = {
        "withdrawals.waiting",  # a list of what is sealed
        "images.side_markers",  # left or right, so that nobody takes one side for the other
        # What a restoration has opened already, in its own session and for its minutes:
        "images.restoration", "images.open_restoration", "images.restored_frame",
        "images.restored_file", "exchange.deliver_file",
        # The same of a study: what is opened with it was asked for by ``studies.restore``.
        "studies.restoration", "studies.restorations", "studies.restored_frame",
        "studies.open_image", "archives.originals",
    }  # fmt: skip
    restoring = {name for name, needed in GUARDED.items() if needed is Permission.RESTORE}
    assert restoring - FRESH == opens_nothing
    # What opens a patient, as much as a picture, and what leaves the hospital.
    assert FRESH - restoring == {
        "care.break_glass", "cohorts.prepare", "recipients.save_pseudonyms",
        "recipients.pseudonym", "recipients.patient_of",
    }  # fmt: skip


def test_without_the_setting_nobody_is_asked_again(ward: Ward, host: FakeHost) -> None:
    image_id = ward.seal(builders.png(builders.labelled()[0]), found=[text_png()[1]])
    host.advance(minutes=14)
    assert ward.engine.images.restore(ward.team.doctor, image_id, WHY).opened


@pytest.mark.parametrize("given", [{}, {"password": PASSWORD, "code": "000000"}])
def test_a_proof_is_one_of_the_two(engine: Engine, team: Team, given: dict[str, str]) -> None:
    with pytest.raises(errors.InputError):
        engine.sessions.prove(team.doctor, **given)


def test_guessing_at_the_proof_locks_the_account(engine: Engine, team: Team) -> None:
    for _ in range(5):
        with pytest.raises(errors.PermissionDenied):
            engine.sessions.prove(team.doctor, password="wrong wrong wrong")
    with pytest.raises(errors.AccountLocked):
        engine.sessions.prove(team.doctor, password=PASSWORD)


# --- another token after a fresh proof ----------------------------------------------------------


def test_a_fresh_proof_gives_the_browser_another_token_and_ends_the_one_before(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    before = engine.caller(team.doctor)
    engine.sessions.prove(team.doctor, PASSWORD)
    token = engine.sessions.renew(team.doctor)
    assert token != team.doctor
    assert engine.caller(token).session_id == before.session_id
    assert engine.sessions.whoami(team.doctor).username == "doctor"  # what is on its way arrives
    host.advance(seconds=GRACE.total_seconds())
    with pytest.raises(Ended):
        engine.sessions.whoami(team.doctor)
    assert engine.sessions.whoami(token).username == "doctor"
    assert len(engine.sessions.mine(token)) == 1


def test_without_a_fresh_proof_no_token_is_renewed(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    host.advance(minutes=2)
    with pytest.raises(errors.PermissionDenied):
        engine.sessions.renew(team.doctor)


def test_a_token_of_before_ends_with_its_session(engine: Engine, team: Team) -> None:
    engine.sessions.prove(team.doctor, PASSWORD)
    token = engine.sessions.renew(team.doctor)
    engine.sessions.sign_out(token)
    for ended in (token, team.doctor):
        with pytest.raises(Ended):
            engine.sessions.whoami(ended)
