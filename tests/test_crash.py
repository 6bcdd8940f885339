"""A few kills; a hundred and more are ``make soak``."""

from __future__ import annotations

from pathlib import Path

from benchmarks import crash


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    run = crash.soak(tmp_path / "soak", kills=3, seed=7, tell=lambda line: None)
    assert run.ledger.problems == []
    assert run.kills == 3
    assert run.ledger.uploaded
