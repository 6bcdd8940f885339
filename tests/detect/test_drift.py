"""Months beside the months before them; two profiles side by side; figures of evaluations."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import scipy

from engine import Detection, Engine, Region, Settings, errors
from engine.detect.drift import (
    EXACT_AT_MOST,
    FEWEST_IMAGES,
    PSI_MOVED,
    Month,
    chance_of_difference,
    compared,
    median_of,
    stability_index,
)
from engine.detect.profile_comparison import Comparison, Side
from tests import builders
from tests.conftest import Team, Ward
from tests.fakes import FakeHost, ScriptedDetector


def month(
    name: str, boxes: float = 4.0, sure: float = 0.8, images: int = 200, **counts: int
) -> Month:
    rng = np.random.default_rng(int(name[-2:]))
    found = rng.poisson(boxes, images)
    return Month(
        name,
        "general",
        Counter(found.tolist()),
        Counter(np.clip(rng.normal(sure, 0.08, int(found.sum())), 0.1, 1.0).tolist()),
        **counts,
    )


# --- numbers ----------------------------------------------------------------------------------


def test_more_corrected_images_than_were_looked_at_are_all_of_them() -> None:
    quiet, odd = month("2024-01"), month("2024-02", corrected=230, flagged=201)
    [drift] = [d for d in compared([quiet, odd]) if d.month is odd]
    shares = [s for s in drift.shifts if s.what in ("corrected images", "flagged images")]
    assert [s.moved for s in shares] == [True, True]


def test_the_stability_index_is_what_the_book_says() -> None:
    before, now = Counter({0.5: 600, 1.5: 400}), Counter({0.5: 300, 1.5: 700})
    # (0.3 - 0.6) ln(0.3 / 0.6) + (0.7 - 0.4) ln(0.7 / 0.4)
    assert stability_index(before, now, (0, 1)) == pytest.approx(0.37583, abs=1e-3)
    assert stability_index(before, before, (0, 1)) == 0.0
    assert np.isfinite(stability_index(Counter([0.5]), Counter([1.5]), (0, 1)))
    with pytest.raises(ValueError, match="no values"):
        stability_index(Counter(), Counter([1.0]), (0, 1))


@pytest.mark.parametrize(
    ("before", "now"),
    [(1, 1), (40, 3), (900, 31), (EXACT_AT_MOST, 200), (EXACT_AT_MOST + 1, 200), (200, 30_000),
     (20_000, 30_000)],
)  # fmt: skip
def test_counts_have_the_chance_and_median_of_their_values_one_by_one(
    before: int, now: int
) -> None:
    rng = np.random.default_rng(before)
    one, other = rng.poisson(4.0, before) / 4, rng.poisson(4.1, now) / 4
    counts = Counter(one.tolist()), Counter(other.tolist())
    assert chance_of_difference(*counts) == scipy.stats.ks_2samp(one, other).pvalue
    assert median_of(counts[0]) == statistics.median(one.tolist())
    assert median_of(counts[1]) == statistics.median(other.tolist())


def test_months_alike_have_not_moved() -> None:
    drifts = compared([month(f"2026-{k:02d}") for k in range(1, 7)])
    assert [d.month.month for d in drifts] == [f"2026-{k:02d}" for k in range(6, 0, -1)]
    assert not [s for d in drifts for s in d.shifts if s.moved]
    assert drifts[0].sentence == "As in the months before."
    assert not drifts[-1].shifts  # nothing before the first


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (month("2026-03", boxes=9.0), "boxes per image"),
        (month("2026-03", sure=0.6), "confidence"),
        (month("2026-03", corrected=60), "corrected images"),
        (month("2026-03", flagged=12), "flagged images"),
    ],
)
def test_a_month_that_differs_has_moved(changed: Month, what: str) -> None:
    before = [month("2026-01", corrected=10), month("2026-02", corrected=10)]
    drift = compared([*before, changed])[0]
    assert [s.what for s in drift.shifts if s.moved] == [what]
    assert drift.sentence.startswith(f"Moved: {what}")


def test_fewer_corrections_are_no_alarm() -> None:
    drift = compared([month("2026-01", corrected=80), month("2026-02", corrected=2)])[0]
    assert not [s for s in drift.shifts if s.moved]


def test_too_few_images_are_not_compared() -> None:
    few = month("2026-02", boxes=20.0, images=FEWEST_IMAGES - 1)
    assert not compared([month("2026-01"), few])[0].shifts


def test_chance_and_trifles_alone_move_nothing() -> None:
    # Thirty images of the same kind: the index may wander above its threshold by itself.
    alike = [
        compared([month("2026-01", images=30), month(f"2026-{k:02d}", images=30)])[0]
        for k in range(2, 13)
    ]
    assert max(s.size for d in alike for s in d.shifts) > PSI_MOVED
    assert not [s for d in alike for s in d.shifts if s.moved]


def test_another_profile_is_another_population() -> None:
    other = replace(month("2026-01", boxes=30.0), profile="chest")
    assert not compared([other, month("2026-02")])[0].shifts


def box(x: int, label: str = "text", source: str = "net") -> Detection:
    return Detection(Region(x, 0, x + 10, 10), label, 0.9, source)


def test_boxes_are_counted_once_as_found_by_both_or_by_one() -> None:
    c = Comparison(Side("a"), Side("b"))
    c.add([box(0), box(50), box(80, "face")], [box(1), box(80)], [])
    c.add([], [box(0)], [])
    assert dict(c.both) == {"text": 1}
    assert dict(c.first.alone) == {"text": 1, "face": 1}
    assert dict(c.second.alone) == {"text": 2}
    assert (c.images, c.first.empty, c.second.empty) == (2, 1, 0)


def test_peoples_boxes_say_what_should_have_been_found() -> None:
    c = Comparison(Side("a"), Side("b"))
    c.add([box(0)], [box(0), box(50, "barcode")], [box(1, source="person"), box(50)])
    assert (c.by_people, c.first.covered, c.second.covered) == (2, 1, 2)


# --- in the engine ----------------------------------------------------------------------------


def picture(seed: int) -> bytes:
    return builders.png(builders.radiograph(96, 64, seed=seed))


def test_drift_counts_what_happened_and_leaves_small_groups_out(ward: Ward) -> None:
    engine, token = ward.engine, ward.team.technician
    for k in range(5):
        # Each elsewhere: what is drawn at one place of a device again and again is proposed.
        x, y = 12 + 28 * (k % 3), 16 + 24 * (k // 3)
        drawn = Detection(Region(x, y, x + 20, y + 20), "text", 1.0)
        assert not engine.models.drift(ward.team.administrator)
        patient = engine.patients.create(token, f"D-{k}", f"Somebody {k}", 50).patient_id
        ward.detector.found = [box(0), box(30)]
        image_id = engine.drafts.upload(token, patient, "a.png", picture(k)).image_id
        engine.drafts.seal(token, image_id, [box(0), drawn], {1: "not identifying"})
    engine.withdrawals.flag(token, image_id, "a name was missed")
    [drift] = engine.models.drift(ward.team.administrator)
    now = drift.month
    assert (now.month, now.profile, now.images) == ("2026-01", "general", 5)
    assert now.boxes == {2: 5}
    assert now.confidences == {0.75: 5}  # of the boxes that were sealed as found, in quarters
    assert (now.added, now.removed, now.changed, now.corrected, now.flagged) == (5, 5, 0, 5, 1)


def test_two_profiles_are_compared_on_what_waits_and_nothing_changes(ward: Ward) -> None:
    admin = ward.team.administrator
    with pytest.raises(errors.InputError, match="There are no drafts"):
        ward.engine.models.compare(admin, "general", "chest")
    ward.detector.found = [box(0)]
    before = [ward.upload(picture(k)) for k in range(3)]
    result = ward.engine.models.compare(admin, "general", "chest", limit=2)
    assert (result.images, dict(result.both)) == (2, {"text": 2})
    assert result.first.median_ms is not None
    drafts = ward.engine.drafts.waiting(ward.team.technician)
    assert {d.image_id for d in drafts} == set(before)
    [entry] = ward.engine.audit.entries(admin, query="profile.compare")
    assert entry.detail["images"] == 2
    with pytest.raises(errors.InputError):
        ward.engine.models.compare(admin, "general", "nobody")


def test_a_profile_that_fails_is_counted_as_failed(ward: Ward) -> None:
    ward.detector.found = [box(0)]
    ward.upload(picture(1))
    ward.detector.found = errors.DetectorError
    result = ward.engine.models.compare(ward.team.administrator, "general", "chest")
    assert (result.images, result.first.failed, result.second.failed) == (0, 1, 1)


FIGURES = {"networks": {"ppocr": "0" * 64}, "figures": {"text: recall": 0.97, "none": float("nan")}}


def test_figures_of_an_evaluation_are_kept_beside_their_profile(engine: Engine, team: Team) -> None:
    engine.models.add_evaluation(team.administrator, "chest", json.dumps(FIGURES).encode())
    [added] = [e for e in engine.models.evaluations(team.administrator) if e.added_by]
    assert added.name == "chest"
    assert added.figures == {"text: recall": 0.97}
    assert added.current is None  # the network was not opened yet


@pytest.mark.parametrize(
    "data",
    [b"", b"no json", b"[]", b"{}", b'{"figures": {}}', b'{"figures": 3, "networks": {}}',
     b'{"figures": {"a": "b"}, "networks": {}}', b" " * 200_000],
)  # fmt: skip
def test_what_is_no_evaluation_is_refused(engine: Engine, team: Team, data: bytes) -> None:
    with pytest.raises(errors.InputError):
        engine.models.add_evaluation(team.administrator, "chest", data)


def test_networks_are_listed_with_the_profiles_that_name_them(engine: Engine, team: Team) -> None:
    listed = {n.name: n for n in engine.models.networks(team.administrator)}
    assert "general" in listed["ppocr"].profiles
    assert listed["yolov8n-thorax"].profiles == ("chest",)
    assert not listed["ppocr"].guest


def test_cases_that_were_kept_say_what_should_have_been_found(
    settings: Settings, host: FakeHost
) -> None:
    engine = Engine.open(
        replace(settings, keep_missed=True), host, detector=ScriptedDetector(settings)
    )
    team = Team(engine)
    ward = Ward(engine, team, engine.context.detector, "")  # type: ignore[arg-type]
    ward.patient_id = engine.patients.create(team.technician, "P-1", "Erika Muster", 61).patient_id
    image_id = ward.seal(picture(3), found=[box(0)])
    engine.withdrawals.flag(team.doctor, image_id, "the marker at the bottom")
    missed = Detection(Region(60, 40, 80, 60), "text", 1.0)
    view = engine.drafts.open(team.technician, image_id)
    engine.drafts.seal(team.technician, image_id, [*view.detections, missed], confirm="found it")
    result = engine.models.compare(team.administrator, "general", "chest")
    assert (result.images, result.by_people) == (1, 2)
    assert result.first.covered == 1  # the one that was missed is missed again
    engine.close()
