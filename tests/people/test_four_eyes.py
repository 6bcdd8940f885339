"""What an administrator could do to a doctor's account takes two of them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from engine import Engine, Role, Settings, errors
from engine.people import proposals
from engine.people.proposals import Change, Proposals
from engine.records import Caller
from engine.store.shared import SharedHere
from tests.conftest import PASSWORD
from tests.fakes import FakeHost
from tests.rest import ask, opened

OTHER = "five quite unrelated words here"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, four_eyes=True)


@pytest.fixture
def two(engine: Engine, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Tokens of two administrators, beside a doctor and a technician."""
    people = engine.people
    people.create_first_administrator(people.setup_code(), "ada", "Ada Admin", PASSWORD)
    first = engine.sessions.sign_in("ada", PASSWORD).token
    for name, role in (("ben", Role.ADMINISTRATOR), ("doc", Role.DOCTOR)):
        with pytest.raises(errors.ConfirmationNeeded) as waits:
            people.create(first, name, f"A {role}", role, PASSWORD)
        if name == "ben":  # nobody else is there: the console shows a code
            people.confirm(first, waits.value.facts["proposal_id"], shown(capsys))
            second = engine.sessions.sign_in("ben", PASSWORD).token
        else:
            people.confirm(second, waits.value.facts["proposal_id"])
    people.create(first, "tec", "A technician", Role.TECHNICIAN, PASSWORD)
    return first, second


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    """The code on the console."""
    found = re.findall(r"Code to confirm .*: ([0-9a-f-]{39})\n", capsys.readouterr().out)
    return str(found[-1])


def proposed(engine: Engine, token: str, what: str) -> str:
    """Propose a change of the doctor's account; says under which id it waits."""
    people = engine.people
    changes = {
        "password": lambda: people.reset_password(token, "doc", OTHER),
        "factor": lambda: people.reset_second_factor(token, "doc"),
        "new doctor": lambda: people.create(token, "new", "New Doctor", Role.DOCTOR, PASSWORD),
        "role up": lambda: people.set_role(token, "tec", Role.DOCTOR),
        "role of a doctor": lambda: people.set_role(token, "doc", Role.RESEARCHER),
        "enable": lambda: people.set_enabled(token, "doc", True),
        "address": lambda: people.link_identity(token, "doc", "mallory@example.org"),
        "request": lambda: people.approve(token, _asked(engine), Role.DOCTOR),
    }
    with pytest.raises(errors.ConfirmationNeeded) as waits:
        changes[what]()
    return str(waits.value.facts["proposal_id"])


def _asked(engine: Engine) -> str:
    return engine.people.request("asks", "Asks Nicely", Role.DOCTOR, PASSWORD)


CHANGES = [
    "password", "factor", "new doctor", "role up", "role of a doctor", "enable", "address",
    "request",
]  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_waits_for_another_administrator(
    engine: Engine, two: tuple[str, str], what: str
) -> None:
    first, second = two
    before = engine.people.accounts(first)
    proposal = proposed(engine, first, what)
    assert engine.people.accounts(first) == before
    assert engine.sessions.sign_in("doc", PASSWORD).token  # still that of the doctor
    with pytest.raises(errors.PermissionDenied, match="Another administrator"):
        engine.people.confirm(first, proposal)
    before = engine.people.accounts(first)
    engine.people.confirm(second, proposal)
    if what == "password":
        assert engine.sessions.sign_in("doc", OTHER)
    elif what not in ("factor", "enable"):
        assert engine.people.accounts(first) != before
    assert engine.people.proposals(first) == []
    with pytest.raises(errors.NotFound):
        engine.people.confirm(second, proposal)
    # Both are in the log.
    entries = engine.audit.entries(second)
    made = next(e for e in entries if e.detail.get("proposed_by") == "ada")
    assert (made.actor, made.detail["proposal"]) == ("ben", proposal)
    assert [e.outcome for e in entries if e.action == "account.confirm"] == ["refused"]
    assert OTHER not in repr(entries)


def test_what_gives_nothing_away_waits_for_nobody(engine: Engine, two: tuple[str, str]) -> None:
    first, _ = two
    engine.people.set_enabled(first, "doc", False)  # closing never waits
    engine.people.reset_password(first, "tec", OTHER)
    engine.people.set_role(first, "tec", Role.RESEARCHER)
    assert engine.people.proposals(first) == []


