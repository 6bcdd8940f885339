"""A restoration under an attack, on the real server; times are measured in ``make soak``."""

from __future__ import annotations

from pathlib import Path

from benchmarks import fairness


def test_restorations_end_while_decoders_are_at_files_made_to_cost_much(tmp_path: Path) -> None:
    attack = "100 scans of 9 Mpx"
    outcome = fairness.run(tmp_path, restorations=4, uploads=4, attacks=(attack,))
    assert len(outcome.seconds[attack]) == 4
    assert outcome.busy > 0  # the attack's decoders were still at work
