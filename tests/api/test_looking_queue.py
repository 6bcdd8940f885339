"""The queue of drafts that workers look at: what a session leaves, the next one finds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from api.looking import Looking
from engine import TakeOptions
from tests import builders
from tests.conftest import PASSWORD, Ward


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_waits_when_a_session_ends_is_looked_at_in_the_next(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, token, ids = ward.engine, ward.team.technician, []
    for number in (1, 2, 3):
        data = builders.png(builders.labelled(f"DOE {number}", seed=number)[0])
        taken = engine.intakes.take(token, ward.patient_id, f"{number}.png", data, TakeOptions())
        ids.append(taken.image_id)
    looking, work = Looking(engine), engine.batches._worker.work

    def work_and_end(job: Any) -> Any:
        monkeypatch.setattr(engine.batches._worker, "work", work)
        engine.sessions.sign_out(token)  # amid the round
        return work(job)

    monkeypatch.setattr(engine.batches._worker, "work", work_and_end)
    looking.add(token, ids)
    until(lambda: not looking.queued())
    again = engine.sessions.sign_in("technician", PASSWORD).token
    assert sorted(engine.intakes.unseen(again)) == sorted(ids[1:])
    looking._again_at = 0.0  # a minute later
    looking.resume(again)
    until(lambda: not looking.queued())
    looking.stop()
    assert engine.intakes.unseen(again) == []
    assert {d.reasons for d in engine.drafts.waiting(again)} == {("nothing-found",)}
