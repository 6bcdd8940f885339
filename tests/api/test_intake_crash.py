"""An intake amid which the server or the sender dies, or the disk is full; long: ``make soak``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks import crash_intake
from tests import builders
from tests.api.test_api_intakes import Sender
from tests.rest import hospital


def soak(folder: Path) -> crash_intake.IntakeSoak:
    return crash_intake.IntakeSoak(
        folder / "soak", seed=7, files=6, program="tests/api/intake_server.py"
    )


def test_a_server_killed_before_it_answers_keeps_what_it_took_once(tmp_path: Path) -> None:
    run = soak(tmp_path)
    run.round("row:3")  # the third file is there, and nobody was told
    assert run.ledger.counts["uploaded"] == 2
    run.go_on()
    assert run.ledger.problems == []
    assert run.ledger.counts["stored, and killed before the answer"] == 1
    assert run.ledger.counts["bodies broken off"] == 2
    assert sorted(run.acknowledged) == list(range(1000, 1006))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["blob:2", "look:4"])
def test_a_server_killed_amid_an_intake_loses_nothing(tmp_path: Path, moment: str) -> None:
    """A file is stored without a row; or drafts are being looked at and sealed."""
    run = soak(tmp_path)
    run.list = 1  # the next one is sealed without a look
    run.round(moment)
    run.go_on()
    assert run.ledger.problems == []
    assert set(run.acknowledged) >= set(range(2000, 2006))


def test_a_disk_that_is_full_stops_an_intake_and_room_makes_it_go_on(small_disk: Path) -> None:
    rng = np.random.default_rng(1)
    with hospital(small_disk) as ward:
        files = [
            builders.dicom(rng.integers(0, 256, (1000, 1000), np.uint8), instance=n)
            for n in range(1, 26)
        ]
        sender = Sender(ward, files)
        sender.headers()
        sender.target()
        answers = []
        for place, data in enumerate(files):
            half = len(data) // 2
            assert sender.put(place, data[:half]).status_code in (200, 507)
            answers.append(sender.put(place, data[half:], half))
        taken = [a.json()["image_id"] for a in answers if a.status_code == 200]
        refused = [a.json() for a in answers if a.status_code != 200]
        assert 0 < len(taken) < len(files)
        assert {a["type"] for a in refused} == {"urn:medsec:storage-error"}
        waiting = ward.engine.drafts.waiting(ward.team.technician)
        assert sorted(w.image_id for w in waiting) == sorted(taken)
        subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
        for place in range(len(files)):
            state = sender.piece(place)
            assert state["state"] == "taken"
            assert (answers[place].status_code != 200) or (
                state["image_id"] == answers[place].json()["image_id"]
            )
        sender.looked_at()
        waiting = ward.engine.drafts.waiting(ward.team.technician)
        assert len(waiting) == len(files)
        ward.engine.context.audit.verify()
