"""The bound on the share of images with a miss, against its definition and exact probabilities."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats

from engine.measure.release_bound import at_most, log_evidence, looks_needed, upper_bound

DOC = Path(__file__).parent.parent.parent / "docs" / "earned-release.md"


def chance_of_ever(share: float, rate: float, looks: int) -> np.ndarray:
    """Exact probability that the bound was ever at most ``share``, by number of looks.

    Args:
        rate: True share of images with a miss.

    Returns:
        Shape (looks + 1,), float64.
    """
    allowed, needed = 0, []
    while (n := looks_needed(share, allowed)) <= looks:
        needed.append(n)
        allowed += 1
    crossed = np.zeros(looks + 1)
    paths = np.zeros(allowed + 2)  # by misses, of those that have never crossed
    paths[0] = 1.0
    for n in range(1, looks + 1):
        paths[1:] = paths[1:] * (1 - rate) + paths[:-1] * rate
        paths[0] *= 1 - rate
        crossed[n] = crossed[n - 1]
        if n in needed:  # only then does a number of misses become enough
            now = needed.index(n) + 1
            crossed[n] += paths[:now].sum()
            paths[:now] = 0.0
    return crossed


@pytest.mark.parametrize(
    ("looks", "misses", "share"), [(1, 0, 0.5), (40, 0, 0.01), (200, 3, 0.05), (377, 0, 0.01)]
)
def test_the_evidence_is_the_average_of_likelihood_ratios(
    looks: int, misses: int, share: float
) -> None:
    prior = stats.beta(0.5, 0.5)

    def ratio(root: float) -> float:
        r = root**2  # takes away the pole of the prior at 0
        likelihood = (r / share) ** misses * ((1 - r) / (1 - share)) ** (looks - misses)
        return float(likelihood * prior.pdf(r) / prior.cdf(share) * 2 * root)

    average, _ = integrate.quad(ratio, 0, math.sqrt(share), epsabs=1e-12)
    assert log_evidence(looks, misses, share) == pytest.approx(math.log(average), abs=1e-6)


@pytest.mark.parametrize(("looks", "misses"), [(1, 0), (50, 3), (1000, 12), (5000, 0)])
def test_the_evidence_grows_with_the_share_above_what_was_seen(looks: int, misses: int) -> None:
    shares = np.linspace(misses / looks + 1e-6, 0.999, 2000)
    evidence = [log_evidence(looks, misses, float(p)) for p in shares]
    assert min(np.diff(evidence)) > 0
    assert evidence[0] < 0.01


@pytest.mark.parametrize("share", [0.01, 0.05])
@pytest.mark.parametrize("times", [1.0, 1.5, 3.0])
def test_a_stream_that_misses_too_much_is_trusted_in_one_of_twenty_lives_at_most(
    share: float, times: float
) -> None:
    """Exactly, over 30,000 looks after each of which somebody asks."""
    ever = chance_of_ever(share, share * times, 30_000)[-1]
    assert ever <= 0.05
    if times == 1.0:  # not far below: the bound gives nothing away
        assert ever > 0.025


def test_a_textbook_bound_would_break_its_word() -> None:
    """What the test above would find with Clopper and Pearson's bound, asked again and again."""
    share, rng, trusted = 0.05, np.random.default_rng(18), 0
    for _ in range(300):
        misses = np.cumsum(rng.random(3000) < share)
        looks = np.arange(1, 3001)
        trusted += bool((stats.beta.ppf(0.95, misses + 1, looks - misses) <= share).any())
    assert trusted > 300 * 0.2


def test_each_expected_factor_is_one_at_the_share_and_less_above_it() -> None:
    """The step of the proof: of one more look, given any looks before."""
    share = 0.02
    for looks, misses in [(0, 0), (10, 0), (300, 2), (300, 9)]:
        clean, missed = (
            math.exp(
                log_evidence(looks + 1, misses + m, share) - log_evidence(looks, misses, share)
            )
            for m in (0, 1)
        )
        assert share * missed + (1 - share) * clean == pytest.approx(1.0)
        assert 2 * share * missed + (1 - 2 * share) * clean < 1.0


def test_the_bound_is_where_the_evidence_is_enough() -> None:
    assert upper_bound(0, 0) == 1.0
    assert upper_bound(7, 7) == 1.0
    for looks, misses in [(1, 0), (377, 0), (1000, 1), (1000, 30), (100_000, 90)]:
        bound = upper_bound(looks, misses)
        assert log_evidence(looks, misses, bound) == pytest.approx(math.log(20), abs=1e-4)
        assert at_most(looks, misses, bound * 1.001)
        assert not at_most(looks, misses, bound * 0.999)


def test_the_bound_is_above_that_of_a_number_of_looks_fixed_before() -> None:
    for looks, misses in [(100, 0), (1000, 1), (5000, 40)]:
        fixed = stats.beta.ppf(0.95, misses + 1, looks - misses)
        assert fixed < upper_bound(looks, misses) < 2 * fixed


def test_a_miss_more_raises_the_bound_and_a_clean_look_lowers_it() -> None:
    assert upper_bound(400, 1) > upper_bound(400, 0) > upper_bound(401, 0)


@pytest.mark.parametrize("numbers", [(-1, 0), (3, 4), (3, -1)])
def test_impossible_numbers_are_refused(numbers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="misses in"):
        upper_bound(*numbers)
    with pytest.raises(ValueError, match="misses in"):
        log_evidence(*numbers, 0.01)


def test_shares_and_confidences_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="a share"):
        log_evidence(10, 0, 0.0)
    with pytest.raises(ValueError, match="a confidence"):
        at_most(10, 0, 0.01, 1.0)


def test_the_document_says_how_many_looks_trust_takes() -> None:
    """With a tenth of the allowed share: the table of ``docs/earned-release.md``."""
    rows = re.findall(
        r"^\| ([\d.]+) % \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", DOC.read_text(), re.M
    )
    assert len(rows) >= 4
    for row in rows:
        share = float(row[0]) / 100
        clean, half, nine, almost = (int(cell.replace(",", "")) for cell in row[1:])
        assert looks_needed(share) == clean
        ever = chance_of_ever(share, share / 10, almost)
        for number, chance in ((half, 0.5), (nine, 0.9), (almost, 0.99)):
            assert ever[number] >= chance > ever[number - 1]
