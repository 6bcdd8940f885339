"""Percentiles by hand; suppression against someone who knows all that is published."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.linalg import null_space

from engine import metrics
from engine.metrics import ALL, suppress_small


def people(**counts: int) -> dict[tuple[str, ...], list[str]]:
    """Groups of different patients; ``a_b`` is the key ``("a", "b")``."""
    return {
        tuple(name.split("_")): [f"{name}{i}" for i in range(count)]
        for name, count in counts.items()
    }


def test_percentiles_by_hand():
    # ranks 1 + 0.5 * 4, 1 + 0.95 * 4 and 1 + 0.99 * 4 of 10, 20, 30, 40, 50
    assert metrics.percentiles([50, 10, 40, 20, 30]) == pytest.approx((5, 30, 48, 49.6))
    assert metrics.percentiles([7.5]) == (1, 7.5, 7.5, 7.5)


@pytest.mark.parametrize("wrong", [[], [1.0, float("nan")], [float("inf")]])
def test_percentiles_of_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="at least one"):
        metrics.percentiles(wrong)


def test_throughput_is_totals_over_total_time():
    # 3 images and 6000 bytes in 2 s; the mean of the rates would be another number
    found = metrics.throughput([1000, 2000, 3000], [500, 1000, 500])
    assert found == (1.5, 3000)
    with pytest.raises(ValueError, match="throughput"):
        metrics.throughput([], [])
    with pytest.raises(ValueError, match="throughput"):
        metrics.throughput([1, 2], [1])


@pytest.mark.parametrize(
    ("groups", "withheld"),
    [
        # all large enough
        (people(ct=5, mr=9), set()),
        # one small: total minus the other would tell, so the next smallest goes too
        (people(ct=4, mr=9, us=30), {("ct",), ("mr",)}),
        # two small, together under five: their sum would stand for three people
        (people(ct=1, mr=2, us=30, xr=40), {("ct",), ("mr",), ("us",)}),
        # two small, together five or more: neither follows from the sum
        (people(ct=3, mr=4, us=30), {("ct",), ("mr",)}),
        # everything small: the total goes as well
        (people(ct=1, mr=2), {("ct",), ("mr",), (ALL,)}),
        # one group only, and it is small
        (people(ct=3), {("ct",), (ALL,)}),
        # empty groups hide nobody and are no cover for others
        (people(ct=0, mr=4, us=30), {("mr",), ("us",)}),
        (people(ct=0), set()),
        ({}, set()),
    ],
)
def test_small_groups_and_what_would_reveal_them_are_withheld(groups, withheld):
    assert suppress_small(groups) == withheld


def test_a_patient_in_two_small_groups_counts_once():
    groups = {("ct",): "abc", ("mr",): "abc", ("us",): "defghijk"}
    # Six entries, but three people: the remainder of the total would be about them.
    assert suppress_small(groups) == {("ct",), ("mr",), ("us",)}


def test_in_a_table_rows_and_columns_are_both_guarded():
    groups = people(
        jan_ct=3, jan_mr=20, jan_us=21,
        feb_ct=22, feb_mr=23, feb_us=24,
        mar_ct=25, mar_mr=26, mar_us=27,
    )  # fmt: skip
    withheld = suppress_small(groups)
    assert ("jan", "ct") in withheld
    assert not any(ALL in key for key in withheld)  # totals need not go
    assert len(withheld) == 4  # a rectangle: the least that hides one cell


def test_the_limit_can_be_set_and_must_make_sense():
    assert suppress_small(people(ct=2, mr=9), minimum=2) == set()
    assert suppress_small(people(ct=9, mr=9), minimum=10) == {("ct",), ("mr",)}
    with pytest.raises(ValueError, match="minimum"):
        suppress_small({}, minimum=0)


@pytest.mark.parametrize("groups", [{("a",): "x", ("a", "b"): "y"}, {("a", ALL): "x"}])
def test_keys_that_would_be_mistaken_are_refused(groups):
    with pytest.raises(ValueError, match="keys"):
        suppress_small(groups)


@pytest.mark.parametrize("seed", range(25))
def test_no_small_group_follows_from_what_is_published(seed):
    """An attacker with linear algebra: every withheld small group can still vary."""
    rng = np.random.default_rng(seed)
    shape = [(9,), (4, 5), (3, 3, 3)][seed % 3]
    counts = rng.integers(0, 14, shape)
    groups = {
        key: range(100 * i, 100 * i + int(counts[key]))
        for i, key in enumerate(itertools.product(*(range(n) for n in shape)))
    }
    withheld = suppress_small(groups)
    keys = list(groups)
    rows = []
    for pattern in itertools.product(*((*range(n), ALL) for n in shape)):
        row = [float(all(p in (ALL, k) for p, k in zip(pattern, key, strict=True))) for key in keys]
        if pattern not in withheld:
            rows.append(row)
    free = null_space(np.array(rows)) if rows else np.eye(len(keys))
    for i, key in enumerate(keys):
        small = 0 < len(groups[key]) < 5
        if small:
            assert key in withheld
            assert np.abs(free[i]).max() > 1e-6, f"{key} can be computed"
    for line in itertools.product(*((*range(n), ALL) for n in shape)):
        inside = [
            i
            for i, key in enumerate(keys)
            if all(p in (ALL, k) for p, k in zip(line, key, strict=True))
        ]
        rest = [i for i in inside if keys[i] in withheld]
        if 0 < sum(len(groups[keys[i]]) for i in rest) < 5:
            assert np.abs(free[rest].sum(axis=0)).max() > 1e-6, f"the rest of {line} is small"
