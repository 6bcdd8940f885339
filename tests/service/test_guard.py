"""Who is calling: tokens of work, what an ended session leaves, and refusals in the log."""

from __future__ import annotations

from functools import partial

import pytest

from engine import Permission, Source, errors
from engine.operations.guard import Guard
from tests import builders
from tests.conftest import PASSWORD, Ward
from tests.fakes import FakeHost


@pytest.fixture
def guard(ward: Ward) -> Guard:
    return ward.engine._guard


def test_a_token_of_work_ends_with_the_work(ward: Ward, guard: Guard) -> None:
    caller = ward.engine.caller(ward.team.technician)
    work = ward.engine.batches.work_token(ward.team.technician)
    assert guard.caller(work).username == caller.username
    ward.engine.batches.end_work(work)
    with pytest.raises(errors.NotSignedIn):
        guard.caller(work)
    ward.engine.batches.end_work(work)  # twice is no error


def test_a_token_of_work_ends_with_its_session(ward: Ward, guard: Guard) -> None:
    work = ward.engine.batches.work_token(ward.team.technician)
    ward.engine.sessions.sign_out(ward.team.technician)
    with pytest.raises(errors.NotSignedIn):
        guard.caller(work)


def test_work_outlives_the_idle_time_but_not_the_session(
    ward: Ward, guard: Guard, host: FakeHost
) -> None:
    token = ward.team.technician
    work = ward.engine.batches.work_token(token)
    for _ in range(3):
        host.advance(minutes=10)
        assert guard.caller(work).username == "technician"
    with pytest.raises(errors.NotSignedIn):  # nobody was there for half an hour
        guard.caller(token)
    host.advance(hours=7, minutes=29)
    assert guard.caller(work).username == "technician"
    host.advance(minutes=2)
    with pytest.raises(errors.NotSignedIn):
        guard.caller(work)


@pytest.mark.parametrize("end", ["end_sessions", "disable"])
def test_an_idle_sessions_work_can_be_ended(
    ward: Ward, guard: Guard, host: FakeHost, end: str
) -> None:
    work = ward.engine.batches.work_token(ward.team.technician)
    host.advance(minutes=20)
    administrator = ward.engine.sessions.sign_in("admin", PASSWORD).token
    if end == "disable":
        ward.engine.people.set_enabled(administrator, "technician", False)
    else:
        ward.engine.people.end_sessions(administrator, "technician")
    with pytest.raises(errors.NotSignedIn):
        guard.caller(work)


def test_a_batch_goes_on_unattended_and_is_nobodys_activity(ward: Ward, host: FakeHost) -> None:
    token = ward.team.technician

    def read(seed: int) -> bytes:
        host.advance(minutes=10)
        return builders.png(builders.radiograph(64, 48, seed=seed))

    sources = [Source(f"{seed}.png", partial(read, seed)) for seed in range(2)]
    work = ward.engine.batches.work_token(token)
    items = list(ward.engine.batches.seal(work, ward.patient_id, sources, few=True))
    assert [item.error for item in items] == [None] * 2
    with pytest.raises(errors.NotSignedIn):
        ward.engine.caller(token)


def test_an_ended_session_leaves_no_key_exchange(ward: Ward) -> None:
    held = ward.engine.context.exchanges
    other = ward.engine.sessions.sign_in("doctor", PASSWORD).token
    for token in (ward.team.doctor, other):
        ward.engine.exchange.offer(token, "x25519")
    staying = ward.engine.caller(other).session_id
    ward.engine.sessions.sign_out(ward.team.doctor)
    assert list(held._pending) == [staying]


def test_a_server_has_no_operator(ward: Ward, guard: Guard) -> None:
    with pytest.raises(errors.PermissionDenied):
        ward.engine.operator_token()
    for token in (None, "", "operator"):
        with pytest.raises(errors.NotSignedIn):
            guard.caller(token)


def test_a_role_that_lacks_the_permission_is_refused_in_the_log(ward: Ward) -> None:
    with pytest.raises(errors.PermissionDenied):
        ward.engine.audit.verify(ward.team.researcher)
    newest = ward.engine.context.audit.entries(limit=1)[0]
    assert (newest.actor, newest.action, newest.outcome, newest.detail["method"]) == (
        "researcher", str(Permission.READ_AUDIT), "refused", "audit.verify",
    )  # fmt: skip