def test_nobody_confirms_a_change_of_their_own_account(
    engine: Engine, two: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = two
    with pytest.raises(errors.ConfirmationNeeded) as waits:
        engine.people.reset_password(first, "ben", OTHER)
    proposal = waits.value.facts["proposal_id"]
    with pytest.raises(errors.PermissionDenied, match="your own account"):
        engine.people.confirm(second, proposal)
    # Nobody else is left, so whoever has the console can: a lost password is no dead end.
    engine.people.confirm(first, proposal, shown(capsys))
    assert engine.sessions.sign_in("ben", OTHER)


def test_a_wrong_code_is_tried_once(
    engine: Engine, two: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = two
    with pytest.raises(errors.ConfirmationNeeded) as waits:
        engine.people.reset_password(first, "ben", OTHER)
    proposal = waits.value.facts["proposal_id"]
    code = shown(capsys)
    assert code not in repr(engine.people.proposals(first))
    with pytest.raises(errors.PermissionDenied, match="does not match"):
        engine.people.confirm(first, proposal, "0" * 39)
    with pytest.raises(errors.NotFound):
        engine.people.confirm(first, proposal, code)
    assert code not in repr(engine.audit.entries(first))


def test_a_proposal_lapses_is_dropped_and_is_replaced(
    engine: Engine, two: tuple[str, str], host: FakeHost
) -> None:
    first, second = two
    old = proposed(engine, first, "password")
    again = proposed(engine, first, "password")
    assert [p.proposal_id for p in engine.people.proposals(second)] == [again]
    with pytest.raises(errors.NotFound):
        engine.people.confirm(second, old)
    engine.people.drop_proposal(second, again)
    assert engine.people.proposals(second) == []
    late = proposed(engine, first, "password")
    host.advance(hours=25)
    second = engine.sessions.sign_in("ben", PASSWORD).token
    with pytest.raises(errors.NotFound):
        engine.people.confirm(second, late)
    assert engine.sessions.sign_in("doc", PASSWORD)


def test_one_that_is_replaced_counts_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposals, "MOST_WAITING", 2)
    host = FakeHost(settings.data)
    waiting = Proposals(host, SharedHere(host), "account")
    caller = Caller("admin", Role.ADMINISTRATOR, "se_1", "")
    for name in ("dora", "remy", "remy"):
        waiting.add(caller, Change("account.enable", name), alone=False)
    with pytest.raises(errors.InputError, match="Too many"):
        waiting.add(caller, Change("account.enable", "tina"), alone=False)
    assert sorted(p.username for p in waiting.waiting()) == ["dora", "remy"]


def test_a_change_is_proposed_and_confirmed_over_the_api(
    engine: Engine, two: tuple[str, str]
) -> None:
    first, second = two
    with opened(engine):
        answer = ask("PATCH", "/accounts/tec/", first, json={"role": "doctor"})
        assert (answer.status_code, answer.json()["type"]) == (
            409,
            "urn:medsec:confirmation-needed",
        )
        [waits] = ask("GET", "/accounts/proposals/", second).json()
        assert (waits["action"], waits["username"], waits["role"]) == (
            "account.set-role", "tec", "doctor",
        )  # fmt: skip
        assert set(waits) == {
            "proposal_id", "action", "username", "role", "proposed_by", "proposed_at", "expires_at",
            "by_console",
        }  # fmt: skip
        path = f"/accounts/proposals/{waits['proposal_id']}/confirm/"
        assert ask("POST", path, first, json={}).status_code == 403
        assert ask("POST", path, second, json={}).json()["role"] == "doctor"
        path = f"/accounts/proposals/{proposed(engine, first, 'password')}/"
        assert ask("DELETE", path, second).status_code == 204


def test_without_the_setting_one_administrator_is_enough(
    engine: Engine, two: tuple[str, str], settings: Settings
) -> None:
    engine.context.live.use(replace(settings, four_eyes=False))
    engine.people.reset_password(two[0], "doc", OTHER)
    assert engine.sessions.sign_in("doc", OTHER)
