"""The crowd on the real server for a few seconds; ten minutes are ``make soak``."""

from __future__ import annotations

from pathlib import Path

from benchmarks import load


def test_many_sessions_at_once_meet_no_error_and_no_other_file(tmp_path: Path) -> None:
    tally = load.run(tmp_path, sessions=6, seconds=8, think=1)
    assert tally.errors == {}
    assert {"sign in", "upload", "seal", "list images"} <= set(tally.seconds)
    assert tally.originals
