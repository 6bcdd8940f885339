"""Percentiles and throughput, by hand."""

from __future__ import annotations

import pytest

from engine import metrics


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
