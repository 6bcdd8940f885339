"""What is stored looks random, measured as the definitions say; and a bad cipher would show."""

from __future__ import annotations

import math

import pytest

from engine import Detection, Region
from engine.service import randomness
from tests import builders
from tests.conftest import Ward


def seal(ward: Ward, number: int) -> None:
    ward.patient_id = ward.engine.patients.create(
        ward.team.technician, f"Q-{number}", f"Person Number{number}"
    ).patient_id
    box = Detection(Region(8, 8, 200, 40), "text", 0.9, "scripted")
    ward.seal(builders.png(builders.labelled(f"P {number}", seed=number)[0]), found=[box])


def test_stored_regions_and_trials_lie_where_random_bytes_lie(ward: Ward) -> None:
    for number in range(5):
        seal(ward, number)
    for token in (ward.team.doctor, ward.team.researcher):
        seen = ward.engine.randomness.measure(token)
        assert (seen.images, seen.regions) == (5, 5)
        assert len(seen.chi_square_p) == len(seen.correlation_z) == 5
        # Repeatable randomness in tests: these are facts, not chances.
        assert all(1e-4 < p < 1 - 1e-4 for p in seen.chi_square_p)
        assert all(abs(z) < 4 for z in seen.correlation_z)
        for npcr, uaci in (
            (seen.plaintext_npcr, seen.plaintext_uaci),
            (seen.key_npcr, seen.key_uaci),
        ):
            assert len(npcr) == len(uaci) == randomness.TRIALS
            assert sum(n >= seen.npcr_low for n in npcr) >= randomness.TRIALS - 1
            assert sum(seen.uaci_low <= u <= seen.uaci_high for u in uaci) >= randomness.TRIALS - 1


def test_a_researcher_measures_nothing_of_few_patients(ward: Ward) -> None:
    for number in range(4):
        seal(ward, number)
    assert ward.engine.randomness.measure(ward.team.researcher).images == 0
    assert ward.engine.randomness.measure(ward.team.doctor).images == 4


def test_a_cipher_that_does_nothing_is_seen(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    header, iv, tag = bytes(8), bytes(16), bytes(32)
    monkeypatch.setattr(
        randomness, "encrypt", lambda key, identity, plaintext, *rest: header + iv + plaintext + tag
    )
    monkeypatch.setattr(randomness, "without_header", lambda sealed: sealed[8:])
    seen = ward.engine.randomness.measure(ward.team.doctor)
    assert max(seen.plaintext_npcr) < 0.01
    assert max(seen.key_npcr) == 0


def test_throughput_is_totals_over_total_time(ward: Ward) -> None:
    seal(ward, 1)
    seen = ward.engine.statistics.tables(ward.team.doctor)
    spent = seen.images[[c for c in seen.images if c.endswith("_ms")]].sum(axis=1).sum() / 1000
    measured = seen.throughput
    assert measured is not None
    assert math.isclose(measured.images_per_second, 1 / spent)
    assert seen.only(modalities=[]).throughput is None
