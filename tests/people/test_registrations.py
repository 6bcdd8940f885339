"""Asking for an account opens nothing; an administrator answers."""

from __future__ import annotations

import pytest

from engine import Engine, Role, errors
from engine.people.registrations import (
    MOST_PER_ORIGIN,
    MOST_WAITING,
    MOST_WAITING_PER_ORIGIN,
)
from tests.conftest import PASSWORD, Team
from tests.fakes import FakeHost


def ask(engine: Engine, username: str = "nora", origin: str = "10.0.0.1") -> str:
    return engine.people.request(username, "Nora New", Role.DOCTOR, PASSWORD, origin)


def test_asking_opens_nothing_until_somebody_approves(engine: Engine, team: Team) -> None:
    reference = ask(engine)
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.sign_in("nora", PASSWORD)
    waiting = engine.people.requests(team.administrator)
    assert [(r.request_id, r.username, r.role, r.taken) for r in waiting] == [
        (reference, "nora", Role.DOCTOR, False)
    ]
    account = engine.people.approve(team.administrator, reference, Role.RESEARCHER)
    assert account.role is Role.RESEARCHER  # the administrator's choice, not the wish
    assert (
        engine.sessions.whoami(engine.sessions.sign_in("nora", PASSWORD).token).role
        is Role.RESEARCHER
    )
    assert engine.people.requests(team.administrator) == []
    logged = engine.audit.entries(team.administrator, query="account.approve")[0]
    assert logged.detail["role"] == "researcher"


def test_nobody_gets_an_account_by_asking_for_the_administrators(
    engine: Engine, team: Team
) -> None:
    engine.people.request("eve", "Eve", Role.ADMINISTRATOR, PASSWORD)
    assert [
        a.username for a in engine.people.accounts(team.administrator) if a.username == "eve"
    ] == []
    with pytest.raises(errors.InputError):
        engine.people.request("eve", "Eve", Role.OPERATOR, PASSWORD)
    with pytest.raises(errors.InputError):
        engine.people.request("eve", "Eve", "king", PASSWORD)  # type: ignore[arg-type]


def test_the_answer_does_not_tell_which_names_exist(engine: Engine, team: Team) -> None:
    before = engine.people.accounts(team.administrator)
    taken, free = ask(engine, "doctor"), ask(engine, "nora")
    assert taken[:3] == free[:3]
    assert len(taken) == len(free)
    waiting = {r.username: r.taken for r in engine.people.requests(team.administrator)}
    assert waiting == {"doctor": True, "nora": False}
    with pytest.raises(errors.InputError):
        engine.people.approve(team.administrator, taken, Role.ADMINISTRATOR)
    assert engine.people.accounts(team.administrator) == before
    assert engine.sessions.sign_in("doctor", PASSWORD).account.role is Role.DOCTOR
    # A refused approval uses nothing up: the request can still be declined.
    engine.people.decline(team.administrator, taken)


def test_two_requests_for_one_name_are_told_apart_by_their_reference(
    engine: Engine, team: Team
) -> None:
    engine.people.request("nora", "Nora New", Role.DOCTOR, "an impostor chose this one")
    real = ask(engine)
    engine.people.approve(team.administrator, real, Role.DOCTOR)
    assert engine.sessions.sign_in("nora", PASSWORD)
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.sign_in("nora", "an impostor chose this one")
    assert [r.taken for r in engine.people.requests(team.administrator)] == [True]


def test_a_declined_or_old_request_is_gone(engine: Engine, team: Team, host: FakeHost) -> None:
    reference = ask(engine)
    engine.people.decline(team.administrator, reference)
    old = ask(engine, "olga")
    host.advance(days=31)
    admin = engine.sessions.sign_in("admin", PASSWORD).token
    assert engine.people.requests(admin) == []
    for gone in (reference, old, "rq_nothing"):
        for answer in (
            lambda: engine.people.approve(admin, gone, Role.DOCTOR),  # noqa: B023
            lambda: engine.people.decline(admin, gone),  # noqa: B023
        ):
            with pytest.raises(errors.NotFound):
                answer()


@pytest.mark.parametrize(("username", "name", "password"), [
    ("a b", "Nora", PASSWORD),
    ("nora", "", PASSWORD),
    ("nora", "Nora\ud83d", PASSWORD),
    ("nora", "Nora\nadministrator", PASSWORD),
    ("nora", "Nora", "too short"),
    ("nora", "Nora", "password1234567"),
])  # fmt: skip
def test_a_request_follows_the_rules_of_an_account(
    engine: Engine, team: Team, username: str, name: str, password: str
) -> None:
    with pytest.raises(errors.InputError):
        engine.people.request(username, name, Role.DOCTOR, password)
    assert engine.people.requests(team.administrator) == []


def test_strangers_cannot_ask_without_end(engine: Engine, team: Team, host: FakeHost) -> None:
    for number in range(MOST_PER_ORIGIN):
        ask(engine, f"u{number}")
    with pytest.raises(errors.TooManyRequests) as refused:
        ask(engine, "more")
    assert (refused.value.status, refused.value.facts["seconds"]) == (429, 3600)
    ask(engine, "elsewhere", origin="10.0.0.2")
    host.advance(minutes=61)
    ask(engine, "later")
    with engine.context.database.write() as tx:
        for number in range(MOST_WAITING):
            tx.run(
                "INSERT INTO account_requests VALUES ($1, 'x', 'x', 'doctor', 'x', $2, $1)",
                f"rq_{number}",
                host.now(),
            )
    with pytest.raises(errors.TooManyRequests):
        ask(engine, "another", origin="10.0.0.3")


def test_one_address_does_not_fill_the_list_for_all(
    engine: Engine, team: Team, host: FakeHost
) -> None:
    for number in range(MOST_WAITING_PER_ORIGIN):
        host.advance(minutes=7)
        ask(engine, f"u{number}", origin=f"2001:db8:1:2::{number:x}")  # one household's
    host.advance(minutes=61)
    with pytest.raises(errors.TooManyRequests):
        ask(engine, "more", origin="2001:db8:1:2:ffff::1")
    ask(engine, "neighbour", origin="2001:db8:1:3::1")
    ask(engine, "elsewhere", origin="10.0.0.1")


def test_a_waiting_password_is_kept_as_a_hash(engine: Engine, team: Team) -> None:
    ask(engine)
    kept = engine.context.database.read().all("SELECT * FROM account_requests")
    assert PASSWORD not in str(kept)
    assert kept[0]["password_hash"].startswith("$2b$")
    assert "nora" not in str(engine.audit.entries(team.administrator, query="account.request"))
