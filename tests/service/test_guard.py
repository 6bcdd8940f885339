"""Who is calling: tokens of work, what an ended session leaves, and refusals in the log."""

from __future__ import annotations

import pytest

from engine import Permission, errors
from engine.operations.guard import Guard
from tests.conftest import PASSWORD, Ward


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
